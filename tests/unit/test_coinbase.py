"""Coinbases, transactions, templates, jobs and whole blocks, against commitment.json and real blocks."""

from __future__ import annotations

import pytest

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.payout.commitment import commitment_script, find_commitment
from pool_oracle.units import Satoshi
from pool_oracle.work.block import parse_block
from pool_oracle.work.coinbase import build_coinbase, check_extranonce_place, with_witness, witness_commitment_script
from pool_oracle.work.merkle import merkle_root
from pool_oracle.work.serialize import Reader, compact_size, push, push_height
from pool_oracle.work.share import StratumJob, check_share_from_wire, display, pack_header
from pool_oracle.work.template import Template, assemble_block, block_hash, make_job
from pool_oracle.work.transaction import NULL_OUTPOINT, Transaction, TxInput, TxOutput, parse_transaction

REWARD = b"\xa9\x14" + b"\x07" * 20 + b"\x87"


def plain_transaction(number: int) -> bytes:
    tx_in = TxInput(sha256d(b"%d" % number) + bytes(4), b"\x51", 0xFFFFFFFE)
    return Transaction(2, (tx_in,), (TxOutput(Satoshi(1000 + number), b"\x51"),), 0).serialize()


def segwit_transaction(number: int) -> bytes:
    tx_in = TxInput(sha256d(b"%d" % number) + bytes(4), b"", 0xFFFFFFFF)
    outputs = (TxOutput(Satoshi(5), b"\x51"), TxOutput(Satoshi(6), b""))
    return Transaction(2, (tx_in,), outputs, 9, ((b"\x30" * 71, b"\x02" * 33),)).serialize()


def some_template(*, transactions: int = 3, segwit: bool = True) -> Template:
    raw = tuple(segwit_transaction(i) if i % 2 else plain_transaction(i) for i in range(transactions))
    return Template(
        height=840_000,
        version=0x20000000,
        prev_hash=sha256d(b"previous"),
        nbits=0x207FFFFF,
        curtime=1_700_000_000,
        mintime=1_699_999_000,
        coinbase_value=Satoshi(312_512_345),
        txids=tuple(parse_transaction(tx).txid for tx in raw),
        transactions=raw,
        witness_commitment=witness_commitment_script(sha256d(b"witness root")) if segwit else b"",
    )


def some_job(template: Template, commitment: bytes = b"\x2a" * 32, **more):
    return make_job(
        0x1F,
        template,
        reward_script=REWARD,
        commitment_script=commitment_script(commitment),
        commitment=commitment,
        epoch=3,
        tag=b"/pool/",
        extranonce_size=12,
        **more,
    )


# Coinbases and transactions


@pytest.mark.cases("commitment", "coinbases")
def test_a_coinbase_is_read_with_its_outputs_and_its_commitment(case, unhex):
    tx = parse_transaction(unhex(case["tx"]))
    assert tx.is_coinbase
    assert f"0x{display(tx.txid)}" == case["txid"]
    assert [(str(o.value), f"0x{o.script.hex()}") for o in tx.outputs] == [
        (o["value"], o["script"]) for o in case["outputs"]
    ]
    found = find_commitment(output.script for output in tx.outputs)
    if case["commitment"] is None:
        assert found is None
    else:
        assert found == (case["outputIndex"], unhex(case["commitment"]))
    assert tx.serialize() == unhex(case["tx"])


@pytest.mark.cases("stratum_share", "shares")
def test_the_coinbase_of_a_job_is_a_transaction_with_the_id_of_the_vectors(case, unhex):
    job = StratumJob.from_wire(case["job"])
    raw = job.coinbase(bytes.fromhex(case["extranonce1"]), bytes.fromhex(case["extranonce2"]))
    tx = parse_transaction(raw)
    assert tx.is_coinbase
    assert f"0x{display(tx.txid)}" == case["coinbaseTxid"]
    assert tx.serialize() == raw


def test_the_coinbase_has_two_pushes_with_the_extranonces_at_the_end_of_the_second():
    outputs = [TxOutput(Satoshi(50), REWARD), TxOutput(Satoshi(0), b"\x6a")]
    parts = build_coinbase(840_000, b"/pool/", 12, outputs, Satoshi(50))
    extranonces = bytes(range(12))
    tx = parse_transaction(parts.coinb1 + extranonces + parts.coinb2)
    assert tx.is_coinbase
    assert tx.inputs[0].script == bytes.fromhex("0340d10c") + bytes((18,)) + b"/pool/" + extranonces
    assert tx.inputs[0].sequence == 0xFFFFFFFF
    assert tx.outputs == tuple(outputs)
    assert (tx.version, tx.locktime, tx.witnesses) == (2, 0, ())


@pytest.mark.parametrize("paid", [49, 51])
def test_a_coinbase_that_does_not_pay_the_templates_value_is_refused(paid):
    with pytest.raises(JobError, match=f"pays {paid} satoshi"):
        build_coinbase(1, b"", 12, [TxOutput(Satoshi(paid), REWARD)], Satoshi(50))


def test_tag_and_extranonces_fill_one_push_and_no_more():
    outputs = [TxOutput(Satoshi(50), REWARD)]
    parts = build_coinbase(0x7FFFFFFF, bytes(63), 12, outputs, Satoshi(50))
    assert len(parse_transaction(parts.coinb1 + bytes(12) + parts.coinb2).inputs[0].script) == 5 + 76
    with pytest.raises(JobError, match="76 bytes"):
        build_coinbase(1, bytes(64), 12, outputs, Satoshi(50))


def test_the_extranonces_of_our_own_coinbase_stand_inside_its_script():
    parts = build_coinbase(840_000, b"/pool/", 12, [TxOutput(Satoshi(50), REWARD)], Satoshi(50))
    check_extranonce_place(parts.coinb1, 12)
    with pytest.raises(JobError, match="inside"):
        check_extranonce_place(parts.coinb1, 13)
    with pytest.raises(JobError, match="inside"):
        check_extranonce_place(parts.coinb1 + bytes(12), 1)


@pytest.mark.cases("stratum_share", "shares")
def test_the_extranonces_of_real_jobs_stand_inside_the_script(case):
    size = len(case["extranonce1"] + case["extranonce2"]) // 2
    check_extranonce_place(bytes.fromhex(case["job"]["coinb1"]), size)


def test_a_first_part_that_begins_no_coinbase_is_refused():
    good = build_coinbase(840_000, b"/pool/", 12, [TxOutput(Satoshi(50), REWARD)], Satoshi(50)).coinb1
    for bad in [b"", good[:41], b"\x01" + plain_transaction(1), good[:4] + b"\x02" + good[5:]]:
        with pytest.raises(JobError, match="does not begin a coinbase"):
            check_extranonce_place(bad, 0)
    with pytest.raises(JobError, match="inside"):
        check_extranonce_place(good[:41] + b"\x65" + good[42:], 12)


@pytest.mark.parametrize(
    ("height", "script"),
    [
        (0, "00"),
        (1, "51"),
        (16, "60"),
        (17, "0111"),
        (127, "017f"),
        (128, "028000"),
        (255, "02ff00"),
        (256, "020001"),
        (32767, "02ff7f"),
        (32768, "03008000"),
        (227_931, "035b7a03"),
        (8_388_607, "03ffff7f"),
        (8_388_608, "0400008000"),
    ],
)
def test_a_height_is_pushed_in_its_shortest_signed_form(height, script):
    assert push_height(height).hex() == script


def test_a_negative_height_is_refused():
    with pytest.raises(JobError, match="-1"):
        push_height(-1)


@pytest.mark.parametrize("size", [0, 76])
def test_a_push_of_one_length_byte_has_1_to_75_bytes(size):
    with pytest.raises(JobError, match=f"not {size}"):
        push(bytes(size))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (252, "fc"),
        (253, "fdfd00"),
        (65535, "fdffff"),
        (65536, "fe00000100"),
        (2**32 - 1, "feffffffff"),
        (2**32, "ff0000000001000000"),
        (2**64 - 1, "ffffffffffffffffff"),
    ],
)
def test_a_compact_size_has_the_shortest_form(value, encoded):
    assert compact_size(value).hex() == encoded
    assert Reader(bytes.fromhex(encoded), "it").compact_size() == value


@pytest.mark.parametrize(
    "encoded", ["fd0000", "fdfc00", "fe00000000", "feffff0000", "ff" + "00" * 8, "ffffffffff00000000"]
)
def test_a_compact_size_in_a_longer_form_than_needed_is_refused_as_nodes_do(encoded):
    with pytest.raises(JobError, match="shortest"):
        Reader(bytes.fromhex(encoded), "it").compact_size()


def test_the_witness_reserved_value_changes_the_bytes_and_not_the_txid():
    parts = build_coinbase(840_000, b"/pool/", 12, [TxOutput(Satoshi(50), REWARD)], Satoshi(50))
    plain = parts.coinb1 + bytes(12) + parts.coinb2
    full = with_witness(plain)
    assert full != plain
    tx = parse_transaction(full)
    assert tx.witnesses == ((bytes(32),),)
    assert tx.txid == sha256d(plain)
    assert tx.serialize(with_witness=False) == plain
    assert tx.serialize() == full


def test_the_witness_commitment_of_a_block_without_other_transactions_is_the_well_known_one():
    # The witness root of a lone coinbase is zero; every empty segwit block carries this script.
    known = "6a24aa21a9ede2f61c3f71d1defd3fa999dfa36953755c690689799962b48bebd836974e8cf9"
    assert witness_commitment_script(bytes(32)).hex() == known


def test_the_first_transaction_ever_paid_is_read_to_its_id():
    # Block 170's second transaction, from Satoshi to Hal Finney.
    raw = bytes.fromhex(
        "0100000001c997a5e56e104102fa209c6a852dd90660a20b2d9c352423edce25857fcd3704000000004847304402204e45e16932b8af514961"
        "a1d3a1a25fdf3f4f7732e9d624c6c61548ab5fb8cd410220181522ec8eca07de4860a4acdd12909d831cc56cbbac4622082221a8768d1d0901"
        "ffffffff0200ca9a3b00000000434104ae1a62fe09c5f51b13905f07f06b99a2f7159b2225f374cd378d71302fa28414e7aab37397f554a7df"
        "5f142c21c1b7303b8a0626f1baded5c72a704f7e6cd84cac00286bee0000000043410411db93e1dcdb8a016b49840f8c53bc1eb68a382e97b1"
        "482ecad7b148a6909a5cb2e0eaddfb84ccf9744464f82e160bfa9b8b64f9d4c03f999b8643f656b412a3ac00000000"
    )
    tx = parse_transaction(raw)
    assert display(tx.txid) == "f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16"
    assert not tx.is_coinbase
    assert tx.serialize() == raw


@pytest.mark.parametrize("make", [plain_transaction, segwit_transaction])
def test_a_transaction_cut_anywhere_is_refused(make):
    raw = make(1)
    for size in range(len(raw)):
        with pytest.raises(JobError):
            parse_transaction(raw[:size])
    with pytest.raises(JobError, match="1 bytes follow"):
        parse_transaction(raw + b"\x00")


def test_a_transaction_without_inputs_is_refused():
    with pytest.raises(JobError, match="no inputs"):
        parse_transaction(bytes.fromhex("02000000" + "00" + "00" + "00000000"))


def test_a_witness_marker_without_any_witness_is_refused_as_nodes_do():
    plain = plain_transaction(1)
    superfluous = plain[:4] + b"\x00\x01" + plain[4:-4] + b"\x00" + plain[-4:]
    with pytest.raises(JobError, match="witness"):
        parse_transaction(superfluous)


def test_a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_read():
    huge = bytes.fromhex("02000000" + "ffffffffffffffffff")
    with pytest.raises(JobError, match="announces"):
        parse_transaction(huge)


def test_only_one_input_that_spends_nothing_makes_a_coinbase():
    spends_nothing = TxInput(NULL_OUTPOINT, b"\x51", 0)
    outputs = (TxOutput(Satoshi(0), b""),)
    assert Transaction(1, (spends_nothing,), outputs, 0).is_coinbase
    assert not Transaction(1, (spends_nothing, spends_nothing), outputs, 0).is_coinbase
    assert not Transaction(1, (TxInput(bytes(36), b"", 0),), outputs, 0).is_coinbase


# Templates, jobs and blocks


@pytest.mark.parametrize("segwit", [True, False])
@pytest.mark.parametrize("transactions", [0, 1, 2, 3, 6])
def test_the_block_of_a_solved_header_has_the_merkle_root_that_its_header_says(transactions, segwit):
    template = some_template(transactions=transactions, segwit=segwit)
    job = some_job(template)
    extranonces = b"\x01\x02\x03\x04", b"\x05" * 8
    root = job.stratum.merkle_root(*extranonces)
    header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 7)
    data = assemble_block(header, job.stratum.coinbase(*extranonces), template)
    block = parse_block(data)
    assert block.header == header
    assert block.hash == block_hash(header) == sha256d(header)
    assert block.txids[1:] == template.txids
    assert merkle_root(block.txids) == root
    assert block.coinbase.witnesses == (((bytes(32),),) if segwit else ())


def test_a_job_pays_everything_to_the_reward_script_and_carries_one_commitment():
    template = some_template()
    job = some_job(template)
    tx = parse_transaction(job.stratum.coinbase(bytes(4), bytes(8)))
    assert tx.outputs == (
        TxOutput(template.coinbase_value, REWARD),
        TxOutput(Satoshi(0), template.witness_commitment),
        TxOutput(Satoshi(0), commitment_script(b"\x2a" * 32)),
    )
    assert find_commitment(output.script for output in tx.outputs) == (2, b"\x2a" * 32)


def test_a_job_before_segwit_has_no_witness_commitment():
    tx = parse_transaction(some_job(some_template(segwit=False)).stratum.coinbase(bytes(4), bytes(8)))
    assert [output.script for output in tx.outputs] == [REWARD, commitment_script(b"\x2a" * 32)]


def test_a_job_takes_over_the_templates_fields():
    template = some_template()
    job = some_job(template)
    assert job.number == 0x1F
    assert (job.stratum.version, job.stratum.prev_hash, job.stratum.nbits) == (
        template.version,
        template.prev_hash,
        template.nbits,
    )
    assert job.network_target == template.network_target == 0x7FFFFF << 232
    assert some_job(template, network_target=1 << 236).network_target == 1 << 236


def test_the_genesis_block_is_read_to_its_hash(vectors):
    case = next(case for case in vectors("stratum_share")["shares"] if case["name"] == "genesis block")
    share = check_share_from_wire(case)
    job = StratumJob.from_wire(case["job"])
    coinbase = job.coinbase(bytes.fromhex(case["extranonce1"]), bytes.fromhex(case["extranonce2"]))
    block = parse_block(share.header + b"\x01" + coinbase)
    assert display(block.hash) == "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
    assert display(block.txids[0]) == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert block.coinbase.outputs[0].value == 50 * 100_000_000


def test_a_block_cut_anywhere_or_with_something_behind_it_is_refused():
    template = some_template(transactions=2)
    data = assemble_block(bytes(80), some_job(template).stratum.coinbase(bytes(4), bytes(8)), template)
    assert parse_block(data).header == bytes(80)
    for size in range(len(data)):
        with pytest.raises(JobError):
            parse_block(data[:size])
    with pytest.raises(JobError, match="1 bytes follow"):
        parse_block(data + b"\x00")


@pytest.mark.parametrize("count", ["00", "ffffffffffffffffff"])
def test_a_block_with_an_impossible_number_of_transactions_is_refused(count):
    with pytest.raises(JobError, match="announces"):
        parse_block(bytes(80) + bytes.fromhex(count))


def test_a_block_must_begin_with_a_coinbase():
    with pytest.raises(JobError, match="no coinbase"):
        parse_block(bytes(80) + b"\x01" + plain_transaction(1))

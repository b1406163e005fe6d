"""Proofs of coinbases: real blocks, a chain of our own, and each thing that may be wrong with one."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from pool_oracle.errors import JobError
from pool_oracle.hashes import scrypt_pow, sha256d
from pool_oracle.networks import NETWORKS
from pool_oracle.units import Satoshi
from pool_oracle.work.block import Block, parse_block
from pool_oracle.work.coinbase import build_coinbase, with_witness
from pool_oracle.work.merkle import MAX_TRANSACTIONS, CoinbaseTree, coinbase_partial_tree, merkle_root
from pool_oracle.work.share import HEADER_SIZE, pack_header
from pool_oracle.work.spv import CoinbaseProof, prove_coinbase, verify_coinbase_proof
from pool_oracle.work.targets import MAX_TARGET, nbits_to_target
from pool_oracle.work.transaction import NULL_OUTPOINT, Transaction, TxInput, TxOutput, parse_transaction

EASY_NBITS = 0x207FFFFF
EASY_TARGET = nbits_to_target(EASY_NBITS)
HEIGHT = 840_000


def mine(previous: bytes, root: bytes, nbits: int = EASY_NBITS, *, met: bool = True) -> bytes:
    """A header with work for `nbits`, or without it; one try in two on regtest's target."""
    for nonce in itertools.count():
        header = pack_header(0x20000000, previous, root, 1_700_000_000, nbits, nonce)
        if (int.from_bytes(sha256d(header), "little") <= EASY_TARGET) == met:
            return header
    raise AssertionError


def above(header: bytes, count: int) -> list[bytes]:
    """The headers of a chain on `header`."""
    chain = [header]
    for _ in range(count):
        chain.append(mine(sha256d(chain[-1]), bytes(32)))
    return chain[1:]


def coinbase_at(height: int) -> bytes:
    parts = build_coinbase(height, b"/test/", 4, [TxOutput(Satoshi(5), b"\x51")], Satoshi(5))
    return parts.coinb1 + b"\xaa" * 4 + parts.coinb2


def proof_of(coinbase: bytes, *, transactions: int = 5, confirmations: int = 4) -> CoinbaseProof:
    """A true proof of a coinbase in a block of our own."""
    txids = (sha256d(coinbase), *(sha256d(b"%d" % i) for i in range(1, transactions)))
    header = mine(b"\x11" * 32, merkle_root(txids))
    return prove_coinbase(Block(header, parse_transaction(coinbase), txids), HEIGHT, above(header, confirmations - 1))


def verify(proof: CoinbaseProof, *, easiest_target: int = EASY_TARGET, confirmations: int = 4) -> None:
    verify_coinbase_proof(proof, sha256d, easiest_target=easiest_target, confirmations=confirmations)


@pytest.fixture(scope="module")
def proof() -> CoinbaseProof:
    """A true proof, of a block of five transactions with three more on top."""
    return proof_of(coinbase_at(HEIGHT))


# What is true


def test_a_true_proof_is_accepted_and_says_what_it_proves(proof):
    verify(proof)
    assert proof.txid == sha256d(coinbase_at(HEIGHT))
    assert proof.confirmations == 4
    assert proof.partial_tree() == coinbase_partial_tree([proof.txid, *(sha256d(b"%d" % i) for i in range(1, 5))])


def test_a_proof_survives_the_way_to_json_and_back(proof):
    assert CoinbaseProof.from_wire(json.loads(json.dumps(proof.to_wire()))) == proof


@pytest.mark.parametrize("height", [0, 1, 16, 17, 127, 128, 65_535, 65_536])
def test_every_form_of_a_height_is_found_in_its_coinbase(height):
    verify(replace(proof_of(coinbase_at(height)), height=height))


def test_a_block_as_a_node_gives_it_is_proven_without_its_witness_data():
    coinbase = coinbase_at(HEIGHT)
    header = mine(b"\x11" * 32, sha256d(coinbase))
    block = parse_block(header + b"\x01" + with_witness(coinbase))
    lone = prove_coinbase(block, HEIGHT, [])
    assert lone.coinbase == coinbase
    assert lone.branch == ()
    verify(lone, confirmations=1)


@pytest.mark.parametrize(
    ("name", "height", "network"),
    [
        ("main block 250000", 250_000, "main"),
        ("main block 629999", 629_999, "main"),
        ("signet 31500", 31_500, "signet"),
        ("litecoin main-900000", 900_000, "litecoin"),
    ],
)
def test_the_coinbases_of_real_blocks_are_proven(vectors, name, height, network):
    (case,) = [share for share in vectors("stratum_share")["shares"] if share["name"] == name]
    coinbase = "".join((case["job"]["coinb1"], case["extranonce1"], case["extranonce2"], case["job"]["coinb2"]))
    branch = case["job"]["merkleBranch"]
    wire = {
        "coinbase": coinbase,
        "header": case["header"].removeprefix("0x"),
        "height": height,
        "merkleBranch": branch,
        "transactions": 2 ** len(branch),
        "headers": [],
    }
    real = CoinbaseProof.from_wire(wire)
    target = nbits_to_target(int(case["job"]["nbits"], 16))
    verify_coinbase_proof(real, NETWORKS[network].pow_hash, easiest_target=target, confirmations=1)
    assert CoinbaseTree.parse(real.partial_tree()).root.hex() == case["header"].removeprefix("0x")[72:136]
    with pytest.raises(JobError, match="easier than"):
        verify_coinbase_proof(real, NETWORKS[network].pow_hash, easiest_target=target - 1, confirmations=1)
    with pytest.raises(JobError, match="does not meet the target"):
        other = sha256d if network == "litecoin" else scrypt_pow
        verify_coinbase_proof(real, other, easiest_target=target, confirmations=1)


# What is not


def change(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def test_another_coinbase_does_not_lead_to_the_merkle_root(proof):
    with pytest.raises(JobError, match=f"merkle root of the header at height {HEIGHT}"):
        verify(replace(proof, coinbase=change(proof.coinbase, len(proof.coinbase) - 5)))


@pytest.mark.parametrize("level", range(3))
def test_another_branch_does_not_lead_to_the_merkle_root(proof, level):
    branch = list(proof.branch)
    branch[level] = change(branch[level], 7)
    with pytest.raises(JobError, match="merkle root"):
        verify(replace(proof, branch=tuple(branch)))


def test_another_height_is_refused_by_the_coinbase_itself(proof):
    with pytest.raises(JobError, match=f"push of height {HEIGHT + 1}"):
        verify(replace(proof, height=HEIGHT + 1))
    with pytest.raises(JobError, match="negative"):
        verify(replace(proof, height=-1))


@pytest.mark.parametrize("place", range(3))
def test_a_header_that_does_not_name_the_one_below_is_refused_with_its_height(proof, place):
    headers = list(proof.headers)
    headers[place] = mine(b"\x22" * 32, bytes(32))
    with pytest.raises(JobError, match=f"height {HEIGHT + 1 + place} does not name the one below"):
        verify(replace(proof, headers=tuple(headers)))


def test_headers_in_another_order_are_refused(proof):
    with pytest.raises(JobError, match="does not name the one below"):
        verify(replace(proof, headers=proof.headers[::-1]))


@pytest.mark.parametrize("place", range(4))
def test_a_header_without_its_work_is_refused_with_its_height(proof, place):
    headers = [proof.header, *proof.headers]
    headers[place] = mine(headers[place][4:36], headers[place][36:68], met=False)
    headers[place + 1 :] = above(headers[place], 3 - place)
    with pytest.raises(JobError, match=f"height {HEIGHT + place} does not meet the target of its nbits 207fffff"):
        verify(replace(proof, header=headers[0], headers=tuple(headers[1:])))


@pytest.mark.parametrize("nbits", [0x00000000, 0x01800001, 0x20800001, 0xFF7FFFFF])
def test_nbits_that_are_no_target_are_refused_with_the_height(proof, nbits):
    headers = (*proof.headers[:2], mine(sha256d(proof.headers[1]), bytes(32), nbits))
    with pytest.raises(JobError, match=f"height {HEIGHT + 3}: nbits {nbits:08x}"):
        verify(replace(proof, headers=headers), easiest_target=MAX_TARGET)


def test_a_header_must_not_make_its_own_work_easier_than_the_verifier_allows(proof):
    verify(proof, easiest_target=EASY_TARGET)
    with pytest.raises(JobError, match=f"height {HEIGHT} claims the target 0x7fffff0+, easier than 0x7ffffef+"):
        verify(proof, easiest_target=EASY_TARGET - 1)


def test_a_proof_with_too_few_confirmations_is_refused(proof):
    verify(proof, confirmations=3)
    with pytest.raises(JobError, match="has 4 confirmations and needs 5"):
        verify(proof, confirmations=5)


def test_a_coinbase_with_witness_data_is_refused(proof):
    with pytest.raises(JobError, match="witness"):
        verify(replace(proof, coinbase=with_witness(proof.coinbase)))


def test_a_transaction_that_is_no_coinbase_is_refused():
    spend = Transaction(2, (TxInput(bytes(36), b"\x03\x40\xd1\x0c", 0),), (TxOutput(Satoshi(1), b"\x51"),), 0)
    coinbase = coinbase_at(HEIGHT)
    with pytest.raises(JobError, match="no coinbase"):
        verify(replace(proof_of(coinbase), coinbase=spend.serialize()))


def test_bytes_that_are_no_transaction_are_refused(proof):
    for coinbase in (b"", bytes(64), proof.coinbase[:-1], proof.coinbase + b"\x00"):
        with pytest.raises(JobError):
            verify(replace(proof, coinbase=coinbase))


def test_a_coinbase_as_long_as_two_hashes_is_refused():
    tiny = Transaction(2, (TxInput(NULL_OUTPOINT, b"\x51\x00", 0),), (TxOutput(Satoshi(1), b"\x51\x51"),), 0)
    assert len(tiny.serialize()) == 64
    with pytest.raises(JobError, match="64 bytes could be two hashes"):
        verify(replace(proof_of(tiny.serialize()), height=1))


def test_an_inner_node_does_not_pass_for_a_coinbase(proof):
    # One level up, the "transaction" is the pair of hashes below; its hash does lead to the root.
    pair = proof.txid + proof.branch[0]
    shallow = replace(proof, coinbase=pair, branch=proof.branch[1:], transactions=3)
    assert shallow.tree.root == proof.header[36:68]
    with pytest.raises(JobError):
        verify(shallow)


# Form


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"header": bytes(79)}, f"the header at height {HEIGHT} must be 80 bytes, not 79"),
        ({"headers": (bytes(80), bytes(81))}, f"the header at height {HEIGHT + 2} must be 80 bytes, not 81"),
        ({"transactions": 0}, "1 to 16666 transactions, not 0"),
        ({"transactions": MAX_TRANSACTIONS + 1}, "not 16667"),
        ({"transactions": 4}, "of 4 transactions has 2 hashes, not 3"),
        ({"transactions": 9}, "of 9 transactions has 4 hashes, not 3"),
        ({"branch": (bytes(32), bytes(31), bytes(32))}, "hash 1 of the merkle branch must be 32 bytes, not 31"),
        ({"branch": ()}, "has 3 hashes, not 0"),
    ],
)
def test_a_proof_of_another_form_does_not_exist(proof, changes, reason):
    with pytest.raises(JobError, match=reason):
        replace(proof, **changes)


def test_a_branch_that_repeats_its_neighbour_is_refused(proof):
    twice = (proof.txid, *proof.branch[1:])
    with pytest.raises(JobError, match=r"hash 0 .* repeats"):
        replace(proof, branch=twice)
    with pytest.raises(JobError, match=r"hash 1 .* repeats"):
        replace(proof, branch=(proof.branch[0], sha256d(proof.txid + proof.branch[0]), proof.branch[2]))


@pytest.mark.parametrize("field", ["coinbase", "header", "height", "merkleBranch", "transactions", "headers"])
def test_a_field_that_is_missing_or_of_another_kind_is_named(proof, field):
    wire = proof.to_wire()
    for value in (None, True, 1.5, {}, [1], "zz"):
        with pytest.raises(JobError, match=field):
            CoinbaseProof.from_wire({**wire, field: value})
    del wire[field]
    with pytest.raises(JobError, match=f"'{field}' is missing"):
        CoinbaseProof.from_wire(wire)


@pytest.mark.parametrize("value", [None, [], "proof", 1])
def test_what_is_no_object_is_no_proof(value):
    with pytest.raises(JobError, match="JSON object"):
        CoinbaseProof.from_wire(value)


def test_a_hash_or_header_of_another_length_is_named_with_its_place(proof):
    wire = proof.to_wire()
    with pytest.raises(JobError, match=r"merkleBranch\[1\] must be 32 bytes"):
        CoinbaseProof.from_wire({**wire, "merkleBranch": [wire["merkleBranch"][0], "00" * 31, "00" * 32]})
    with pytest.raises(JobError, match=r"headers\[2\] must be 80 bytes"):
        CoinbaseProof.from_wire({**wire, "headers": [*wire["headers"][:2], "00" * (HEADER_SIZE - 1)]})


# The partial tree's own bytes


def test_rootstocks_example_with_another_match_is_no_proof_of_a_coinbase():
    # From the tests of rskj (PartialMerkleTreeFormatUtilsTest): three transactions, of which the third is proven.
    example = (
        "030000000279e7c0da739df8a00f12c0bff55e5438f530aa5859ff9874258cd7bad3fe709746aff897"
        "e6a851faa80120d6ae99db30883699ac0428fc7192d6c3fec0ca6409010d"
    )
    with pytest.raises(JobError, match="has 2 hashes, not 1"):
        CoinbaseTree.parse(bytes.fromhex(example))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tree: tree[:-1], "ends at byte"),
        (lambda tree: tree + b"\x00", "1 bytes follow"),
        (lambda tree: tree[:3], "ends at byte 3"),
        (lambda tree: bytes(4) + b"\x00\x00", "holds no hash"),
        (lambda tree: bytes(4) + tree[4:], "not 0"),
        (lambda tree: b"\xff" * 4 + tree[4:], "not 4294967295"),
        (lambda tree: tree[:-1] + b"\x0d", "flags"),
        (lambda tree: tree[:-1] + b"\x8f", "flags"),
        (lambda tree: tree[:-2] + b"\x02\x0f\x00", "flags"),
        (lambda tree: tree[:-2] + b"\x00", "flags"),
        (lambda tree: tree[:4] + b"\xfd\x04\x00" + tree[5:], "shortest form"),
        (lambda tree: tree[:4] + b"\xfe\xff\xff\xff\xff" + tree[5:], "ends at byte"),
    ],
)
def test_a_spoilt_partial_tree_is_refused_with_its_reason(proof, spoil, reason):
    assert CoinbaseTree.parse(proof.partial_tree()) == proof.tree
    with pytest.raises(JobError, match=reason):
        CoinbaseTree.parse(spoil(proof.partial_tree()))

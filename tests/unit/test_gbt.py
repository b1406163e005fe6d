"""What a node answers to getblocktemplate: read exactly, or refused with the field that is wrong."""

from __future__ import annotations

import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.networks import network_named
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.work.coinbase import MAX_TAG_PUSH, witness_commitment_script
from pool_oracle.work.firmware import FIRMWARE_LIMITS, WARN_ABOVE, firmware_warning
from pool_oracle.work.gbt import MAX_VALUE, template_from_gbt
from pool_oracle.work.share import display
from pool_oracle.work.template import Template, assemble_block, make_job
from pool_oracle.work.transaction import Transaction, TxInput, TxOutput, parse_transaction

BITCOIN, LITECOIN, SIGNET = (network_named(name) for name in ("main", "litecoin", "signet"))

TRANSACTIONS = [
    Transaction(2, (TxInput(sha256d(b"%d" % n) + bytes(4), b"\x51", 0xFFFFFFFF),), (TxOutput(1000 + n, b"\x51"),), 0)
    for n in range(3)
]
WITNESS_COMMITMENT = witness_commitment_script(sha256d(b"witness root"))
EXTRANONCES = 12

# As Bitcoin Core 28 answers, with fields that the pool has no use for.
REPLY = {
    "capabilities": ["proposal"],
    "version": 0x20000000,
    "rules": ["csv", "!segwit", "taproot"],
    "vbavailable": {},
    "vbrequired": 0,
    "previousblockhash": display(sha256d(b"previous")),
    "transactions": [
        {
            "data": tx.serialize().hex(),
            "txid": display(tx.txid),
            "hash": display(tx.txid),
            "depends": [],
            "fee": 1000,
            "sigops": 0,
            "weight": 4 * len(tx.serialize()),
        }
        for tx in TRANSACTIONS
    ],
    "coinbaseaux": {},
    "coinbasevalue": 312_503_000,
    "longpollid": display(sha256d(b"previous")) + "17",
    "target": f"{0xFFFF << 208:064x}",
    "mintime": 1_699_999_000,
    "mutable": ["time", "transactions", "prevblock"],
    "noncerange": "00000000ffffffff",
    "sigoplimit": 80_000,
    "sizelimit": 4_000_000,
    "weightlimit": 4_000_000,
    "curtime": 1_700_000_000,
    "bits": "1d00ffff",
    "height": 840_000,
    "default_witness_commitment": WITNESS_COMMITMENT.hex(),
}

NEEDED = (
    "version",
    "previousblockhash",
    "transactions",
    "coinbasevalue",
    "curtime",
    "bits",
    "height",
    "default_witness_commitment",
)
OPTIONAL = tuple(field for field in REPLY if field not in NEEDED)


def read(network=BITCOIN, **changes):
    """The template of the reply with these fields changed; None takes one away."""
    reply = {name: value for name, value in {**REPLY, **changes}.items() if value is not None}
    return template_from_gbt(reply, network)


def job_of(template):
    return make_job(
        1,
        template,
        reward_script=b"\x51",
        commitment_script=commitment_script(bytes(32)),
        commitment=bytes(32),
        epoch=0,
        tag=b"/pool_oracle/",
        extranonce_size=EXTRANONCES,
    )


def test_a_reply_becomes_a_template():
    assert read() == Template(
        height=840_000,
        version=0x20000000,
        prev_hash=sha256d(b"previous"),
        nbits=0x1D00FFFF,
        curtime=1_700_000_000,
        mintime=1_699_999_000,
        coinbase_value=312_503_000,
        txids=tuple(tx.txid for tx in TRANSACTIONS),
        transactions=tuple(tx.serialize() for tx in TRANSACTIONS),
        witness_commitment=WITNESS_COMMITMENT,
    )


@pytest.mark.parametrize("field", NEEDED)
def test_a_field_that_is_missing_is_named(field):
    with pytest.raises(JobError, match=f"the template cannot be mined: field '{field}' is missing"):
        read(**{field: None})


@pytest.mark.parametrize("field", OPTIONAL)
def test_a_field_that_is_not_needed_may_be_missing(field):
    assert read(**{field: None}).height == 840_000


WRONG = {
    "version": ["x", -1, 1 << 32, 1.5, [], {}, True, 10**5000],
    "previousblockhash": [7, "", "00", "zz" * 32, "00" * 33, [], False],
    "transactions": [7, "", {}, True, [{}] * 100_001],
    "coinbasevalue": ["x", 0, -1, MAX_VALUE + 1, 1 << 64, 1.5, [], False, -(10**5000)],
    "curtime": ["x", -1, 1 << 32, [], 1_699_998_999],
    "mintime": ["x", -1, 1 << 32, [], 1_700_000_001],
    "bits": [7, "", "1d00ff", "1d00ffff00", "xxxxxxxx", "00000000", "1d80ffff", "ff00ffff", "1d000000", [], True],
    "target": [7, "", "00", f"{0xFFFE << 208:064x}", [], "zz" * 32],
    "height": ["x", 0, -1, 1 << 31, [], 1.5, True],
    "default_witness_commitment": [7, "", "6a", "zz", WITNESS_COMMITMENT[:-1].hex(), "00" * 38, [], True],
    "vbrequired": ["x", -1, 1 << 32, [], {}],
    "rules": [7, "segwit", {}, [7], [None], True],
    "coinbaseaux": [7, "", [], {"flags": 7}, {"flags": "zz"}, {"flags": None}, {"flags": "0"}],
    "mweb": [7, "zz", "0", "", [], False],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(field, value, id=f"{field} {number}")
        for field, values in WRONG.items()
        for number, value in enumerate(values)
    ],
)
def test_a_field_that_is_wrong_is_named(field, value):
    named = {"curtime": "curtime|mintime", "mintime": "curtime|mintime", "bits": "bits"}.get(field, field)
    with pytest.raises(JobError, match=f"^the template cannot be mined: .*({named})") as refusal:
        read(**{field: value})
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": None}, r"transactions\[1\].data must be a hex string"),
        ({"data": "0"}, r"transactions\[1\].data has an odd number"),
        ({"data": ""}, r"transactions\[1\].data is empty"),
        ({"data": 7}, r"transactions\[1\].data must be a hex string"),
        ({"txid": None}, r"transactions\[1\].txid must be a hex string"),
        ({"txid": "00" * 31}, r"transactions\[1\].txid must be 32 bytes"),
        ({"txid": 7}, r"transactions\[1\].txid must be a hex string"),
    ],
)
def test_a_transaction_that_is_wrong_is_named_by_its_number(change, named):
    transactions = copy.deepcopy(REPLY["transactions"])
    transactions[1].update(change)
    with pytest.raises(JobError, match=named):
        read(transactions=transactions)
    transactions[1] = "00"
    with pytest.raises(JobError, match=r"transactions\[1\] must be an object"):
        read(transactions=transactions)


@pytest.mark.parametrize("reply", [None, 7, "", [], True, "template"])
def test_a_reply_that_is_no_object_is_refused(reply):
    with pytest.raises(JobError, match="the reply is no JSON object"):
        template_from_gbt(reply, BITCOIN)


def test_templates_of_one_tip_share_what_they_have_in_common():
    known = {}
    first, second = (template_from_gbt(REPLY, BITCOIN, known) for _ in range(2))
    assert first == second == read()
    assert all(one is other for one, other in zip(first.transactions, second.transactions, strict=True))
    template_from_gbt({**REPLY, "transactions": REPLY["transactions"][1:]}, BITCOIN, known)
    assert set(known) == {display(tx.txid) for tx in TRANSACTIONS[1:]}
    with pytest.raises(JobError):
        template_from_gbt({**REPLY, "transactions": [{"data": "00"}]}, BITCOIN, known)
    assert template_from_gbt(REPLY, BITCOIN, known) == first


# Rules


@pytest.mark.parametrize("rule", ["!witchcraft", "!", "!!segwit", "!Segwit"])
def test_a_rule_that_must_be_understood_and_is_not_is_named(rule):
    with pytest.raises(JobError, match="which this version of the pool does not know") as refusal:
        read(rules=["csv", "!segwit", rule])
    assert repr(rule) in str(refusal.value)


def test_an_unknown_rule_that_need_not_be_understood_does_no_harm():
    assert read(rules=["!segwit", "witchcraft"]) == read()


def test_bits_that_the_node_requires_must_be_in_the_version():
    assert read(version=0x20000005, vbrequired=5).version == 0x20000005
    with pytest.raises(JobError, match="vbrequired 00000005 has bits that version 20000001 lacks"):
        read(version=0x20000001, vbrequired=5)


def test_a_signet_whose_challenge_anyone_meets_can_be_mined_and_others_cannot():
    rules = ["!segwit", "!signet"]
    assert read(SIGNET, rules=rules, signet_challenge="51") == read()
    core = "512103ad5e0edad18cb1f0fc0d28a3d4f1f3e445640337489abb10404f2d1e086be43051ae"
    for challenge in (core, "", "5151"):
        with pytest.raises(JobError, match="its keepers' signature"):
            read(SIGNET, rules=rules, signet_challenge=challenge)
    for challenge in (7, "zz", []):
        with pytest.raises(JobError, match="signet_challenge must be"):
            read(SIGNET, rules=rules, signet_challenge=challenge)
    with pytest.raises(JobError, match="it has a signet_challenge, and the pool mines main"):
        read(BITCOIN, signet_challenge="51")


def test_a_target_that_is_not_that_of_the_bits_is_refused():
    with pytest.raises(JobError, match="is not that of bits 1d00ffff"):
        read(target=f"{(0xFFFF << 208) + 1:064x}")


# Value


@pytest.mark.parametrize("value", [0, -1, MAX_VALUE + 1])
def test_a_coinbase_that_is_worth_nothing_or_more_than_all_money_is_refused(value):
    with pytest.raises(JobError, match=f"coinbasevalue must be 1 to {MAX_VALUE}, not {value}"):
        read(coinbasevalue=value)


def test_the_smallest_and_the_largest_value_make_jobs():
    for value in (1, MAX_VALUE):
        job = job_of(read(coinbasevalue=value))
        coinbase = parse_transaction(job.stratum.coinbase(bytes(4), bytes(8)))
        assert sum(output.value for output in coinbase.outputs) == value


# What the node wants in the coinbase


def test_what_the_node_wants_in_the_coinbase_stands_in_the_second_push_before_the_extranonces():
    template = read(coinbaseaux={"flags": "062f503253482f", "other": "aabb"})
    assert template.coinbase_aux == b"\x06/P2SH/\xaa\xbb"
    coinbase = parse_transaction(job_of(template).stratum.coinbase(b"\x01" * 4, b"\x02" * 8))
    script = coinbase.inputs[0].script
    height, second = script[: 1 + script[0]], script[1 + script[0] :]
    assert height == b"\x03" + (840_000).to_bytes(3, "little")
    assert second[0] == len(second) - 1
    assert second[1:] == b"/pool_oracle/\x06/P2SH/\xaa\xbb" + b"\x01" * 4 + b"\x02" * 8


def test_the_coinbase_has_room_for_so_much_and_no_more():
    room = MAX_TAG_PUSH - len(b"/pool_oracle/") - EXTRANONCES
    job_of(read(coinbaseaux={"flags": "00" * room}))
    with pytest.raises(JobError, match="tag and extranonces are 76 bytes; one push holds 75"):
        job_of(read(coinbaseaux={"flags": "00" * (room + 1)}))


# Nodes of other times and kinds


def test_a_node_from_before_segwit_has_hashes_alone_and_no_witness_commitment():
    transactions = [{"data": tx.serialize().hex(), "hash": display(tx.txid)} for tx in TRANSACTIONS]
    template = read(transactions=transactions, rules=None, default_witness_commitment=None)
    assert template.txids == tuple(tx.txid for tx in TRANSACTIONS)
    assert template.witness_commitment == b""
    job = job_of(template)
    coinbase = job.stratum.coinbase(bytes(4), bytes(8))
    assert len(parse_transaction(coinbase).outputs) == 2
    assert assemble_block(bytes(80), coinbase, template) == b"".join(
        [bytes(80), b"\x04", coinbase, *template.transactions]
    )


def test_numbers_may_be_decimal_strings():
    assert read(height="840000", coinbasevalue="312503000", curtime="1700000000") == read()


def test_an_extension_block_follows_the_transactions():
    template = read(LITECOIN, rules=["!segwit", "mweb"], mweb="aabbcc")
    assert template.extension == b"\x01\xaa\xbb\xcc"
    block = assemble_block(bytes(80), job_of(template).stratum.coinbase(bytes(4), bytes(8)), template)
    assert block.endswith(template.transactions[-1] + b"\x01\xaa\xbb\xcc")


@pytest.mark.parametrize("rule", ["mweb", "!mweb"])
def test_an_extension_block_that_must_be_there_and_is_not_is_named(rule):
    with pytest.raises(JobError, match="field 'mweb' is missing, and its rule is in force"):
        read(LITECOIN, rules=["!segwit", rule])


# Anything at all

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**4000)
    | st.floats()
    | st.text()
    | st.sampled_from(["", "00", "00" * 32, "segwit", "!segwit", "mweb", "1d00ffff", WITNESS_COMMITMENT.hex()]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def only_job_errors(reply, network):
    """A reply is read and made into a job, or refused."""
    with contextlib.suppress(JobError):
        job_of(template_from_gbt(reply, network))


@given(JSON, st.sampled_from([BITCOIN, LITECOIN, SIGNET]))
def test_any_json_is_read_or_refused(reply, network):
    only_job_errors(reply, network)


@given(
    st.dictionaries(st.sampled_from([*REPLY, "mweb", "signet_challenge"]), JSON, min_size=1, max_size=3),
    st.sampled_from([BITCOIN, LITECOIN, SIGNET]),
)
def test_a_template_with_any_json_in_its_fields_is_read_or_refused(changes, network):
    only_job_errors({**REPLY, **changes}, network)


@given(st.dictionaries(st.sampled_from(["data", "txid", "hash", "fee"]), JSON))
def test_a_transaction_with_any_json_in_its_fields_is_read_or_refused(changes):
    only_job_errors({**REPLY, "transactions": [{**REPLY["transactions"][0], **changes}]}, BITCOIN)


@given(st.text(), JSON)
def test_a_node_may_want_anything_in_the_coinbase(name, value):
    only_job_errors({**REPLY, "coinbaseaux": {name: value}}, BITCOIN)


# Coinbases that firmware cannot hash


def test_the_coinbase_of_a_job_is_within_what_all_firmware_takes():
    stratum = job_of(read(coinbaseaux={"flags": "00" * 50})).stratum
    assert firmware_warning(len(stratum.coinbase(bytes(4), bytes(8)))) is None


def test_a_coinbase_above_the_limit_is_warned_of_with_the_firmware_that_fails():
    assert firmware_warning(WARN_ABOVE) is None
    assert "NiceHash" in firmware_warning(WARN_ABOVE + 1)
    for limit in FIRMWARE_LIMITS[1:]:
        assert limit.firmware not in firmware_warning(max(limit.coinbase_bytes, WARN_ABOVE + 1))
        assert limit.firmware in firmware_warning(limit.coinbase_bytes + 1)

"""Coinbases of jobs, whatever the height, tag, coinbaseaux, extranonces, route and block size."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.payout.commitment import commitment_script, find_commitment, parse_commitment_script
from pool_oracle.work.coinbase import (
    MAX_COINBASE_SCRIPT,
    MAX_TAG_PUSH,
    check_extranonce_place,
    with_witness,
    witness_commitment_script,
)
from pool_oracle.work.merkle import merkle_root
from pool_oracle.work.scripts import (
    MAX_P2SH_REDEEM_SCRIPT,
    TBTC_FIRST_LOCKTIME,
    TBTC_LAST_LOCKTIME,
    DepositTerms,
    FlyoverTerms,
    TbtcTerms,
)
from pool_oracle.work.template import Template, make_job
from pool_oracle.work.transaction import TxOutput, parse_transaction

MAX_HEIGHT = 2**31 - 1
MAX_MONEY = 21_000_000 * 100_000_000
HEIGHT_BORDERS = [16, 127, 255, 32_767, 65_535, 8_388_607, 16_777_215, MAX_HEIGHT - 1]
"""The last heights of a push of one form or size, and where an unsigned reader would go wrong."""


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


hashes = exactly(32)
heights = st.one_of(
    st.integers(1, MAX_HEIGHT),
    st.builds(lambda border, step: border + step, st.sampled_from(HEIGHT_BORDERS), st.integers(0, 1)),
)
extranonces = st.tuples(exactly(4), st.binary(min_size=4, max_size=8))
routes = st.one_of(
    st.builds(
        FlyoverTerms,
        user_refund=exactly(21),
        lbc=exactly(20),
        lp=exactly(21),
        powpeg_redeem_script=st.binary(max_size=MAX_P2SH_REDEEM_SCRIPT - 34),
        nested=st.booleans(),
    ),
    st.builds(
        TbtcTerms,
        depositor=exactly(20),
        blinding_factor=exactly(8),
        wallet_key_hash=exactly(20),
        refund_key_hash=exactly(20),
        refund_locktime=st.integers(TBTC_FIRST_LOCKTIME, TBTC_LAST_LOCKTIME),
        witness=st.booleans(),
    ),
    st.builds(
        DepositTerms,
        st.one_of(
            exactly(20).map(lambda key: b"\x76\xa9\x14" + key + b"\x88\xac"),
            exactly(20).map(lambda key: b"\xa9\x14" + key + b"\x87"),
            exactly(20).map(lambda key: b"\x00\x14" + key),
            exactly(32).map(lambda key: b"\x00\x20" + key),
            exactly(32).map(lambda key: b"\x51\x20" + key),
        ),
    ),
)


@st.composite
def blocks(draw):
    """The ids of a block's transactions without its coinbase, for a branch of 0 to 13 levels."""
    levels = draw(st.integers(0, 13))
    count = draw(st.integers((1 << levels) // 2 + 1, 1 << levels))
    seed = draw(exactly(4))
    return tuple(sha256d(seed + number.to_bytes(4, "big")) for number in range(count - 1))


def template_of(height=840_000, value=312_500_000, aux=b"", txids=(), *, segwit=True):
    return Template(
        height=height,
        version=0x20000000,
        prev_hash=bytes(32),
        nbits=0x1702068F,
        curtime=1_700_000_000,
        mintime=1_699_999_000,
        coinbase_value=value,
        txids=txids,
        transactions=(),
        witness_commitment=witness_commitment_script(sha256d(b"some root")) if segwit else b"",
        coinbase_aux=aux,
    )


def job_of(template, *, tag=b"/pool/", size=12, commitment=b"\x2a" * 32, reward_script=b"\x51"):
    return make_job(
        1,
        template,
        reward_script=reward_script,
        commitment_script=commitment_script(commitment),
        commitment=commitment,
        epoch=1,
        tag=tag,
        extranonce_size=size,
    )


def pushes(script: bytes) -> list[bytes]:
    """What a script pushes, which must do nothing else. OP_1 to OP_16 push their number."""
    found, at = [], 0
    while at < len(script):
        code = script[at]
        if 0x51 <= code <= 0x60:
            found.append(bytes((code - 0x50,)))
            at += 1
        else:
            assert 0 < code <= 75, f"byte {at} is no short push"
            assert at + 1 + code <= len(script), "the push ends behind the script"
            found.append(script[at + 1 : at + 1 + code])
            at += 1 + code
    return found


def script_number(number: int) -> bytes:
    """The push of a number above zero, after CScript::push_int64 and CScriptNum::serialize of Bitcoin Core."""
    if number <= 16:
        return bytes((0x50 + number,))
    digits = []
    while number:
        digits.append(number & 0xFF)
        number >>= 8
    if digits[-1] & 0x80:
        digits.append(0)
    return bytes((len(digits), *digits))


@given(heights, st.binary(max_size=50), st.binary(max_size=20), extranonces)
@settings(max_examples=300)
@example(16, b"", b"", (bytes(4), bytes(4)))
@example(17, b"", b"", (bytes(4), bytes(8)))
@example(MAX_HEIGHT, bytes(50), bytes(13), (bytes(4), bytes(8)))
def test_a_coinbase_makes_two_pushes_the_height_and_tag_with_extranonces(height, tag, aux, nonces):
    size = len(b"".join(nonces))
    assume(len(tag + aux) + size <= MAX_TAG_PUSH)
    stratum = job_of(template_of(height, aux=aux), tag=tag, size=size).stratum
    check_extranonce_place(stratum.coinb1, size)
    tx = parse_transaction(stratum.coinbase(*nonces))
    assert tx.is_coinbase
    script = tx.inputs[0].script
    assert script.startswith(script_number(height))
    first, second = pushes(script)
    assert int.from_bytes(first, "little", signed=True) == height
    assert second == tag + aux + b"".join(nonces)
    assert 2 <= len(script) <= MAX_COINBASE_SCRIPT


@given(st.binary(max_size=80), st.binary(max_size=80), st.integers(8, 12))
@settings(max_examples=200)
@example(bytes(63), b"", 12)
@example(bytes(64), b"", 12)
@example(bytes(40), bytes(24), 12)
def test_what_does_not_fit_into_one_push_is_refused(tag, aux, size):
    template = template_of(aux=aux)
    needed = len(tag + aux) + size
    if needed <= MAX_TAG_PUSH:
        job_of(template, tag=tag, size=size)
    else:
        with pytest.raises(JobError, match=f"are {needed} bytes; one push holds 75"):
            job_of(template, tag=tag, size=size)


@given(routes, hashes.filter(any), st.integers(1, MAX_MONEY), st.booleans())
@settings(max_examples=300)
def test_a_coinbase_pays_its_whole_value_to_the_route_and_carries_one_commitment(route, commitment, value, segwit):
    template = template_of(value=value, segwit=segwit)
    reward = route.reward_script(commitment)
    job = job_of(template, commitment=commitment, reward_script=reward)
    tx = parse_transaction(job.stratum.coinbase(bytes(4), bytes(8)))
    extra = [template.witness_commitment] if segwit else []
    scripts = [reward, *extra, commitment_script(commitment)]
    assert tx.outputs == (TxOutput(value, reward), *(TxOutput(0, script) for script in scripts[1:]))
    assert sum(output.value for output in tx.outputs) == template.coinbase_value
    assert find_commitment(output.script for output in tx.outputs) == (len(scripts) - 1, commitment)
    assert [parse_commitment_script(script) is not None for script in scripts].count(True) == 1


@given(routes, hashes.filter(any), hashes.filter(any))
@settings(max_examples=100)
def test_the_script_of_a_bridges_route_depends_on_the_commitment_and_a_deposits_does_not(route, one, other):
    assume(one != other)
    same = route.reward_script(one) == route.reward_script(other)
    assert same == isinstance(route, DepositTerms)


@given(blocks(), extranonces, st.booleans())
@settings(max_examples=80)
@example((), (bytes(4), bytes(4)), True)
def test_the_root_that_a_miner_computes_is_that_of_all_transactions(txids, nonces, segwit):
    template = template_of(txids=txids, segwit=segwit)
    stratum = job_of(template, size=len(b"".join(nonces))).stratum
    coinbase = stratum.coinbase(*nonces)
    assert len(stratum.branch) == len(txids).bit_length()
    assert stratum.merkle_root(*nonces) == merkle_root([sha256d(coinbase), *txids])
    # In a block it has a witness, which its id does not cover.
    full = parse_transaction(with_witness(coinbase))
    assert full.txid == sha256d(coinbase)
    assert full.witnesses == ((bytes(32),),)


@given(extranonces, extranonces)
@settings(max_examples=50)
def test_two_extranonces_of_one_size_give_two_coinbases_that_pay_the_same(one, other):
    assume(one != other and len(one[1]) == len(other[1]))
    stratum = job_of(template_of(), size=len(b"".join(one))).stratum
    first, second = (parse_transaction(stratum.coinbase(*nonces)) for nonces in (one, other))
    assert first.txid != second.txid
    assert first.outputs == second.outputs

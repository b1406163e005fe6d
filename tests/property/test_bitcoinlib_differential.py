"""Our transaction parser and serializer against bitcoinlib's, with Bitcoin Core's own parser as the judge.

bitcoinlib does more than read: it looks for keys, signatures and nested scripts, and keeps or writes what it made of
them. So generated scripts hold nothing that it recognises, and where it still differs a test names the difference.
"""

from __future__ import annotations

import os
import pickletools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pbk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.units import Satoshi
from pool_oracle.work.block import parse_block
from pool_oracle.work.coinbase import WITNESS_RESERVED_VALUE, build_coinbase, with_witness, witness_commitment_script
from pool_oracle.work.merkle import merkle_root
from pool_oracle.work.serialize import Reader
from pool_oracle.work.share import HEADER_SIZE, StratumJob, check_header, display
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.transaction import (
    NULL_OUTPOINT,
    Transaction,
    TxInput,
    TxOutput,
    parse_transaction,
    read_transaction,
)


@pytest.fixture(scope="session")
def other(bitcoinlib_encoding: Any) -> Any:
    """The transactions module of bitcoinlib."""
    assert bitcoinlib_encoding
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bitcoinlib import transactions
    return transactions


def read(other: Any, raw: bytes) -> Any:
    """The transaction as bitcoinlib reads it; strict, it would refuse scripts that it does not know."""
    return other.Transaction.parse(raw, strict=False)


def fields(theirs: Any) -> tuple[Any, ...]:
    """What a transaction of bitcoinlib's holds, as `ours` puts it."""
    return (
        theirs.version_int,
        [(i.prev_txid[::-1] + i.output_n[::-1], i.unlocking_script, i.sequence) for i in theirs.inputs],
        [(o.value, o.lock_script) for o in theirs.outputs],
        theirs.locktime,
    )


def ours(tx: Transaction) -> tuple[Any, ...]:
    return (
        tx.version,
        [(i.outpoint, i.script, i.sequence) for i in tx.inputs],
        [(o.value, o.script) for o in tx.outputs],
        tx.locktime,
    )


def witnesses(tx: Transaction) -> list[tuple[bytes, ...]]:
    return list(tx.witnesses) or [()] * len(tx.inputs)


def built(other: Any, tx: Transaction) -> Any:
    """The same transaction, put together from its fields by bitcoinlib."""
    inputs = [
        other.Input(
            i.outpoint[:32][::-1],
            int.from_bytes(i.outpoint[32:], "little"),
            unlocking_script=i.script,
            sequence=i.sequence,
            witnesses=list(items),
            witness_type="segwit" if items else "legacy",
            script_type="unknown",  # or it would take any two items for a signature and a key
            index_n=number,
            strict=False,
        )
        for number, (i, items) in enumerate(zip(tx.inputs, witnesses(tx), strict=True))
    ]
    outputs = [other.Output(o.value, lock_script=o.script, strict=False) for o in tx.outputs]
    kind = "segwit" if tx.witnesses else "legacy"
    return other.Transaction(inputs, outputs, tx.locktime, tx.version.to_bytes(4, "big"), witness_type=kind)


# Generated transactions

SIZES = [*range(1, 20), 40, 75, 76, 80, 100, 200, *range(249, 259), 300, 520]
"""Of pushed data and witness items: around the steps of lengths, and none of a hash, key or signature."""


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def push(data: bytes) -> bytes:
    if len(data) <= 75:
        return bytes((len(data),)) + data
    return (b"\x4c" + bytes((len(data),)) if len(data) < 256 else b"\x4d" + len(data).to_bytes(2, "little")) + data


uint32 = st.integers(0, 2**32 - 1)
# Bytes that are no opcodes, so that nothing in them looks like a script.
data = st.builds(lambda size, byte: bytes((byte,)) * size, st.sampled_from(SIZES), st.integers(0xBA, 0xFF))
unlocking = st.lists(data.map(push), max_size=3).map(b"".join)
locking = st.one_of(
    st.sampled_from([b"", b"\x51"]),
    exactly(20).map(lambda key: b"\x76\xa9\x14" + key + b"\x88\xac"),
    exactly(20).map(lambda key: b"\xa9\x14" + key + b"\x87"),
    exactly(20).map(lambda key: b"\x00\x14" + key),
    exactly(32).map(lambda key: b"\x00\x20" + key),
    exactly(32).map(lambda key: b"\x51\x20" + key),
    data.map(lambda piece: b"\x6a" + push(piece)),
)


@st.composite
def transactions(draw):
    """A transaction with or without witness data, which only inputs without a scriptSig have."""
    count = draw(st.integers(1, 4))
    native = [draw(st.booleans()) for _ in range(count)] if draw(st.booleans()) else [False] * count
    inputs = [TxInput(draw(exactly(36)), b"" if bare else draw(unlocking), draw(uint32)) for bare in native]
    items = [tuple(draw(st.lists(data, min_size=1, max_size=4))) if bare else () for bare in native]
    outputs = draw(st.lists(st.builds(TxOutput, st.integers(0, 2**63 - 1), locking), min_size=1, max_size=4))
    return Transaction(draw(uint32), tuple(inputs), tuple(outputs), draw(uint32), tuple(items) if any(items) else ())


def agree(other: Any, tx: Transaction) -> None:
    """Check that both read the same from the bytes, write the same bytes, and that Bitcoin Core has the same id."""
    raw = tx.serialize()
    assert parse_transaction(raw) == tx
    theirs = read(other, raw)
    assert fields(theirs) == ours(tx)
    assert [tuple(i.witnesses) for i in theirs.inputs] == witnesses(tx)
    assert theirs.txid == display(tx.txid) == str(pbk.Transaction(raw).txid)
    assert theirs.raw() == raw == built(other, tx).raw() == bytes(pbk.Transaction(raw))


@given(tx=transactions())
@settings(max_examples=300)
def test_both_read_and_write_the_same_transactions(other, tx):
    agree(other, tx)


@pytest.mark.parametrize("count", [252, 253, 254, 1000])
def test_both_read_and_write_the_same_long_lists(other, count):
    inputs = tuple(TxInput(sha256d(b"%d" % n) + b"\x01\x00\x00\x00", b"", n) for n in range(count))
    outputs = tuple(TxOutput(Satoshi(n), b"\x51") for n in range(count))
    items = ((b"\xfe",) * count, *[()] * (count - 1))
    agree(other, Transaction(2, inputs[:1], outputs, 0))
    agree(other, Transaction(2, inputs, outputs[:1], 0))
    agree(other, Transaction(2, inputs, outputs, 0, items))


@pytest.mark.parametrize("size", [252, 253, 65_534, 65_536, 100_000])
def test_both_read_and_write_the_same_long_scripts(other, size):
    tx_in = TxInput(sha256d(b"one") + bytes(4), b"", 0)
    agree(other, Transaction(1, (tx_in,), (TxOutput(Satoshi(1), b"\xba" * size),), 0))
    agree(other, Transaction(1, (tx_in,), (TxOutput(Satoshi(1), b"\x51"),), 0, ((b"\xba" * size,),)))


@given(
    height=st.integers(1, 2**31 - 1),
    tag=st.binary(max_size=63),
    extranonces=st.binary(min_size=8, max_size=12),
    scripts=st.lists(locking, min_size=1, max_size=4),
)
@settings(max_examples=150)
def test_both_read_and_write_the_same_coinbases(other, height, tag, extranonces, scripts):
    outputs = [TxOutput(Satoshi(number), script) for number, script in enumerate(scripts)]
    parts = build_coinbase(height, tag, len(extranonces), outputs, Satoshi(sum(range(len(scripts)))))
    tx = parse_transaction(parts.coinb1 + extranonces + parts.coinb2)
    assert read(other, tx.serialize()).coinbase
    agree(other, tx)
    full = read(other, with_witness(tx.serialize()))
    assert fields(full) == ours(tx)
    assert full.txid == display(tx.txid)
    assert full.inputs[0].witnesses == [WITNESS_RESERVED_VALUE]


# Real transactions


@pytest.mark.cases("stratum_share", "shares")
def test_both_read_the_same_from_the_coinbases_of_real_jobs(other, case):
    raw = StratumJob.from_wire(case["job"]).coinbase(*(bytes.fromhex(case[f"extranonce{n}"]) for n in (1, 2)))
    agree(other, parse_transaction(raw))


@pytest.mark.cases("commitment", "coinbases")
def test_both_read_the_same_from_coinbases_with_a_commitment(other, case, unhex):
    theirs, tx = read(other, unhex(case["tx"])), parse_transaction(unhex(case["tx"]))
    assert fields(theirs) == ours(tx)
    assert f"0x{theirs.txid}" == f"0x{display(tx.txid)}" == case["txid"]


@pytest.mark.cases("tbtc_deposit", "known_answers")
def test_both_read_the_same_from_funding_transactions(other, case, unhex):
    for funding in case["funding"]:
        parts = (funding[name] for name in ("version", "inputVector", "outputVector", "locktime"))
        tx = parse_transaction(b"".join(unhex(part) for part in parts))
        assert f"0x{display(tx.txid)}" == funding["txid"]
        assert fields(read(other, tx.serialize())) == ours(tx)


REBUILT = {625_007: {75, 2476, 2748}, 629_999: {5, 10}}
"""Transactions to which bitcoinlib gives a wrong id, by block: it writes nested scripts of multisigs anew."""


@pytest.mark.parametrize("height", [250_000, 330_000, 625_007, 629_999])
def test_both_read_the_same_from_whole_main_chain_blocks(other, height):
    block = real_block(other, height)
    header = block[:HEADER_SIZE]
    target = nbits_to_target(int.from_bytes(header[72:76], "little"))
    assert check_header(header, header[36:68], target, target).meets_network_target
    txids = parse_block(block).txids
    assert merkle_root(txids) == header[36:68]
    pieces = split(block)
    assert [tx.txid for tx, _ in pieces] == list(txids)
    wrong = set()
    for number, (tx, raw) in enumerate(pieces):
        assert tx.serialize() == raw
        assert bytes(pbk.Transaction(raw).txid) == tx.txid
        theirs = read(other, raw)
        if theirs.txid == display(tx.txid):
            assert fields(theirs) == ours(tx)
        else:
            wrong.add(number)
    assert wrong == REBUILT.get(height, set())
    if pieces[0][0].witnesses:
        wtxids = [bytes(32), *(sha256d(raw) for _, raw in pieces[1:])]
        assert witness_commitment_script(merkle_root(wtxids)) in [o.script[:38] for o in pieces[0][0].outputs]


def real_block(other: Any, height: int) -> bytes:
    """A block among the test data that bitcoinlib is installed with: bytes in a pickle, read without running it."""
    file = Path(other.__file__).parents[1] / "tests" / f"block{height}.pickle"
    (data,) = (value for code, value, _ in pickletools.genops(file.read_bytes()) if code.name == "BINBYTES")
    assert isinstance(data, bytes)
    return data


def split(block: bytes) -> list[tuple[Transaction, bytes]]:
    """A block's transactions with their bytes."""
    reader = Reader(block, "the block")
    reader.take(HEADER_SIZE)
    pieces = []
    for _ in range(reader.compact_size()):
        start = reader.at
        pieces.append((read_transaction(reader), block[start : reader.at]))
    assert not reader.left
    return pieces


# Where bitcoinlib differs, and Bitcoin Core is with us

ONE = TxInput(b"\x01" * 36, b"", 5)
PAID = (TxOutput(Satoshi(7), b"\x51"),)
PLAIN = Transaction(2, (ONE,), PAID, 0)


@pytest.mark.parametrize(
    "tx",
    [
        pytest.param(replace(PLAIN, inputs=(replace(ONE, script=b"\x0b"),)), id="a push that is cut off"),
        pytest.param(replace(PLAIN, inputs=(replace(ONE, script=b"\x00\x11"),)), id="a push of nothing, then more"),
        pytest.param(replace(PLAIN, outputs=(TxOutput(Satoshi(1), b"\xba" * 65_535),)), id="a length of 65,535"),
        pytest.param(
            replace(PLAIN, inputs=(replace(ONE, script=b"\x01\xfe"),), witnesses=((b"\xfe",),)),
            id="an input with scriptSig and witness",
        ),
        pytest.param(
            Transaction(2, (TxInput(NULL_OUTPOINT, bytes(2), 0),), PAID, 0, ((bytes(32),),)),
            id="a coinbase with its witness",
        ),
    ],
)
def test_bitcoinlib_writes_other_bytes_than_it_read(other, tx):
    raw = tx.serialize()
    assert read(other, raw).txid == display(tx.txid) == str(pbk.Transaction(raw).txid)
    assert read(other, raw).raw() != raw == bytes(pbk.Transaction(raw)) == parse_transaction(raw).serialize()


def test_bitcoinlib_takes_an_empty_witness_item_for_a_zero_byte(other):
    tx = replace(PLAIN, witnesses=((b"", b"\xfe"),))
    assert read(other, tx.serialize()).inputs[0].witnesses == [b"\x00", b"\xfe"]
    assert parse_transaction(tx.serialize()).witnesses == ((b"", b"\xfe"),)


def test_bitcoinlib_gives_a_signed_input_of_the_old_form_a_witness(other):
    raw = real_block(other, 250_000)
    tx, piece = split(raw)[1]
    assert not tx.witnesses
    assert any(i.witnesses for i in read(other, piece).inputs)


def test_bitcoinlib_refuses_a_transaction_without_outputs(other):
    raw = replace(PLAIN, outputs=()).serialize()
    with pytest.raises(other.TransactionError, match="no outputs"):
        read(other, raw)
    assert str(pbk.Transaction(raw).txid) == display(parse_transaction(raw).txid)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(
            PLAIN.serialize().replace(b"\x01" * 37, b"\xfd\x01\x00" + b"\x01" * 36),
            id="a length not in its shortest form",
        ),
        pytest.param(PLAIN.serialize()[:-1], id="a locktime cut off"),
        pytest.param(PLAIN.serialize()[:-5], id="a script cut off"),
        pytest.param(b"\x02\x00\x00\x00\x00\x02" + PLAIN.serialize()[4:-4] + bytes(5), id="an unknown flag"),
        pytest.param(
            b"\x02\x00\x00\x00\x00\x01" + PLAIN.serialize()[4:-4] + bytes(5), id="a flag for a witness that is empty"
        ),
    ],
)
def test_bitcoinlib_reads_bytes_that_are_no_transaction(other, raw):
    assert read(other, raw).inputs[0].prev_txid == b"\x01" * 32
    with pytest.raises(RuntimeError):
        pbk.Transaction(raw)
    with pytest.raises(JobError):
        parse_transaction(raw)


def test_we_alone_refuse_bytes_behind_a_transaction(other):
    raw = PLAIN.serialize() + b"\x00"
    assert fields(read(other, raw)) == ours(PLAIN)
    assert str(pbk.Transaction(raw).txid) == display(PLAIN.txid)
    with pytest.raises(JobError, match="1 bytes follow"):
        parse_transaction(raw)


def test_bitcoinlib_left_the_users_home_alone(other):
    assert Path(other.__file__).exists()
    assert Path(other.BCL_DATA_DIR) == Path(os.environ["BCL_DATA_DIR"])

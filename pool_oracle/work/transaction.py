"""Transactions as far as coinbases need them: parse, serialize without witness, txid. Source: BIP-144, LIP-3."""

from __future__ import annotations

from dataclasses import dataclass

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.units import Satoshi
from pool_oracle.work.serialize import Reader, compact_size

NULL_OUTPOINT = bytes(32) + b"\xff\xff\xff\xff"

_FLAG_WITNESS, _FLAG_MWEB = 1, 8


@dataclass(frozen=True, slots=True)
class TxInput:
    """An input. `outpoint` is 36 bytes: hash (internal order) and index."""

    outpoint: bytes
    script: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class TxOutput:
    """An output: value and script."""

    value: Satoshi
    script: bytes

    def serialize(self) -> bytes:
        """The output's bytes."""
        return self.value.to_bytes(8, "little") + compact_size(len(self.script)) + self.script


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction; its witnesses, one list of items an input, are empty for the old form.

    `is_hogex`: Litecoin's integrating transaction, the last of a block that has an extension block (LIP-3).
    """

    version: int
    inputs: tuple[TxInput, ...]
    outputs: tuple[TxOutput, ...]
    locktime: int
    witnesses: tuple[tuple[bytes, ...], ...] = ()
    is_hogex: bool = False

    def serialize(self, *, with_witness: bool = True) -> bytes:
        """The transaction's bytes; without witness its hash is the txid."""
        parts = [self.version.to_bytes(4, "little")]
        has_witness = with_witness and any(self.witnesses)
        flags = _FLAG_WITNESS * has_witness | _FLAG_MWEB * (with_witness and self.is_hogex)
        if flags:
            parts += [b"\x00", bytes((flags,))]
        parts.append(compact_size(len(self.inputs)))
        for tx_in in self.inputs:
            parts += [tx_in.outpoint, compact_size(len(tx_in.script)), tx_in.script]
            parts.append(tx_in.sequence.to_bytes(4, "little"))
        parts.append(compact_size(len(self.outputs)))
        parts += [tx_out.serialize() for tx_out in self.outputs]
        if has_witness:
            for items in self.witnesses:
                parts.append(compact_size(len(items)))
                parts += [compact_size(len(item)) + item for item in items]
        if flags & _FLAG_MWEB:
            parts.append(b"\x00")
        parts.append(self.locktime.to_bytes(4, "little"))
        return b"".join(parts)

    @property
    def txid(self) -> bytes:
        """SHA256d without witness data, internal order."""
        return sha256d(self.serialize(with_witness=False))

    @property
    def is_coinbase(self) -> bool:
        """Whether its only input spends nothing."""
        return len(self.inputs) == 1 and self.inputs[0].outpoint == NULL_OUTPOINT


def parse_transaction(data: bytes) -> Transaction:
    """The transaction of exactly these bytes, with or without witness data. Raises JobError."""
    reader = Reader(data, "the transaction")
    tx = read_transaction(reader)
    if reader.left:
        raise JobError(f"{reader.left} bytes follow the transaction")
    return tx


def read_transaction(reader: Reader) -> Transaction:
    """The next transaction of a reader. Raises JobError."""
    version = reader.integer(4)
    count = reader.compact_size()
    flags = 0
    if count == 0:
        flags = reader.integer(1)
        if not flags:
            raise JobError("the transaction has no inputs")
        if flags & ~(_FLAG_WITNESS | _FLAG_MWEB):
            raise JobError(f"the transaction has flags {flags:#04x}; known are witness (1) and MWEB (8)")
        count = reader.compact_size()
    inputs = tuple(_read_input(reader) for _ in range(_sane(count, reader)))
    outputs = tuple(_read_output(reader) for _ in range(_sane(reader.compact_size(), reader)))
    witnesses: tuple[tuple[bytes, ...], ...] = ()
    if flags & _FLAG_WITNESS:
        witnesses = tuple(
            tuple(reader.take(reader.compact_size()) for _ in range(_sane(reader.compact_size(), reader)))
            for _ in inputs
        )
        if not any(witnesses):
            raise JobError("the transaction announces witness data and has none")
    if flags & _FLAG_MWEB and reader.integer(1):
        raise JobError("the transaction carries MWEB data of its own, which none in a block does")
    return Transaction(version, inputs, outputs, reader.integer(4), witnesses, bool(flags & _FLAG_MWEB))


def _sane(count: int, reader: Reader) -> int:
    """A list's length, refused where the bytes that are left cannot hold it."""
    if count > reader.left:
        raise JobError(f"the transaction announces {count} items with {reader.left} bytes left")
    return count


def _read_input(reader: Reader) -> TxInput:
    return TxInput(reader.take(36), reader.take(reader.compact_size()), reader.integer(4))


def _read_output(reader: Reader) -> TxOutput:
    return TxOutput(Satoshi(reader.integer(8)), reader.take(reader.compact_size()))

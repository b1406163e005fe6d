"""A whole block, as far as rewards need it: its header, its transactions' ids, and its coinbase."""

from __future__ import annotations

from dataclasses import dataclass

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.work.serialize import Reader
from pool_oracle.work.share import HEADER_SIZE
from pool_oracle.work.transaction import Transaction, read_transaction


@dataclass(frozen=True, slots=True)
class Block:
    """A parsed block. `txids` are in internal order, the coinbase's first."""

    header: bytes
    coinbase: Transaction
    txids: tuple[bytes, ...]

    @property
    def hash(self) -> bytes:
        """The block's hash, internal order."""
        return sha256d(self.header)


def parse_block(data: bytes) -> Block:
    """The block of exactly these bytes. Raises JobError."""
    reader = Reader(data, "the block")
    header = reader.take(HEADER_SIZE)
    count = reader.compact_size()
    if count == 0 or count > reader.left:
        raise JobError(f"the block announces {count} transactions")
    transactions = [read_transaction(reader) for _ in range(count)]
    if transactions[-1].is_hogex:
        reader.take(reader.left)  # the extension block, which is for Litecoin's nodes alone
    if reader.left:
        raise JobError(f"{reader.left} bytes follow the block")
    if not transactions[0].is_coinbase:
        raise JobError("the block's first transaction is no coinbase")
    return Block(header, transactions[0], tuple(tx.txid for tx in transactions))

"""Bitcoin's merkle tree, seen from the coinbase: the branch that stratum sends, its fold, and BIP-37 proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.work.serialize import Reader, compact_size

_sha256 = hashlib.sha256

MAX_TRANSACTIONS = 1_000_000 // 60
"""No block holds more, at 60 bytes or more each without witness data. Bitcoin Core and Rootstock's bridge agree."""


def coinbase_branch(txids: Sequence[bytes]) -> list[bytes]:
    """The merkle branch of a coinbase that will stand before `txids` (internal order), from the bottom up."""
    branch = []
    level = [b"", *txids]  # the coinbase's own hash is not known yet
    while len(level) > 1:
        branch.append(level[1])
        if len(level) % 2:
            level.append(level[-1])
        level = [b"", *(sha256d(level[i] + level[i + 1]) for i in range(2, len(level), 2))]
    return branch


def fold_branch(leaf: bytes, branch: Sequence[bytes]) -> bytes:
    """The merkle root from the coinbase's hash and its branch."""
    node = leaf
    for sibling in branch:  # the pool's hottest loop, so without a call of our own
        node = _sha256(_sha256(node + sibling).digest()).digest()
    return node


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """The merkle root over all of a block's hashes; at least one."""
    level = list(hashes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


@dataclass(frozen=True, slots=True)
class CoinbaseTree:
    """A partial merkle tree (BIP-37) that proves a block's coinbase and nothing else.

    `transactions`: how many the block holds; it fixes the branch's length, and is itself fixed by the merkle root no
    closer than that. Raises JobError for a count, a branch or hashes that no block has.
    """

    transactions: int
    txid: bytes
    branch: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 < self.transactions <= MAX_TRANSACTIONS:
            raise JobError(f"a block holds 1 to {MAX_TRANSACTIONS} transactions, not {self.transactions}")
        levels = (self.transactions - 1).bit_length()
        if len(self.branch) != levels:
            raise JobError(
                f"the merkle branch of {self.transactions} transactions has {levels} hashes, not {len(self.branch)}"
            )
        node = self.txid
        for level, sibling in enumerate(self.branch):
            if len(sibling) != 32:
                raise JobError(f"hash {level} of the merkle branch must be 32 bytes, not {len(sibling)}")
            if sibling == node:
                raise JobError(f"hash {level} of the merkle branch repeats its neighbour (CVE-2012-2459)")
            node = sha256d(node + sibling)

    @classmethod
    def parse(cls, data: bytes) -> CoinbaseTree:
        """The inverse of `serialize`. Raises JobError for anything that `serialize` does not write."""
        reader = Reader(data, "the partial merkle tree")
        transactions = reader.integer(4)
        hashes = [reader.take(32) for _ in range(reader.compact_size())]
        flags = reader.take(reader.compact_size())
        if reader.left:
            raise JobError(f"{reader.left} bytes follow the partial merkle tree")
        if not hashes:
            raise JobError("the partial merkle tree holds no hash")
        tree = cls(transactions, hashes[0], tuple(hashes[1:]))
        if flags != tree._flags:
            raise JobError("the flags of the partial merkle tree do not lead to the coinbase alone")
        return tree

    def serialize(self) -> bytes:
        """Transaction count (4 bytes), hashes, flag bits: as Rootstock's bridge takes it.

        Source: BIP-37; CPartialMerkleTree of Bitcoin Core.
        """
        hashes = [self.txid, *self.branch]
        return b"".join(
            [
                self.transactions.to_bytes(4, "little"),
                compact_size(len(hashes)),
                *hashes,
                compact_size(len(self._flags)),
                self._flags,
            ]
        )

    @property
    def root(self) -> bytes:
        """The merkle root, internal order."""
        return fold_branch(self.txid, self.branch)

    @property
    def _flags(self) -> bytes:
        # Depth first from the root along the left edge: 1 for each node above the coinbase and for the coinbase itself,
        # whose hash comes first; then 0 for each right sibling on the way back up. The lowest bit comes first.
        levels = len(self.branch)
        ones = (1 << levels + 1) - 1
        return ones.to_bytes((2 * levels + 8) // 8, "little")


def coinbase_partial_tree(txids: Sequence[bytes]) -> bytes:
    """The partial merkle tree that proves the first of `txids` (internal order). Raises JobError."""
    return CoinbaseTree(len(txids), txids[0], tuple(coinbase_branch(txids[1:]))).serialize()

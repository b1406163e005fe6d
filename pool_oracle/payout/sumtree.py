"""The packed-sum Merkle tree (protocol.md): every node is one word, 24 bytes of hash and a uint64 sum.

Invariant: a proof that verifies proves that the sums along its path add up to the root's. `SumTree.sol` computes the
same; tests hold the two together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sha3

from pool_oracle.errors import ProofError, TreeError
from pool_oracle.units import Payee

MAX_SUM = (1 << 64) - 1
ZERO_WORD = bytes(32)
_HASH_SIZE = 24

_keccak = sha3.keccak_256


@dataclass(frozen=True, slots=True)
class SumProof:
    """A payee's weight with the sibling words from the bottom up; bit i of `index` 0 means we are left at level i."""

    payee: Payee
    weight: int
    index: int
    siblings: tuple[bytes, ...]


def leaf_word(payee: bytes, weight: int) -> bytes:
    """The leaf: keccak256(0x00 + payee + weight)[:24] + weight, weight as uint64 big-endian."""
    tail = weight.to_bytes(8, "big")
    digest: bytes = _keccak(b"\x00" + payee + tail).digest()
    return digest[:_HASH_SIZE] + tail


def parent_word(left: bytes, right: bytes) -> bytes:
    """The parent: keccak256(left + right)[:24] + sum. Raises TreeError for a sum above 2^64 - 1."""
    total = int.from_bytes(left[_HASH_SIZE:], "big") + int.from_bytes(right[_HASH_SIZE:], "big")
    if total > MAX_SUM:
        raise TreeError(f"the sum {total} of two nodes is above 2^64 - 1")
    digest: bytes = _keccak(left + right).digest()
    return digest[:_HASH_SIZE] + total.to_bytes(8, "big")


def sum_of(word: bytes) -> int:
    """The sum that a word carries."""
    return int.from_bytes(word[_HASH_SIZE:], "big")


class SumTree:
    """The tree over (payee, weight), canonical: payees ascending and unique, weights above 0, zero words as padding."""

    def __init__(self, leaves: Iterable[tuple[Payee, int]]) -> None:
        """Build the tree; leaves may come in any order.

        Raises TreeError: no leaf, a weight outside 1 to 2^64 - 1, a payee twice, a total above 2^64 - 1.
        """
        ordered = sorted(leaves)
        if not ordered:
            raise TreeError("a tree needs at least one leaf")
        previous = None
        for payee, weight in ordered:
            if not 0 < weight <= MAX_SUM:
                raise TreeError(f"the weight of 0x{payee.hex()} must be 1 to 2^64 - 1, not {weight}")
            if payee == previous:
                raise TreeError(f"payee 0x{payee.hex()} stands twice; add its weights up first")
            previous = payee
        total = sum(weight for _, weight in ordered)
        if total > MAX_SUM:
            raise TreeError(f"the total weight {total} is above 2^64 - 1")
        self._payees = [payee for payee, _ in ordered]
        self._weights = [weight for _, weight in ordered]
        self._levels = _build_levels([leaf_word(payee, weight) for payee, weight in ordered])

    @property
    def root(self) -> bytes:
        """The root word."""
        return self._levels[-1][0]

    @property
    def total(self) -> int:
        """The sum of all weights."""
        return sum_of(self.root)

    @property
    def depth(self) -> int:
        """How many words a proof has."""
        return len(self._levels) - 1

    @property
    def leaves(self) -> list[tuple[Payee, int]]:
        """Payees and weights, ascending by payee."""
        return list(zip(self._payees, self._weights, strict=True))

    def __len__(self) -> int:
        return len(self._payees)

    def proof(self, payee: Payee) -> SumProof:
        """The proof of a payee. Raises TreeError when it has no leaf."""
        index = bisect_left(self._payees, payee)
        if index == len(self._payees) or self._payees[index] != payee:
            raise TreeError(f"payee 0x{payee.hex()} has no leaf in this tree")
        siblings = []
        position = index
        for level in self._levels[:-1]:
            beside = position ^ 1
            siblings.append(level[beside] if beside < len(level) else ZERO_WORD)
            position >>= 1
        return SumProof(payee, self._weights[index], index, tuple(siblings))


def _build_levels(words: list[bytes]) -> list[list[bytes]]:
    """All levels from the leaves up. The total was checked, so no sum can overflow here."""
    levels = [words]
    while len(levels[-1]) > 1:
        level = levels[-1]
        padded = [*level, ZERO_WORD] if len(level) % 2 else level
        levels.append([parent_word(padded[i], padded[i + 1]) for i in range(0, len(padded), 2)])
    return levels


def fold_proof(payee: bytes, weight: int, index: int, siblings: Sequence[bytes]) -> bytes:
    """The root that a proof leads to. Raises ProofError: weight or index out of range, a sum above 2^64 - 1."""
    if not 0 < weight <= MAX_SUM:
        raise ProofError(f"the weight must be 1 to 2^64 - 1, not {weight}")
    if not 0 <= index < 1 << len(siblings):
        raise ProofError(f"the index {index} is out of range for a proof of {len(siblings)} words")
    node = leaf_word(payee, weight)
    for level, sibling in enumerate(siblings):
        try:
            node = parent_word(sibling, node) if index >> level & 1 else parent_word(node, sibling)
        except TreeError as error:
            raise ProofError(f"at level {level}: {error}") from None
    return node


def verify_proof(root: bytes, proof: SumProof) -> None:
    """Check a proof against a root. Raises ProofError with the reason."""
    reached = fold_proof(proof.payee, proof.weight, proof.index, proof.siblings)
    if reached != root:
        raise ProofError(f"the proof leads to root 0x{reached.hex()}, not to 0x{root.hex()}")


def divide(amount: int, weight: int, total: int) -> int:
    """A payee's part of a payout: floor(amount * weight / total)."""
    return amount * weight // total

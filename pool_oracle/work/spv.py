"""The proof that a reward exists, for somebody without a node: a coinbase, its way into a block, the work on top of it.

A CoinbaseProof that exists is well-formed; whether it is true is what `verify_coinbase_proof` says. Hashes are in
internal order. Sources: the Bitcoin paper, section 8; BIP-34 (height); BIP-37 (partial merkle tree).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pool_oracle.errors import JobError, TargetError
from pool_oracle.hashes import sha256d
from pool_oracle.wire import hex_bytes, integer, member
from pool_oracle.work.block import Block
from pool_oracle.work.merkle import CoinbaseTree, coinbase_branch
from pool_oracle.work.serialize import push_height
from pool_oracle.work.share import HEADER_SIZE, hash_to_int
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.transaction import parse_transaction

_TWO_HASHES = 64


@dataclass(frozen=True, slots=True)
class CoinbaseProof:
    """A coinbase without witness data, its block's header (80 bytes) and height, and the headers above, lowest first.

    `branch` runs from the bottom up. `transactions` is how many the block holds; the header fixes it no closer than the
    branch's length does. Raises JobError for fields of another size.
    """

    coinbase: bytes
    header: bytes
    height: int
    branch: tuple[bytes, ...]
    transactions: int
    headers: tuple[bytes, ...]

    def __post_init__(self) -> None:
        for place, header in enumerate((self.header, *self.headers)):
            if len(header) != HEADER_SIZE:
                raise JobError(f"{self._at(place)} must be {HEADER_SIZE} bytes, not {len(header)}")
        CoinbaseTree(self.transactions, self.txid, self.branch)

    @classmethod
    def from_wire(cls, value: Any) -> CoinbaseProof:
        """Parse {coinbase, header, height, merkleBranch, transactions, headers}. Raises JobError naming the field."""
        return cls(
            coinbase=hex_bytes(member(value, "coinbase", error=JobError), "coinbase", error=JobError),
            header=hex_bytes(member(value, "header", error=JobError), "header", size=HEADER_SIZE, error=JobError),
            height=integer(member(value, "height", error=JobError), "height", error=JobError),
            branch=_hex_list(value, "merkleBranch", 32),
            transactions=integer(member(value, "transactions", error=JobError), "transactions", error=JobError),
            headers=_hex_list(value, "headers", HEADER_SIZE),
        )

    def to_wire(self) -> dict[str, Any]:
        """The inverse of `from_wire`: a JSON object, all bytes as bare hex."""
        return {
            "coinbase": self.coinbase.hex(),
            "header": self.header.hex(),
            "height": self.height,
            "merkleBranch": [node.hex() for node in self.branch],
            "transactions": self.transactions,
            "headers": [header.hex() for header in self.headers],
        }

    @property
    def txid(self) -> bytes:
        """The coinbase's id, internal order."""
        return sha256d(self.coinbase)

    @property
    def confirmations(self) -> int:
        """The headers of the proof, the block's own included."""
        return 1 + len(self.headers)

    @property
    def tree(self) -> CoinbaseTree:
        """The way from the coinbase to the merkle root."""
        return CoinbaseTree(self.transactions, self.txid, self.branch)

    def partial_tree(self) -> bytes:
        """The partial merkle tree (BIP-37) as Rootstock's bridge takes it."""
        return self.tree.serialize()

    def _at(self, place: int) -> str:
        return f"the header at height {self.height + place}"


def prove_coinbase(block: Block, height: int, headers: Sequence[bytes]) -> CoinbaseProof:
    """The proof of a block's coinbase; `headers` are those above the block, lowest first. Raises JobError."""
    return CoinbaseProof(
        coinbase=block.coinbase.serialize(with_witness=False),
        header=block.header,
        height=height,
        branch=tuple(coinbase_branch(block.txids[1:])),
        transactions=len(block.txids),
        headers=tuple(headers),
    )


def verify_coinbase_proof(
    proof: CoinbaseProof, pow_hash: Callable[[bytes], bytes], *, easiest_target: int, confirmations: int
) -> None:
    """Check a proof against nothing but itself and what the caller demands. Raises JobError naming what does not fit.

    `easiest_target` bounds what the headers' own nbits may claim: they alone make any work enough. The target of the
    job that the block came from, times four for a retarget, is a good one. `confirmations` counts the block itself.
    Not shown: that no other chain has more work, and that times and retargets follow the rules.
    """
    _check_coinbase(proof)
    if proof.tree.root != proof.header[36:68]:
        raise JobError(f"coinbase and merkle branch do not lead to the merkle root of {proof._at(0)}")
    below = None
    for place, header in enumerate((proof.header, *proof.headers)):
        if below is not None and header[4:36] != sha256d(below):
            raise JobError(f"{proof._at(place)} does not name the one below it")
        _check_work(header, proof._at(place), pow_hash, easiest_target)
        below = header
    if proof.confirmations < confirmations:
        raise JobError(f"the proof has {proof.confirmations} confirmations and needs {confirmations}")


def _check_coinbase(proof: CoinbaseProof) -> None:
    """Check that the proven bytes are a coinbase for the proof's height, of which the hash is the txid.

    That leaves no room to take an inner node for the coinbase, or a coinbase of 64 bytes for an inner node above a
    forged one (CVE-2017-12842): bytes 4 to 40 of a coinbase are fixed, and 28 of those would have to come out of a
    hash. A coinbase of 64 bytes is refused all the same, as by BIP-54.
    """
    coinbase = parse_transaction(proof.coinbase)
    if not coinbase.is_coinbase:
        raise JobError("the proven transaction is no coinbase")
    if coinbase.witnesses:
        raise JobError("the coinbase has witness data, and with that its hash is not the txid")
    if len(proof.coinbase) == _TWO_HASHES:
        raise JobError(f"a coinbase of {_TWO_HASHES} bytes could be two hashes of the merkle tree")
    if not coinbase.inputs[0].script.startswith(push_height(proof.height)):
        raise JobError(f"the coinbase does not begin with the push of height {proof.height} (BIP-34)")


def _check_work(header: bytes, where: str, pow_hash: Callable[[bytes], bytes], easiest_target: int) -> None:
    nbits = int.from_bytes(header[72:76], "little")
    try:
        target = nbits_to_target(nbits)
    except TargetError as error:
        raise JobError(f"{where}: {error}") from None
    if target > easiest_target:
        raise JobError(f"{where} claims the target {target:#066x}, easier than {easiest_target:#066x}")
    if hash_to_int(pow_hash(header)) > target:
        raise JobError(f"{where} does not meet the target of its nbits {nbits:08x}")


def _hex_list(value: Any, field: str, size: int) -> tuple[bytes, ...]:
    items = member(value, field, error=JobError)
    if not isinstance(items, list):
        raise JobError(f"{field} must be a list of {size}-byte hex strings")
    return tuple(hex_bytes(item, f"{field}[{i}]", size=size, error=JobError) for i, item in enumerate(items))

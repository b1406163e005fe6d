"""Bitcoin's merkle tree, seen from the coinbase: the branch that stratum sends, its fold, and BIP-37 proofs."""

from __future__ import annotations

from collections.abc import Sequence

from pool_oracle.hashes import sha256d
from pool_oracle.work.serialize import compact_size


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
    for sibling in branch:
        node = sha256d(node + sibling)
    return node


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """The merkle root over all of a block's hashes; at least one."""
    level = list(hashes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def coinbase_partial_tree(txids: Sequence[bytes]) -> bytes:
    """The partial merkle tree (BIP-37) that proves the first of `txids`, as Rootstock's bridge takes it.

    Serialized: transaction count (4 bytes), hashes, flag bits. Source: BIP-37; CPartialMerkleTree of Bitcoin Core.
    """
    levels = [list(txids)]
    while len(levels[-1]) > 1:
        below = levels[-1] + levels[-1][-1:] * (len(levels[-1]) % 2)
        levels.append([sha256d(below[i] + below[i + 1]) for i in range(0, len(below), 2)])
    # Depth first from the root along the left edge: 1 for each node above the coinbase and for the coinbase itself,
    # whose hash comes first; then each right sibling on the way back up, 0 and its hash.
    siblings = [level[1] for level in levels if len(level) > 1]
    flags = [1] * len(levels) + [0] * len(siblings)
    hashes = [txids[0], *siblings]
    packed = bytearray((len(flags) + 7) // 8)
    for i, flag in enumerate(flags):
        packed[i // 8] |= flag << (i % 8)
    return b"".join(
        [
            len(txids).to_bytes(4, "little"),
            compact_size(len(hashes)),
            *hashes,
            compact_size(len(packed)),
            bytes(packed),
        ]
    )

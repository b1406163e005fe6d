"""From a job and a miner's submission to the 80-byte header and its hash.

This is the check that every share goes through, in the pool and in the audit. Source: Stratum V1; BIP-310 for rolled
versions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pool_oracle.errors import InputError, JobError
from pool_oracle.hashes import sha256d
from pool_oracle.networks import PROOFS_OF_WORK
from pool_oracle.wire import hex_bytes, member, uint32_hex
from pool_oracle.work.merkle import fold_branch
from pool_oracle.work.targets import check_target, nbits_to_target

HEADER_SIZE = 80

_HEADER = struct.Struct("<I32s32sIII")
_EIGHT_WORDS = struct.Struct(">8I")
_EIGHT_WORDS_LE = struct.Struct("<8I")


@dataclass(frozen=True, slots=True)
class StratumJob:
    """What a miner needs to build headers: the fields of `mining.notify` as bytes and integers.

    `prev_hash` is in internal order; the coinbase is coinb1 + extranonce1 + extranonce2 + coinb2.
    """

    version: int
    prev_hash: bytes
    coinb1: bytes
    coinb2: bytes
    branch: tuple[bytes, ...]
    nbits: int

    @classmethod
    def from_wire(cls, value: Any) -> StratumJob:
        """Parse {version, prevhash, coinb1, coinb2, merkleBranch, nbits}. Raises JobError naming the field."""
        branch = member(value, "merkleBranch", error=JobError)
        if not isinstance(branch, list):
            raise JobError("merkleBranch must be a list of 32-byte hex strings")
        return cls(
            version=uint32_hex(member(value, "version", error=JobError), "version", error=JobError),
            prev_hash=prevhash_from_stratum(member(value, "prevhash", error=JobError)),
            coinb1=hex_bytes(member(value, "coinb1", error=JobError), "coinb1", error=JobError),
            coinb2=hex_bytes(member(value, "coinb2", error=JobError), "coinb2", error=JobError),
            branch=tuple(hex_bytes(b, f"merkleBranch[{i}]", size=32, error=JobError) for i, b in enumerate(branch)),
            nbits=uint32_hex(member(value, "nbits", error=JobError), "nbits", error=JobError),
        )

    def to_wire(self) -> dict[str, Any]:
        """The inverse of `from_wire`."""
        return {
            "version": f"{self.version:08x}",
            "prevhash": prevhash_to_stratum(self.prev_hash),
            "coinb1": self.coinb1.hex(),
            "coinb2": self.coinb2.hex(),
            "merkleBranch": [node.hex() for node in self.branch],
            "nbits": f"{self.nbits:08x}",
        }

    def coinbase(self, extranonce1: bytes, extranonce2: bytes) -> bytes:
        """The coinbase transaction without witness data."""
        return b"".join((self.coinb1, extranonce1, extranonce2, self.coinb2))

    def merkle_root(self, extranonce1: bytes, extranonce2: bytes) -> bytes:
        """The header's merkle root for these extranonces."""
        return fold_branch(sha256d(self.coinbase(extranonce1, extranonce2)), self.branch)


@dataclass(frozen=True, slots=True)
class CheckedShare:
    """A share's header and what its hash meets. `block_hash` and `pow_hash` differ only where the pow is not SHA-256d.

    Both are in internal order.
    """

    header: bytes
    merkle_root: bytes
    block_hash: bytes
    pow_hash: bytes
    meets_share_target: bool
    meets_network_target: bool


def rolled_version(version: int, mask: int, bits: int) -> int:
    """The header's version: the job's, with the bits of the mask replaced. Raises JobError for bits outside it."""
    if bits & ~mask:
        raise JobError(f"version bits {bits:08x} are outside the mask {mask:08x}")
    return version & ~mask | bits


def pack_header(version: int, prev_hash: bytes, merkle_root: bytes, ntime: int, nbits: int, nonce: int) -> bytes:
    """The 80 bytes of a header."""
    return _HEADER.pack(version, prev_hash, merkle_root, ntime, nbits, nonce)


def hash_to_int(digest: bytes) -> int:
    """A hash as the number that is compared with targets."""
    return int.from_bytes(digest, "little")


def check_header(
    header: bytes,
    merkle_root: bytes,
    share_target: int,
    network_target: int,
    pow_hash: Callable[[bytes], bytes] = sha256d,
) -> CheckedShare:
    """Hash a header and compare it with both targets; a target is met by a hash that is not above it."""
    block_hash = sha256d(header)
    proof = block_hash if pow_hash is sha256d else pow_hash(header)
    number = hash_to_int(proof)
    return CheckedShare(header, merkle_root, block_hash, proof, number <= share_target, number <= network_target)


def check_share_from_wire(value: Any) -> CheckedShare:
    """The check of one share as in stratum_share.json.

    Fields: job, extranonce1, extranonce2, ntime, nonce, versionBits (may be null or missing), versionMask (needed with
    versionBits), shareTarget, pow (sha256d or scrypt; sha256d where missing). Raises InputError naming the field.
    """
    job = StratumJob.from_wire(member(value, "job", error=JobError))
    version = job.version
    bits = value.get("versionBits")
    if bits is not None:
        mask = uint32_hex(member(value, "versionMask", error=JobError), "versionMask", error=JobError)
        version = rolled_version(version, mask, uint32_hex(bits, "versionBits", error=JobError))
    extranonce1, extranonce2 = (
        hex_bytes(member(value, field, error=JobError), field, error=JobError)
        for field in ("extranonce1", "extranonce2")
    )
    root = job.merkle_root(extranonce1, extranonce2)
    ntime, nonce = (
        uint32_hex(member(value, field, error=JobError), field, error=JobError) for field in ("ntime", "nonce")
    )
    share_target = target_from_wire(member(value, "shareTarget", error=JobError), "shareTarget")
    pow_name = value.get("pow", "sha256d")
    if not isinstance(pow_name, str) or pow_name not in PROOFS_OF_WORK:
        raise JobError(f"pow must be one of {', '.join(PROOFS_OF_WORK)}, not {pow_name!r}")
    header = pack_header(version, job.prev_hash, root, ntime, job.nbits, nonce)
    return check_header(header, root, share_target, nbits_to_target(job.nbits), PROOFS_OF_WORK[pow_name])


def target_from_wire(value: Any, field: str) -> int:
    """A target given as 0x and 64 hex digits. Raises InputError naming `field`."""
    return check_target(int.from_bytes(hex_bytes(value, field, size=32, prefixed=True, error=InputError), "big"), field)


def prevhash_from_stratum(text: Any) -> bytes:
    """The previous hash (internal order) from stratum's form, in which the bytes of each 4-byte word are reversed."""
    return swap_words(hex_bytes(text, "prevhash", size=32, error=JobError))


def prevhash_to_stratum(prev_hash: bytes) -> str:
    """Stratum's form of a previous hash in internal order."""
    return swap_words(prev_hash).hex()


def swap_words(data: bytes) -> bytes:
    """32 bytes with the bytes of each 4-byte word reversed; its own inverse."""
    return _EIGHT_WORDS_LE.pack(*_EIGHT_WORDS.unpack(data))


def display(digest: bytes) -> str:
    """A hash in the order that people read: reversed, hex, without 0x."""
    return digest[::-1].hex()


def branch_from_display(txids: Sequence[str]) -> list[bytes]:
    """Transaction ids as a node names them, in internal order."""
    return [hex_bytes(txid, f"txid {i}", size=32, error=JobError)[::-1] for i, txid in enumerate(txids)]

"""Output scripts, and the deposit that Rootstock's flyover derives from a commitment. Source: BIP-16, BIP-141, rskj."""

from __future__ import annotations

from dataclasses import dataclass

from pool_oracle.errors import JobError
from pool_oracle.hashes import hash160, keccak256, sha256
from pool_oracle.work.serialize import push

MAX_P2SH_REDEEM_SCRIPT = 520

OP_TRUE = b"\x51"
OP_DROP = b"\x75"


def p2sh(script_hash: bytes) -> bytes:
    """Pay to the HASH160 of a script."""
    return b"\xa9\x14" + script_hash + b"\x87"


def p2wsh(script_hash: bytes) -> bytes:
    """Pay to the SHA-256 of a witness script."""
    return b"\x00\x20" + script_hash


@dataclass(frozen=True, slots=True)
class FlyoverTerms:
    """What, besides the commitment, a flyover deposit address depends on.

    `user_refund` and `lp` are 21 bytes (version byte and hash of a base58 address), `lbc` is the route contract's
    address (20 bytes), `nested` tells that the PowPeg's own address is P2SH-P2WSH.
    """

    user_refund: bytes
    lbc: bytes
    lp: bytes
    powpeg_redeem_script: bytes
    nested: bool


def flyover_hash(args: bytes, user_refund: bytes, lbc: bytes, lp: bytes) -> bytes:
    """keccak256(args 32 + userRefund 21 + lbc 20 + lp 21). Raises JobError for other lengths."""
    for name, piece, size in (("args", args, 32), ("userRefund", user_refund, 21), ("lbc", lbc, 20), ("lp", lp, 21)):
        if len(piece) != size:
            raise JobError(f"{name} must be {size} bytes, not {len(piece)}")
    return keccak256(args + user_refund + lbc + lp)


def flyover_redeem_script(derivation_hash: bytes, powpeg_redeem_script: bytes) -> bytes:
    """`20 h 75` and the PowPeg's redeem script. Raises JobError for a hash of zero, which the bridge refuses."""
    if derivation_hash == bytes(32):
        raise JobError("the derivation hash is zero, which the bridge refuses")
    return push(derivation_hash) + OP_DROP + powpeg_redeem_script


def flyover_script(commitment: bytes, terms: FlyoverTerms) -> bytes:
    """The output script that only this commitment's reward may be registered from. Raises JobError."""
    derivation = flyover_hash(commitment, terms.user_refund, terms.lbc, terms.lp)
    redeem = flyover_redeem_script(derivation, terms.powpeg_redeem_script)
    if terms.nested:
        return p2sh(hash160(p2wsh(sha256(redeem))))
    if len(redeem) > MAX_P2SH_REDEEM_SCRIPT:
        raise JobError(f"a P2SH redeem script of {len(redeem)} bytes can never be spent; use P2SH-P2WSH")
    return p2sh(hash160(redeem))

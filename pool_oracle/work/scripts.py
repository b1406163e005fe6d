"""Where a route's rewards are paid: output scripts, and the deposits that bridges derive from a commitment.

Flyover and tBTC put the commitment into the reward output's own script; a plain deposit leaves it to the PORC output,
which every coinbase has. Sources: BIP-16, BIP-141; rskj (flyover); Deposit.sol of tBTC v2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pool_oracle.errors import JobError
from pool_oracle.hashes import hash160, keccak256, sha256
from pool_oracle.work.serialize import push

MAX_P2SH_REDEEM_SCRIPT = 520

TBTC_FIRST_LOCKTIME = 500_000_000
"""Below it, CHECKLOCKTIMEVERIFY reads a block height, and the bridge refuses the deposit."""
TBTC_LAST_LOCKTIME = 2**31 - 1
"""Above it, CHECKLOCKTIMEVERIFY reads the four bytes as a negative number, and the refund could never be spent."""

OP_TRUE = b"\x51"
OP_IF = b"\x63"
OP_ELSE = b"\x67"
OP_ENDIF = b"\x68"
OP_DROP = b"\x75"
OP_DUP = b"\x76"
OP_EQUAL = b"\x87"
OP_EQUALVERIFY = b"\x88"
OP_HASH160 = b"\xa9"
OP_CHECKSIG = b"\xac"
OP_CHECKLOCKTIMEVERIFY = b"\xb1"


def p2sh(script_hash: bytes) -> bytes:
    """Pay to the HASH160 of a script."""
    return OP_HASH160 + push(script_hash) + OP_EQUAL


def p2wsh(script_hash: bytes) -> bytes:
    """Pay to the SHA-256 of a witness script."""
    return b"\x00" + push(script_hash)


class RouteTerms(Protocol):
    """What, besides the commitment, fixes where the rewards of a route are paid."""

    def reward_script(self, commitment: bytes) -> bytes:
        """The output script for rewards of a commitment (32 bytes). Raises JobError."""


# Flyover (Rootstock)


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

    def reward_script(self, commitment: bytes) -> bytes:
        """`flyover_script` of these terms. Raises JobError."""
        return flyover_script(commitment, self)


def flyover_hash(args: bytes, user_refund: bytes, lbc: bytes, lp: bytes) -> bytes:
    """keccak256(args 32 + userRefund 21 + lbc 20 + lp 21). Raises JobError for other lengths."""
    _check_sizes(("args", args, 32), ("userRefund", user_refund, 21), ("lbc", lbc, 20), ("lp", lp, 21))
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


# tBTC


@dataclass(frozen=True, slots=True)
class TbtcTerms:
    """What, besides the commitment, a tBTC deposit depends on.

    `depositor`: the contract that will reveal the deposit (20 bytes). `blinding_factor`: 8 bytes. `wallet_key_hash` and
    `refund_key_hash`: HASH160 of the wallet's and of the refund's compressed public key. `refund_locktime`: Unix
    seconds from which the refund key may spend; TBTC_FIRST_LOCKTIME to TBTC_LAST_LOCKTIME. `witness`: P2WSH, not P2SH.
    """

    depositor: bytes
    blinding_factor: bytes
    wallet_key_hash: bytes
    refund_key_hash: bytes
    refund_locktime: int
    witness: bool

    def reward_script(self, commitment: bytes) -> bytes:
        """`tbtc_script` of these terms. Raises JobError."""
        return tbtc_script(commitment, self)


def tbtc_deposit_script(terms: TbtcTerms, extra_data: bytes | None = None) -> bytes:
    """The script behind a deposit's output: 92 bytes, or 126 with extra data.

    Raises JobError for a part of another length, a locktime out of range, or extra data of zero, which the bridge reads
    as none.
    """
    _check_sizes(
        ("depositor", terms.depositor, 20),
        ("blinding factor", terms.blinding_factor, 8),
        ("wallet key hash", terms.wallet_key_hash, 20),
        ("refund key hash", terms.refund_key_hash, 20),
    )
    if not TBTC_FIRST_LOCKTIME <= terms.refund_locktime <= TBTC_LAST_LOCKTIME:
        raise JobError(
            f"refund locktime must be Unix seconds from {TBTC_FIRST_LOCKTIME} to {TBTC_LAST_LOCKTIME}, "
            f"not {terms.refund_locktime}"
        )
    parts = [push(terms.depositor), OP_DROP]
    if extra_data is not None:
        _check_sizes(("extra data", extra_data, 32))
        if not any(extra_data):
            raise JobError("extra data is zero, which the bridge reads as none")
        parts += [push(extra_data), OP_DROP]
    parts += [push(terms.blinding_factor), OP_DROP]
    parts += [OP_DUP, OP_HASH160, push(terms.wallet_key_hash), OP_EQUAL, OP_IF, OP_CHECKSIG, OP_ELSE]
    parts += [OP_DUP, OP_HASH160, push(terms.refund_key_hash), OP_EQUALVERIFY]
    parts += [push(terms.refund_locktime.to_bytes(4, "little")), OP_CHECKLOCKTIMEVERIFY, OP_DROP, OP_CHECKSIG, OP_ENDIF]
    return b"".join(parts)


def tbtc_script(commitment: bytes, terms: TbtcTerms) -> bytes:
    """The output script of the deposit whose extra data is the commitment. Raises JobError."""
    script = tbtc_deposit_script(terms, commitment)
    return p2wsh(sha256(script)) if terms.witness else p2sh(hash160(script))


def tbtc_deposit_key(funding_txid: bytes, output_index: int) -> bytes:
    """The bridge's key of a deposit: keccak256(txid in internal order + output index, uint32 BE). Raises JobError."""
    _check_sizes(("funding txid", funding_txid, 32))
    if not 0 <= output_index < 1 << 32:
        raise JobError(f"output index must be 0 to 2^32 - 1, not {output_index}")
    return keccak256(funding_txid + output_index.to_bytes(4, "big"))


# Deposit to an address


@dataclass(frozen=True, slots=True)
class DepositTerms:
    """An address that somebody holds, who calls `fund` later. `script` is its output script (`script_of_address`)."""

    script: bytes

    def reward_script(self, commitment: bytes) -> bytes:
        """The address's script, whatever the commitment: only the PORC output carries that."""
        return self.script


def _check_sizes(*fields: tuple[str, bytes, int]) -> None:
    for name, piece, size in fields:
        if len(piece) != size:
            raise JobError(f"{name} must be {size} bytes, not {len(piece)}")

"""What differs between the networks that are mined. Adding one is adding an entry here.

Prefixes: SLIP-173 (bech32), chainparams.cpp of Bitcoin Core and Litecoin Core (base58 version bytes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from pool_oracle.errors import InputError
from pool_oracle.hashes import scrypt_pow, sha256d

PROOFS_OF_WORK: dict[str, Callable[[bytes], bytes]] = {"sha256d": sha256d, "scrypt": scrypt_pow}
"""Name of a proof of work to its hash of an 80-byte header (internal byte order)."""

DIFFICULTY_1_TARGET = 0xFFFF << 208


@dataclass(frozen=True, slots=True)
class Network:
    """A proof-of-work network.

    `p2pkh`, `p2sh`: base58 version bytes (several where old and new ones are in use). `hrp`: bech32 prefix.
    `difficulty_1_target`: the share target that stratum calls difficulty 1 (scrypt pools: 2^16 times easier).
    `min_share_difficulty`: the floor that keeps a share's unit at 12 significant bits or more.
    `may_emulate_target`: whether the policy may set an emulated network target (regtest only).
    """

    name: str
    pow_name: str
    p2pkh: tuple[int, ...]
    p2sh: tuple[int, ...]
    hrp: str
    difficulty_1_target: int
    min_share_difficulty: Fraction
    may_emulate_target: bool = False

    @property
    def pow_hash(self) -> Callable[[bytes], bytes]:
        """The proof-of-work hash of an 80-byte header."""
        return PROOFS_OF_WORK[self.pow_name]


_SCRYPT_1 = DIFFICULTY_1_TARGET << 16
_EASY = Fraction(1, 1000)
_EASIEST = Fraction(1, 1 << 32)

# name, proof of work, P2PKH, P2SH, bech32, difficulty 1, floor of share difficulty, may emulate a target
_ENTRIES: tuple[Network, ...] = (
    Network("main", "sha256d", (0x00,), (0x05,), "bc", DIFFICULTY_1_TARGET, Fraction(8)),
    Network("test", "sha256d", (0x6F,), (0xC4,), "tb", DIFFICULTY_1_TARGET, _EASY),
    Network("signet", "sha256d", (0x6F,), (0xC4,), "tb", DIFFICULTY_1_TARGET, _EASY),
    Network("regtest", "sha256d", (0x6F,), (0xC4,), "bcrt", DIFFICULTY_1_TARGET, _EASIEST, True),
    Network("litecoin", "scrypt", (0x30,), (0x32, 0x05), "ltc", _SCRYPT_1, Fraction(8)),
    Network("litecoin-test", "scrypt", (0x6F,), (0x3A, 0xC4), "tltc", _SCRYPT_1, _EASY),
    Network("litecoin-regtest", "scrypt", (0x6F,), (0x3A, 0xC4), "rltc", _SCRYPT_1, _EASIEST, True),
)

NETWORKS: dict[str, Network] = {network.name: network for network in _ENTRIES}


def network_named(name: str) -> Network:
    """The network of that name. Raises InputError with the known names."""
    try:
        return NETWORKS[name]
    except (KeyError, TypeError):
        raise InputError(f"network {name!r} is not known; use one of {', '.join(NETWORKS)}") from None

"""What differs between the networks that are mined. Adding one is adding an entry here.

Prefixes and genesis hashes: SLIP-173 (bech32), chainparams.cpp of Bitcoin Core and of Litecoin Core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

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
    `coin`: the ticker. `chains`: a node's name for the chain (`getblockchaininfo`) to the hash of its block 0, display
    order; several where one network has successors. `rules`: what a pool must say that it understands to get a
    template (BIP-9, BIP-141, BIP-325, LIP-3). `halving_interval`: in blocks.
    `may_emulate_target`: whether the policy may set an emulated network target (regtest only).
    """

    name: str
    pow_name: str
    p2pkh: tuple[int, ...]
    p2sh: tuple[int, ...]
    hrp: str
    difficulty_1_target: int
    min_share_difficulty: Fraction
    coin: str
    chains: Mapping[str, str]
    rules: tuple[str, ...]
    halving_interval: int
    may_emulate_target: bool = False

    @property
    def pow_hash(self) -> Callable[[bytes], bytes]:
        """The proof-of-work hash of an 80-byte header."""
        return PROOFS_OF_WORK[self.pow_name]


# Scrypt pools call difficulty 1 a target that is 2^16 times higher, since cpuminer and cgminer did.
_SCRYPT_1 = DIFFICULTY_1_TARGET << 16

_bitcoin = partial(
    Network, pow_name="sha256d", difficulty_1_target=DIFFICULTY_1_TARGET, rules=("segwit",), halving_interval=210_000
)
_bitcoin_test = partial(_bitcoin, p2pkh=(0x6F,), p2sh=(0xC4,))
_litecoin = partial(
    Network, pow_name="scrypt", difficulty_1_target=_SCRYPT_1, rules=("segwit", "mweb"), halving_interval=840_000
)
_litecoin_test = partial(_litecoin, p2pkh=(0x6F,), p2sh=(0x3A, 0xC4))

_ENTRIES: tuple[Network, ...] = (
    _bitcoin(
        name="main",
        p2pkh=(0x00,),
        p2sh=(0x05,),
        hrp="bc",
        min_share_difficulty=Fraction(8),
        coin="BTC",
        chains={"main": "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"},
    ),
    _bitcoin_test(
        name="test",
        hrp="tb",
        min_share_difficulty=Fraction(1, 1000),
        coin="tBTC",
        chains={
            "test": "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943",
            "testnet4": "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043",
        },
    ),
    _bitcoin_test(
        name="signet",
        hrp="tb",
        min_share_difficulty=Fraction(1, 1000),
        coin="sBTC",
        # Every signet, whatever its challenge, has the same block 0.
        chains={"signet": "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"},
        rules=("segwit", "signet"),
    ),
    _bitcoin_test(
        name="regtest",
        hrp="bcrt",
        min_share_difficulty=Fraction(1, 1 << 32),
        coin="rBTC",
        halving_interval=150,
        chains={"regtest": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"},
        may_emulate_target=True,
    ),
    _litecoin(
        name="litecoin",
        p2pkh=(0x30,),
        p2sh=(0x32, 0x05),
        hrp="ltc",
        min_share_difficulty=Fraction(8),
        coin="LTC",
        chains={"main": "12a765e31ffd4059bada1e25190f6e98c99d9714d334efa41a195a7e7e04bfe2"},
    ),
    _litecoin_test(
        name="litecoin-test",
        hrp="tltc",
        min_share_difficulty=Fraction(1, 1000),
        coin="tLTC",
        chains={"test": "4966625a4b2851d9fdee139e56211a0d88575f59ed816ff5e6a63deb4e3e29a0"},
    ),
    _litecoin_test(
        name="litecoin-regtest",
        hrp="rltc",
        min_share_difficulty=Fraction(1, 1 << 32),
        coin="rLTC",
        halving_interval=150,
        chains={"regtest": "530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9"},
        may_emulate_target=True,
    ),
)

NETWORKS: dict[str, Network] = {network.name: network for network in _ENTRIES}


def network_named(name: str) -> Network:
    """The network of that name. Raises InputError with the known names."""
    try:
        return NETWORKS[name]
    except (KeyError, TypeError):
        raise InputError(f"network {name!r} is not known; use one of {', '.join(NETWORKS)}") from None

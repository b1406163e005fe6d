"""The configuration: one TOML file, parsed once into frozen values.

Secrets never stand in it: the operator's key is in a file of its own, whose path may also come from the environment
(POOL_ORACLE_OPERATOR_KEY_FILE).
"""

from __future__ import annotations

import os
import tomllib
from fractions import Fraction
from pathlib import Path

import msgspec

from pool_oracle.errors import ConfigError, InputError, PayeeError, TargetError
from pool_oracle.networks import Network, network_named
from pool_oracle.payout.manifest import Policy
from pool_oracle.payout.payee import KIND_ACCOUNT, PAYEE_SIZE, format_payee, parse_payee
from pool_oracle.payout.window import S, check_window
from pool_oracle.units import Payee
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import difficulty_to_target

DEFAULT_PATH = Path("pool-oracle.toml")
KEY_FILE_VARIABLE = "POOL_ORACLE_OPERATOR_KEY_FILE"

EXAMPLE = """\
# pool_oracle's configuration. Every line is explained; lines that begin with '#' show the default.

[pool]
name = "my pool"
# The network that is mined. Only regtest has a node built in; it is the one that works today.
network = "regtest"
# Where the share log, the bundles and the built-in node's chain are kept.
data = "data"
# Regtest only: account and submit blocks by this target instead of the network's, which every second hash meets.
emulated_network_target = "0x0000100000000000000000000000000000000000000000000000000000000000"

[stratum]
# host = "0.0.0.0"
# port = 3333
# The share difficulty of every connection: a decimal number or a fraction.
share_difficulty = "0.000001"

[policy]
# The window X, in blocks of work: 1 to 127.
# window = 8
# The fee in basis points (1/100 of a percent); the distributor's own setting is what counts.
# fee_bps = 0
# Who epoch 0 pays, before the first shares: an address of the network, or 0x... It stands in the first manifest.
genesis_payee = "0x..."
# An epoch closes this often, where there were shares.
# epoch_seconds = 600

[chain]
# The EVM chain's node, and the contracts on it.
rpc = "http://127.0.0.1:8545"
distributor = "0x..."
flyover_route = "0x..."
# A file with the operator's private key (0x and 64 hex digits), readable by you alone. It signs commits.
operator_key_file = "operator.key"
# Whether the bridge's own deposit address is P2SH-P2WSH.
# nested_deposits = true
# Feed Bitcoin headers to the bridge. Only the development bridge of a local chain needs that.
# relay_headers = false

[api]
# host = "127.0.0.1"
# port = 8080
"""


class PoolSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[pool]."""

    name: str
    network: str
    data: str = "data"
    emulated_network_target: str | None = None


class StratumSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[stratum]."""

    share_difficulty: str
    host: str = "0.0.0.0"  # noqa: S104 - miners come from outside
    port: int = 3333


class PolicySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[policy]."""

    genesis_payee: str
    window: int = 8
    fee_bps: int = 0
    epoch_seconds: int = 600


class ChainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[chain]."""

    rpc: str
    distributor: str
    flyover_route: str
    operator_key_file: str = ""
    nested_deposits: bool = True
    relay_headers: bool = False


class ApiSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[api]."""

    host: str = "127.0.0.1"
    port: int = 8080


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. The properties are the values as the rooms want them."""

    pool: PoolSection
    stratum: StratumSection
    policy: PolicySection
    chain: ChainSection
    api: ApiSection = msgspec.field(default_factory=ApiSection)

    @property
    def network(self) -> Network:
        """The network that is mined."""
        return network_named(self.pool.network)

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.pool.data)

    @property
    def share_difficulty(self) -> Fraction:
        """The share difficulty of every connection, exact."""
        return Fraction(self.stratum.share_difficulty)

    @property
    def genesis_payee(self) -> Payee:
        """Who epoch 0 pays."""
        return parse_payee(self.policy.genesis_payee, self.network)

    @property
    def emulated_target(self) -> int | None:
        """The emulated network target, on regtest."""
        text = self.pool.emulated_network_target
        return None if text is None else target_from_wire(text, "pool.emulated_network_target")

    @property
    def key_file(self) -> Path:
        """The operator's key file: the environment's, else the file's. Raises ConfigError when neither names one."""
        name = os.environ.get(KEY_FILE_VARIABLE) or self.chain.operator_key_file
        if not name:
            raise ConfigError(f"no operator key: set chain.operator_key_file or {KEY_FILE_VARIABLE}")
        return Path(name)

    @property
    def manifest_policy(self) -> Policy:
        """The policy as manifests state it."""
        return Policy(
            scheme="pplns",
            window=self.policy.window,
            fee_bps=self.policy.fee_bps,
            unit=str(S),
            genesis_payee=format_payee(self.genesis_payee),
            emulated_network_target=self.pool.emulated_network_target,
        )


def load_config(path: Path) -> Config:
    """Parse and check a configuration file. Raises ConfigError naming the file, the field, and what would be right."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); 'pool-oracle init' writes one") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    try:
        config = msgspec.convert(tomllib.loads(text), Config)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not TOML that can be read: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        _check(config)
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def _check(config: Config) -> None:
    """Everything that the types cannot say."""
    check_window(config.policy.window)
    _check_range("policy.fee_bps", config.policy.fee_bps, 0, 10_000)
    _check_range("policy.epoch_seconds", config.policy.epoch_seconds, 1, 1 << 31)
    _check_range("stratum.port", config.stratum.port, 0, 65_535)
    _check_range("api.port", config.api.port, 0, 65_535)
    _check_network(config)
    _check_address("policy.genesis_payee", config.policy.genesis_payee, config.network)
    for field in ("distributor", "flyover_route"):
        address = getattr(config.chain, field)
        payee = _check_address(f"chain.{field}", address, config.network)
        if payee[0] != KIND_ACCOUNT or len(address) == 2 + 2 * PAYEE_SIZE:
            raise ConfigError(f"chain.{field} must be an EVM address (0x...), not {address!r}")


def _check_network(config: Config) -> None:
    network = config.network
    try:
        difficulty = config.share_difficulty
    except (ValueError, ZeroDivisionError):
        text = config.stratum.share_difficulty
        raise ConfigError(f"stratum.share_difficulty must be a decimal number or a fraction, not {text!r}") from None
    if difficulty < network.min_share_difficulty:
        floor = network.min_share_difficulty
        raise ConfigError(f"stratum.share_difficulty {difficulty} is below the floor of {network.name}, {floor}")
    try:
        difficulty_to_target(difficulty, network.difficulty_1_target)
    except TargetError as error:
        raise ConfigError(f"stratum.share_difficulty: {error}") from None
    if config.emulated_target is not None and not network.may_emulate_target:
        raise ConfigError(f"pool.emulated_network_target is for regtest only; take the line out on {network.name}")
    if network.name != "regtest":
        raise ConfigError(
            f"pool.network {network.name!r} needs a node by JSON-RPC, which is not built yet; use 'regtest'"
        )


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{field} must be {low} to {high}, not {value}")


def _check_address(field: str, text: str, network: Network) -> Payee:
    try:
        return parse_payee(text, network)
    except PayeeError as error:
        raise ConfigError(f"{field}: {error}") from None

"""The configuration: one TOML file, parsed once into frozen values.

Secrets never stand in it: the operator's key is in a file of its own, whose path may also come from the environment
(POOL_ORACLE_OPERATOR_KEY_FILE).
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pool_oracle.errors import ConfigError, InputError, PayeeError, TargetError
from pool_oracle.ledger.index.reading import Rules
from pool_oracle.networks import Network, network_named
from pool_oracle.node.jsonrpc import Login
from pool_oracle.node.opening import EMBEDDED_NETWORK, NodeSettings
from pool_oracle.payout.addresses import script_of_address
from pool_oracle.payout.manifest import Policy
from pool_oracle.payout.payee import KIND_ACCOUNT, PAYEE_SIZE, format_payee, parse_payee
from pool_oracle.payout.window import S, check_window
from pool_oracle.stratum.limits import AddressSet, LimitSettings
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.units import Payee
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import difficulty_to_target

DEFAULT_PATH = Path("pool-oracle.toml")
ROUTES = ("flyover", "deposit")
_DIFFICULTY = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?(e[+-]?[0-9]{1,2})?|[0-9]{1,40}/[0-9]{1,40}", re.IGNORECASE)
INDEX_URL_VARIABLE = "POOL_ORACLE_INDEX_URL"
KEY_FILE_VARIABLE = "POOL_ORACLE_OPERATOR_KEY_FILE"

EXAMPLE = """\
# pool_oracle's configuration. Every line is explained; lines that begin with '#' show the default.

[pool]
name = "my pool"
# The network that is mined: main, test, signet, regtest, litecoin, litecoin-test, litecoin-regtest. Only regtest has a
# node built in; all others need at least one [[node]], see below.
network = "regtest"
# Where the share log, the bundles and the built-in node's chain are kept.
data = "data"
# Regtest networks only: account and submit blocks by this target instead of the network's, which any hash in two meets.
emulated_network_target = "0x0000100000000000000000000000000000000000000000000000000000000000"

[stratum]
# host = "0.0.0.0"
# port = 3333
# The share difficulty that a connection begins with: a decimal number or a fraction.
share_difficulty = "0.000001"
# What vardiff aims at, 1 to 600 shares a minute for each connection; 0 leaves everybody at share_difficulty.
# shares_per_minute = 8
# Bytes of extranonce2 that miners roll: 4 to 8. Rental proxies want at least 4.
# extranonce2_size = 8
# Processes that serve miners; 0 is the pool's own. Each takes a core when it has much to do.
# workers = 0
# A certificate (PEM, with its chain) and its key, for miners that speak TLS.
#   certificate = "fullchain.pem"
#   private_key = "privkey.pem"
# Networks of load balancers that announce miners by the PROXY protocol.
# proxies = []

# Limits for each connection and address: docs/operator.md names them. What stands here replaces a default.
#   [stratum.limits]
#   max_connections_per_address = 1024

[policy]
# The window X, in blocks of work: 1 to 127.
# window = 8
# The fee in basis points (1/100 of a percent); the distributor's own setting is what counts.
# fee_bps = 0
# Who epoch 0 pays, before the first shares: an address of the network, or 0x... It stands in the first manifest.
genesis_payee = "0x..."
# An epoch closes this often, where there were shares.
# epoch_seconds = 600
# For how many seconds after a new tip shares of the tip before are still accepted: 0 to 60.
# stale_grace_seconds = 1

[chain]
# The EVM chain's node, and the contracts on it.
rpc = "http://127.0.0.1:8545"
distributor = "0x..."
# How rewards get there: "flyover" (Rootstock's bridge; flyover_route is its contract), or "deposit" (an address of
# the network whose holder brings the money by hand, and has to be trusted for it).
# route = "flyover"
flyover_route = "0x..."
#   deposit_address = "bc1q..."
# A file with the operator's private key (0x and 64 hex digits), readable by you alone. It signs commits.
operator_key_file = "operator.key"
# Whether the bridge's own deposit address is P2SH-P2WSH.
# nested_deposits = true
# Feed Bitcoin headers to the bridge. Only the development bridge of a local chain needs that.
# relay_headers = false

[api]
# host = "127.0.0.1"
# port = 8080

# Where the SQL index is kept; a file in the data folder where nothing is said. A password belongs in ~/.pgpass.
#   [index]
#   url = "postgresql://pool@host/pool"

# Nodes of the network, in order of preference (docs/operator.md). Templates come from the first that works, found
# blocks go to all of them. Each is a section of its own; log in by the cookie file, or by user and password_file.
#   [[node]]
#   url = "http://127.0.0.1:8332"
#   cookie_file = "~/.bitcoin/.cookie"
#   user = "pool"
#   password_file = "node.password"
#   zmq_hashblock = "tcp://127.0.0.1:28332"
#   name = "local"
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
    shares_per_minute: int = 8
    min_share_difficulty: str = ""
    extranonce2_size: int = 8
    workers: int = 0
    certificate: str = ""
    private_key: str = ""
    proxies: tuple[str, ...] = ()
    limits: dict[str, Any] = msgspec.field(default_factory=dict)


class PolicySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[policy]."""

    genesis_payee: str
    window: int = 8
    fee_bps: int = 0
    epoch_seconds: int = 600
    stale_grace_seconds: int = 1


class ChainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[chain]."""

    rpc: str
    distributor: str
    route: str = "flyover"
    flyover_route: str = ""
    deposit_address: str = ""
    operator_key_file: str = ""
    nested_deposits: bool = True
    relay_headers: bool = False


class ApiSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[api]."""

    host: str = "127.0.0.1"
    port: int = 8080


class IndexSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[index]."""

    url: str = ""


class NodeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[node]]."""

    url: str
    name: str = ""
    cookie_file: str = ""
    user: str = ""
    password_file: str = ""
    zmq_hashblock: str = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. The properties are the values as the rooms want them."""

    pool: PoolSection
    stratum: StratumSection
    policy: PolicySection
    chain: ChainSection
    api: ApiSection = msgspec.field(default_factory=ApiSection)
    node: tuple[NodeSection, ...] = ()
    index: IndexSection = msgspec.field(default_factory=IndexSection)

    @property
    def network(self) -> Network:
        """The network that is mined."""
        return network_named(self.pool.network)

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.pool.data)

    @property
    def shares(self) -> Path:
        """The share log's folder."""
        return self.data / "shares"

    @property
    def bundles(self) -> Path:
        """The folder of the published bundles."""
        return self.data / "bundles"

    @property
    def log_rules(self) -> Rules:
        """What the share log is read by."""
        return Rules(self.policy.window, self.emulated_target)

    @property
    def index_url(self) -> str:
        """Where the SQL index is: the environment's, else the file's, else a file in the data folder."""
        return os.environ.get(INDEX_URL_VARIABLE) or self.index.url or f"sqlite:///{self.data / 'index.sqlite'}"

    @property
    def nodes(self) -> tuple[NodeSettings, ...]:
        """How to reach the nodes; empty for the one that is built in."""
        return tuple(_node_settings(section) for section in self.node)

    @property
    def deposit_script(self) -> bytes:
        """The output script of `chain.deposit_address`."""
        return script_of_address(self.chain.deposit_address, self.network)

    @property
    def share_difficulty(self) -> Fraction:
        """The share difficulty that a connection begins with, exact. Raises ConfigError."""
        return _difficulty("stratum.share_difficulty", self.stratum.share_difficulty)

    @property
    def stratum_settings(self) -> StratumSettings:
        """How miners are served. Raises ConfigError for limits that cannot be."""
        section = self.stratum
        floor = section.min_share_difficulty
        return StratumSettings(
            share_difficulty=self.share_difficulty,
            shares_per_minute=section.shares_per_minute,
            min_share_difficulty=_difficulty("stratum.min_share_difficulty", floor) if floor else None,
            limits=_limits(section.limits),
            certificate=_path(section.certificate),
            private_key=_path(section.private_key),
            proxies=section.proxies,
        )

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
    _check_range("stratum.shares_per_minute", config.stratum.shares_per_minute, 0, 600)
    _check_range("stratum.extranonce2_size", config.stratum.extranonce2_size, 4, 8)
    _check_range("stratum.workers", config.stratum.workers, 0, 64)
    if bool(config.stratum.certificate) != bool(config.stratum.private_key):
        raise ConfigError("stratum.certificate and stratum.private_key belong together")
    AddressSet(config.stratum.proxies)
    _check_range("api.port", config.api.port, 0, 65_535)
    _check_network(config)
    _check_range("policy.stale_grace_seconds", config.policy.stale_grace_seconds, 0, 60)
    _check_nodes(config)
    _check_address("policy.genesis_payee", config.policy.genesis_payee, config.network)
    _check_account("distributor", config)
    _check_route(config)


def _check_account(field: str, config: Config) -> None:
    """A contract's address in [chain]."""
    address = getattr(config.chain, field)
    payee = _check_address(f"chain.{field}", address, config.network)
    if payee[0] != KIND_ACCOUNT or len(address) == 2 + 2 * PAYEE_SIZE:
        raise ConfigError(f"chain.{field} must be an EVM address (0x...), not {address!r}")


def _check_route(config: Config) -> None:
    chain = config.chain
    if chain.route not in ROUTES:
        raise ConfigError(f"chain.route must be one of {', '.join(ROUTES)}, not {chain.route!r}")
    if chain.route == "flyover":
        if config.network.pow_name != "sha256d":
            raise ConfigError(f"chain.route 'flyover' is Rootstock's bridge to Bitcoin; {config.network.name} has none")
        _check_account("flyover_route", config)
        return
    try:
        _ = config.deposit_script
    except PayeeError as error:
        raise ConfigError(f"chain.deposit_address: {error}") from None


def _check_nodes(config: Config) -> None:
    if not config.node and config.pool.network != EMBEDDED_NETWORK:
        raise ConfigError(f"pool.network {config.pool.network!r} needs at least one [[node]] with its url")
    names = [settings.shown_name for settings in config.nodes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two nodes are called {name!r}; give each [[node]] another name")


def _node_settings(section: NodeSection) -> NodeSettings:
    """A node's section as the node room wants it. Raises ConfigError."""
    where = f"node {section.name or section.url!r}"
    url = urlsplit(section.url)
    try:
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigError(f"{where}: url must be http://HOST:PORT, not {section.url!r}")
    if url.username is not None or url.password is not None:
        raise ConfigError(f"node at {url.hostname}: url must hold no password; use cookie_file or password_file")
    if section.cookie_file and (section.user or section.password_file):
        raise ConfigError(f"{where}: cookie_file, or user with password_file, not both")
    if bool(section.user) != bool(section.password_file):
        raise ConfigError(f"{where}: user and password_file belong together")
    zmq = section.zmq_hashblock
    if zmq and not zmq.startswith(("tcp://", "ipc://")):
        raise ConfigError(f"{where}: zmq_hashblock must be tcp://HOST:PORT or ipc://PATH, not {zmq!r}")
    login = Login(
        cookie_file=_path(section.cookie_file),
        user=section.user or None,
        password_file=_path(section.password_file),
    )
    return NodeSettings(url=section.url, login=login, name=section.name, zmq_hashblock=zmq)


def _path(text: str) -> Path | None:
    """A path, `~` being the user's home; None when none is given."""
    return Path(text).expanduser() if text else None


def _check_network(config: Config) -> None:
    network = config.network
    settings = config.stratum_settings
    for field, difficulty in (
        ("share_difficulty", settings.share_difficulty),
        ("min_share_difficulty", settings.min_share_difficulty or network.min_share_difficulty),
    ):
        if difficulty < network.min_share_difficulty:
            floor = network.min_share_difficulty
            raise ConfigError(f"stratum.{field} {difficulty} is below the floor of {network.name}, {floor}")
        try:
            difficulty_to_target(difficulty, network.difficulty_1_target)
        except TargetError as error:
            raise ConfigError(f"stratum.{field}: {error}") from None
    if config.emulated_target is not None and not network.may_emulate_target:
        raise ConfigError(f"pool.emulated_network_target is for regtest only; take the line out on {network.name}")


def _difficulty(field: str, text: str) -> Fraction:
    """A share difficulty. Fraction alone would take any exponent, and fill the memory with its zeros."""
    try:
        if _DIFFICULTY.fullmatch(text):
            return Fraction(text)
    except ZeroDivisionError:
        pass
    raise ConfigError(f"{field} must be a decimal number or a fraction, not {text[:80]!r}")


def _limits(section: dict[str, Any]) -> LimitSettings:
    """[stratum.limits]. Raises ConfigError naming what is not one."""
    names = {field.name for field in dataclasses.fields(LimitSettings)}
    for name in section:
        if name not in names:
            raise ConfigError(f"stratum.limits.{name} is no limit; there are {', '.join(sorted(names))}")
    try:
        return msgspec.convert(section, LimitSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"stratum.limits: {error}") from None


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{field} must be {low} to {high}, not {value}")


def _check_address(field: str, text: str, network: Network) -> Payee:
    try:
        return parse_payee(text, network)
    except PayeeError as error:
        raise ConfigError(f"{field}: {error}") from None

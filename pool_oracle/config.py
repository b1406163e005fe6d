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
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pool_oracle.epoch.closing import ClosingPolicy
from pool_oracle.epoch.publishing import PUBLISHERS, PublishSettings
from pool_oracle.epoch.remote import Credentials
from pool_oracle.errors import ConfigError, InputError, PayeeError, TargetError
from pool_oracle.ledger.rules import Rules
from pool_oracle.networks import Network, network_named
from pool_oracle.node.jsonrpc import Login
from pool_oracle.node.opening import EMBEDDED_NETWORK, NodeSettings
from pool_oracle.payout.addresses import script_of_address
from pool_oracle.payout.manifest import Policy
from pool_oracle.payout.payee import KIND_ACCOUNT, PAYEE_SIZE, format_payee, parse_payee, payee_of_account
from pool_oracle.payout.schemes import SCHEMES
from pool_oracle.payout.window import S, check_window
from pool_oracle.stratum.limits import AddressSet, LimitSettings
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.units import Payee
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import difficulty_to_target

DEFAULT_PATH = Path("pool-oracle.toml")
ROUTES = ("flyover", "deposit")
_ACCOUNT = re.compile("0x[0-9a-fA-F]{40}")
_DIFFICULTY = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?(e[+-]?[0-9]{1,2})?|[0-9]{1,40}/[0-9]{1,40}", re.IGNORECASE)
INDEX_URL_VARIABLE = "POOL_ORACLE_INDEX_URL"
KEY_FILE_VARIABLE = "POOL_ORACLE_OPERATOR_KEY_FILE"
PASSWORD_FILE_VARIABLE = "POOL_ORACLE_OPERATOR_PASSWORD_FILE"  # noqa: S105 - the name of a file

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
# How shares become weights: "pplns", "prop" or "solo"; or "pps", "fpps" or "pps+", which need a treasury that carries
# the luck (docs/payouts.md explains each). A pool keeps its scheme for life.
# scheme = "pplns"
# The window X, in blocks of work: 1 to 127. It may change; a change holds from the next close on.
# window = 8
# The fee in basis points (1/100 of a percent). The distributor takes it by its own setting; under "pps", "fpps" and
# "pps+" it comes off the weights instead, and the distributor's has to be 0.
# fee_bps = 0
# Who a "solo" pool mines for: an address of the network, or 0x...
#   solo_payee = "bc1q..."
# "pps", "fpps" and "pps+": the account (0x...) that pays for shares, and that blocks pay, so it has to be the
# genesis_payee too; and the odds of its ruin that it must hold a reserve against, one in so many.
#   treasury = "0x..."
#   ruin_odds = 1000
# Who epoch 0 pays, before the first shares: an address of the network, or 0x... It stands in the first manifest.
genesis_payee = "0x..."
# An epoch closes, where there were shares, after so many seconds; after so many shares, if that is sooner (0: never);
# and, if close_at_tip, with every new block of the network.
# epoch_seconds = 600
# epoch_shares = 0
# close_at_tip = false
# Which epochs are committed on chain: "each", or "found", those alone that a block of ours pays. That saves gas; jobs
# then carry commitments that the chain does not have yet.
# commit = "each"
# For how many seconds after a new tip shares of the tip before are still accepted: 0 to 60.
# stale_grace_seconds = 1

[chain]
# The EVM chain's node, or several in order of preference: ["http://...", "http://..."]. Of three or more a majority
# has to agree on the head.
rpc = "http://127.0.0.1:8545"
# The contracts on it.
distributor = "0x..."
# How rewards get there: "flyover" (Rootstock's bridge; flyover_route is its contract), or "deposit" (an address of
# the network whose holder brings the money by hand, and has to be trusted for it).
# route = "flyover"
flyover_route = "0x..."
#   deposit_address = "bc1q..."
# The operator's key, which signs commits. Best a keystore (version 3) with its password in a file, or a signer on
# another machine (eth_signTransaction) for the operator's address; or the owners of a Safe sign what is written into
# the data folder. A file with the bare key (0x and 64 hex digits) is for trying things out. Files are yours alone.
operator_key_file = "operator.key"
#   operator_keystore = "operator.json"
#   operator_password_file = "operator.password"
#   remote_signer = "http://127.0.0.1:9000"
#   operator = "0x..."
#   safe = "0x..."
# The most that a transaction may offer for gas, in gwei: a whole number.
# max_fee_gwei = 500
# max_tip_gwei = 50
# At which depth a transaction counts as done, and at which it is not looked after any more.
# confirmations = 1
# final_depth = 12
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

# Where bundles are published besides the data folder, before their epoch is committed (docs/operator.md): "kubo", the
# HTTP API of an IPFS node, or "put", a WebDAV or object server. Each is a section of its own; log in by a file with a
# bearer token, or by user and password_file. An optional one delays no commit.
#   [[publish]]
#   kind = "put"
#   url = "https://files.example.org/my-pool"
#   token_file = "publish.token"
#   user = "pool"
#   password_file = "publish.password"
#   optional = false

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
    scheme: str = "pplns"
    solo_payee: str = ""
    treasury: str = ""
    ruin_odds: int = 1000
    epoch_seconds: int = 600
    epoch_shares: int = 0
    close_at_tip: bool = False
    commit: str = "each"
    stale_grace_seconds: int = 1


class ChainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[chain]."""

    rpc: str | tuple[str, ...]
    distributor: str
    route: str = "flyover"
    flyover_route: str = ""
    deposit_address: str = ""
    operator_key_file: str = ""
    operator_keystore: str = ""
    operator_password_file: str = ""
    remote_signer: str = ""
    operator: str = ""
    safe: str = ""
    max_fee_gwei: int = 500
    max_tip_gwei: int = 50
    confirmations: int = 1
    final_depth: int = 12
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


class PublishSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[publish]]."""

    kind: str
    url: str
    token_file: str = ""
    user: str = ""
    password_file: str = ""
    optional: bool = False


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. The properties are the values as the rooms want them."""

    pool: PoolSection
    stratum: StratumSection
    policy: PolicySection
    chain: ChainSection
    api: ApiSection = msgspec.field(default_factory=ApiSection)
    node: tuple[NodeSection, ...] = ()
    index: IndexSection = msgspec.field(default_factory=IndexSection)
    publish: tuple[PublishSection, ...] = ()

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
        """What the share log is accounted by. Raises InputError for a scheme that is not there or lacks something."""
        policy = self.policy
        return Rules(
            window=policy.window,
            emulated_target=self.emulated_target,
            scheme=policy.scheme,
            fee_bps=policy.fee_bps,
            halving_interval=self.network.halving_interval,
            payee=self.solo_payee,
        )

    @property
    def solo_payee(self) -> Payee | None:
        """Who a SOLO pool mines for."""
        return parse_payee(self.policy.solo_payee, self.network) if self.policy.solo_payee else None

    @property
    def treasury(self) -> Payee:
        """The account that pays for shares, as a payee: blocks pay it."""
        return payee_of_account(bytes.fromhex(self.policy.treasury[2:]))

    @property
    def needs_treasury(self) -> bool:
        """Whether the scheme promises more than blocks bring."""
        return self.log_rules.pays_from_treasury

    @property
    def index_url(self) -> str:
        """Where the SQL index is: the environment's, else the file's, else a file in the data folder."""
        return os.environ.get(INDEX_URL_VARIABLE) or self.index.url or f"sqlite:///{self.data / 'index.sqlite'}"

    @property
    def nodes(self) -> tuple[NodeSettings, ...]:
        """How to reach the nodes; empty for the one that is built in."""
        return tuple(_node_settings(section) for section in self.node)

    @property
    def publishers(self) -> tuple[PublishSettings, ...]:
        """Where bundles are published besides the data folder. Raises ConfigError."""
        return tuple(_publish_settings(section) for section in self.publish)

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
    def closing(self) -> ClosingPolicy:
        """When epochs close."""
        policy = self.policy
        return ClosingPolicy(policy.epoch_seconds, policy.epoch_shares, policy.close_at_tip)

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
    def rpc_urls(self) -> tuple[str, ...]:
        """The EVM chain's nodes, in order of preference."""
        return (self.chain.rpc,) if isinstance(self.chain.rpc, str) else self.chain.rpc

    @property
    def key_file(self) -> Path | None:
        """The file with the operator's bare key, if there is one: the environment's, else the file's."""
        return _path(os.environ.get(KEY_FILE_VARIABLE) or self.chain.operator_key_file)

    @property
    def password_file(self) -> Path | None:
        """The file with the keystore's password, if there is one: the environment's, else the file's."""
        return _path(os.environ.get(PASSWORD_FILE_VARIABLE) or self.chain.operator_password_file)

    @property
    def outbox(self) -> Path:
        """The folder of the operator's transactions."""
        return self.data / "outbox"

    @property
    def manifest_policy(self) -> Policy:
        """The policy as manifests state it."""
        return Policy(
            scheme=self.policy.scheme,
            window=self.policy.window,
            fee_bps=self.policy.fee_bps,
            unit=str(S),
            genesis_payee=format_payee(self.genesis_payee),
            emulated_network_target=self.pool.emulated_network_target,
            payee=format_payee(self.solo_payee) if self.solo_payee else None,
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


def proposing_to(config: Config, safe: str) -> Config:
    """The same, but a Safe's owners sign what the pool would send. Raises ConfigError for what is no address."""
    chain = msgspec.structs.replace(
        config.chain, safe=safe, operator_key_file="", operator_keystore="", remote_signer="", operator=""
    )
    changed = msgspec.structs.replace(config, chain=chain)
    _check_operator(changed)
    return changed


def _check(config: Config) -> None:
    """Everything that the types cannot say."""
    check_window(config.policy.window)
    _check_range("policy.fee_bps", config.policy.fee_bps, 0, 10_000)
    _check_range("policy.epoch_shares", config.policy.epoch_shares, 0, 1 << 31)
    _check_range("policy.ruin_odds", config.policy.ruin_odds, 2, 10**12)
    if config.policy.commit not in ("each", "found"):
        raise ConfigError(f"policy.commit must be 'each' or 'found', not {config.policy.commit!r}")
    _check_scheme(config)
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
    _check_publishers(config)
    _check_address("policy.genesis_payee", config.policy.genesis_payee, config.network)
    _check_account("distributor", config)
    _check_operator(config)
    _check_route(config)


def _check_scheme(config: Config) -> None:
    """The scheme, and what it needs or has no use for."""
    policy = config.policy
    if policy.scheme not in SCHEMES:
        raise ConfigError(f"policy.scheme must be one of {', '.join(SCHEMES)}, not {policy.scheme!r}")
    if (policy.scheme == "solo") != bool(policy.solo_payee):
        raise ConfigError("policy.solo_payee and policy.scheme 'solo' belong together")
    if policy.solo_payee:
        _check_address("policy.solo_payee", policy.solo_payee, config.network)
    if not config.needs_treasury:
        if policy.treasury:
            raise ConfigError(f"policy.treasury has no use with policy.scheme {policy.scheme!r}; take the line out")
        return
    if not _ACCOUNT.fullmatch(policy.treasury):
        raise ConfigError(f"policy.treasury must be an EVM address (0x...), not {policy.treasury!r}")
    if not policy.fee_bps:
        raise ConfigError(f"policy.fee_bps must be 1 or more with scheme {policy.scheme!r}, or no reserve suffices")
    if _check_address("policy.genesis_payee", policy.genesis_payee, config.network) != config.treasury:
        raise ConfigError(
            f"policy.scheme {policy.scheme!r} pays from the treasury, so blocks must pay it: policy.genesis_payee must "
            f"be policy.treasury, not {policy.genesis_payee!r}"
        )


def _check_account(field: str, config: Config) -> None:
    """A contract's address in [chain]."""
    address = getattr(config.chain, field)
    payee = _check_address(f"chain.{field}", address, config.network)
    if payee[0] != KIND_ACCOUNT or len(address) == 2 + 2 * PAYEE_SIZE:
        raise ConfigError(f"chain.{field} must be an EVM address (0x...), not {address!r}")


def _check_operator(config: Config) -> None:
    """Nodes, key and bounds of the operator's transactions; whether there is a key at all is seen when it is needed."""
    chain = config.chain
    if not config.rpc_urls:
        raise ConfigError("chain.rpc names no node")
    for url in config.rpc_urls:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"chain.rpc must be http://HOST:PORT or several, not {url!r}")
    named = [name for name in ("operator_keystore", "remote_signer", "safe") if getattr(chain, name)]
    if len(named) > 1 or (named and chain.operator_key_file):
        raise ConfigError(
            "one key is enough: chain.operator_key_file, operator_keystore, remote_signer or safe, not "
            f"{' and '.join([*named, 'operator_key_file'] if chain.operator_key_file else named)}"
        )
    if bool(chain.remote_signer) != bool(chain.operator):
        raise ConfigError("chain.remote_signer and chain.operator (the address that it signs for) belong together")
    for field in ("operator", "safe"):
        if getattr(chain, field):
            _check_account(field, config)
    _check_range("chain.max_fee_gwei", chain.max_fee_gwei, 1, 1_000_000)
    _check_range("chain.max_tip_gwei", chain.max_tip_gwei, 0, chain.max_fee_gwei)
    _check_range("chain.confirmations", chain.confirmations, 1, 10_000)
    _check_range("chain.final_depth", chain.final_depth, chain.confirmations, 10_000)


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


def _check_publishers(config: Config) -> None:
    urls = [settings.url.rstrip("/") for settings in config.publishers]
    for settings in config.publishers:
        if urls.count(settings.url.rstrip("/")) > 1:
            raise ConfigError(f"two [[publish]] have the url of host {urlsplit(settings.url).hostname}; take one out")


def _publish_settings(section: PublishSection) -> PublishSettings:
    """A publisher's section as the epoch room wants it. Raises ConfigError, which shows a URL's host alone."""
    if section.kind not in PUBLISHERS:
        raise ConfigError(f"publish.kind must be one of {', '.join(PUBLISHERS)}, not {section.kind!r}")
    url = urlsplit(section.url)
    try:
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigError(f"publish {section.kind!r}: url must be https://HOST/PATH or http://HOST:PORT")
    where = f"publish {section.kind!r} at {url.hostname}"
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ConfigError(f"{where}: url must hold no password and no query; use token_file or password_file")
    if section.token_file and (section.user or section.password_file):
        raise ConfigError(f"{where}: token_file, or user with password_file, not both")
    if bool(section.user) != bool(section.password_file):
        raise ConfigError(f"{where}: user and password_file belong together")
    if (section.token_file or section.user) and url.scheme == "http" and not _is_near(url.hostname or ""):
        raise ConfigError(f"{where}: a token or password would go out readable; use https")
    credentials = Credentials(
        token_file=_path(section.token_file), user=section.user or None, password_file=_path(section.password_file)
    )
    return PublishSettings(section.kind, section.url, credentials, section.optional)


def _is_near(host: str) -> bool:
    """Whether an address is this machine's or in a private network, by what it says."""
    try:
        return host == "localhost" or ip_address(host).is_private
    except ValueError:
        return False


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

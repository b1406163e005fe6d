"""Reading and checking a file: everything that the types cannot say, each with what would be right."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from pool_oracle.config.settings import Config
from pool_oracle.errors import ConfigError, InputError, PayeeError, TargetError
from pool_oracle.networks import Network
from pool_oracle.node.opening import EMBEDDED_NETWORK
from pool_oracle.payout.payee import KIND_ACCOUNT, PAYEE_SIZE, parse_payee
from pool_oracle.payout.schemes import SCHEMES
from pool_oracle.payout.window import check_window
from pool_oracle.stratum.limits import AddressSet
from pool_oracle.units import Payee
from pool_oracle.work.targets import difficulty_to_target

ROUTES = ("flyover", "deposit")
_ACCOUNT = re.compile("0x[0-9a-fA-F]{40}")


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


def _check_publishers(config: Config) -> None:
    urls = [settings.url.rstrip("/") for settings in config.publishers]
    for settings in config.publishers:
        if urls.count(settings.url.rstrip("/")) > 1:
            raise ConfigError(f"two [[publish]] have the url of host {urlsplit(settings.url).hostname}; take one out")


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


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{field} must be {low} to {high}, not {value}")


def _check_address(field: str, text: str, network: Network) -> Payee:
    try:
        return parse_payee(text, network)
    except PayeeError as error:
        raise ConfigError(f"{field}: {error}") from None

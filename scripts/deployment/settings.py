"""What deploy.toml says, parsed once into frozen values and checked as far as that goes without a chain.

[pool] and [policy] have the fields of pool-oracle.toml and are read by the same code, so that the pool computes the
same manifest for epoch 0 as the deployment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from pool_oracle.config import ChainSection, Config, PolicySection, PoolSection, StratumSection
from pool_oracle.errors import ConfigError, InputError, PayeeError
from pool_oracle.payout.addresses import decode_base58check
from pool_oracle.payout.payee import checksum_address, parse_address
from pool_oracle.payout.window import check_window

PATH_VARIABLE = "POOL_ORACLE_DEPLOY"
DEFAULT_NAME = "deploy.toml"

MAX_BASIS_POINTS = 10_000
MAX_ACTIVATION_DELAY = 30 * 24 * 3600
"""Seconds; the contract's own bound."""


class ChainPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[chain]."""

    rpc: str
    id: int | None = None


class DeployerPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[deployer]: a keystore with its password file, or a raw key."""

    keystore: str | None = None
    password_file: str | None = None
    key_file: str | None = None


class DistributorPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[distributor]: the constructor's arguments that do not follow from the policy."""

    operator: str
    fee_recipient: str
    fee_cap_bps: int
    asset: Literal["native", "token"] = "native"
    token: str | None = None
    route: Literal["native", "deposit"] | None = None
    activation_delay: int = 0
    min_payout: int = 0


class FlyoverPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[flyover]: the route by Rootstock's bridge."""

    bridge: str
    user_refund: str
    provider_refund: str

    @property
    def refunds(self) -> dict[str, bytes]:
        """Field to refund address as the bridge takes it: version byte + hash, 21 bytes."""
        decoded = {name: decode_base58check(getattr(self, name)) for name in ("user_refund", "provider_refund")}
        return {name: bytes((version,)) + digest for name, (version, digest) in decoded.items()}

    def described(self) -> dict[str, str]:
        """The settings in plain values."""
        bridge = evm_address(self.bridge)
        return {"bridge": bridge, "user_refund": self.user_refund, "provider_refund": self.provider_refund}


class SettingsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    chain: ChainPart
    deployer: DeployerPart
    pool: PoolSection
    policy: PolicySection
    distributor: DistributorPart
    flyover: FlyoverPart | None = None
    output: str = "deployments"


class Settings(SettingsFile, frozen=True, kw_only=True):
    """The file's values, and the folder that its relative paths begin at."""

    folder: Path

    def path(self, name: str) -> Path:
        """A path of the file, relative to where the file is."""
        return self.folder / Path(name).expanduser()

    @property
    def rpc(self) -> str:
        """The node's URL, with environment variables (a provider's key, say) put in."""
        return os.path.expandvars(self.chain.rpc)

    @property
    def pool_config(self) -> Config:
        """As the pool will read it; the contracts are not there yet."""
        nowhere = ChainSection(rpc="", distributor="", flyover_route="")
        return Config(pool=self.pool, policy=self.policy, stratum=StratumSection(share_difficulty="1"), chain=nowhere)

    @property
    def route(self) -> str:
        """The name that the manifests give the route."""
        if self.flyover is not None:
            return "flyover"
        return self.distributor.route or ("native" if self.distributor.asset == "native" else "deposit")

    def check_refunds(self, digests: Iterable[bytes]) -> None:
        """Raise ConfigError where a refund would reach somebody who is the operator's, given as 20-byte ids."""
        operators = set(digests)
        for field, refund in self.flyover.refunds.items() if self.flyover else ():
            if refund[1:] in operators:
                raise ConfigError(
                    f"flyover.{field} is the operator's own (operator, fee recipient, deployer or genesis payee); "
                    "a refund must never reach the operator: name an address of somebody else"
                )

    def described(self) -> dict[str, Any]:
        """What a deployment is made from, in plain values: two deployments of the same settings have the same."""
        distributor = self.distributor
        return {
            "pool": {"name": self.pool.name, "network": self.pool.network},
            "policy": asdict(self.pool_config.manifest_policy),
            "distributor": {
                "asset": distributor.asset,
                "token": distributor.token and evm_address(distributor.token),
                "operator": evm_address(distributor.operator),
                "fee_recipient": evm_address(distributor.fee_recipient),
                "fee_cap_bps": distributor.fee_cap_bps,
                "activation_delay": distributor.activation_delay,
                "min_payout": str(distributor.min_payout),
            },
            "flyover": self.flyover and self.flyover.described(),
        }


def evm_address(text: str) -> str:
    """The EIP-55 form of an EVM address that was checked."""
    return checksum_address(bytes.fromhex(text[2:]))


def load_settings(path: Path) -> Settings:
    """Parse and check a settings file. Raises ConfigError naming the file, the field, and what would be right."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        file = msgspec.convert(raw, SettingsFile)
        settings = Settings(**msgspec.structs.asdict(file), folder=path.resolve().parent)
        _check(settings)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); copy deploy.example.toml, or name a file in {PATH_VARIABLE}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except (msgspec.ValidationError, InputError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return settings


def _check(settings: Settings) -> None:
    """Everything that the types cannot say."""
    config, distributor = settings.pool_config, settings.distributor
    _check_url(settings.rpc)
    check_window(settings.policy.window)
    _check_range("policy.fee_bps", settings.policy.fee_bps, 0, MAX_BASIS_POINTS)
    _check_range("distributor.fee_cap_bps", distributor.fee_cap_bps, 0, MAX_BASIS_POINTS)
    if settings.policy.fee_bps > distributor.fee_cap_bps:
        raise ConfigError(
            f"policy.fee_bps {settings.policy.fee_bps} is above distributor.fee_cap_bps {distributor.fee_cap_bps}"
        )
    _check_range("distributor.activation_delay", distributor.activation_delay, 0, MAX_ACTIVATION_DELAY)
    _check_range("distributor.min_payout", distributor.min_payout, 0, (1 << 128) - 1)
    if config.emulated_target is not None and not config.network.may_emulate_target:
        raise ConfigError(f"pool.emulated_network_target is for regtest only; take it out on {config.network.name}")
    try:
        genesis = config.genesis_payee
    except PayeeError as error:
        raise ConfigError(f"policy.genesis_payee: {error}") from None
    operators = [
        _check_account("distributor.operator", distributor.operator, settings),
        _check_account("distributor.fee_recipient", distributor.fee_recipient, settings),
        genesis[1:],
    ]
    _check_asset(settings)
    if settings.flyover is not None:
        _check_flyover(settings.flyover, settings)
        settings.check_refunds(operators)
    _check_deployer(settings.deployer)


def _check_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ConfigError("chain.rpc must be an http:// or https:// URL")
    if "$" in url:
        raise ConfigError("chain.rpc names an environment variable that is not set")


def _check_asset(settings: Settings) -> None:
    distributor = settings.distributor
    if distributor.route is not None and settings.flyover is not None:
        raise ConfigError("distributor.route is for a distributor without [flyover]; take one of them out")
    if distributor.route == "native" and distributor.asset == "token":
        raise ConfigError("distributor.route 'native' pays the chain's own coin, not a token; use 'deposit'")
    if distributor.asset == "native" and distributor.token is not None:
        raise ConfigError("distributor.token is for asset = 'token'; take it out, or change the asset")
    if distributor.asset == "token":
        if distributor.token is None:
            raise ConfigError("distributor.token is missing: the address of the token that the pool pays in")
        _check_account("distributor.token", distributor.token, settings)
        if settings.flyover is not None:
            raise ConfigError("[flyover] brings the chain's own coin; take it out, or use distributor.asset = 'native'")


def _check_flyover(flyover: FlyoverPart, settings: Settings) -> None:
    _check_account("flyover.bridge", flyover.bridge, settings)
    network = settings.pool_config.network
    for field in ("user_refund", "provider_refund"):
        text = getattr(flyover, field)
        try:
            version, _ = decode_base58check(text)
        except PayeeError as error:
            raise ConfigError(f"flyover.{field}: {error}") from None
        if version not in network.p2pkh + network.p2sh:
            raise ConfigError(f"flyover.{field} {text!r} is no base58 address of {network.name}")


def _check_deployer(deployer: DeployerPart) -> None:
    if (deployer.keystore is None) == (deployer.key_file is None):
        raise ConfigError("[deployer] wants either keystore with password_file, or key_file")
    if (deployer.keystore is None) != (deployer.password_file is None):
        raise ConfigError("deployer.keystore and deployer.password_file belong together")


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{field} must be {low} to {high}, not {value}")


def _check_account(field: str, text: str, settings: Settings) -> bytes:
    """The 20 bytes of an EVM address."""
    if not text.startswith("0x"):
        raise ConfigError(f"{field} must be an EVM address (0x and 40 hex digits), not {text!r}")
    try:
        return bytes(parse_address(text, settings.pool_config.network)[1:])
    except PayeeError as error:
        raise ConfigError(f"{field}: {error}") from None

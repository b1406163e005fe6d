"""The whole file as one frozen value, and what follows from it."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import msgspec

from pool_oracle.config.sections import (
    ApiSection,
    ChainSection,
    IndexSection,
    NodeSection,
    PolicySection,
    PoolSection,
    PublishSection,
    StratumSection,
)
from pool_oracle.config.values import difficulty_of, limits_of, node_settings, path_of, publish_settings
from pool_oracle.epoch.closing import ClosingPolicy
from pool_oracle.epoch.publishing import PublishSettings
from pool_oracle.ledger.rules import Rules
from pool_oracle.networks import Network, network_named
from pool_oracle.node.opening import NodeSettings
from pool_oracle.payout.addresses import script_of_address
from pool_oracle.payout.manifest import Policy
from pool_oracle.payout.payee import format_payee, parse_payee, payee_of_account
from pool_oracle.payout.window import S
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.units import Payee
from pool_oracle.work.share import target_from_wire

INDEX_URL_VARIABLE = "POOL_ORACLE_INDEX_URL"
KEY_FILE_VARIABLE = "POOL_ORACLE_OPERATOR_KEY_FILE"
PASSWORD_FILE_VARIABLE = "POOL_ORACLE_OPERATOR_PASSWORD_FILE"  # noqa: S105 - the name of a file


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
        return tuple(node_settings(section) for section in self.node)

    @property
    def publishers(self) -> tuple[PublishSettings, ...]:
        """Where bundles are published besides the data folder. Raises ConfigError."""
        return tuple(publish_settings(section) for section in self.publish)

    @property
    def deposit_script(self) -> bytes:
        """The output script of `chain.deposit_address`."""
        return script_of_address(self.chain.deposit_address, self.network)

    @property
    def share_difficulty(self) -> Fraction:
        """The share difficulty that a connection begins with, exact. Raises ConfigError."""
        return difficulty_of("stratum.share_difficulty", self.stratum.share_difficulty)

    @property
    def stratum_settings(self) -> StratumSettings:
        """How miners are served. Raises ConfigError for limits that cannot be."""
        section = self.stratum
        floor = section.min_share_difficulty
        return StratumSettings(
            share_difficulty=self.share_difficulty,
            shares_per_minute=section.shares_per_minute,
            min_share_difficulty=difficulty_of("stratum.min_share_difficulty", floor) if floor else None,
            limits=limits_of(section.limits),
            certificate=path_of(section.certificate),
            private_key=path_of(section.private_key),
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
        return path_of(os.environ.get(KEY_FILE_VARIABLE) or self.chain.operator_key_file)

    @property
    def password_file(self) -> Path | None:
        """The file with the keystore's password, if there is one: the environment's, else the file's."""
        return path_of(os.environ.get(PASSWORD_FILE_VARIABLE) or self.chain.operator_password_file)

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

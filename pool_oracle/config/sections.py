"""The file's sections, as they stand in it: names, types and defaults, no more."""

from __future__ import annotations

from typing import Any

import msgspec


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
    max_fee_gwei: int = 100
    max_tip_gwei: int = 10
    confirmations: int = 1
    final_depth: int = 30
    chain_id: int = 0
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

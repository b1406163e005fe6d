"""How miners are served, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import msgspec

from pool_oracle.errors import ConfigError
from pool_oracle.stratum.limits import LimitSettings


@dataclass(frozen=True, slots=True)
class StratumSettings:
    """How miners are served.

    `share_difficulty`: what a connection begins with; `shares_per_minute`: what vardiff aims at, 0 switches it off;
    `min_share_difficulty`: vardiff's floor, the network's where it is None; `certificate`, `private_key`: TLS;
    `proxies`: networks whose connections begin with a PROXY header. Raises ConfigError for TLS and proxies together.
    """

    share_difficulty: Fraction
    shares_per_minute: int = 8
    min_share_difficulty: Fraction | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    certificate: Path | None = None
    private_key: Path | None = None
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        if self.certificate is not None and self.proxies:
            raise ConfigError(
                "stratum.certificate and stratum.proxies exclude each other: a balancer sends its PROXY header before "
                "TLS begins, where nobody reads it; let the balancer end TLS"
            )


def encode_settings(settings: StratumSettings) -> bytes:
    """The settings for another process."""
    return msgspec.json.encode(settings, enc_hook=str)


def decode_settings(data: bytes) -> StratumSettings:
    """The inverse of `encode_settings`."""
    return msgspec.json.decode(data, type=StratumSettings, dec_hook=lambda kind, text: kind(text))

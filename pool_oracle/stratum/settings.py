"""How miners are served, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from pool_oracle.stratum.limits import LimitSettings


@dataclass(frozen=True, slots=True)
class StratumSettings:
    """How miners are served.

    `share_difficulty`: what a connection begins with; `shares_per_minute`: what vardiff aims at, 0 switches it off;
    `min_share_difficulty`: vardiff's floor, the network's where it is None; `certificate`, `private_key`: TLS;
    `proxies`: networks whose connections begin with a PROXY header.
    """

    share_difficulty: Fraction
    shares_per_minute: int = 8
    min_share_difficulty: Fraction | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    certificate: Path | None = None
    private_key: Path | None = None
    proxies: tuple[str, ...] = ()

"""Rows on their way into the index: what one share more changes is added up before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pool_oracle.ledger.index.events import LoggedBlockState, LoggedWorker

MINUTE, HOUR, DAY = 60, 3600, 86400
KEPT_SECONDS = {MINUTE: 3 * HOUR, HOUR: 35 * DAY}
"""For how long before an epoch's close buckets stay that are shorter than a day.

They go at closes, by the close's own time: the log alone decides which rows are there, not when it was read.
"""


@dataclass(slots=True)
class Work:
    """What came from a worker."""

    shares: int = 0
    work: int = 0

    def add(self, other: Work) -> None:
        """Add what came besides."""
        self.shares += other.shares
        self.work += other.work


@dataclass(slots=True)
class Batch:
    """Rows that are not written yet, by table."""

    payees: list[dict[str, Any]] = field(default_factory=list)
    workers: dict[int, LoggedWorker] = field(default_factory=dict)
    times: dict[int, tuple[int, int]] = field(default_factory=dict)  # worker to its first and last share's
    minutes: dict[tuple[int, int], Work] = field(default_factory=dict)  # (minute, worker)
    totals: dict[int, Work] = field(default_factory=dict)
    buckets: dict[tuple[int, int, int], Work] = field(default_factory=dict)  # (seconds, start, worker)
    horizons: dict[int, int] = field(default_factory=dict)  # seconds to the start of the oldest bucket that stays
    segments: list[dict[str, Any]] = field(default_factory=list)
    seals: list[int] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    states: list[LoggedBlockState] = field(default_factory=list)
    shares: int = 0

    @property
    def rows(self) -> int:
        """How much there is to write."""
        return self.shares + len(self.weights)

    def spread(self) -> None:
        """Carry what came in minutes to the longer buckets and the workers."""
        for (minute, worker), work in self.minutes.items():
            start = minute * MINUTE
            for seconds in (MINUTE, HOUR, DAY):
                self.buckets.setdefault((seconds, start - start % seconds, worker), Work()).add(work)
            self.totals.setdefault(worker, Work()).add(work)
        self.minutes = {}

    def forget_before(self, time: int) -> None:
        """Drop buckets that are too old at a close."""
        self.spread()
        for seconds, kept in KEPT_SECONDS.items():
            horizon = time - kept
            self.horizons[seconds] = max(horizon, self.horizons.get(seconds, horizon))
            for key in [key for key in self.buckets if key[0] == seconds and key[1] < horizon]:
                del self.buckets[key]

"""`/metrics` for Prometheus. Everything is counted elsewhere in plain numbers and read here when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pool_oracle.indexing import IndexState
from pool_oracle.pool import Pool

REASONS = {20: "other", 21: "stale", 22: "duplicate", 23: "low difficulty", 24: "unauthorized", 25: "not subscribed"}
"""Stratum's error codes in words."""

_STRATUM = {
    "opened": "connections that were let in",
    "turned_away": "connections that were not let in: bans, too many of an address",
    "hang_ups": "connections that the pool cut: silence, slow readers, floods",
    "bans": "strikes that the gate took for a ban",
    "pauses": "times that a connection was not read for a while because it asked too much",
    "retargets": "changes of a connection's share target",
}


class PoolCollector(Collector):
    """The pool's numbers as metric families."""

    def __init__(
        self,
        pool: Pool,
        stratum: Callable[[], Mapping[str, int]],
        index: Callable[[], IndexState] | None = None,
        waiting: Callable[[], int] | None = None,
    ) -> None:
        """`stratum` gives the counters of the stratum server, see `Counters.values`; `index` how the index stands.

        `waiting` is how many closed epochs are not committed, see `EpochKeeper.waiting`.
        """
        self._pool = pool
        self._stratum = stratum
        self._index = index
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        """All families, as they stand now."""
        yield from self._shares()
        yield from self._work()
        yield from self._indexed()

    def _shares(self) -> Iterator[Metric]:
        values = self._stratum()
        yield GaugeMetricFamily(
            "pool_oracle_stratum_connections", "open connections", value=values.get("connections", 0)
        )
        for name, text in _STRATUM.items():
            yield CounterMetricFamily(f"pool_oracle_stratum_{name}", text, value=values.get(name, 0))
        yield CounterMetricFamily(
            "pool_oracle_shares_accepted", "shares on disk and acknowledged", value=values.get("accepted", 0)
        )
        refused = CounterMetricFamily("pool_oracle_shares_refused", "shares refused", labels=["code", "reason"])
        for code, reason in REASONS.items():
            refused.add_metric([str(code), reason], values.get(f"refused_{code}", 0))
        yield refused

    def _work(self) -> Iterator[Metric]:
        pool = self._pool
        blocks = GaugeMetricFamily("pool_oracle_blocks", "found blocks by where they stand", labels=["state"])
        for state, count in Counter(block.state.value for block in pool.blocks).items():
            blocks.add_metric([state], count)
        yield blocks
        yield GaugeMetricFamily("pool_oracle_window_shares", "shares with credit", value=pool.scheme.share_count)
        yield GaugeMetricFamily("pool_oracle_workers", "workers that sent a share", value=len(pool.workers))
        yield GaugeMetricFamily("pool_oracle_epochs_closed", "epochs that were closed", value=pool.closed_epochs)
        if self._waiting is not None:
            text = "closed epochs that are not published everywhere, or due and not committed"
            yield GaugeMetricFamily("pool_oracle_epochs_waiting", text, value=self._waiting())
        if pool.job is not None:
            yield GaugeMetricFamily("pool_oracle_job_height", "block height of jobs", value=pool.job.template.height)
            yield GaugeMetricFamily(
                "pool_oracle_job_time_seconds",
                "Unix time of the present job's template",
                value=pool.job.template.curtime,
            )

    def _indexed(self) -> Iterator[Metric]:
        if self._index is None:
            return
        state = self._index()
        for name, seconds, what in (
            ("level", state.level_seconds, "log"),
            ("chain", state.chain_seconds, "distributor's chain"),
        ):
            if seconds is not None:
                text = f"seconds since the index held all of the {what}"
                yield GaugeMetricFamily(f"pool_oracle_index_{name}_seconds", text, value=seconds)


def metrics_text(collector: Collector) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)

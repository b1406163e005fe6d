"""How the share target finds its miner and stays with it: a simulation with exponential arrival times.

    python bench/vardiff.py            prints tables and writes bench/results/vardiff.json; --json prints that instead
    python bench/vardiff.py --quick    a tenth of the runs, at the default rate only; writes nothing

Time is simulated, so the figures depend on the seeds alone. A miner finds shares at random at the target that it works
at; a changed target reaches it `DELAY` after the pool decided, and what it finds until then is judged by the old one.
The pool sweeps all connections every `SWEEP`. Ratio: the target in force to the ideal one, at which the miner's shares
come at the wanted rate; 2 is too easy by two. "Settled" is the time from which the ratio is within a factor of 2 for a
minute on end; "at 2 min" is the part of the runs in which it is so after 120 seconds.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pool_oracle.stratum.vardiff import SECOND, Vardiff, VardiffSettings
from pool_oracle.work.targets import nbits_to_target

RATES = (4, 8, 20)
OFFS = (0.001, 0.005, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 100.0, 1000.0)
DELAY = 0.2
SWEEP = 3.0
IDEAL = 0xFFFF << 188
"""The target that the miner's first hash rate deserves: share difficulty 2^20."""

FLOOR = IDEAL << 24
NETWORK = IDEAL >> 24


@dataclass(frozen=True, slots=True)
class Setting:
    """What surrounds the miner. Times in seconds.

    `speeds`: (time, hash rate in multiples of the first). `stalls`: (from, to) in which the network holds shares back;
    they all arrive at the end.
    """

    off: float = 1.0
    seconds: float = 300.0
    delay: float = DELAY
    sweep: float = SWEEP
    speeds: Sequence[tuple[float, float]] = ()
    stalls: Sequence[tuple[float, float]] = ()


@dataclass(slots=True)
class Trace:
    """What happened: `ratios` are (time, ratio) at each change of either side of it; `shares` are arrival times."""

    end: float
    ratios: list[tuple[float, float]] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def ratio_at(self, time: float) -> float:
        """The ratio in force."""
        return next(ratio for since, ratio in reversed(self.ratios) if since <= time)

    def settled(self, start: float = 0.0, factor: float = 2.0) -> float:
        """Seconds from `start` until the ratio is within `factor` for a minute; infinite if it never is."""
        good: float | None = None
        for time, ratio in [(start, self.ratio_at(start)), *(r for r in self.ratios if r[0] > start), (self.end, 0)]:
            if 1 / factor <= ratio <= factor:
                good = time if good is None else good
            else:
                if good is not None and time - good >= 60:
                    return good - start
                good = None
        return math.inf

    def flood(self) -> int:
        """Most shares in any second."""
        best = first = 0
        for i, time in enumerate(self.shares):
            while time - self.shares[first] > 1:
                first += 1
            best = max(best, i - first + 1)
        return best


def settings_for(rate: int, off: float = 1.0) -> VardiffSettings:
    """A pool of that rate, whose start target is `off` times the ideal one."""
    return VardiffSettings(FLOOR, int(IDEAL * off), rate)


class Simulation:
    """One miner's connection."""

    def __init__(self, rate: int, setting: Setting, seed: str) -> None:
        """`rate`: wanted shares a minute."""
        self._setting = setting
        self._random = random.Random(seed)
        self._vardiff = Vardiff(settings_for(rate, setting.off), NETWORK, 0)
        self._per_target = rate / 60 / IDEAL
        self._speed = 1.0
        self._at_miner = self._vardiff.bits
        self._on_way: list[tuple[float, int]] = []
        self._held: list[int] = []
        self.trace = Trace(setting.seconds)
        self._note(0.0)

    def _note(self, time: float) -> None:
        ratio = nbits_to_target(self._vardiff.bits) * self._speed / IDEAL if self._speed else 1.0
        self.trace.ratios.append((time, ratio))

    def _changed(self, time: float) -> None:
        self._on_way.append((time + self._setting.delay, self._vardiff.bits))
        self.trace.changes.append(time)
        self._note(time)

    def _arrive(self, time: float, bits: int) -> None:
        self.trace.shares.append(time)
        if self._vardiff.on_share(int(time * SECOND), bits):
            self._changed(time)

    def _find(self, time: float) -> None:
        """The miner finds a share; a stalled network keeps it."""
        if any(start <= time < end for start, end in self._setting.stalls):
            self._held.append(self._at_miner)
        else:
            self._arrive(time, self._at_miner)

    def run(self) -> Trace:
        """From the first job to the end."""
        setting = self._setting
        sweep = self._random.uniform(0, setting.sweep)
        speeds = [*setting.speeds, (math.inf, 0.0)]
        releases = [*(end for _, end in setting.stalls), math.inf]
        time = 0.0
        while True:
            per_second = self._per_target * nbits_to_target(self._at_miner) * self._speed
            share = time + self._random.expovariate(per_second) if per_second else math.inf
            given = self._on_way[0][0] if self._on_way else math.inf
            time = min(share, given, sweep, speeds[0][0], releases[0])
            if time >= setting.seconds:
                return self.trace
            if time == share:
                self._find(time)
            elif time == given:
                self._at_miner = self._on_way.pop(0)[1]
            elif time == sweep:
                sweep += setting.sweep
                if self._vardiff.on_idle(int(time * SECOND)):
                    self._changed(time)
            elif time == speeds[0][0]:
                self._speed = speeds.pop(0)[1]
                self._note(time)
            else:
                releases.pop(0)
                for bits in self._held:
                    self._arrive(time, bits)
                self._held.clear()


def runs(rate: int, setting: Setting, count: int, name: str) -> list[Trace]:
    """`count` runs that differ by their seeds."""
    return [Simulation(rate, setting, f"{name} {rate} {i}").run() for i in range(count)]


def quantile(values: Iterable[float], part: float) -> float:
    """The nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def start(rate: int, off: float, count: int, *, delay: float = DELAY, sweep: float = SWEEP) -> dict[str, float]:
    """From a start target that is `off` times the ideal one."""
    traces = runs(rate, Setting(off=off, seconds=600, delay=delay, sweep=sweep), count, f"start {off:g}")
    settled = [trace.settled() for trace in traces]
    return {
        "settled_median_s": rounded(quantile(settled, 0.5)),
        "settled_p95_s": rounded(quantile(settled, 0.95)),
        "settled_worst_s": rounded(max(settled)),
        "within_2_at_120_s": rounded(sum(0.5 <= t.ratio_at(120) <= 2 for t in traces) / count, 3),
        "changes_in_10_min": rounded(sum(len(t.changes) for t in traces) / count, 2),
        "most_shares_in_a_second": max(t.flood() for t in traces),
    }


def steady(rate: int, hours: int, count: int, **around: Any) -> dict[str, float]:
    """A miner of constant hash rate, from ten minutes after it was found."""
    first, seconds = 600, hours * 3600
    traces = runs(rate, Setting(off=3.0, seconds=seconds, **around), count, "steady")
    ratios = [trace.ratio_at(time) for trace in traces for time in range(first, seconds, 60)]
    watched = count * (seconds - first) / 3600
    return {
        "ratio_p5": rounded(quantile(ratios, 0.05), 3),
        "ratio_median": rounded(quantile(ratios, 0.5), 3),
        "ratio_p95": rounded(quantile(ratios, 0.95), 3),
        "within_2": rounded(sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios), 4),
        "changes_an_hour": rounded(sum(t > first for trace in traces for t in trace.changes) / watched, 3),
        "shares_a_minute": rounded(sum(t > first for trace in traces for t in trace.shares) / watched / 60, 2),
    }


def shift(rate: int, factor: float, count: int) -> dict[str, float]:
    """After half an hour the hash rate is multiplied by `factor`."""
    at = 1800
    traces = runs(rate, Setting(seconds=at + 1800, speeds=[(at, factor)]), count, f"shift {factor:g}")
    settled = [trace.settled(at, 1.5) for trace in traces]
    return {
        "within_1.5_median_s": rounded(quantile(settled, 0.5)),
        "within_1.5_p95_s": rounded(quantile(settled, 0.95)),
        "changes": rounded(sum(t > at for trace in traces for t in trace.changes) / count, 2),
        "most_shares_in_a_second": max(trace.flood() for trace in traces),
    }


def pause(rate: int, count: int) -> dict[str, float]:
    """After half an hour the miner pauses for ten minutes and comes back as it was."""
    stop, back = 1800, 2400
    traces = runs(rate, Setting(seconds=back + 1200, speeds=[(stop, 0.0), (back, 1.0)]), count, "pause")
    return {
        "ratio_at_return_median": rounded(quantile((t.ratio_at(back) for t in traces), 0.5)),
        "ratio_at_return_worst": rounded(max(t.ratio_at(back) for t in traces)),
        "settled_median_s": rounded(quantile((t.settled(back) for t in traces), 0.5)),
        "settled_p95_s": rounded(quantile((t.settled(back) for t in traces), 0.95)),
        "most_shares_in_a_second": max(t.flood() for t in traces),
    }


def rounded(value: float, digits: int = 1) -> float:
    """As it is printed; an infinite time is -1, which JSON can hold."""
    return round(value, digits) if math.isfinite(value) else -1


def measure(rates: Sequence[int], count: int) -> dict[str, Any]:
    """Everything; `count` runs of each start."""
    stalls = [(600.0 * k, 600.0 * k + 60) for k in range(1, 24)]
    few = max(4, count // 10)
    return {
        "delay_s": DELAY,
        "sweep_s": SWEEP,
        "runs": count,
        "starts": {str(rate): {f"{off:g}": start(rate, off, count) for off in OFFS} for rate in rates},
        "steady": {str(rate): steady(rate, 8, few) for rate in rates},
        "shifts": {f"{f:g}": shift(8, f, max(4, count // 4)) for f in (0.1, 0.5, 2.0, 10.0, 1000.0)},
        "pause_10_min": pause(8, max(4, count // 4)),
        "around": {
            f"{name}, start {off:g}": start(8, off, count, **around)
            for name, around in (
                ("target takes 5 s", {"delay": 5.0}),
                ("target takes 15 s", {"delay": 15.0}),
                ("sweep every 10 s", {"sweep": 10.0}),
            )
            for off in (0.001, 1000.0)
        },
        "steady_around": {
            "shares held up for 60 s every 10 min": steady(8, 4, 2 * few, stalls=stalls),
            "target takes 15 s": steady(8, 8, few, delay=15),
        },
    }


def table(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    """A Markdown table, a row a case."""
    names = list(next(iter(rows.values())))
    heads = [name.replace("_", " ") for name in names]
    lines = ["", f"| {title} | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(names)]
    return lines + [f"| {row} | {' | '.join(f'{cells[name]:g}' for name in names)} |" for row, cells in rows.items()]


def render(results: dict[str, Any]) -> str:
    """All tables."""
    lines = [f"Ratio: target in force to the ideal one. -1: never. {results['runs']} runs a start, seeded."]
    for rate, rows in results["starts"].items():
        lines += table(f"{rate} shares/min, start ratio", rows)
    lines += table("8 shares/min", results["around"])
    lines += table("steady: shares/min", results["steady"])
    lines += table("steady, 8 shares/min", results["steady_around"])
    lines += table("hash rate times, 8 shares/min", results["shifts"])
    lines += table("8 shares/min", {"pause of 10 min": results["pause_10_min"]})
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    quick = "--quick" in sys.argv
    results = measure((8,), 60) if quick else measure(RATES, 600)
    text = json.dumps(results, indent=1)
    if not quick:
        (Path(__file__).parent / "results" / "vardiff.json").write_text(text + "\n")
    print(text if "--json" in sys.argv else render(results))


if __name__ == "__main__":
    main()

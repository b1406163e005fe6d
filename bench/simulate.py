"""A year of a pool under every reward scheme, and the ruin of a PPS treasury: a simulation with the pool's own schemes.

    python bench/simulate.py            prints tables, writes bench/results/simulation.json and docs/plots/*.png
    python bench/simulate.py --quick    half a year, fewer ruins; writes nothing, draws nothing
    python bench/simulate.py --json     prints the JSON instead of the tables

Needs numpy, and matplotlib for the plots (the extra `bench`). Seeded: the figures depend on the seeds alone.

The world: a pool with a tenth of the network, so some 5,000 blocks a year. A share is a hundredth of a block's work at
the first difficulty and comes at exponential intervals. The network's hash rate jumps by a few percent with each
retarget, and the difficulty follows after 2016 blocks. Fees of blocks are lognormal. An epoch closes every 10 minutes;
a block pays the root of the last close. Six miners work all year; three hoppers come when it should pay: while the
round is younger than 43.5 % of a block, before a retarget that will make blocks easier, in the minute before a close.

Income is per unit of work and in units of (1 - f) B, B being subsidy and mean fees: 1 is fair. "Realised" counts the
blocks that were found. "Expected" counts, share by share, the block that might have been found with it, times its
chance: the same mean without the luck of the pool, so that a hopper's gain can be seen. Probe shares, each of a payee
of its own, show what happens to a single share: its variance, and how much work later it is paid.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from pool_oracle.payout.schemes import Fate, Found, PaidBy, Terms, open_scheme
from pool_oracle.payout.window import S, share_unit

FEE_BPS = 200
KEEP = 1 - FEE_BPS / 10_000
WINDOW = 8
SUBSIDY = 312_500_000
MEAN_FEES, FEES_SPREAD = 10_000_000, 0.8
REWARD = SUBSIDY + MEAN_FEES
HEIGHT = 900_000
YEAR, EPOCH, MONTH = 365.0 * 86400, 600.0, 365.0 * 86400 / 12
POOL_PART = 0.1
TARGET = 1 << 200
"""The network target at first; a share's is a hundred times that."""

PER_BLOCK = 100
HALF = 0.435
"""Rosenfeld 2.1: a round older than this part of a block is worth leaving."""

MINERS = {"50 %": 0.5, "25 %": 0.25, "15 %": 0.15, "8.9 %": 0.089, "1 %": 0.01, "0.1 %": 0.001}
HOPPERS = {"young rounds": 0.05, "before easier blocks": 0.05, "before closes": 0.05}
NAMES = [*MINERS, *HOPPERS]
PAYEES = {name: b"\x00" + bytes((i + 1,)) * 20 for i, name in enumerate(NAMES)}
NAME_OF = {payee: name for name, payee in PAYEES.items()}
OTHERS = b"\x00" * 20 + b"\xff"
MARGIN = 24
"""Blocks of work before and after the year, done by others, so that every share that counts lives its whole life."""

PROBES = 50
"""One share in so many is a probe."""

CLOSE_EDGE = EPOCH / 600 * POOL_PART / (2 * WINDOW)
"""Half an epoch of work over X blocks: what a share gains at most by coming right before a close."""

CONTROL = "pplns, fixed N"
BOOKS = {
    "pplns": ("pplns", WINDOW),
    CONTROL: ("pplns", WINDOW),
    "prop": ("prop", WINDOW),
    "pps": ("pps", WINDOW),
    "pps+": ("pps+", WINDOW),
    "fpps": ("fpps", WINDOW),
    **{f"pplns X={x}": ("pplns", x) for x in (1, 2, 4, 16)},
}
MAIN = ("pplns", "pps+", "fpps", "pps", "prop", "solo", CONTROL)


@dataclass(slots=True)
class Probe:
    """One share: T when it was submitted, its fair reward, what it was paid, and that times the work until then."""

    at: float
    fair: float
    paid: float = 0.0
    waited: float = 0.0


class Book:
    """One scheme and its accounts. Money in satoshis, work in blocks."""

    def __init__(self, name: str) -> None:
        scheme, window = BOOKS[name]
        self.scheme = open_scheme(scheme, Terms(window=window, fee_bps=FEE_BPS))
        self.by_treasury = self.scheme.paid_by is PaidBy.TREASURY
        self.fixed = name == CONTROL
        self.root: dict[bytes, int] = {}
        self.total = 0
        self.chance = 0.0  # of a block since the last close
        self.realised: dict[str, float] = defaultdict(float)
        self.expected: dict[str, float] = defaultdict(float)
        self.monthly: list[dict[str, float]] = []
        self.probes: dict[bytes, Probe] = {}
        self.rewards = array("d")  # of single shares, in units of the fair one
        self.paid = self.waited = 0.0
        self.treasury = 0.0
        self.balances: list[float] = []  # a day, in B

    def pay(self, weights: dict[bytes, int], scale: float, now: float) -> None:
        """Pay `scale` for each unit of weight; `now` in blocks of work."""
        month = self.monthly[-1]
        for payee, weight in weights.items():
            amount = weight * scale
            name = NAME_OF.get(payee)
            if name is not None:
                self.realised[name] += amount
                month[name] = month.get(name, 0.0) + amount
            elif payee in self.probes:
                probe = self.probes[payee]
                probe.paid += amount
                probe.waited += amount * (now - probe.at)

    def found(self, block: Found, now: float) -> None:
        """A block: to the payees of the root, or to the treasury."""
        self.scheme.on_block(block)
        if self.by_treasury:
            self.treasury += block.value
        elif self.total:
            self.pay(self.root, KEEP * block.value / self.total, now)

    def close(self, now: float) -> None:
        """Close the epoch, after the chances of blocks that the last root had."""
        if self.chance and self.total and not self.by_treasury:
            scale = self.chance * KEEP * REWARD / self.total
            for payee, weight in self.root.items():
                if payee in NAME_OF:
                    self.expected[NAME_OF[payee]] += weight * scale
        self.chance = 0.0
        self.root = self.scheme.close()
        self.total = sum(self.root.values())
        if self.by_treasury:
            self.treasury -= self.total
            self.pay(self.root, 1, now)

    def finish(self) -> None:
        """Take from the probes what is wanted of them."""
        for probe in self.probes.values():
            self.rewards.append(probe.paid / probe.fair)
            self.paid += probe.paid
            self.waited += probe.waited
        self.probes.clear()


@dataclass(slots=True)
class Network:
    """Difficulty and hash rate in multiples of the first ones; the interval of blocks follows."""

    chance: random.Random
    difficulty: float = 1.0
    hash_rate: float = 1.0
    height: int = HEIGHT
    since: float = 0.0  # the last retarget
    fees: deque[int] = field(default_factory=deque)

    def next_block(self) -> float:
        """Seconds until the next one."""
        return self.chance.expovariate(self.hash_rate / (600 * self.difficulty))

    def draw_fees(self) -> int:
        """Fees of a block."""
        return int(MEAN_FEES * self.chance.lognormvariate(-(FEES_SPREAD**2) / 2, FEES_SPREAD))

    def ratio(self, now: float) -> float:
        """The next difficulty over the present one, as it looks now."""
        return (self.height % 2016) * 600 / max(1.0, now - self.since)

    def found(self, now: float) -> None:
        """A block was found by anybody."""
        self.height += 1
        if self.height % 2016 == 0:
            self.difficulty *= min(4.0, max(0.25, 2016 * 600 / (now - self.since)))
            self.since = now
            self.hash_rate *= self.chance.lognormvariate(0.0, 0.08)


class Year:
    """One year of the pool: every scheme sees the same shares and the same blocks."""

    def __init__(self, seed: int, seconds: float = YEAR) -> None:
        self.chance = random.Random(f"pool {seed}")
        self.network = Network(random.Random(f"network {seed}"))
        self.seconds = seconds
        self.books = {name: Book(name) for name in BOOKS}
        self.solo = {name: open_scheme("solo", Terms(payee=PAYEES[name])) for name in MINERS}
        self.solo_income: dict[str, float] = defaultdict(float)
        self.solo_monthly: list[dict[str, float]] = []
        self.work: dict[str, float] = defaultdict(float)
        self.monthly_work: list[dict[str, float]] = []
        self.t = 0.0
        self.blocks: list[tuple[int, bytes]] = []
        self.count = 0
        self.round = 0.0
        self.unit = 0
        self.counts = False
        for book in self.books.values():
            for height in range(HEIGHT - 144, HEIGHT):
                book.scheme.on_tip(height, MEAN_FEES)

    def active(self, now: float) -> list[str]:
        """Who mines at this moment."""
        there = list(MINERS)
        if self.round < HALF:
            there.append("young rounds")
        place = self.network.height % 2016
        if place >= 2016 - 4 / POOL_PART and self.network.ratio(now) < 1:
            there.append("before easier blocks")
        if now % EPOCH >= EPOCH - 60:
            there.append("before closes")
        return there

    def run(self) -> Year:
        """From the first share to the end."""
        now, sequence = 0.0, 0
        block_at, close_at, month_at = 0.0, EPOCH, 0.0
        rates = MINERS | HOPPERS
        names, weights = list(rates), list(accumulate(rates.values()))
        per_second = PER_BLOCK * POOL_PART / 600 * weights[-1]
        end = math.inf
        while self.t < end:
            # Shares come as if all were there; those of hoppers who are away are thinned out.
            now += self.chance.expovariate(per_second)
            if now >= self.seconds and end == math.inf:
                end = self.t + MARGIN
            self.counts = self.t >= MARGIN and end == math.inf
            while min(block_at, close_at, month_at) <= now:
                if month_at <= min(block_at, close_at) and month_at >= self.seconds - 1:
                    month_at = math.inf  # the margin belongs to the last month
                elif month_at <= min(block_at, close_at):
                    self.begin_month()
                    month_at += MONTH
                elif block_at <= close_at:
                    self.network_block(block_at)
                    block_at += self.network.next_block()
                else:
                    self.close(is_midnight=close_at % 86400 == 0)
                    close_at += EPOCH
            name = self.chance.choices(names, cum_weights=weights)[0]
            if name in HOPPERS and name not in self.active(now):
                continue
            sequence += 1
            self.share(sequence, name)
        for book in self.books.values():
            book.finish()
        return self

    def close(self, *, is_midnight: bool) -> None:
        """Close an epoch of every scheme."""
        for book in self.books.values():
            book.close(self.t)
            if is_midnight and book.by_treasury:
                book.balances.append(book.treasury / REWARD)

    def begin_month(self) -> None:
        """Count anew."""
        for book in self.books.values():
            book.monthly.append({})
        self.solo_monthly.append({})
        self.monthly_work.append(defaultdict(float))

    def network_block(self, now: float) -> None:
        """Somebody found a block; ours are mature a hundred later."""
        fees, height = self.network.draw_fees(), self.network.height
        for book in self.books.values():
            book.scheme.on_tip(height, fees)
        self.network.found(now)
        self.unit = share_unit(int(TARGET / self.network.difficulty), PER_BLOCK * TARGET)
        while self.blocks and self.blocks[0][0] + 100 <= height:
            _, block_hash = self.blocks.pop(0)
            for book in self.books.values():
                book.scheme.on_fate(block_hash, Fate.MATURE)

    def share(self, sequence: int, name: str) -> None:
        """A share of a miner, and perhaps a block with it."""
        unit, part = self.unit, self.unit / S
        is_probe = self.counts and name in MINERS and self.chance.randrange(PROBES) == 0
        payee = b"\x01" + sequence.to_bytes(20, "big") if is_probe else PAYEES[name] if self.counts else OTHERS
        height = self.network.height
        is_block = self.chance.random() < part
        if is_block:
            self.count += 1
            value = SUBSIDY + self.network.draw_fees()
            found = Found(self.count.to_bytes(32, "big"), 0, height, value)
            self.blocks.append((height, found.hash))
        for book in self.books.values():
            if is_probe:
                book.probes[payee] = Probe(self.t, part * REWARD * KEEP)
            book.chance += part
            if is_block:  # before the share: nobody is paid for the block that he finds
                book.found(Found(found.hash, book.scheme.closed, height, value), self.t)
            book.scheme.add(sequence, payee, S // PER_BLOCK if book.fixed else unit, height)
        self.t += part
        self.round = 0.0 if is_block else self.round + part
        if is_probe or not self.counts:
            return
        self.work[name] += part
        self.monthly_work[-1][name] += part
        if name in MINERS:
            self.solo[name].add(sequence, PAYEES[name], unit, height)
            if is_block and self.solo[name].weights:
                self.solo_income[name] += KEEP * value
                month = self.solo_monthly[-1]
                month[name] = month.get(name, 0.0) + KEEP * value


# What is taken from the years


def mean_and_error(values: Iterable[float]) -> dict[str, float]:
    """Mean over the years, and its standard error (0 of one year)."""
    many = list(values)
    error = statistics.stdev(many) / math.sqrt(len(many)) if len(many) > 1 else 0.0
    return {"mean": round(statistics.fmean(many), 5), "error": round(error, 5)}


def income(year: Year, name: str, who: Iterable[str], *, expected: bool = False) -> float:
    """Income per unit of work, 1 being (1 - f) B."""
    names = list(who)
    if name == "solo":
        money = sum(year.solo_income[n] for n in names)
    else:
        book = year.books[name]
        account = book.expected if expected and not book.by_treasury else book.realised
        money = sum(account[n] for n in names)
    return money / (sum(year.work[n] for n in names) * REWARD * KEEP)


def monthly(years: list[Year], name: str, miner: str) -> list[float]:
    """A miner's income of each month per unit of its work."""
    found = []
    for year in years:
        months = year.solo_monthly if name == "solo" else year.books[name].monthly
        for month, work in zip(months, year.monthly_work, strict=True):
            if work[miner] > 0:
                found.append(month.get(miner, 0.0) / (work[miner] * REWARD * KEEP))
    return found


def single_shares(years: list[Year], name: str) -> dict[str, float]:
    """Mean, variance and maturity (in blocks of work) of single shares' rewards."""
    books = [year.books[name] for year in years]
    rewards = [reward for book in books for reward in book.rewards]
    return {
        "shares": len(rewards),
        "mean": round(statistics.fmean(rewards), 4),
        "variance": round(statistics.variance(rewards), 4),
        "maturity": round(sum(book.waited for book in books) / sum(book.paid for book in books), 4),
    }


def theory(name: str) -> dict[str, float | None]:
    """Rosenfeld's variance and maturity of a share: 3.3 for PPLNS, 2.2 for PPS; none is given for the others."""
    if name.startswith("pplns"):
        x = BOOKS[name][1]
        return {"variance": round(1 / x, 4), "maturity": x / 2}
    if name in ("pps", "fpps"):
        return {"variance": 0.0, "maturity": 0.0}
    return {"variance": None, "maturity": None}


def measure_years(years: list[Year]) -> dict[str, Any]:
    """Everything about the schemes."""
    results: dict[str, Any] = {}
    for name in MAIN:
        spread = {m: statistics.stdev(monthly(years, name, m)) for m in ("15 %", "1 %")}
        results[name] = {
            "realised": mean_and_error(income(year, name, MINERS) for year in years),
            "spread_of_a_month": {miner: round(value, 4) for miner, value in spread.items()},
        }
        if name == "solo":
            continue
        results[name]["expected"] = mean_and_error(income(y, name, MINERS, expected=True) for y in years)
        results[name]["miners"] = {
            miner: mean_and_error(income(year, name, [miner], expected=True) for year in years) for miner in MINERS
        }
        results[name]["hopper_gain"] = {
            hopper: mean_and_error(
                income(y, name, [hopper], expected=True) / income(y, name, MINERS, expected=True) - 1 for y in years
            )
            for hopper in HOPPERS
        }
    shares = {n: single_shares(years, n) | {"theory": theory(n)} for n in BOOKS if n != CONTROL}
    return {
        "years": len(years),
        "fee": FEE_BPS / 10_000,
        "window": WINDOW,
        "blocks_a_year": round(statistics.fmean(year.count for year in years)),
        "retargets_a_year": (years[0].network.height - HEIGHT) // 2016,
        "schemes": results,
        "single_shares": shares,
        "treasury": {
            name: {
                "lowest": [round(min(year.books[name].balances), 2) for year in years],
                "end": [round(year.books[name].balances[-1], 2) for year in years],
            }
            for name in ("pps", "fpps", "pps+")
        },
    }


# Ruin


def exact_exponent(fee: float) -> float:
    """Theta > 0 with (1 - f) theta = 1 - e^-theta: ruin is e^(-theta R / B), see payout/schemes/reserve.py."""
    low, high = 2 * fee, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 - fee) * middle > 1 - math.exp(-middle) else (middle, high)
    return low


def deepest_losses(fee: float, paths: int, blocks: int, seed: int) -> Any:
    """How far each of many treasuries ever falls, in B: before each block, 1 - f is paid for each block's work."""
    import numpy as np

    chance = np.random.default_rng(seed)
    loss, deepest = np.zeros(paths), np.zeros(paths)
    step = 200
    for _ in range(0, blocks, step):
        paid = (1 - fee) * chance.standard_exponential((paths, step), dtype=np.float32)
        before = loss[:, None] + np.cumsum(paid, axis=1, dtype=np.float64) - np.arange(step)
        np.maximum(deepest, before.max(axis=1), out=deepest)
        loss = before[:, -1] - 1
    return deepest


def ruin(fee: float, paths: int, blocks: int) -> list[dict[str, float]]:
    """The probability of ruin for reserves that the formula sizes for it."""
    deepest = deepest_losses(fee, paths, blocks, seed=2011)
    rows = []
    for delta in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002):
        reserve = math.log(1 / delta) / (2 * fee)
        measured = float((deepest >= reserve).mean())
        rows.append(
            {
                "reserve": round(reserve, 3),
                "formula": delta,
                "exact": round(math.exp(-exact_exponent(fee) * reserve), 6),
                "measured": round(measured, 6),
                "error": round(math.sqrt(max(measured, 1 / paths) * (1 - measured) / paths), 6),
            }
        )
    return rows


# Output


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """A Markdown table."""
    names = list(heads)
    yield f"| {' | '.join(names)} |"
    yield "| --- |" + " ---: |" * (len(names) - 1)
    for cells in rows:
        yield f"| {' | '.join(str(cell) for cell in cells)} |"
    yield ""


def percent(value: dict[str, float]) -> str:
    """A gain with its standard error."""
    return f"{100 * value['mean']:+.2f} ± {100 * value['error']:.2f} %"


def render(results: dict[str, Any]) -> str:
    """All tables."""
    schemes = results["schemes"]
    lines = [
        f"{results['years']} years, each with some {results['blocks_a_year']} blocks and "
        f"{results['retargets_a_year']} retargets; fee {100 * results['fee']:g} %, X = {results['window']}. "
        "Income per unit of work, 1 = (1 - f) B.",
        "",
    ]
    heads = [
        "scheme",
        "realised",
        "expected",
        "spread of a month, 15 % miner",
        "1 % miner",
        *(f"hopper {h}" for h in HOPPERS),
    ]
    rows = []
    for name, found in schemes.items():
        realised, expected = found["realised"], found.get("expected")
        gains = [percent(found["hopper_gain"][h]) for h in HOPPERS] if expected else ["", "", ""]
        rows.append(
            [
                name,
                f"{realised['mean']:.4f} ± {realised['error']:.4f}",
                f"{expected['mean']:.4f} ± {expected['error']:.4f}" if expected else "",
                *(f"{100 * value:.2f} %" for value in found["spread_of_a_month"].values()),
                *gains,
            ]
        )
    lines += table(heads, rows)
    lines += table(
        ["single shares", "mean", "variance", "theory", "maturity, blocks", "theory", "shares"],
        (
            [
                name,
                f"{row['mean']:.4f}",
                f"{row['variance']:.4f}",
                row["theory"]["variance"],
                f"{row['maturity']:.3f}",
                row["theory"]["maturity"],
                row["shares"],
            ]
            for name, row in results["single_shares"].items()
        ),
    )
    for fee, rows in results["ruin"].items():
        lines += table(
            [f"fee {fee}: reserve, B", "formula", "exact", "measured"],
            (
                [r["reserve"], r["formula"], f"{r['exact']:.5f}", f"{r['measured']:.5f} ± {r['error']:.5f}"]
                for r in rows
            ),
        )
    return "\n".join(lines)


def main() -> None:
    """Simulate, write, draw, print."""
    quick = "--quick" in sys.argv
    years = [Year(0, YEAR / 2).run()] if quick else [Year(seed).run() for seed in range(8)]
    results = measure_years(years)
    cases = ((0.05, 2_000, 4_000),) if quick else ((0.02, 20_000, 40_000), (0.05, 40_000, 12_000))
    results["ruin"] = {f"{100 * fee:g} %": ruin(fee, paths, blocks) for fee, paths, blocks in cases}
    text = json.dumps(results, indent=1)
    if not quick:
        here = Path(__file__).parent
        (here / "results" / "simulation.json").write_text(text + "\n")
        from simulate_plots import draw

        draw(results, years, here.parent / "docs" / "plots")
    print(text if "--json" in sys.argv else render(results))
    check(results, 0.5 if quick else 0.15)


def check(results: dict[str, Any], slack: float) -> None:
    """The claims of docs/payouts.md: means within four standard errors and half a percent, variances within `slack`.

    Raises AssertionError.
    """
    schemes = results["schemes"]

    def near(found: dict[str, float], wanted: float) -> bool:
        return abs(found["mean"] - wanted) <= 4 * found["error"] + 0.005

    assert near(schemes["pplns"]["expected"], 1), "PPLNS pays (1 - f) B"
    assert near(schemes["pps"]["realised"], SUBSIDY / REWARD), "PPS pays the subsidy"
    for name in ("pplns", "pps", "pps+", "fpps"):
        gains = schemes[name]["hopper_gain"]
        assert near(gains["young rounds"], 0), f"a hopper gains by young rounds under {name}"
        assert near(gains["before easier blocks"], 0), f"a hopper gains by retargets under {name}"
        assert near(gains["before closes"], CLOSE_EDGE if name == "pplns" else 0), f"a hopper gains by closes: {name}"
    assert schemes["prop"]["hopper_gain"]["young rounds"]["mean"] > 0.3, "PROP can be hopped, or the hopper is asleep"
    assert schemes[CONTROL]["hopper_gain"]["before easier blocks"]["mean"] > 0.01, "a fixed N can be hopped"
    for name, row in results["single_shares"].items():
        if row["theory"]["variance"]:
            assert abs(row["variance"] / row["theory"]["variance"] - 1) < slack, f"variance of a share, {name}"
            assert 0 <= row["maturity"] - row["theory"]["maturity"] < 0.15, f"maturity of a share, {name}"
    for rows in results["ruin"].values():
        for row in rows:
            assert abs(row["measured"] - row["exact"]) <= 4 * row["error"], f"ruin at a reserve of {row['reserve']} B"
            assert row["exact"] <= row["formula"]


if __name__ == "__main__":
    main()

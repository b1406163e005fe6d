"""The plots of docs/payouts.md, drawn from a simulation (simulate.py)."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from simulate import CONTROL, FEE_BPS, HOPPERS, KEEP, MAIN, WINDOW, Year, monthly

HOPPER_WORDS = {
    "young rounds": "while the round is young",
    "before easier blocks": "before blocks get easier",
    "before closes": "in the minute before a close",
}
SCHEME_WORDS = {
    "pplns": "PPLNS",
    "pps+": "PPS+",
    "fpps": "FPPS",
    "pps": "PPS",
    "prop": "PROP",
    "solo": "SOLO",
    CONTROL: "PPLNS, fixed N\n(for comparison)",
}

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#777777"


def draw(results: dict[str, Any], years: list[Year], folder: Path) -> None:
    """All plots."""
    mpl.use("Agg")
    mpl.rcParams.update(
        {"figure.dpi": 110, "font.size": 10, "axes.grid": True, "grid.color": "#e5e5e5", "axes.axisbelow": True}
        | {"axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True}
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in (
        ("hopping", draw_hopping(results)),
        ("months", draw_months(years)),
        ("shares", draw_shares(results)),
        ("treasury", draw_treasury(results, years)),
        ("ruin", draw_ruin(results)),
    ):
        plot.savefig(folder / f"{name}.png", metadata={"Software": None})


def draw_hopping(results: dict[str, Any]) -> Any:
    """What each hopper gains under each scheme."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    names = [name for name in MAIN if name != "solo"]
    axes.axvline(0, color="black", linewidth=1)
    for shift, (hopper, colour, mark) in enumerate(zip(HOPPERS, (BLUE, ORANGE, GREEN), "osD", strict=True)):
        gains = [results["schemes"][name]["hopper_gain"][hopper] for name in names]
        axes.errorbar(
            [100 * gain["mean"] for gain in gains],
            [i + 0.2 * (shift - 1) for i in range(len(names))],
            xerr=[200 * gain["error"] for gain in gains],
            fmt=mark,
            color=colour,
            capsize=3,
            markersize=6,
            label=f"mines {HOPPER_WORDS[hopper]}",
        )
    axes.set_xscale("symlog", linthresh=1, linscale=1.6)
    axes.set_xlim(-2, 150)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1, 3, 10, 30, 100], ["-1", "-½", "0", "+½", "+1", "+3", "+10", "+30", "+100"])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), [SCHEME_WORDS[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("gain over those who stay, per unit of work, % (scale: linear up to 1, then logarithmic)")
    axes.set_title("Hopping pays under PROP and under a fixed N, not under unit PPLNS")
    axes.legend(loc="upper right", title="a hopper who (± 2 standard errors)")
    return figure


def draw_months(years: list[Year]) -> Any:
    """What a miner of 1 % gets in a month."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    names = ["pps", "fpps", "pps+", "pplns", "prop", "solo"]
    chance = random.Random(0)
    for i, name in enumerate(names):
        months = monthly(years, name, "1 %")
        colour = RED if name == "solo" else BLUE
        across = [i + chance.uniform(-0.28, 0.28) for _ in months]
        axes.plot(across, months, ".", color=colour, alpha=0.45, markersize=7, markeredgewidth=0)
        axes.hlines(statistics.fmean(months), i - 0.38, i + 0.38, color="black", linewidth=2)
        top = max(months)
        spread = 100 * statistics.stdev(months)
        axes.text(i, top + 0.04, f"± {spread:.2f} %" if spread < 1 else f"± {spread:.1f} %", ha="center")
    axes.axhline(1, color=GREY, linewidth=1, linestyle="--")
    axes.set_xticks(range(len(names)), [SCHEME_WORDS[name] for name in names])
    axes.set_ylim(-0.05, 2.8)
    axes.set_ylabel("income of a month per unit of work\n1 = (1 - f) (subsidy + mean fees)")
    axes.set_title(f"A miner with 1 % of the pool: {12 * len(years)} months under each scheme (bar: mean)")
    return figure


def draw_shares(results: dict[str, Any]) -> Any:
    """Variance against maturity of single shares."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    line = [0.3, 12]
    axes.plot(line, [0.5 / x for x in line], color=GREY, label="theory: variance · maturity = ½ (Rosenfeld 3.3)")
    rows = results["single_shares"]
    for name, row in rows.items():
        if not row["variance"] or name in ("pps", "fpps", "pps+"):
            continue
        colour, mark = (RED, "s") if name == "prop" else (BLUE, "o")
        axes.plot(row["maturity"], row["variance"], mark, color=colour, markersize=8)
        label = (
            name.replace("pplns X=", "PPLNS, X = ").replace("prop", "PROP")
            if name != "pplns"
            else f"PPLNS, X = {WINDOW}"
        )
        axes.annotate(label, (row["maturity"], row["variance"]), xytext=(9, 5), textcoords="offset points")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["¼", "½", "1", "2", "4", "8", "16"])
    axes.set_yticks([1 / 16, 1 / 8, 0.25, 0.5, 1, 2], ["1/16", "1/8", "1/4", "1/2", "1", "2"])
    axes.set_xlim(0.25, 16)
    axes.set_ylim(1 / 28, 2.6)
    axes.set_xlabel("maturity: work of the pool until a share is paid, on average, in blocks")
    axes.set_ylabel("variance of a share's reward\n(its fair reward)²")
    axes.set_title("A greater window X pays more evenly, and later")
    axes.legend(loc="lower left")
    return figure


def draw_treasury(results: dict[str, Any], years: list[Year]) -> Any:
    """The balance of an FPPS treasury, year by year."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for i, year in enumerate(years):
        balances = [0.0, *year.books["fpps"].balances]
        axes.plot(range(len(balances)), balances, color=BLUE, alpha=0.6, linewidth=1, label=None if i else "a year")
    days = list(range(366))
    paid = KEEP * results["schemes"]["fpps"]["realised"]["mean"]
    gain = statistics.fmean(year.t for year in years) * (1 - paid)
    axes.plot(
        days,
        [gain * day / 365 for day in days],
        color="black",
        linestyle="--",
        label="expected: the fee, and fees that are trimmed off",
    )
    for odds, colour in ((10, ORANGE), (1000, RED)):
        reserve = math.log(odds) / (2 * (1 - KEEP))
        axes.axhline(-reserve, color=colour, label=f"reserve for ruin one time in {odds:,}: {reserve:.0f} B")
    axes.set_xlim(0, 365)
    axes.set_ylim(-200, 300)
    axes.set_xlabel("day")
    axes.set_ylabel("balance since the first day, in B")
    axes.set_title(f"FPPS: what the treasury carries for its miners, {len(years)} years, fee {FEE_BPS / 100:g} %")
    axes.legend(loc="upper left", fontsize=9, ncols=2)
    return figure


def draw_ruin(results: dict[str, Any]) -> Any:
    """Probability of ruin against the reserve."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for (name, rows), colour in zip(results["ruin"].items(), (BLUE, ORANGE), strict=False):
        reserves = [row["reserve"] for row in rows]
        axes.plot(reserves, [row["formula"] for row in rows], color=colour, label=f"fee {name}: e^(-2 f R / B)")
        axes.plot(reserves, [row["exact"] for row in rows], color=colour, linestyle=":", label="exact: e^(-θ R / B)")
        axes.errorbar(
            reserves,
            [row["measured"] for row in rows],
            yerr=[2 * row["error"] for row in rows],
            fmt="o",
            color=colour,
            capsize=3,
            label="simulated, ± 2 standard errors",
        )
    axes.set_yscale("log")
    axes.set_yticks([0.5, 0.1, 0.01, 0.002], ["50 %", "10 %", "1 %", "0.2 %"])
    axes.minorticks_off()
    axes.set_xlim(0, None)
    axes.set_xlabel("reserve R, in rewards of a block B")
    axes.set_ylabel("probability of ever being ruined")
    axes.set_title("PPS: ruin of the treasury against Rosenfeld's reserve")
    axes.legend(fontsize=9)
    return figure

"""Vardiff: what changes a share target and what does not, and how well it does in simulated time."""

from __future__ import annotations

import copy
import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.errors import ConfigError, TargetError
from pool_oracle.networks import NETWORKS
from pool_oracle.stratum.vardiff import SECOND, SILENCE_BITS, Vardiff, VardiffSettings
from pool_oracle.work.targets import difficulty_to_target, nbits_to_target, target_to_nbits
from tests.benches import bench_module

ROOT = Path(__file__).resolve().parents[2]
START = 0xFFFF << 192
FLOOR = START << 24
NETWORK = START >> 24
SETTINGS = VardiffSettings(FLOOR, START)
INTERVAL = SETTINGS.interval


def connection(settings: VardiffSettings = SETTINGS, network_target: int = NETWORK) -> Vardiff:
    return Vardiff(settings, network_target, 0)


def target_of(vardiff: Vardiff) -> int:
    return nbits_to_target(vardiff.bits)


def mine(vardiff: Vardiff, now: int, seconds: float, speed: Fraction | int = 1) -> int:
    """Shares at the even pace of a hash rate (1: right for START), with sweeps; returns the time afterwards."""
    end, sweep, left = now + int(seconds * SECOND), now + 3 * SECOND, Fraction(1)
    while now < end:
        pace = INTERVAL * START / (Fraction(speed) * target_of(vardiff))  # nanoseconds a share takes
        share = now + int(left * pace) + 1
        time = min(share, sweep, end)
        left -= (time - now) / pace
        now = time
        if now == share:
            vardiff.on_share(now, vardiff.bits)
            left = Fraction(1)
        elif now == sweep:
            vardiff.on_idle(now)
            sweep += 3 * SECOND
    return now


def wait(vardiff: Vardiff, now: int, seconds: float) -> int:
    """Silence, with sweeps; returns the time afterwards."""
    for time in range(now, now + int(seconds * SECOND), 3 * SECOND):
        vardiff.on_idle(time)
    return now + int(seconds * SECOND)


def held() -> tuple[Vardiff, int]:
    """A miner that was found to be as it should be."""
    vardiff = connection()
    return vardiff, mine(vardiff, 0, 600)


@pytest.mark.parametrize("rate", [0, -1, 601, Fraction(6001, 10)])
def test_a_rate_that_makes_no_sense_is_refused(rate):
    with pytest.raises(ConfigError, match="shares a minute"):
        VardiffSettings(FLOOR, START, rate)


def test_a_start_below_the_floor_is_refused():
    with pytest.raises(ConfigError, match="easier than the floor"):
        VardiffSettings(START, START + (1 << 200))


def test_a_rate_may_be_a_fraction():
    assert VardiffSettings(FLOOR, START, Fraction(1, 2)).interval == 120 * SECOND


def test_a_miner_at_the_wanted_rate_keeps_the_start_target():
    vardiff, _ = held()
    assert vardiff.bits == SETTINGS.start_bits


@pytest.mark.parametrize("speed", [Fraction(5, 6), Fraction(6, 5)])
def test_a_difference_of_less_than_a_quarter_is_left_alone(speed):
    vardiff = connection()
    mine(vardiff, 0, 3600, speed)
    assert vardiff.bits == SETTINGS.start_bits


def test_a_miner_1000_times_too_large_has_a_harder_target_within_a_second():
    vardiff = connection()
    mine(vardiff, 0, 1, 1000)
    assert Fraction(START, target_of(vardiff)) == pytest.approx(1000, rel=0.01)


def test_a_single_step_up_is_bounded():
    vardiff = connection()
    for _ in range(17):
        vardiff.on_share(SECOND, vardiff.bits)
    assert target_of(vardiff) == START >> 12


def test_silence_lowers_a_new_miner_to_the_floor_in_steps():
    vardiff = connection()
    seen = {vardiff.bits}
    for time in range(0, 90 * SECOND, 3 * SECOND):
        if vardiff.on_idle(time):
            assert vardiff.bits not in seen
            seen.add(vardiff.bits)
    assert vardiff.bits == SETTINGS.floor_bits
    assert len(seen) == 6


@pytest.mark.parametrize("name", ["regtest", "test"])
def test_a_tiny_miner_gets_a_fractional_share_difficulty_where_the_network_has_one(name):
    network = NETWORKS[name]
    floor = difficulty_to_target(network.min_share_difficulty, network.difficulty_1_target)
    vardiff = Vardiff(VardiffSettings(floor, network.difficulty_1_target), 1, 0)
    wait(vardiff, 0, 120)
    assert vardiff.bits == target_to_nbits(floor)
    assert target_of(vardiff) > network.difficulty_1_target


def test_a_miner_from_whom_nothing_comes_at_the_floor_is_below_it():
    vardiff = connection()
    now = wait(vardiff, 0, 90)
    assert vardiff.bits == SETTINGS.floor_bits
    assert not vardiff.is_below_floor
    wait(vardiff, now, 90)
    assert vardiff.is_below_floor


def test_a_slow_miner_is_below_the_floor_only_after_evidence_and_until_it_is_not():
    vardiff = connection(VardiffSettings(START, START))
    now = mine(vardiff, 0, 60, Fraction(1, 4))
    assert not vardiff.is_below_floor
    now = mine(vardiff, now, 300, Fraction(1, 4))
    assert vardiff.is_below_floor
    mine(vardiff, now, 60, 10)
    assert vardiff.bits < SETTINGS.start_bits
    assert not vardiff.is_below_floor


def test_a_miner_at_the_floor_that_becomes_slow_is_below_it():
    vardiff = connection(VardiffSettings(START, START))
    now = mine(vardiff, 0, 600)
    mine(vardiff, now, 900, Fraction(1, 5))
    assert vardiff.is_below_floor


def test_a_miner_at_its_own_minimum_is_not_below_the_floor():
    vardiff = connection()
    vardiff.set_minimum(0, START)
    wait(vardiff, 0, 600)
    assert vardiff.bits == SETTINGS.start_bits
    assert not vardiff.is_below_floor


def test_a_miner_that_pauses_is_lowered_by_a_bounded_factor_and_not_called_too_small():
    vardiff, now = held()
    now = wait(vardiff, now, 3600)
    assert target_of(vardiff) == START << SILENCE_BITS
    assert not vardiff.is_below_floor
    mine(vardiff, now, 90)
    assert START // 2 < target_of(vardiff) < START * 2


def test_a_miner_that_pauses_at_the_floor_is_not_called_too_small():
    vardiff = connection(VardiffSettings(START, START))
    now = mine(vardiff, 0, 600)
    wait(vardiff, now, 3600)
    assert not vardiff.is_below_floor


def test_shares_that_the_network_held_up_change_nothing():
    vardiff, now = held()
    for _ in range(5):
        now = wait(vardiff, now, 105)
        assert not any(vardiff.on_share(now, vardiff.bits) for _ in range(15))
        now = mine(vardiff, now, 120)
    assert vardiff.bits == SETTINGS.start_bits


@pytest.mark.parametrize("factor", [Fraction(1, 10), Fraction(1, 2), 2, 10, 1000])
def test_a_hash_rate_that_changes_is_followed(factor):
    vardiff, now = held()
    mine(vardiff, now, 900, factor)
    assert Fraction(2, 3) < Fraction(target_of(vardiff), START) * factor < Fraction(3, 2)


def test_shares_still_judged_by_the_old_target_after_a_step_up_do_not_cause_another():
    vardiff = connection()
    now, old = 0, vardiff.bits
    while vardiff.bits == old:
        now += INTERVAL // 1000
        vardiff.on_share(now, old)
    assert not any(vardiff.on_share(now + i * INTERVAL // 1000, old) for i in range(300))


def test_a_lucky_share_at_the_old_target_after_a_step_down_is_not_many():
    vardiff = connection()
    now, old = 0, vardiff.bits
    while not vardiff.on_idle(now):
        now += SECOND
    assert not any(vardiff.on_share(now + i, old) for i in range(16))
    now += INTERVAL // 100
    assert not vardiff.on_share(now, vardiff.bits)
    assert not vardiff.on_share(now + INTERVAL // 100, vardiff.bits)
    assert not any(vardiff.on_share(now + i * INTERVAL // 50, old) for i in range(2, 8))


@pytest.mark.parametrize("parts", [2, 8, 64])
def test_shares_of_a_part_of_the_work_are_together_one_share(parts):
    easier = target_to_nbits(START * parts)
    whole, now = held()
    split, _ = held()
    now += 10 * INTERVAL
    whole.on_share(now, whole.bits)
    for _ in range(parts):
        split.on_share(now, easier)
    for vardiff in (whole, split):
        vardiff.on_share(now + INTERVAL, vardiff.bits)
    assert slow_at(whole, now) == pytest.approx(slow_at(split, now), abs=parts)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_share_of_several_times_the_work_buys_as_much_silence_as_that_many(factor):
    heavy, now = held()
    many, _ = held()
    now += 10 * INTERVAL
    heavy.on_share(now, target_to_nbits(START // factor))
    for _ in range(factor):
        many.on_share(now, many.bits)
    assert slow_at(heavy, now) == slow_at(many, now)


def slow_at(vardiff: Vardiff, now: int) -> int:
    """The nanosecond from which on silence lowers the share difficulty."""
    low, high = now, now + 100 * INTERVAL
    while low < high:
        middle = (low + high) // 2
        if copy.copy(vardiff).on_idle(middle):
            high = middle
        else:
            low = middle + 1
    return low


def test_a_suggestion_sets_the_start_within_the_bounds():
    vardiff = connection()
    assert vardiff.suggest(0, START >> 8)
    assert target_of(vardiff) == START >> 8
    assert vardiff.suggest(0, FLOOR << 8)
    assert vardiff.bits == SETTINGS.floor_bits
    assert vardiff.suggest(0, 1)
    assert target_of(vardiff) == NETWORK


def test_a_suggestion_counts_only_until_the_first_share():
    vardiff = connection()
    vardiff.on_share(SECOND, vardiff.bits)
    assert not vardiff.suggest(2 * SECOND, FLOOR)
    assert vardiff.bits == SETTINGS.start_bits
    vardiff, now = held()
    assert not vardiff.suggest(now, FLOOR)


def test_a_suggestion_gets_the_patience_of_a_start():
    vardiff = connection()
    now = wait(vardiff, 0, 40)
    assert vardiff.bits > SETTINGS.start_bits
    assert vardiff.suggest(now, START)
    wait(vardiff, now, 20)
    assert vardiff.bits == SETTINGS.start_bits


def test_a_minimum_raises_at_once_and_holds():
    vardiff = connection()
    assert vardiff.set_minimum(0, START >> 4)
    wait(vardiff, 0, 600)
    assert target_of(vardiff) == START >> 4
    assert not vardiff.set_minimum(0, FLOOR << 4)


def test_the_network_target_is_never_exceeded_even_against_the_floor():
    vardiff = connection(network_target=FLOOR << 2)
    assert target_of(vardiff) == FLOOR << 2
    assert vardiff.set_network_target(SECOND, START << 2)
    assert target_of(vardiff) == FLOOR
    mine(vardiff, SECOND, 3, 10_000)
    assert target_of(vardiff) == START << 2


def test_a_network_target_without_a_compact_form_is_rounded_to_the_easier_side():
    vardiff = connection(network_target=START * 4 + 12345)
    assert target_of(vardiff) == 0x03FFFD << 192
    assert connection(network_target=0x7FFFFF << 208 | 1).bits == target_to_nbits(0x800000 << 208)


@pytest.mark.parametrize("call", [Vardiff.suggest, Vardiff.set_minimum, Vardiff.set_network_target])
def test_a_target_out_of_range_is_refused_and_nothing_changes(call):
    vardiff = connection()
    for target in (0, 1 << 256):
        with pytest.raises(TargetError):
            call(vardiff, 0, target)
    assert vardiff.bits == SETTINGS.start_bits


# In simulated time


@pytest.fixture(scope="module")
def bench() -> Any:
    """The simulation of bench/vardiff.py."""
    return bench_module("vardiff")


@pytest.mark.parametrize("rate", [8, 20])
@pytest.mark.parametrize("off", [0.001, 1000.0])
def test_a_start_1000_times_off_is_within_a_factor_of_2_after_two_minutes(bench, rate, off):
    figures = bench.start(rate, off, 200)
    assert figures["within_2_at_120_s"] >= 0.95
    assert 0 <= figures["settled_p95_s"] <= 120
    assert figures["changes_in_10_min"] <= 6
    assert figures["most_shares_in_a_second"] <= 150


@pytest.mark.parametrize("off", [0.001, 1.0, 1000.0])
def test_a_miner_that_is_slow_to_take_up_a_target_is_found_as_well(bench, off):
    assert bench.start(8, off, 100, delay=5.0)["within_2_at_120_s"] >= 0.95


def test_a_target_does_not_oscillate_once_it_is_found(bench):
    figures = bench.steady(8, 8, 20)
    assert figures["changes_an_hour"] <= 0.5
    assert figures["within_2"] >= 0.99
    assert 1 / 1.5 <= figures["ratio_p5"] <= 1 <= figures["ratio_p95"] <= 1.5
    assert figures["shares_a_minute"] == pytest.approx(8, rel=0.1)


def test_a_miner_that_comes_back_after_a_pause_is_found_again_without_a_flood(bench):
    figures = bench.pause(8, 30)
    assert figures["settled_p95_s"] <= 120
    assert figures["most_shares_in_a_second"] <= 40


def test_the_simulation_is_the_same_for_the_same_seed(bench):
    setting = bench.Setting(off=random.Random(1).uniform(0.1, 10), seconds=600)
    assert bench.Simulation(8, setting, "seed").run() == bench.Simulation(8, setting, "seed").run()


def test_the_published_figures_are_what_was_promised():
    figures = json.loads((ROOT / "bench" / "results" / "vardiff.json").read_text())
    for rate in ("8", "20"):
        assert all(row["within_2_at_120_s"] >= 0.95 for row in figures["starts"][rate].values())
        assert figures["steady"][rate]["changes_an_hour"] <= 0.5

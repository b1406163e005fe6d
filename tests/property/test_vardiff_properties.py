"""Vardiff under arbitrary events: bounds, form of targets, and what the outcome may not depend on."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.stratum.vardiff import SECOND, Vardiff, VardiffSettings
from pool_oracle.work.targets import MAX_TARGET, nbits_to_target, target_to_nbits

targets = st.one_of(
    st.integers(1, MAX_TARGET),
    st.builds(lambda bits, rest: min(MAX_TARGET, (1 << bits) + rest), st.integers(0, 255), st.integers(0, 3)),
)
rates = st.one_of(st.integers(1, 600), st.fractions(Fraction(1, 60), 600, max_denominator=100))
pauses = st.one_of(st.just(0), st.integers(1, SECOND), st.integers(SECOND, 10**6 * SECOND))
events = st.lists(
    st.one_of(
        st.tuples(st.just("share"), pauses, st.integers(1, 60)),
        st.tuples(st.just("late"), pauses, st.integers(0, 20)),
        st.tuples(st.just("idle"), pauses, st.just(0)),
        st.tuples(st.just("restart"), pauses, st.just(0)),
        st.tuples(st.sampled_from(["suggest", "set_minimum", "set_network_target"]), pauses, targets),
    ),
    max_size=60,
)


def play(vardiff, now, happened):
    """Let it happen; yields (event, value, whether a change was reported, bits before) after each call."""
    given_bits = [vardiff.bits]
    for event, pause, value in happened:
        now += pause
        for _ in range(value if event == "share" else 1):
            before = vardiff.bits
            if event == "share":
                changed = vardiff.on_share(now, before)
            elif event == "late":
                changed = vardiff.on_share(now, given_bits[-1 - value % len(given_bits)])
            elif event == "idle":
                changed = vardiff.on_idle(now)
            elif event == "restart":
                changed = vardiff.restart(now) or False
            else:
                changed = getattr(vardiff, event)(now, value)
            if changed:
                given_bits.append(vardiff.bits)
            yield event, value, changed, before


@given(targets, targets, targets, rates, events)
@settings(max_examples=300)
def test_a_target_stays_within_its_bounds_whatever_happens(floor, start, network, rate, happened):
    common = VardiffSettings(max(floor, start), min(floor, start), rate)
    vardiff = Vardiff(common, network, 0)
    minimum = MAX_TARGET
    for event, value, changed, before in play(vardiff, 0, happened):
        if event == "set_minimum":
            minimum = value
        elif event == "set_network_target":
            network = value
        target = nbits_to_target(vardiff.bits)
        hardest = min(network, 0xFFFF << 240)  # the easiest target that has a compact form
        assert hardest <= target
        assert target <= max(common.floor_target, network + (network >> 15) + 1)
        assert target <= minimum or target <= network + (network >> 15) + 1
        assert target_to_nbits(target) == vardiff.bits
        assert changed == (vardiff.bits != before)
        assert not vardiff.is_below_floor or vardiff.bits >= common.floor_bits


@given(rates, events, st.integers(1, 10**19))
@settings(max_examples=150)
def test_only_time_that_passes_counts(rate, happened, later):
    common = VardiffSettings(0xFFFF << 240, 0xFFFF << 200, rate)
    network = 0xFFFF << 160
    early, late = Vardiff(common, network, 0), Vardiff(common, network, later)
    for _ in zip(play(early, 0, happened), play(late, later, happened), strict=True):
        assert early.bits == late.bits
        assert early.is_below_floor == late.is_below_floor


@given(rates, st.integers(1, 40), events)
@settings(max_examples=150)
def test_a_miner_of_256_times_the_hash_rate_gets_a_256th_of_the_target(rate, steps, happened):
    happened = [event for event in happened if event[0] in ("share", "late", "idle", "restart")]
    shift = 8 * (steps % 6 + 1)
    pair = []
    for bits in (0, shift):
        common = VardiffSettings(0xFFFF << 232 - bits, 0xFFFF << 200 - bits, rate)
        pair.append(Vardiff(common, 0xFFFF << 100 - bits, 0))
    easy, hard = pair
    for _ in zip(play(easy, 0, happened), play(hard, 0, happened), strict=True):
        # Eight bits are one step of a compact form's exponent, so that both are rounded alike.
        assert easy.bits == hard.bits + (shift // 8 << 24)


@given(rates, st.lists(st.tuples(pauses, st.booleans()), max_size=80))
@settings(max_examples=150)
def test_silence_never_makes_a_target_harder_and_a_share_makes_it_easier_only_to_measure(rate, happened):
    vardiff = Vardiff(VardiffSettings(0xFFFF << 240, 0xFFFF << 200, rate), 0xFFFF << 100, 0)
    now, lowered_by_silence = 0, False
    for pause, is_share in happened:
        now += pause
        before = vardiff.bits
        if is_share:
            vardiff.on_share(now, before)
            assert vardiff.bits <= before or lowered_by_silence
            lowered_by_silence = lowered_by_silence and vardiff.bits == before
        else:
            lowered_by_silence = vardiff.on_idle(now) or lowered_by_silence
            assert vardiff.bits >= before

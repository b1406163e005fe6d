"""What must hold of every scheme, whatever the log: exact sums, no gain by splitting, log order alone decides."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.hashes import sha256
from pool_oracle.payout.schemes import SCHEMES, Fate, Found, Terms, open_scheme, restore_scheme
from pool_oracle.payout.schemes.pps import SATOSHI
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import MAX_WINDOW, PplnsWindow, S, share_unit
from pool_oracle.work.records import (
    KIND_CLOSE,
    KIND_JOB,
    KIND_WORKER,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
    read_records,
)
from pool_oracle.work.targets import nbits_to_target

PAYEES = [b"\x00" + bytes((i,)) * 20 for i in range(1, 6)]
STRANGER = b"\x01" + b"\xee" * 20
HEIGHT = 840_000
FEES = [(HEIGHT - 144 + i, 1_000_000 + 7919 * i) for i in range(144)]

units = st.one_of(st.sampled_from([0, 1, S // 3, S // 2, S - 1, S]), st.integers(0, S), st.integers(0, S >> 20))
shares = st.tuples(st.just("share"), st.sampled_from(PAYEES), units)
windows = st.one_of(st.integers(1, 4), st.integers(1, MAX_WINDOW))
terms = st.builds(Terms, window=windows, fee_bps=st.integers(0, 10_000), payee=st.just(PAYEES[0]))
events = st.lists(
    st.one_of(
        shares,
        shares,
        shares,
        st.tuples(st.just("close")),
        st.tuples(st.just("change"), windows, st.integers(0, 10_000)),
        st.tuples(st.just("tip"), st.integers(0, 10**9)),
        st.tuples(st.just("block"), st.integers(0, 10**9)),
        st.tuples(st.just("fate"), st.integers(0, 9), st.sampled_from(Fate)),
    ),
    max_size=40,
)
every_scheme = pytest.mark.parametrize("name", SCHEMES)


class Play:
    """A scheme through a list of events; `roots` and `paid` are what its closes answered."""

    def __init__(self, name, terms):
        self.name, self.terms = name, terms
        self.scheme = open_scheme(name, terms)
        self.height = HEIGHT
        self.sequence = 0
        self.hashes = []
        self.may_change = True
        self.roots, self.paid = [], {}
        for height, fees in FEES:
            self.scheme.on_tip(height, fees)

    def happen(self, event):
        scheme = self.scheme
        match event:
            case ("share", payee, unit):
                scheme.add(self.sequence, payee, unit, self.height)
                self.sequence += 1
                self.may_change = False
            case ("close",):
                total = scheme.total
                weights = scheme.close()
                self.may_change = bool(weights) or self.may_change
                if weights and total < 1 << 64:
                    tree = SumTree(weights.items())
                    assert tree.total == total == sum(weights.values())
                    self.roots.append(tree.root)
                for payee, weight in weights.items():
                    self.paid[payee] = self.paid.get(payee, 0) + weight
            case ("change", window, fee_bps) if self.may_change:
                self.terms = Terms(window=window, fee_bps=fee_bps, payee=PAYEES[0])
                scheme.change(self.terms)
            case ("tip", fees):
                scheme.on_tip(self.height, fees)
                self.height += 1
            case ("block", fees):
                self.hashes.append(sha256(bytes((len(self.hashes),))))
                value = 312_500_000 + fees
                scheme.on_block(Found(self.hashes[-1], scheme.closed, self.height, value))
            case ("fate", which, fate) if which < len(self.hashes):
                scheme.on_fate(self.hashes[which], fate)

    def run(self, happened):
        for event in happened:
            self.happen(event)
        return self

    def through_a_checkpoint(self):
        """Go on with a scheme that knows only the state, read back from JSON."""
        self.scheme = restore_scheme(self.name, self.terms, json.loads(json.dumps(self.scheme.state())))

    def seen(self):
        """All that a scheme says."""
        scheme = self.scheme
        return (scheme.weights, scheme.total, scheme.first_sequence, scheme.share_count, scheme.t, scheme.closed)


# Of every scheme


@every_scheme
@given(st.data())
@settings(max_examples=60)
def test_weights_are_positive_and_sum_to_the_total_after_every_event(name, data):
    play = Play(name, data.draw(terms))
    for event in data.draw(events):
        play.happen(event)
        weights = play.scheme.weights
        assert sum(weights.values()) == play.scheme.total
        assert all(weight > 0 for weight in weights.values())


@every_scheme
@given(st.data())
@settings(max_examples=60)
def test_two_logs_one_after_the_other_are_one_log(name, data):
    chosen, happened = data.draw(terms), data.draw(events)
    cut = data.draw(st.integers(0, len(happened)))
    whole = Play(name, chosen).run(happened)
    parts = Play(name, chosen).run(happened[:cut])
    parts.through_a_checkpoint()
    parts.run(happened[cut:])
    assert parts.roots == whole.roots
    assert parts.seen() == whole.seen()
    assert parts.scheme.state() == whole.scheme.state()


@every_scheme
@given(st.data())
@settings(max_examples=60)
def test_asking_changes_nothing(name, data):
    play = Play(name, data.draw(terms)).run(data.draw(events))
    before = play.scheme.state()
    play.seen()
    play.scheme.weights.clear()
    assert play.scheme.state() == before


@every_scheme
@given(st.data())
@settings(max_examples=60)
def test_a_close_without_weights_changes_nothing(name, data):
    play = Play(name, data.draw(terms)).run(data.draw(events))
    if not play.scheme.weights:
        before = play.scheme.state()
        assert play.scheme.close() == {}
        assert play.scheme.state() == before


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "solo"])
@given(st.data())
@settings(max_examples=60)
def test_a_miner_who_splits_into_two_payees_gets_the_same_in_sum(name, data):
    """Where weights are satoshis, up to the fraction of one that each payee carries."""
    happened = data.draw(events)
    split = [
        ("share", STRANGER, event[2])
        if event[0] == "share" and event[1] == PAYEES[1] and data.draw(st.booleans())
        else event
        for event in happened
    ]
    chosen = data.draw(terms)
    before, after = Play(name, chosen).run(happened), Play(name, chosen).run(split)
    both = [*PAYEES, STRANGER]
    for play in (before, after):
        for payee, weight in play.scheme.weights.items():
            play.paid[payee] = play.paid.get(payee, 0) + weight
    whole = before.paid.get(PAYEES[1], 0)
    halves = after.paid.get(PAYEES[1], 0) + after.paid.get(STRANGER, 0)
    if before.scheme.closed == after.scheme.closed:  # a satoshi may decide whether an epoch can be closed at all
        in_satoshis = name in ("pps", "pps+", "fpps")
        slack = 1 + (name == "pps+") if in_satoshis else 0
        assert whole - slack <= halves <= whole + (name == "pps+")
        for payee in both:
            if payee not in (PAYEES[1], STRANGER):
                assert abs(after.paid.get(payee, 0) - before.paid.get(payee, 0)) <= (name == "pps+")


@pytest.mark.parametrize("name", ["pplns", "prop", "pps", "fpps"])
@given(st.data(), st.integers(2, 5))
@settings(max_examples=60)
def test_a_share_cut_into_smaller_ones_of_the_same_work_changes_nothing(name, data, pieces):
    happened, cut = data.draw(events), []
    for event in happened:
        if event[0] == "share":
            _, payee, unit = event
            part = unit // pieces
            cut += [("share", payee, part)] * (pieces - 1) + [("share", payee, unit - part * (pieces - 1))]
        else:
            cut.append(event)
    chosen = data.draw(terms)
    assert Play(name, chosen).run(cut).roots == Play(name, chosen).run(happened).roots


# PPLNS


def exact_weights(log):
    """Weights of (payee, unit, X) by definition: X times the length inside the newest S of length, rounded up."""
    lengths = [Fraction(unit, window) for _, unit, window in log]
    end = sum(lengths)
    weights, first, at = {}, None, Fraction(0)
    for sequence, ((payee, unit, window), length) in enumerate(zip(log, lengths, strict=True)):
        at += length
        inside = max(Fraction(0), at - max(at - length, end - S))
        if inside and unit:
            weights[payee] = weights.get(payee, 0) + ceil(window * inside)
            first = sequence if first is None else first
    return weights, first


@given(st.lists(st.tuples(st.sampled_from(PAYEES), units, st.one_of(st.just(None), windows)), max_size=40), windows)
@settings(max_examples=300)
def test_a_changed_window_has_the_weights_of_the_definition(log, size):
    window, seen, now = PplnsWindow(size), [], size
    for sequence, (payee, unit, change) in enumerate(log):
        if change is not None:
            before = window.weights
            window.change(change)
            assert window.weights == before, "the next block is divided as it would have been"
            now = change
        window.add(sequence, payee, unit)
        seen.append((payee, unit, now))
        weights, first = exact_weights(seen)
        assert window.weights == weights
        assert window.first_sequence == first
        assert window.total == sum(weights.values()) <= MAX_WINDOW * S


@given(st.lists(st.tuples(st.sampled_from(PAYEES), units), max_size=30), windows, st.lists(windows, max_size=5))
@settings(max_examples=100)
def test_a_window_that_changes_and_changes_back_before_the_next_share_has_not_changed(log, size, detour):
    changed, plain = PplnsWindow(size), PplnsWindow(size)
    for sequence, (payee, unit) in enumerate(log):
        for other in (*detour, size):
            changed.change(other)
        changed.add(sequence, payee, unit)
        plain.add(sequence, payee, unit)
        assert (changed.weights, changed.total, changed.first_sequence) == (
            plain.weights,
            plain.total,
            plain.first_sequence,
        )


# Share targets that give units of S/500 to S/4 at this network target, and a little less or more after a retarget.
NETWORK_TARGET = 1 << 200
share_targets = st.integers(4 * NETWORK_TARGET, 500 * NETWORK_TARGET)
lives = st.lists(share_targets, min_size=4, max_size=30)


def live_on(window, share_targets, network_targets, payment):
    """Let shares follow until the stranger's is out of the window: the reward that it may expect, in units.

    A block comes with every following share by its unit, and pays the stranger `payment(weight)` of it.
    """
    expected, turn, largest = Fraction(0), 0, 0
    while STRANGER in window.weights:
        network_target = network_targets[min(turn // 50, len(network_targets) - 1)]
        following = share_unit(network_target, share_targets[turn % len(share_targets)])
        largest = max(largest, following)
        turn += 1
        expected += following * payment(window.weights[STRANGER])
        window.add(turn, PAYEES[0], following)
    return expected, largest


def full_window(size):
    """Only a full window pays by X*S."""
    window = PplnsWindow(size)
    while window.t < size * S:
        window.add(0, PAYEES[0], S // 4)
    return window


@given(st.integers(1, 3), share_targets, lives)
@settings(max_examples=60)
def test_the_credit_of_a_share_over_its_life_is_its_part_of_the_work(size, target, others):
    """In sum its unit u, as theory says, within max(u) / X."""
    window = full_window(size)
    unit = share_unit(NETWORK_TARGET, target)
    window.add(0, STRANGER, unit)
    expected, largest = live_on(window, others, [NETWORK_TARGET], lambda weight: Fraction(weight, size * S))
    assert abs(expected - unit) <= unit * Fraction(max(unit, largest), size * S)


@given(st.integers(1, 3), share_targets, lives, st.lists(st.fractions(Fraction(1, 4), 4), min_size=1, max_size=5))
@settings(max_examples=60)
def test_retargets_in_the_life_of_a_share_do_not_change_what_it_may_expect(size, target, others, factors):
    """Its unit is of the network target that it was mined under; later ones only change how fast it ages."""
    window = full_window(size)
    unit = share_unit(NETWORK_TARGET, target)
    window.add(0, STRANGER, unit)
    retargets = [int(NETWORK_TARGET * factor) for factor in factors]
    expected, largest = live_on(window, others, retargets, lambda weight: Fraction(weight, size * S))
    assert abs(expected - unit) <= unit * Fraction(max(unit, largest), size * S)


@given(st.integers(1, 3), st.integers(1, 6), share_targets, lives, st.integers(0, 99))
@settings(max_examples=60)
def test_a_changed_window_leaves_what_a_share_may_still_expect(size, changed, target, others, age):
    """Rosenfeld's pending reward, u (1 - U / X) after U blocks of later work, is the same under the new X."""
    window = full_window(size)
    unit = share_unit(NETWORK_TARGET, target)
    window.add(0, STRANGER, unit)
    later = age * size * S // 100
    for _ in range(100):
        window.add(0, PAYEES[0], later // 100)
    pending = unit * (1 - Fraction(later, size * S))
    window.change(changed)
    expected, largest = live_on(window, others, [NETWORK_TARGET], lambda weight: Fraction(weight, changed * S))
    assert abs(expected - pending) <= unit * Fraction(max(unit, largest), min(size, changed) * S) + 2


# PPS and its kin


@pytest.mark.parametrize("name", ["pps", "fpps", "pps+"])
@given(st.data())
@settings(max_examples=80)
def test_what_was_earned_is_paid_or_carried_to_the_last_fraction(name, data):
    chosen = data.draw(terms)
    play = Play(name, chosen)
    earned, fees = Fraction(0), {}
    for event in data.draw(events):
        play.happen(event)
        keep = 10_000 - play.terms.fee_bps
        if event[0] == "share":
            earned += Fraction(event[2] * play.scheme.guaranteed(play.height) * keep, SATOSHI)
        elif event[0] == "block":
            fees[play.hashes[-1]] = Fraction(event[1] * keep, 10_000)
        elif event[0] == "fate" and event[1] < len(play.hashes) and event[2] is Fate.MATURE and name == "pps+":
            earned += fees.pop(play.hashes[event[1]], 0)
    state = play.scheme.state()
    held = sum(int(value) for sums in (state["earned"], state["carried"]) for value in sums.values())
    held += int(state.get("left", 0))
    assert sum(play.paid.values()) + Fraction(held, SATOSHI) == earned
    assert all(int(value) < SATOSHI for value in state["carried"].values())


# PROP


@given(events)
@settings(max_examples=150)
def test_a_prop_round_is_what_no_living_block_has_paid(happened):
    play, log, found = Play("prop", Terms()), [], {}
    for event in happened:
        before = play.scheme.closed
        play.happen(event)
        if event[0] == "share":
            log.append((before + 1, event[1], event[2]))
        elif event[0] == "block":
            found[play.hashes[-1]] = [before, Fate.ALIVE]
        elif event[0] == "fate" and event[1] < len(play.hashes):
            block = found[play.hashes[event[1]]]
            if block[1] is not Fate.MATURE:  # that is for good
                block[1] = event[2]
        paid = max((epoch for epoch, fate in found.values() if fate is not Fate.LOST), default=0)
        weights = {}
        for epoch, payee, unit in log:
            if epoch > paid and unit:
                weights[payee] = weights.get(payee, 0) + unit
        assert play.scheme.weights == weights


# A log is bytes: where and when they are read does not matter

BITS = (0x1E0FFFFF, 0x1E07FFFF, 0x1E01FFFF)
NBITS = "1d00ffff"


def log_bytes(rows, times):
    """One segment: two jobs (the second after a retarget), the workers, then (payee, bits, job) or None for a close."""
    slots = [encode_header(SegmentHeader(0, 0, 0, times[0] if times else 0))]
    for job, nbits in enumerate((NBITS, "1c7fffff")):
        slots.append(encode_long(KIND_JOB, {"job": job, "height": HEIGHT + job, "nbits": nbits}))
    for worker, payee in enumerate(PAYEES):
        slots.append(encode_long(KIND_WORKER, {"worker": worker, "payee": payee.hex()}))
    sequence = 0
    for row, time in zip(rows, times, strict=True):
        if row is None:
            slots.append(encode_long(KIND_CLOSE, {"time": time}))
            continue
        worker, bits, job = row
        slots.append(encode_share(ShareRecord(sequence, job, b"", b"", 0, sequence, 0, bits, worker, time)))
        sequence += 1
    return b"".join(slots)


def replay_rows(data):
    """What a scheme needs of a log, row by row: (payee, unit, height), or None for a close."""
    jobs, payees = {}, {}
    for _, record in read_records(data, "log"):
        if isinstance(record, ShareRecord):
            nbits, height = jobs[record.job]
            unit = share_unit(nbits_to_target(nbits), nbits_to_target(record.share_bits))
            yield payees[record.worker], unit, height
        elif isinstance(record, SegmentHeader):
            continue
        elif record.kind == KIND_JOB:
            jobs[record.payload["job"]] = (int(record.payload["nbits"], 16), record.payload["height"])
        elif record.kind == KIND_WORKER:
            payees[record.payload["worker"]] = bytes.fromhex(record.payload["payee"])
        elif record.kind == KIND_CLOSE:
            yield None


def roots_of(name, rows):
    """The roots of a scheme's closes over rows."""
    scheme = open_scheme(name, Terms(window=1, fee_bps=200, payee=PAYEES[0]))
    for height, fees in [*FEES, (HEIGHT, 5_000_000)]:
        scheme.on_tip(height, fees)
    roots = []
    for sequence, row in enumerate(rows):
        if row is not None:
            scheme.add(sequence, *row)
        elif weights := scheme.close():
            roots.append(SumTree(weights.items()).root)
    return roots


row = st.tuples(st.integers(0, 4), st.sampled_from(BITS), st.integers(0, 1))
rows_of_a_log = st.lists(st.one_of(row, row, row, st.none()), max_size=40)


@every_scheme
@given(st.data())
@settings(max_examples=30)
def test_times_do_not_matter_since_log_order_rules(name, data):
    rows = data.draw(rows_of_a_log)
    times = [1_700_000_000_000_000 + i for i in range(len(rows))]
    equal = [times[0]] * len(rows) if times else []
    logs = [log_bytes(rows, order) for order in (times, equal, times[::-1])]
    first, *others = [roots_of(name, replay_rows(data)) for data in logs]
    assert all(other == first for other in others)


@every_scheme
@given(st.data(), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_a_log_from_another_database_has_the_same_roots(name, data, chance):
    rows = list(replay_rows(log_bytes(drawn := data.draw(rows_of_a_log), [0] * len(drawn))))
    stored = [(i, None, None, None) if row is None else (i, row[0], str(row[1]), row[2]) for i, row in enumerate(rows)]
    chance.shuffle(stored)
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE log (place INTEGER PRIMARY KEY, payee BLOB, unit TEXT, height INTEGER)")
    database.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", stored)
    found = database.execute("SELECT payee, unit, height FROM log ORDER BY place").fetchall()
    database.close()
    back = [None if payee is None else (bytes(payee), int(unit), height) for payee, unit, height in found]
    assert roots_of(name, back) == roots_of(name, rows)


def test_a_log_replayed_by_another_process_has_the_same_roots(tmp_path):
    """Another interpreter, another seed of its hashes; the log goes there as bytes, the roots come back as text."""
    chance = random.Random(7)
    rows = [
        None if i % 50 == 49 else (chance.randrange(5), chance.choice(BITS), chance.randrange(2)) for i in range(400)
    ]
    data = log_bytes(rows, [0] * len(rows))
    log = tmp_path / "shares.log"
    log.write_bytes(data)
    here = {name: [root.hex() for root in roots_of(name, replay_rows(data))] for name in SCHEMES}
    assert all(here.values())
    program = (
        "import importlib.util, json, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('properties', sys.argv[1])\n"
        "there = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(there)\n"
        "data = pathlib.Path(sys.argv[2]).read_bytes()\n"
        "roots = {n: [r.hex() for r in there.roots_of(n, there.replay_rows(data))] for n in there.SCHEMES}\n"
        "print(json.dumps(roots))\n"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, __file__, str(log)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == here

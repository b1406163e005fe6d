"""A window that reads what leaves it from the log again, against one in memory and against the definition."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.errors import CorruptLog
from pool_oracle.ledger.checkpoint import Checkpoints
from pool_oracle.ledger.segments import whole_slots
from pool_oracle.payout.schemes import Terms, open_scheme, restore_scheme
from pool_oracle.payout.window import PplnsWindow
from pool_oracle.work.records import is_whole_slot
from tests.streamed_log import BITS, HEIGHT, NBITS, StreamedLog, defined_weights, through_json

worker_and_bits = st.tuples(st.integers(0, 5), st.sampled_from([*BITS, *BITS[1:4]]))
shares = st.tuples(st.just("shares"), st.lists(worker_and_bits, min_size=1, max_size=9))
written = st.tuples(st.just("flush"), st.one_of(st.none(), st.integers(1, 3000)))
steps = st.lists(
    st.one_of(
        shares,
        shares,
        shares,
        written,
        written,
        st.tuples(st.just("retarget"), st.sampled_from(NBITS)),
        st.tuples(st.just("close"), st.one_of(st.none(), st.integers(1, 6))),
        st.tuples(st.just("segment")),
        st.tuples(st.just("settle"), st.one_of(st.none(), st.integers(0, 3))),
        st.tuples(st.just("look")),
        st.tuples(st.just("restart")),
    ),
    min_size=10,
    max_size=50,
)
tails = st.fixed_dictionaries({"keep": st.integers(0, 4), "chunk": st.sampled_from([64, 192, 1024, 1 << 20])})
targets = st.one_of(st.none(), st.just(3 << 198))


class Streams:
    """One log, told to a window with a tail step by step."""

    def __init__(self, folder, size, emulated_target, tail):
        self.log = StreamedLog(folder, size, emulated_target)
        self.tail = tail
        self.window = PplnsWindow(size, tail=self.log.tail(**tail))

    def run(self, steps):
        for step in steps:
            self.happen(step)
        self.look()

    def happen(self, step):
        log = self.log
        match step:
            case ("shares", shares):
                for share in shares:
                    self.window.add(*log.share(*share))
            case ("close", change):
                log.close()
                if change is not None:
                    log.change(change)
                    self.window.change(change)
            case ("settle", limit):
                left = self.window.settle(limit)
                assert limit is None or left <= limit
            case ("restart",):
                self.restart()
            case (name, *given):
                {"retarget": log.retarget, "segment": log.next_segment, "flush": log.flush, "look": self.look}[name](
                    *given
                )

    def restart(self):
        self.log.flush()
        state = through_json(self.window.state())
        assert "shares" not in state
        self.window = PplnsWindow.restore(state, tail=self.log.tail(**self.tail))

    def look(self):
        """The three ways to the same numbers."""
        weights, first = defined_weights(self.log.shares)
        for window in (self.window, self.log.memory):
            assert window.weights == weights
            assert window.first_sequence == first
            assert window.total == sum(weights.values())
            assert window.t == sum(unit for _, unit, _ in self.log.shares)
        assert self.window.share_count == self.log.memory.share_count
        streamed, in_memory = self.window.state(), self.log.memory.state()
        same = ("t", "start", "grid", "gone", "eras")
        assert [streamed[key] for key in same] == [in_memory[key] for key in same]


@given(steps, st.integers(1, 5), targets, tails)
@settings(max_examples=400)
def test_streaming_from_the_log_in_memory_and_the_definition_agree(steps, size, emulated_target, tail):
    with tempfile.TemporaryDirectory() as folder:
        Streams(Path(folder), size, emulated_target, tail).run(steps)


@given(st.lists(worker_and_bits, max_size=40), tails)
@settings(max_examples=100)
def test_nothing_is_asked_of_the_disk_while_nothing_is_on_it(shares, tail):
    """The smallest window, whose every share may leave with the next one."""
    with tempfile.TemporaryDirectory() as folder:
        run = Streams(Path(folder), 1, None, tail)
        for share in shares:
            run.happen(("shares", [share]))
            run.look()
        assert not list(Path(folder).iterdir())


@given(st.lists(st.tuples(shares, st.booleans()), min_size=3, max_size=25), st.data(), tails)
@settings(max_examples=200)
def test_a_checkpoint_at_any_close_and_the_rest_of_the_log_are_a_full_replay(rounds, data, tail):
    """Each round: shares, perhaps a retarget, a full segment; perhaps a close and another X; sometimes a restart."""
    name = data.draw(st.sampled_from(["pplns", "pps+"]))
    with tempfile.TemporaryDirectory() as folder:
        log = StreamedLog(Path(folder), 2)
        book = Checkpoints(log.folder)
        pool = open_scheme(name, Terms(window=2), tail=log.tail(**tail))
        for (_, burst), is_closed in rounds:
            if data.draw(st.booleans()):
                log.retarget(data.draw(st.sampled_from(NBITS)))
            for share in burst:
                sequence, payee, unit = log.share(*share)
                pool.add(sequence, payee, unit, HEIGHT)
            if data.draw(st.booleans()):
                log.next_segment()
            if is_closed and pool.first_sequence is not None:
                log.close(pool.first_sequence)
                pool.close()
                log.flush()
                book.write(log.checkpoint(pool.state(), {"workers": len(log.shares)}))
                if data.draw(st.booleans()):
                    log.change(window := data.draw(st.integers(1, 5)))
                    pool.change(Terms(window=window))
            if data.draw(st.integers(0, 5)) == 0:
                log.flush()
                pool = restarted(log, name, tail)
        log.flush()
        full = log.replay(open_scheme(name, Terms(window=2)))
        for again in (pool, restarted(log, name, tail)):
            assert said(again) == said(full)
        for path in Checkpoints(log.folder).files():
            assert said(from_checkpoint(log, Checkpoints(log.folder).read(path), name, tail)) == said(full)


def restarted(log, name, tail):
    """From the newest checkpoint, or from the beginning."""
    scheme = Checkpoints(log.folder).newest(lambda checkpoint: from_checkpoint(log, checkpoint, name, tail))
    return scheme or log.replay(open_scheme(name, Terms(window=2), tail=log.tail(**tail)))


def from_checkpoint(log, checkpoint, name, tail):
    window = checkpoint.state["window"]["eras"][-1][0]
    scheme = restore_scheme(name, Terms(window=window), checkpoint.state, tail=log.tail(**tail))
    return log.replay(scheme, checkpoint.segment + 1)


def said(scheme):
    return scheme.weights, scheme.total, scheme.first_sequence, scheme.share_count, scheme.t, scheme.closed


@given(st.lists(st.binary(min_size=60, max_size=60), max_size=12), st.sets(st.integers(0, 12 * 64 - 1), max_size=4))
@settings(max_examples=200)
def test_whole_slots_are_those_before_the_first_that_is_damaged(bodies, flipped):
    data = bytearray(b"".join(body + zlib.crc32(body).to_bytes(4, "little") for body in bodies))
    for at in flipped:
        if at < len(data):
            data[at] ^= 0x10
    damaged = [i for i in range(0, len(data), 64) if not is_whole_slot(bytes(data[i : i + 64]))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segment"
        path.write_bytes(bytes(data) + b"torn")
        if damaged[:1] == [0]:
            with pytest.raises(CorruptLog, match="segment: the slot at offset 0 is damaged"):
                whole_slots(path, 0, 1 << 20)
        else:
            assert whole_slots(path, 0, 1 << 20) == data[: damaged[0] if damaged else None]


class Schemes:
    """A scheme with a tail and one without, told the same."""

    def __init__(self, folder, name, tail):
        self.log = StreamedLog(folder, 2)
        self.name, self.tail = name, tail
        self.terms = Terms(window=2)
        self.plain = open_scheme(name, self.terms)
        self.streamed = open_scheme(name, self.terms, tail=self.log.tail(**tail))

    def happen(self, step):
        log, both = self.log, (self.plain, self.streamed)
        match step:
            case ("shares", shares):
                for share in shares:
                    sequence, payee, unit = log.share(*share)
                    for scheme in both:
                        scheme.add(sequence, payee, unit, HEIGHT)
            case ("close", change):
                log.close()
                assert self.plain.close() == self.streamed.close()
                if change is not None:
                    self.terms = Terms(window=change)
                    log.change(change)
                    for scheme in both:
                        scheme.change(self.terms)
            case ("flush", size):
                log.flush(size)
            case ("settle", limit):
                self.streamed.settle(limit)
            case ("restart",):
                log.flush()
                state = through_json(self.streamed.state())
                self.streamed = restore_scheme(self.name, self.terms, state, tail=log.tail(**self.tail))


@given(steps, st.sampled_from(["pplns", "pps+"]), tails)
@settings(max_examples=100)
def test_a_scheme_with_a_tail_closes_as_one_without_and_goes_on_from_its_state(steps, name, tail):
    with tempfile.TemporaryDirectory() as folder:
        run = Schemes(Path(folder), name, tail)
        for step in steps:
            run.happen(step)
        assert said(run.plain) == said(run.streamed)

"""A window that reads what leaves it from the log: what it does when the log is not as it was, and when it reads."""

from __future__ import annotations

import random
import re
import tracemalloc
import zlib
from pathlib import Path

import pytest

from pool_oracle.errors import CorruptLog, LedgerError, WindowError
from pool_oracle.ledger.sharelog import segment_name
from pool_oracle.payout.schemes import Terms, open_scheme, restore_scheme
from pool_oracle.payout.window import PplnsWindow, S
from pool_oracle.work.records import KIND_SHARE, KIND_WORKER, SLOT_SIZE, ShareRecord, encode_share
from tests.streamed_log import BITS, StreamedLog, through_json

HALF = BITS[1]
SMALL = BITS[3]


@pytest.fixture
def log(tmp_path):
    return StreamedLog(tmp_path, 2)


def filled(log, count=40, bits=SMALL, *, segment=15):
    """A window with so many shares, all on disk and none in memory, a new segment now and then."""
    window = PplnsWindow(log.x, tail=log.tail(keep=0))
    for i in range(count):
        if i % segment == segment - 1:
            log.next_segment()
        window.add(*log.share(i % 5, bits))
    log.flush()
    window.settle()
    return window


def push_out(log, window):
    """Shares that leave no other inside."""
    for _ in range(2):
        window.add(*log.share(0, BITS[0]))
    return window.settle()


def slots_of(path, kind):
    data = path.read_bytes()
    return [at for at in range(0, len(data), SLOT_SIZE) if data[at] == kind]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def test_a_damaged_share_is_named_when_it_should_leave_and_the_window_waits_for_it(log):
    window = filled(log)
    path = log.folder / segment_name(1)
    whole = path.read_bytes()
    at = slots_of(path, KIND_SHARE)[3]
    flip(path, at + 20)
    for _ in range(2):
        with pytest.raises(CorruptLog, match=rf"{path.name}: the slot at offset {at} is damaged"):
            push_out(log, window)
    log.share(0, SMALL)
    path.write_bytes(whole)
    assert window.weights == {log.shares[-2][0]: 2 * S}


def test_no_bit_of_what_leaves_can_flip_unseen(tmp_path):
    chance = random.Random(5)
    for i in range(60):
        log = StreamedLog(tmp_path / str(i), 2)
        window = filled(log)
        path = log.folder / segment_name(chance.randrange(3))
        flip(path, chance.randrange(path.stat().st_size))
        with pytest.raises(CorruptLog, match=re.escape(path.name)):
            push_out(log, window)


def test_a_missing_segment_is_named(log):
    window = filled(log)
    (log.folder / segment_name(1)).unlink()
    with pytest.raises(CorruptLog, match=r"shares-00000001\.log"):
        push_out(log, window)


def test_a_segment_that_was_cut_is_named(log):
    window = filled(log)
    path = log.folder / segment_name(1)
    path.write_bytes(path.read_bytes()[: -2 * SLOT_SIZE - 7])
    with pytest.raises(CorruptLog, match=r"shares-00000002\.log: begins with share 29, where 2\d belongs"):
        push_out(log, window)


def test_a_log_that_ends_too_soon_is_named(log):
    window = filled(log)
    path = log.folder / segment_name(2)
    path.write_bytes(path.read_bytes()[: -3 * SLOT_SIZE])
    with pytest.raises(CorruptLog, match=r"shares-00000003\.log: the log ends before share 3\d"):
        push_out(log, window)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"job": 9}, "points to job 9, which its segment does not define"),
        ({"worker": 9}, "points to worker 9, which its segment does not define"),
        ({"share_bits": 0}, "nbits 00000000"),
        ({"sequence": 77}, "share 77"),
    ],
)
def test_a_share_that_cannot_be_in_its_place_is_named(log, wrong, text):
    window = filled(log)
    path = log.folder / segment_name(1)
    at = slots_of(path, KIND_SHARE)[2]
    share = ShareRecord(16, 0, b"", b"", 1, 2, 3, SMALL, 0, 4)._replace(**wrong)
    data = path.read_bytes()
    path.write_bytes(data[:at] + encode_share(share) + data[at + SLOT_SIZE :])
    with pytest.raises(CorruptLog, match=rf"{path.name}: .*at offset {at}") as raised:
        push_out(log, window)
    assert text in str(raised.value)


def test_a_definition_that_is_none_is_named(log):
    window = filled(log)
    path = log.folder / segment_name(1)
    at = slots_of(path, KIND_WORKER)[0]
    data = path.read_bytes().replace(b'"payee"', b'"pay0e"')
    slot = data[at : at + 60]
    data = data[:at] + slot + zlib.crc32(slot).to_bytes(4, "little") + data[at + SLOT_SIZE :]
    path.write_bytes(data)
    with pytest.raises(CorruptLog, match=rf"{path.name}: the (record|slot) at offset {at} "):
        push_out(log, window)


def test_a_share_of_somebody_else_cannot_leave_in_the_place_of_one(log):
    """A log that was made anew, with right checksums: whoever has no credit cannot lose any."""
    window = filled(log, 3)
    path = log.folder / segment_name(0)
    data = path.read_bytes()
    at = slots_of(path, KIND_SHARE)[2]
    other = ShareRecord(2, 0, b"", b"", 1, 2, 3, BITS[0], 1, 4)
    path.write_bytes(data[:at] + encode_share(other) + data[at + SLOT_SIZE :])
    with pytest.raises(WindowError, match="share 2 leaves with"):
        push_out(log, window)


def test_a_folder_that_cannot_be_read_is_an_error_of_the_ledger(log):
    window = filled(log)
    path = log.folder / segment_name(0)
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError, match=r"shares-00000000\.log: cannot be read"):
        push_out(log, window)


def test_adding_a_share_reads_and_writes_nothing(log, monkeypatch):
    window = filled(log)

    def refuse(*_args, **_more):
        raise AssertionError("a file was looked at")

    share = log.share(0, BITS[0])
    for name in ("open", "stat", "exists"):
        monkeypatch.setattr(Path, name, refuse)
    for _ in range(3):
        window.add(*share)
    monkeypatch.undo()


def test_nothing_is_kept_of_a_share_that_is_in_the_log(log):
    """100 bytes a share on the hot path, and nothing when it has settled but a constant."""
    shares = [log.share(i % 5, BITS[4]) for i in range(20_000)]
    log.flush()
    window = PplnsWindow(log.x, tail=log.tail(keep=0))
    window.add(*shares[0])
    window.settle()
    tracemalloc.start()
    for share in shares[1:]:
        window.add(*share)
    held, _ = tracemalloc.get_traced_memory()
    window.settle()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert window.share_count == 20_000
    assert held > 20_000 * 50
    assert kept < 20_000 * 10


def test_settling_a_little_at_a_time_leaves_the_same_as_all_at_once(log):
    window = filled(log)
    for _ in range(2):
        window.add(*log.share(0, BITS[0]))
    turns = 0
    while left := window.settle(7):
        assert left <= 7
        turns += 1
    assert turns == 6
    assert window.weights == log.memory.weights


def test_a_window_in_memory_has_nothing_to_settle(log):
    filled(log)
    assert log.memory.settle() == 0


@pytest.mark.parametrize(
    "spoil",
    [
        {"first": 1},
        {"first": None},
        {"first": 10**6},
        {"first": -1},
        {"credits": {}},
        {"credits": dict.fromkeys(("00" * 21, "01" * 21), "1")},
        {"gone": "1"},
        {"start": "1"},
        {"t": "1"},
    ],
)
def test_a_state_that_does_not_fit_the_log_is_refused(log, spoil):
    state = through_json(filled(log).state())
    assert PplnsWindow.restore(state, tail=log.tail()).weights == log.memory.weights
    with pytest.raises((WindowError, CorruptLog)):
        PplnsWindow.restore(state | spoil, tail=log.tail())


def test_a_state_of_a_full_window_names_the_share_that_is_inside_in_part(log):
    window = filled(log)
    window.add(*log.share(0, BITS[0]))
    window.add(*log.share(1, BITS[1]))
    for _ in range(100):
        window.add(*log.share(1, BITS[2]))
    log.flush()
    state = through_json(window.state())
    assert state["first"] == log.memory.first_sequence > 0
    again = PplnsWindow.restore(state, tail=log.tail())
    assert again.weights == log.memory.weights
    with pytest.raises(WindowError):
        PplnsWindow.restore(state | {"gone": str(S)}, tail=log.tail())
    with pytest.raises(WindowError, match="is wanted"):
        PplnsWindow.restore(state | {"first": state["first"] + 1}, tail=log.tail())


def test_a_state_without_shares_needs_the_log(log):
    state = filled(log).state()
    with pytest.raises(WindowError, match="a share log has to give them"):
        PplnsWindow.restore(state)


def test_a_state_with_its_shares_can_go_on_with_a_log(log):
    filled(log)
    state = through_json(log.memory.state())
    window = PplnsWindow.restore(state, tail=log.tail(keep=0))
    push_out(log, window)
    assert window.weights == log.memory.weights
    assert window.settle() == 0


@pytest.mark.parametrize("name", ["pplns", "pps+"])
def test_the_state_of_a_scheme_with_a_tail_is_as_small_as_its_payees_are_few(log, name):
    scheme = open_scheme(name, Terms(window=2), tail=log.tail(keep=0))
    sizes = []
    for _ in range(3):
        for i in range(50):
            sequence, payee, unit = log.share(i % 4, SMALL)
            scheme.add(sequence, payee, unit, 1)
        scheme.settle()
        sizes.append(len(str(scheme.state())))
    assert sizes[2] - sizes[0] < 100
    log.flush()
    again = restore_scheme(name, Terms(window=2), through_json(scheme.state()), tail=log.tail())
    assert again.state() == scheme.state()
    assert again.weights == scheme.weights


def test_a_scheme_without_a_window_has_no_use_for_a_tail(log):
    scheme = open_scheme("pps", Terms(), tail=log.tail())
    scheme.add(0, b"\x00" + b"\x01" * 20, S // 2, 1)
    assert scheme.settle() == 0
    assert scheme.share_count == 1

"""Where a log goes on: what a power cut leaves of the last group is cut, damage to what was synced never is."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool_oracle.errors import CorruptLog, LedgerError
from pool_oracle.ledger import sharelog
from pool_oracle.ledger.recovery import MARK_FILE, SyncMark, cut_torn_tail, read_mark
from pool_oracle.ledger.sharelog import ShareLog, replay, segment_files, segment_name
from pool_oracle.ledger.verify import verify_log
from pool_oracle.work.records import (
    KIND_MORE,
    SLOT_SIZE,
    SegmentHeader,
    ShareRecord,
    is_whole_slot,
    place_of,
    read_records,
)
from tests.integration.synthetic_log import RULES, write_log

PAGE = 4096
SECTOR = 512
UNIT = 1000
JOB = {"job": 1, "version": "20000000", "coinb2": "ab" * 400}
WORKER = {"worker": 2, "payee": "0x01" + "11" * 20}
FILLERS = {
    "zeros": b"\x00" * PAGE,
    "ones": b"\xff" * PAGE,
    "what stood there before": bytes(range(256)) * (PAGE // 256),
}


def share(sequence: int) -> ShareRecord:
    return ShareRecord(sequence, 1, b"\x01" * 4, b"\x02" * 8, 3, sequence, 4, 0x1F00FFFF, 2, 5)


def opened(folder: Path, **settings) -> ShareLog:
    log = ShareLog(folder, **settings)
    log.define_job(1, JOB)
    log.define_worker(2, WORKER)
    return log


def write_groups(folder: Path, *groups: int, **settings) -> list[int]:
    """Append groups of so many shares, each synced before the next; returns the segment's length after each."""

    async def run() -> list[int]:
        log = opened(folder, **settings)
        sizes = []
        for group in groups:
            await asyncio.gather(*[log.append(share(log.next_sequence), UNIT) for _ in range(group)])
            sizes.append(segment_files(folder)[-1].stat().st_size)
        await log.close()
        return sizes

    return asyncio.run(run())


def open_and_append(folder: Path) -> int:
    """Open the log, append one share; returns the number that it got."""

    async def run() -> int:
        log = opened(folder)
        sequence = log.next_sequence
        await log.append(share(sequence), UNIT)
        await log.close()
        return sequence

    return asyncio.run(run())


def sequences(folder: Path) -> list[int]:
    return [record.sequence for _, record in replay(folder) if isinstance(record, ShareRecord)]


def folder_with(folder: Path, data: bytes) -> Path:
    """A log of one segment, without a mark, as after a power cut before the mark came to the disk."""
    folder.mkdir(exist_ok=True)
    (folder / MARK_FILE).unlink(missing_ok=True)
    (folder / segment_name(0)).write_bytes(data)
    return folder


def without(data: bytes, start: int, lost: Iterator[int] | tuple[int, ...], unit: int, filler: bytes) -> bytes:
    """The file after a power cut: `unit`-sized blocks, of those that reach behind `start`, are not as written."""
    torn = bytearray(data)
    for block in lost:
        begin = max(start, (start // unit + block) * unit)
        end = min(len(data), (start // unit + block + 1) * unit)
        torn[begin:end] = filler[: end - begin]
    return bytes(torn)


def same_up_to(data: bytes, other: bytes) -> int:
    return next((i for i, (a, b) in enumerate(zip(data, other, strict=True)) if a != b), len(data))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int, int]:
    """(a segment, where its last group begins, how many shares are before that); that group touches six pages."""
    folder = tmp_path_factory.mktemp("log")
    *_, before, end = write_groups(folder, 3, 40, 17, 350)
    data = (folder / segment_name(0)).read_bytes()
    assert end == len(data)
    assert before % SLOT_SIZE == 0
    assert before % PAGE
    assert (len(data) - 1) // PAGE - before // PAGE == 5
    return data, before, 60


# The last group, in part on the disk


@pytest.mark.parametrize("filler", FILLERS)
def test_whatever_pages_of_the_last_group_are_lost_the_log_opens_with_all_that_was_acknowledged(log, filler, tmp_path):
    data, start, acknowledged = log
    for count in range(1, 7):
        for lost in itertools.combinations(range(6), count):
            torn = without(data, start, lost, PAGE, FILLERS[filler])
            folder = folder_with(tmp_path, torn)
            kept = acknowledged + (same_up_to(data, torn) - start) // SLOT_SIZE
            assert open_and_append(folder) == kept
            assert sequences(folder) == list(range(kept + 1))
            assert (folder / segment_name(0)).read_bytes().startswith(data[:start])


def test_whatever_sectors_of_the_last_group_are_lost_the_log_opens(log, tmp_path):
    data, start, acknowledged = log
    sectors = (len(data) - 1) // SECTOR - start // SECTOR + 1
    chance = random.Random(3)
    for _ in range(300):
        lost = [sector for sector in range(sectors) if chance.random() < 0.3]
        torn = without(data, start, lost, SECTOR, chance.choice(list(FILLERS.values())))
        size = chance.randrange(start, len(data) + 1) if chance.random() < 0.3 else len(data)  # the length came late
        folder = folder_with(tmp_path, torn[:size])
        kept = acknowledged + (min(size, same_up_to(data, torn)) - start) // SLOT_SIZE
        assert open_and_append(folder) == kept
        assert sequences(folder) == list(range(kept + 1))


def test_the_first_group_of_a_new_segment_may_lose_any_page_its_header_too(tmp_path):
    source = tmp_path / "source"
    (size,) = write_groups(source, 200)
    data = (source / segment_name(0)).read_bytes()
    pages = (size - 1) // PAGE + 1
    for count in range(1, pages + 1):
        for lost in itertools.combinations(range(pages), count):
            folder = folder_with(tmp_path / "log", without(data, 0, lost, PAGE, bytes(PAGE)))
            kept = open_and_append(folder)
            assert sequences(folder) == list(range(kept + 1))


def test_a_group_is_never_longer_than_its_places_can_count(tmp_path, monkeypatch):
    monkeypatch.setattr(sharelog, "MAX_PLACE", 10)
    write_groups(tmp_path, 100)
    data = (tmp_path / segment_name(0)).read_bytes()
    slots = [data[at : at + SLOT_SIZE] for at in range(0, len(data), SLOT_SIZE)]
    places = [place_of(slot) for slot in slots if slot[0] != KIND_MORE]
    assert max(places) == 10
    assert places.count(1) > 8
    assert sequences(tmp_path) == list(range(100))


def groups_of(folder: Path) -> list[tuple[str, int, int]]:
    """(segment, begin, end) of every group, in the order in which they were written and synced."""
    groups = []
    for path in segment_files(folder):
        data = path.read_bytes()
        slots = range(0, len(data), SLOT_SIZE)
        begins = [at for at in slots if data[at] != KIND_MORE and place_of(data[at : at + SLOT_SIZE]) == 1]
        groups += [(path.name, begin, end) for begin, end in itertools.pairwise([*begins, len(data)])]
    return groups


def test_a_power_cut_in_any_group_of_a_log_that_rotates_and_closes_loses_nothing_of_the_groups_before(tmp_path):
    chance = random.Random(9)

    async def write() -> None:
        log = opened(tmp_path / "source", segment_bytes=60 * SLOT_SIZE)
        for epoch in range(8):
            for _ in range(3):
                await asyncio.gather(*[log.append(share(log.next_sequence), UNIT) for _ in range(chance.randrange(40))])
            await log.close_epoch({"epoch": epoch, "filler": "x" * chance.randrange(3000)})
        await log.close()

    asyncio.run(write())
    whole = {path.name: path.read_bytes() for path in segment_files(tmp_path / "source")}
    groups = groups_of(tmp_path / "source")
    assert len(whole) > 8
    assert len(groups) > 30
    acknowledged = 0
    for number, (name, begin, end) in enumerate(groups):
        assert begin == 0 or groups[number - 1] == (name, groups[number - 1][1], begin)
        for try_ in range(6):
            folder = tmp_path / f"{number}-{try_}"
            folder.mkdir()
            for earlier in sorted(whole)[: sorted(whole).index(name)]:
                (folder / earlier).write_bytes(whole[earlier])
            lost = [sector for sector in range((end - begin) // SECTOR + 2) if chance.random() < 0.4]
            torn = without(whole[name][:end], begin, lost, SECTOR, chance.choice(list(FILLERS.values())))
            (folder / name).write_bytes(torn[: chance.choice((end, chance.randrange(begin, end + 1)))])
            kept = open_and_append(folder)
            assert kept >= acknowledged
            assert sequences(folder) == list(range(kept + 1))
        acknowledged += read_shares(whole[name][:end], begin)
    assert acknowledged == len(sequences(tmp_path / "source"))


def read_shares(data: bytes, begin: int) -> int:
    """How many shares a segment holds from a place on."""
    return sum(at >= begin and isinstance(record, ShareRecord) for at, record in read_records(data, "segment"))


# What was synced


def damaged_at(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :]


def test_damage_before_the_last_group_is_never_cut_whatever_pages_of_that_are_lost(log, tmp_path):
    data, start, _ = log
    chance = random.Random(5)
    for slot in range(start // SLOT_SIZE):
        lost = chance.sample(range(6), chance.randrange(6))  # at least one page is there
        bad = damaged_at(without(data, start, tuple(lost), PAGE, bytes(PAGE)), slot * SLOT_SIZE + chance.randrange(64))
        folder = folder_with(tmp_path, bad)
        assert any(is_whole_slot(bad[at : at + SLOT_SIZE]) for at in range(start, len(bad), SLOT_SIZE))
        with pytest.raises(CorruptLog, match=r"shares-00000000\.log: the slot at offset \d+ is damaged") as caught:
            cut_torn_tail(folder / segment_name(0))
        offset = int(re.findall(r"offset (\d+)", str(caught.value))[0])
        # Damage in a long record makes it unreadable from its first slot on.
        assert offset <= slot * SLOT_SIZE
        assert data[offset] != KIND_MORE
        assert all(data[at] == KIND_MORE for at in range(offset + SLOT_SIZE, slot * SLOT_SIZE + 1, SLOT_SIZE))
        assert (folder / segment_name(0)).read_bytes() == bad


def test_a_mark_tells_that_the_last_group_was_synced_so_damage_anywhere_in_a_log_that_rests_is_found(tmp_path):
    write_groups(tmp_path, 3, 10)
    path = tmp_path / segment_name(0)
    data = path.read_bytes()
    assert read_mark(tmp_path) == (path.name, len(data))
    for slot in range(len(data) // SLOT_SIZE):
        path.write_bytes(damaged_at(data, slot * SLOT_SIZE + 30))
        with pytest.raises(CorruptLog, match=r"shares-00000000\.log: the slot at offset \d+ is damaged or missing"):
            open_and_append(tmp_path)
        assert path.read_bytes() == damaged_at(data, slot * SLOT_SIZE + 30)


@pytest.mark.parametrize("cut", [1, SLOT_SIZE, 5 * SLOT_SIZE, 10_000])
def test_a_log_that_has_become_shorter_than_it_was_synced_is_refused(tmp_path, cut):
    write_groups(tmp_path, 3, 10)
    path = tmp_path / segment_name(0)
    data = path.read_bytes()[:-cut]
    path.write_bytes(data)
    with pytest.raises(CorruptLog, match=rf"first {read_mark(tmp_path)[1]} bytes were synced .*; nothing was cut"):
        open_and_append(tmp_path)
    assert path.read_bytes() == data


def test_a_last_segment_that_is_gone_is_noticed_by_the_mark(tmp_path):
    write_groups(tmp_path, *[10] * 5, segment_bytes=20 * SLOT_SIZE)
    *_, last = segment_files(tmp_path)
    last.unlink()
    with pytest.raises(CorruptLog, match=rf"{last.name}: is missing, and its first \d+ bytes were synced"):
        open_and_append(tmp_path)


def test_a_mark_that_lags_behind_or_cannot_be_read_or_is_gone_is_no_hindrance(tmp_path):
    write_groups(tmp_path, 3)
    early = (tmp_path / MARK_FILE).read_bytes()
    for mark in (early, b"", b"\x00" * 50, early[:-3], early.replace(b"shares-00000000", b"shares-00000009"), b"\xff"):
        (tmp_path / MARK_FILE).write_bytes(mark)
        open_and_append(tmp_path)
    (tmp_path / MARK_FILE).unlink()
    assert open_and_append(tmp_path) == 9
    assert sequences(tmp_path) == list(range(10))
    assert read_mark(tmp_path) == (segment_name(0), (tmp_path / segment_name(0)).stat().st_size)


def test_a_mark_that_cannot_be_written_keeps_no_share_from_being_acknowledged(tmp_path, monkeypatch):
    write_groups(tmp_path, 3)
    before = read_mark(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert open_and_append(tmp_path) == 3
    assert read_mark(tmp_path) == before
    assert open_and_append(tmp_path) == 4


def test_a_segment_of_another_version_is_left_as_it_is_and_the_log_goes_on_in_the_next(tmp_path, monkeypatch):
    write_groups(tmp_path, 5)
    before = (tmp_path / segment_name(0)).read_bytes()
    monkeypatch.setattr("pool_oracle.ledger.recovery.FORMAT_VERSION", 99)
    assert open_and_append(tmp_path) == 5
    assert (tmp_path / segment_name(0)).read_bytes() == before
    assert [len(segment_files(tmp_path)), sequences(tmp_path)] == [2, list(range(6))]


def test_verify_finds_what_was_synced_and_is_gone(tmp_path):
    log = write_log(tmp_path, "sscss")
    last = segment_files(log.folder)[-1]
    mark = SyncMark(log.folder)
    mark.set(last.name, last.stat().st_size)
    mark.close()
    assert verify_log(log.folder, RULES).passed
    os.truncate(last, last.stat().st_size - SLOT_SIZE)
    (finding,) = verify_log(log.folder, RULES).findings
    assert (finding.segment, finding.offset) == (last.name, last.stat().st_size)
    assert finding.problem.endswith(f"was synced up to offset {last.stat().st_size + SLOT_SIZE}")
    last.unlink()
    (finding,) = verify_log(log.folder, RULES).findings
    assert f"{last.name} was synced up to offset" in finding.problem


def test_a_reader_takes_what_a_power_cut_left_of_the_last_group_for_a_torn_tail(tmp_path):
    """Before the next start has cut it. Damage in the group before is none."""
    log = write_log(tmp_path / "source", "s" * 10)
    source = segment_files(log.folder)[-1]
    slots = [source.read_bytes()[at : at + SLOT_SIZE] for at in range(0, source.stat().st_size, SLOT_SIZE)]
    first_share = len(slots) - 10
    for i, slot in enumerate(slots):
        if slot[0] != KIND_MORE:
            body = slot[:2] + (i + 1 if i < first_share + 4 else i - first_share - 3).to_bytes(2, "little") + slot[4:60]
            slots[i] = body + zlib.crc32(body).to_bytes(4, "little")
    slots[first_share + 6] = bytes(SLOT_SIZE)
    report = verify_log(folder_with(tmp_path, b"".join(slots)), RULES)
    assert (report.passed, report.shares, report.torn) == (True, 6, 4 * SLOT_SIZE)
    slots[first_share + 2] = bytes(SLOT_SIZE)
    report = verify_log(folder_with(tmp_path, b"".join(slots)), RULES)
    (finding,) = report.findings
    assert f"offset {(first_share + 2) * SLOT_SIZE} is damaged" in finding.problem


# A sync that fails


def test_after_a_sync_that_failed_nothing_is_acknowledged_and_the_group_is_written_again_first(tmp_path, monkeypatch):
    """The kernel takes pages whose sync failed for written: only writing them again brings them to the disk."""
    acknowledged = write_groups(tmp_path, 5)[-1]
    path = tmp_path / segment_name(0)
    calls: list[tuple[str, int]] = []
    fdatasync, fsync, write = os.fdatasync, os.fsync, os.write

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def watched_write(descriptor: int, data: bytes) -> int:
        if name_of(descriptor) == path.name:
            calls.append(("write", os.lseek(descriptor, 0, os.SEEK_CUR)))
        return write(descriptor, data)

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        if name_of(descriptor) == path.name:
            calls.append(("sync", os.fstat(descriptor).st_size))

    async def run() -> None:
        log = opened(tmp_path)
        monkeypatch.setattr(os, "fdatasync", failing)
        waiting = [log.append(share(log.next_sequence), UNIT) for _ in range(7)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, LedgerError) and "Input/output error" in str(result) for result in results)
        with pytest.raises(LedgerError, match="accepts nothing"):
            log.append(share(log.next_sequence), UNIT)
        with pytest.raises(LedgerError, match="could not be written"):
            await log.close()
        assert read_mark(tmp_path) == (path.name, acknowledged)
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        written = path.stat().st_size
        assert written > acknowledged
        monkeypatch.setattr(os, "write", watched_write)
        monkeypatch.setattr(os, "fsync", watched_fsync)
        again = opened(tmp_path)
        assert calls == [("write", acknowledged), ("sync", written)]
        assert again.next_sequence == 12
        await again.append(share(12), UNIT)
        await again.close()

    asyncio.run(run())
    assert sequences(tmp_path) == list(range(13))


def test_a_segment_that_was_left_before_its_sync_is_synced_before_the_next_is_begun(tmp_path, monkeypatch):
    """A process killed between write and sync of a close leaves a segment that only the next start can sync."""
    write_groups(tmp_path, 5)
    path = tmp_path / segment_name(0)
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    async def close_epoch() -> None:
        log = opened(tmp_path)
        await log.close_epoch({"epoch": 1})
        await log.close()

    asyncio.run(close_epoch())
    monkeypatch.setattr(os, "fsync", watched)
    assert open_and_append(tmp_path) == 5
    assert synced[:2] == [path.name, tmp_path.name]
    headers = [record for _, record in replay(tmp_path) if isinstance(record, SegmentHeader)]
    assert [header.segment for header in headers] == [0, 1]


def test_a_log_that_cannot_be_synced_when_it_is_opened_is_refused(tmp_path, monkeypatch):
    write_groups(tmp_path, 5)

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(LedgerError, match=r"cannot be opened: .*Input/output error"):
                ShareLog(tmp_path)
        log = opened(tmp_path)
        assert log.next_sequence == 5
        await log.close()

    asyncio.run(run())

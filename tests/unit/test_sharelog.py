"""The share log on disk: what was acknowledged is there, a torn tail is cut, damage is named."""

from __future__ import annotations

import asyncio
import os
import threading
import zlib
from pathlib import Path

import pytest

from pool_oracle.errors import CorruptLog, LedgerError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.recovery import cut_torn_tail
from pool_oracle.ledger.sharelog import ShareLog, replay, segment_digest, segment_files, segment_name
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_CLOSE,
    KIND_JOB,
    KIND_WORKER,
    SLOT_SIZE,
    LongRecord,
    SegmentHeader,
    ShareRecord,
    encode_long,
    encode_share,
    read_records,
)

UNIT = 1000
JOB = {"job": 1, "version": "20000000"}
WORKER = {"worker": 2, "payee": "0x01" + "11" * 20}
# A segment's header, the job, the worker in two slots, and two shares.
TWO_SHARES = 6 * SLOT_SIZE


def share(sequence: int, job: int = 1, worker: int = 2) -> ShareRecord:
    return ShareRecord(sequence, job, b"\x01" * 4, b"\x02" * 8, 3, sequence, 4, 0x1F00FFFF, worker, 5)


def opened(folder: Path, **settings) -> ShareLog:
    log = ShareLog(folder, **settings)
    log.define_job(1, JOB)
    log.define_worker(2, WORKER)
    return log


async def append(log: ShareLog, count: int) -> None:
    """Append shares and wait until all are on disk."""
    await asyncio.gather(*[log.append(share(log.next_sequence), UNIT) for _ in range(count)])


def write(folder: Path, count: int, **settings) -> None:
    """One run of a pool that accepts `count` shares."""

    async def run() -> None:
        log = opened(folder, **settings)
        await append(log, count)
        await log.close()

    asyncio.run(run())


def sequences(folder: Path) -> list[int]:
    return [record.sequence for _, record in replay(folder) if isinstance(record, ShareRecord)]


def records(path: Path) -> list:
    return [record for _, record in read_records(path.read_bytes(), path.name)]


def kinds(path: Path) -> list:
    return [record.kind if isinstance(record, LongRecord) else type(record) for record in records(path)]


# Append, flush, reopen


def test_a_share_is_on_disk_when_its_future_is_done(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        for sequence in range(3):
            await log.append(share(sequence), UNIT)
            assert sequences(tmp_path) == list(range(sequence + 1))
        await log.close()

    asyncio.run(run())


def test_a_future_waits_for_the_disk_to_say_that_it_holds_the_share(tmp_path, monkeypatch):
    may_sync = threading.Event()
    synced = []
    fdatasync = os.fdatasync

    def watched(descriptor: int) -> None:
        may_sync.wait()
        fdatasync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    async def run() -> None:
        monkeypatch.setattr(os, "fdatasync", watched)
        log = opened(tmp_path)
        done = log.append(share(0), UNIT)
        path = tmp_path / segment_name(0)
        while not path.exists() or path.stat().st_size < 5 * SLOT_SIZE:
            await asyncio.sleep(0.001)
        # It is written; it is not yet safe.
        assert not done.done()
        may_sync.set()
        await done
        assert synced == [path.stat().st_size]
        await log.close()

    asyncio.run(run())


def test_a_segment_defines_each_job_and_worker_before_the_first_share(tmp_path):
    write(tmp_path, 3)
    header, job, worker, *shares = records(tmp_path / segment_name(0))
    assert (header.segment, header.first_sequence, header.t) == (0, 0, 0)
    assert (job, worker) == (LongRecord(KIND_JOB, JOB), LongRecord(KIND_WORKER, WORKER))
    assert shares == [share(0), share(1), share(2)]


def test_flush_waits_for_everything_appended_so_far(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        waiting = [log.append(share(i), UNIT) for i in range(100)]
        await log.flush()
        assert all(future.done() for future in waiting)
        assert sequences(tmp_path) == list(range(100))
        await log.flush()
        await log.close()

    asyncio.run(run())


def test_flush_waits_for_a_batch_that_is_being_written(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        log.append(share(0), UNIT)
        await asyncio.sleep(0)
        await log.flush()
        assert sequences(tmp_path) == [0]
        await log.close()

    asyncio.run(run())


def test_a_log_goes_on_where_it_ended(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 2)

    async def run() -> None:
        log = ShareLog(tmp_path)
        assert log.next_sequence == 5
        await log.close()

    asyncio.run(run())
    assert sequences(tmp_path) == [0, 1, 2, 3, 4]
    assert [path.name for path in segment_files(tmp_path)] == [segment_name(0)]


def test_a_log_that_was_only_opened_has_no_segment(tmp_path):
    write(tmp_path / "log", 0)
    assert segment_files(tmp_path / "log") == []
    assert list(replay(tmp_path / "log")) == []


def test_close_writes_what_was_not_flushed(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        for sequence in range(5):
            log.append(share(sequence), UNIT)
        await log.close()

    asyncio.run(run())
    assert sequences(tmp_path) == [0, 1, 2, 3, 4]


def test_t_runs_on_from_share_to_share(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        assert log.t == 0
        log.t = 500
        await append(log, 3)
        assert log.t == 500 + 3 * UNIT
        await log.close_epoch({"epoch": 1})
        await append(log, 1)
        await log.close()

    asyncio.run(run())
    headers = [record for _, record in replay(tmp_path) if isinstance(record, SegmentHeader)]
    assert [(header.segment, header.first_sequence, header.t) for header in headers] == [(0, 0, 500), (1, 3, 3500)]


@pytest.mark.parametrize("sequence", [1, 7])
def test_a_share_out_of_order_is_refused(tmp_path, sequence):
    async def run() -> None:
        log = opened(tmp_path)
        with pytest.raises(LedgerError, match=f"share {sequence} was appended where share 0 belongs"):
            log.append(share(sequence), UNIT)
        await append(log, 1)
        await log.close()

    asyncio.run(run())
    assert sequences(tmp_path) == [0]


@pytest.mark.parametrize("unknown", [{"job": 9}, {"worker": 9}])
def test_a_share_of_an_undefined_job_or_worker_is_refused_and_leaves_no_trace(tmp_path, unknown):
    async def run() -> None:
        log = opened(tmp_path)
        with pytest.raises(LedgerError, match="9, which is not defined"):
            log.append(share(0, **unknown), UNIT)
        assert (log.next_sequence, log.t) == (0, 0)
        await append(log, 1)
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path / segment_name(0)) == [SegmentHeader, KIND_JOB, KIND_WORKER, ShareRecord]


def test_a_forgotten_job_is_written_no_more(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        await append(log, 1)
        log.forget_job(1)
        log.forget_job(1)
        await log.close_epoch({"epoch": 1})
        with pytest.raises(LedgerError, match="job 1, which is not defined"):
            log.append(share(1), UNIT)
        await log.close()

    asyncio.run(run())


def test_the_record_of_a_found_block_stands_between_the_shares(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        await append(log, 1)
        await log.append_block({"height": 5}, 2)
        await append(log, 1)
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path / segment_name(0))[3:] == [ShareRecord, KIND_BLOCK, ShareRecord]


def test_the_record_of_a_found_block_comes_after_the_worker_who_found_it(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        await log.append_block({"height": 5}, 2)
        await append(log, 1)
        await log.append_block({"height": 6}, 2)
        await log.close()

    asyncio.run(run())
    expected = [SegmentHeader, KIND_WORKER, KIND_BLOCK, KIND_JOB, ShareRecord, KIND_BLOCK]
    assert kinds(tmp_path / segment_name(0)) == expected


def test_a_block_of_an_undefined_worker_is_refused_and_leaves_no_trace(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        with pytest.raises(LedgerError, match="worker 9, which is not defined"):
            log.append_block({"height": 5}, 9)
        await log.close()

    asyncio.run(run())
    assert segment_files(tmp_path) == []


# Segments


def test_a_full_segment_is_followed_by_the_next(tmp_path):
    write(tmp_path, 7, segment_bytes=TWO_SHARES)
    paths = segment_files(tmp_path)
    assert [path.name for path in paths] == [f"shares-0000000{i}.log" for i in range(4)]
    assert [path.stat().st_size for path in paths] == [TWO_SHARES] * 3 + [TWO_SHARES - SLOT_SIZE]
    assert sequences(tmp_path) == list(range(7))
    headers = [record for _, record in replay(tmp_path) if isinstance(record, SegmentHeader)]
    assert [(header.first_sequence, header.t) for header in headers] == [(i, i * UNIT) for i in (0, 2, 4, 6)]


def test_every_segment_can_be_read_alone(tmp_path):
    write(tmp_path, 20, segment_bytes=TWO_SHARES)
    for path in segment_files(tmp_path):
        assert kinds(path)[:4] == [SegmentHeader, KIND_JOB, KIND_WORKER, ShareRecord]


def test_a_segment_that_was_full_when_the_pool_stopped_stays_as_it_is(tmp_path):
    write(tmp_path, 2, segment_bytes=TWO_SHARES)
    before = segment_files(tmp_path)[0].read_bytes()
    write(tmp_path, 2, segment_bytes=TWO_SHARES)
    assert segment_files(tmp_path)[0].read_bytes() == before
    assert len(segment_files(tmp_path)) == 2
    assert sequences(tmp_path) == [0, 1, 2, 3]


def test_a_close_is_the_last_record_of_its_segment(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        await append(log, 2)
        await log.close_epoch({"epoch": 1})
        await append(log, 1)
        await log.close()

    asyncio.run(run())
    first, second = segment_files(tmp_path)
    assert records(first)[-1] == LongRecord(KIND_CLOSE, {"epoch": 1})
    assert kinds(second) == [SegmentHeader, KIND_JOB, KIND_WORKER, ShareRecord]


def test_after_a_close_a_reopened_log_begins_a_new_segment(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        await append(log, 2)
        await log.close_epoch({"epoch": 1})
        await log.close()

    asyncio.run(run())
    sealed = segment_files(tmp_path)[0].read_bytes()
    write(tmp_path, 1)
    assert segment_files(tmp_path)[0].read_bytes() == sealed
    assert sequences(tmp_path) == [0, 1, 2]
    assert len(segment_files(tmp_path)) == 2


def test_a_sealed_segment_is_named_by_its_hash_and_length(tmp_path):
    write(tmp_path, 2)
    path = segment_files(tmp_path)[0]
    assert segment_digest(path) == (sha256(path.read_bytes()), path.stat().st_size)


# Crashes


def test_a_tail_torn_at_any_byte_is_cut_and_nothing_acknowledged_is_lost(tmp_path):
    write(tmp_path / "whole", 3)
    data = segment_files(tmp_path / "whole")[0].read_bytes()
    torn = encode_long(KIND_BLOCK, {"hash": "00" * 32}) + encode_share(share(3))
    for size in range(1, len(torn)):
        folder = tmp_path / f"torn-{size}"
        folder.mkdir()
        (folder / segment_name(0)).write_bytes(data + torn[:size])
        write(folder, 1)
        assert sequences(folder) == [0, 1, 2, 3]


def test_a_log_torn_anywhere_opens_with_the_shares_that_are_whole(tmp_path):
    write(tmp_path / "whole", 4)
    data = segment_files(tmp_path / "whole")[0].read_bytes()
    first_share = len(data) - 4 * SLOT_SIZE
    for size in range(0, len(data) + 1, 7):
        folder = tmp_path / f"torn-{size}"
        folder.mkdir()
        (folder / segment_name(0)).write_bytes(data[:size])
        kept = max(0, (size - first_share) // SLOT_SIZE)
        write(folder, 2)
        assert sequences(folder) == list(range(kept + 2))


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"])
def test_a_tail_of_blocks_that_the_disk_never_filled_is_cut(tmp_path, filler):
    write(tmp_path, 3)
    path = segment_files(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole + filler * 4096)
    assert cut_torn_tail(path) == 4096
    assert path.read_bytes() == whole
    assert cut_torn_tail(path) == 0


def test_a_new_segment_torn_in_its_header_is_begun_again(tmp_path):
    write(tmp_path, 4, segment_bytes=TWO_SHARES)
    assert len(segment_files(tmp_path)) == 2
    (tmp_path / segment_name(2)).write_bytes(b"\x01" * 30)
    write(tmp_path, 2, segment_bytes=TWO_SHARES)
    assert len(segment_files(tmp_path)) == 3
    assert sequences(tmp_path) == list(range(6))


def test_an_empty_last_segment_is_begun_again(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        await append(log, 2)
        await log.close_epoch({"epoch": 1})
        await log.close()

    asyncio.run(run())
    (tmp_path / segment_name(1)).touch()
    write(tmp_path, 1)
    assert sequences(tmp_path) == [0, 1, 2]
    assert len(segment_files(tmp_path)) == 2


@pytest.mark.parametrize("slot", range(6))
def test_damage_inside_the_last_segment_is_named_and_nothing_is_cut(tmp_path, slot):
    write(tmp_path, 5)
    path = segment_files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    assert len(data) == 8 * SLOT_SIZE + SLOT_SIZE
    at = slot * SLOT_SIZE
    data[at + 20] ^= 0x10
    path.write_bytes(data)

    async def run() -> None:
        with pytest.raises(CorruptLog, match=r"shares-00000000\.log: the slot at offset \d+ is damaged") as caught:
            ShareLog(tmp_path)
        # A worker's record takes two slots; damage in its second makes the record unreadable from its first.
        assert f"offset {at} " in str(caught.value) or f"offset {at - SLOT_SIZE} " in str(caught.value)

    asyncio.run(run())
    assert path.read_bytes() == data


def test_damage_in_an_earlier_segment_is_named_by_the_replay(tmp_path):
    write(tmp_path, 7, segment_bytes=TWO_SHARES)
    path = segment_files(tmp_path)[1]
    data = bytearray(path.read_bytes())
    data[2 * SLOT_SIZE + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptLog, match=r"shares-00000001\.log: the slot at offset \d+ "):
        list(replay(tmp_path))


def test_an_earlier_segment_that_was_cut_is_noticed_by_the_numbers_of_the_next(tmp_path):
    write(tmp_path, 7, segment_bytes=TWO_SHARES)
    path = segment_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-SLOT_SIZE])
    with pytest.raises(CorruptLog, match=r"shares-00000001\.log: begins with share 2, where 1 belongs"):
        list(replay(tmp_path))


def test_a_missing_segment_is_named(tmp_path):
    write(tmp_path, 7, segment_bytes=TWO_SHARES)
    segment_files(tmp_path)[1].unlink()
    with pytest.raises(CorruptLog, match=r"shares-00000001\.log is missing"):
        list(replay(tmp_path))

    async def run() -> None:
        with pytest.raises(CorruptLog, match="missing"):
            ShareLog(tmp_path)

    asyncio.run(run())


def test_a_whole_slot_of_a_kind_from_the_future_is_never_cut(tmp_path):
    write(tmp_path, 2)
    path = segment_files(tmp_path)[0]
    body = bytes((99,)) + bytes(59)
    data = path.read_bytes() + body + zlib.crc32(body).to_bytes(4, "little")
    path.write_bytes(data)

    async def run() -> None:
        with pytest.raises(CorruptLog, match="kind 99"):
            ShareLog(tmp_path)

    asyncio.run(run())
    assert path.read_bytes() == data


# The lock, and a disk that fails


def test_only_one_may_hold_the_log(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        with pytest.raises(LedgerError, match="in use by another process"):
            ShareLog(tmp_path)
        await append(log, 1)
        await log.close()
        again = opened(tmp_path)
        await append(again, 1)
        await again.close()

    asyncio.run(run())
    assert sequences(tmp_path) == [0, 1]


def test_a_log_that_cannot_be_opened_lets_go_of_the_lock(tmp_path):
    write(tmp_path, 5)
    path = segment_files(tmp_path)[0]
    good = path.read_bytes()
    path.write_bytes(good[:10] + b"\xff" + good[11:])

    async def run() -> None:
        with pytest.raises(CorruptLog):
            ShareLog(tmp_path)
        path.write_bytes(good)
        log = opened(tmp_path)
        assert log.next_sequence == 5
        await log.close()

    asyncio.run(run())


def test_after_a_failed_write_nothing_is_acknowledged_or_accepted(tmp_path):
    async def run() -> None:
        log = opened(tmp_path)
        # A folder where the segment's file belongs: no write can succeed.
        (tmp_path / segment_name(0)).mkdir()
        with pytest.raises(LedgerError, match="could not be written"):
            await log.append(share(0), UNIT)
        with pytest.raises(LedgerError, match="accepts nothing"):
            log.append(share(1), UNIT)
        with pytest.raises(LedgerError, match="could not be written"):
            await log.flush()
        with pytest.raises(LedgerError, match="could not be written"):
            await log.close()
        (tmp_path / segment_name(0)).rmdir()
        again = opened(tmp_path)
        await append(again, 1)
        await again.close()

    asyncio.run(run())
    assert sequences(tmp_path) == [0]


def test_a_failed_write_fails_every_batch_that_waits(tmp_path):
    async def run() -> None:
        log = opened(tmp_path, segment_bytes=TWO_SHARES)
        (tmp_path / segment_name(1)).mkdir()
        waiting = [log.append(share(i), UNIT) for i in range(12)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, LedgerError) for result in results)
        with pytest.raises(LedgerError):
            await log.close()

    asyncio.run(run())


def test_the_log_keeps_no_file_open_after_close(tmp_path):
    def open_files() -> set[str]:
        names = set()
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                names.add(str(descriptor.readlink()))
            except OSError:
                continue
        return {name for name in names if name.startswith(f"{tmp_path}{os.sep}")}

    async def run() -> None:
        log = opened(tmp_path)
        await append(log, 1)
        assert {Path(name).name for name in open_files()} == {"lock", "synced", segment_name(0)}
        await log.close()
        assert open_files() == set()

    asyncio.run(run())

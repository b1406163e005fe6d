"""The share log: append-only segments of 64-byte slots, written in groups, synced before anything is acknowledged.

Invariant: a future returned by `append` is done only when its slots, and all before them, are on disk (fdatasync).
One thread writes; the event loop only fills its queue. After a failed write or sync nothing more is accepted: what the
disk then holds is unknown until the log is opened again (`recovery`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pool_oracle.errors import CorruptLog, LedgerError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.disk import make_folder, sync_folder
from pool_oracle.ledger.recovery import SyncMark, recover
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_POLICY,
    KIND_TIP,
    KIND_WORKER,
    MAX_PLACE,
    SLOT_SIZE,
    Record,
    SegmentHeader,
    ShareRecord,
    check_slots,
    encode_header,
    encode_long,
    encode_share,
    read_records,
)

SEGMENT_GLOB = "shares-*.log"
DEFAULT_SEGMENT_BYTES = 64 << 20

GROUP_SECONDS = 0.001
"""How long a group of shares may grow before it is written and synced: a sync costs as much as several shares."""


def segment_name(number: int) -> str:
    """The file name of a segment."""
    return f"shares-{number:08d}.log"


def now_micros() -> int:
    """Unix time in microseconds."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class _Batch:
    """Slots for one segment that become durable together: a group."""

    segment: int
    done: asyncio.Future[None]
    records: list[bytes] = field(default_factory=list)
    size: int = 0

    @property
    def place(self) -> int:
        """The next slot's place in the group, from 1."""
        return self.size // SLOT_SIZE + 1

    def add(self, record: bytes) -> None:
        """Add a record's slots."""
        self.records.append(record)
        self.size += len(record)


class ShareLog:
    """The log in a folder, open for appending. One process at a time; a lock file says so."""

    def __init__(self, folder: Path, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> None:
        """Open the log, cutting a torn tail at the last whole record. Needs a running event loop.

        Raises LedgerError when another process holds it, CorruptLog when it is damaged at its end.
        """
        make_folder(folder)
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._lock = _lock_folder(folder)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sharelog")
        self._file = -1
        self._file_segment = -1
        self._failure: BaseException | None = None
        self.policy: dict[str, Any] | None = None
        """What every segment begins with: the policy that its shares are accounted by. See `state_policy`."""
        self._defined_jobs: set[int] = set()  # in the present segment
        self._defined_workers: set[int] = set()
        self._definitions: dict[tuple[int, int], dict[str, Any]] = {}
        self._queue: list[_Batch] = []
        self._wake = asyncio.Event()
        try:
            end = recover(segment_files(folder), folder)
            self._mark = SyncMark(folder)
        except OSError as error:
            os.close(self._lock)
            raise LedgerError(f"the share log in {folder} cannot be opened: {error}") from error
        except BaseException:
            os.close(self._lock)
            raise
        self.next_sequence = end.next_sequence
        self.t = 0
        self._segment = end.segment
        self._size = end.size
        if end.size:
            self._mark.set(segment_name(end.segment), end.size)
        self._writer = asyncio.create_task(self._write_batches(), name="sharelog-writer")

    def _enqueue(self, encode: Callable[..., bytes], *fields: Any) -> asyncio.Future[None]:
        """Queue a record for the present segment, its header first where it is new.

        `encode` makes slots of the fields and a place in a group. Raises what it raises, and LedgerError; nothing is
        queued then.
        """
        if self._failure is not None:
            raise LedgerError(f"the share log failed and accepts nothing: {self._failure}")
        batch = self._queue[-1] if self._queue else None
        if batch is None or batch.segment != self._segment or batch.place > MAX_PLACE:
            batch = _Batch(self._segment, asyncio.get_running_loop().create_future())
        begin = self._begin_segment() if self._size == 0 else b""
        record = encode(*fields, batch.place + len(begin) // SLOT_SIZE)
        if not batch.size:
            self._queue.append(batch)
        batch.add(begin + record)
        self._size += len(begin) + len(record)
        self._wake.set()
        return batch.done

    def _begin_segment(self) -> bytes:
        """What a segment begins with: its header, and the policy."""
        header = SegmentHeader(self._segment, self.next_sequence, self.t, now_micros())
        policy = b"" if self.policy is None else encode_long(KIND_POLICY, self.policy, 2)
        return encode_header(header, 1) + policy

    def _next_segment(self) -> None:
        """Later records go to the next segment, which begins with the first of them."""
        self._segment += 1
        self._size = 0
        self._defined_jobs.clear()
        self._defined_workers.clear()

    def define_job(self, number: int, payload: dict[str, Any]) -> None:
        """Tell what job `number` is; it is written before the first share of each segment that points to it."""
        self._definitions[KIND_JOB, number] = payload

    def define_worker(self, number: int, payload: dict[str, Any]) -> None:
        """Tell who worker `number` is; written like jobs."""
        self._definitions[KIND_WORKER, number] = payload

    def forget_job(self, number: int) -> None:
        """No share of job `number` will come any more."""
        self._definitions.pop((KIND_JOB, number), None)

    def _define(self, kind: int, number: int) -> None:
        """Write a definition that this segment does not have yet. Raises LedgerError where there is none."""
        defined = self._defined_jobs if kind == KIND_JOB else self._defined_workers
        if number in defined:
            return
        payload = self._definitions.get((kind, number))
        if payload is None:
            what = "job" if kind == KIND_JOB else "worker"
            raise LedgerError(f"a record points to {what} {number}, which is not defined")
        self._enqueue(encode_long, kind, payload)
        defined.add(number)

    def append(self, share: ShareRecord, unit: int) -> asyncio.Future[None]:
        """Append a share of `unit` work; the future is done when it is on disk.

        Raises LedgerError after a failure, unless the share's sequence number is `next_sequence`, and unless its job
        and worker are defined.
        """
        if share.sequence != self.next_sequence:
            raise LedgerError(f"share {share.sequence} was appended where share {self.next_sequence} belongs")
        if self._size >= self._segment_bytes:
            self._next_segment()
        if share.job not in self._defined_jobs:
            self._define(KIND_JOB, share.job)
        if share.worker not in self._defined_workers:
            self._define(KIND_WORKER, share.worker)
        done = self._enqueue(encode_share, share)
        self.next_sequence += 1
        self.t += unit
        return done

    @property
    def segment(self) -> int:
        """The number of the segment that the next record goes to."""
        return self._segment

    def append_block(self, payload: dict[str, Any], worker: int) -> asyncio.Future[None]:
        """Append the record of a block that `worker` found; the future is done when it is on disk.

        Raises LedgerError after a failure, and unless the worker is defined.
        """
        self._define(KIND_WORKER, worker)
        return self._enqueue(encode_long, KIND_BLOCK, payload)

    def append_block_state(self, payload: dict[str, Any]) -> asyncio.Future[None]:
        """Append what became of a block; the future is done when it is on disk. Raises LedgerError after a failure."""
        return self._enqueue(encode_long, KIND_BLOCK_STATE, payload)

    def state_policy(self, payload: dict[str, Any]) -> None:
        """Write by which policy shares are accounted from now on. Raises LedgerError after a failure."""
        self.policy = payload
        if self._size:
            self._enqueue(encode_long, KIND_POLICY, payload)

    def append_tip(self, payload: dict[str, Any]) -> asyncio.Future[None]:
        """Append what a block of the best chain paid in fees; the future is done when it is on disk.

        Raises LedgerError after a failure.
        """
        return self._enqueue(encode_long, KIND_TIP, payload)

    def close_epoch(self, payload: dict[str, Any]) -> asyncio.Future[None]:
        """Append an epoch's close, the last record of its segment; the future is done when the segment is on disk."""
        done = self._enqueue(encode_long, KIND_CLOSE, payload)
        self._next_segment()
        return done

    async def _write_batches(self) -> None:
        """Write and sync what has gathered, then tell those who wait for it, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await asyncio.sleep(GROUP_SECONDS)
                batches, self._queue = self._queue, []
                try:
                    await loop.run_in_executor(self._thread, self._write, batches)
                except OSError as error:
                    self._fail(error, batches)
                    return
                for batch in batches:
                    if not batch.done.done():
                        batch.done.set_result(None)

    def _write(self, batches: list[_Batch]) -> None:
        """In the writer's thread: append each batch to its segment and sync it."""
        for batch in batches:
            if batch.segment != self._file_segment:
                if self._file >= 0:
                    os.close(self._file)
                    self._file = -1
                path = self.folder / segment_name(batch.segment)
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                self._file_segment = batch.segment
                sync_folder(self.folder)
            view = memoryview(b"".join(batch.records))
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
            self._mark.set(segment_name(batch.segment), os.lseek(self._file, 0, os.SEEK_CUR))

    def _fail(self, error: OSError, batches: list[_Batch]) -> None:
        self._failure = error
        for batch in [*batches, *self._queue]:
            if not batch.done.done():
                batch.done.set_exception(LedgerError(f"the share log could not be written: {error}"))
                batch.done.exception()  # seen here, so that an unwatched batch does not warn
        self._queue = []

    async def flush(self) -> None:
        """Wait until everything appended so far is on disk. Raises LedgerError if that failed."""
        if self._queue:
            await self._queue[-1].done
        await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)
        if self._failure is not None:
            raise LedgerError(f"the share log could not be written: {self._failure}")

    async def close(self) -> None:
        """Flush, stop the writer, and let go of the folder."""
        try:
            await self.flush()
        finally:
            self._writer.cancel()
            self._thread.shutdown()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._mark.sync()
            self._mark.close()
            os.close(self._lock)


def segment_files(folder: Path) -> list[Path]:
    """The segments of a log, oldest first. Raises CorruptLog when a number is missing."""
    names = sorted(folder.glob(SEGMENT_GLOB))
    for i, path in enumerate(names):
        if path.name != segment_name(i):
            raise CorruptLog(f"{folder}: segment {segment_name(i)} is missing")
    return names


def replay(folder: Path, *, first: int = 0) -> Iterator[tuple[Path, Record]]:
    """Every record of a log in order, from segment `first` on, with the segment it is in.

    Raises CorruptLog naming segment and offset.
    """
    expected = None if first else 0
    for path in segment_files(folder)[first:]:
        for _, record in read_records(path.read_bytes(), path.name):
            if isinstance(record, SegmentHeader) and expected not in (None, record.first_sequence):
                raise CorruptLog(f"{path.name}: begins with share {record.first_sequence}, where {expected} belongs")
            if isinstance(record, ShareRecord):
                expected = record.sequence + 1
            yield path, record


def segment_digest(path: Path) -> tuple[bytes, int]:
    """SHA-256 and length of a sealed segment with whole slots alone. Raises CorruptLog naming one that is damaged."""
    data = path.read_bytes()
    check_slots(data, path.name)
    return sha256(data), len(data)


def _lock_folder(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise LedgerError(f"the share log in {folder} is in use by another process") from None
    return lock

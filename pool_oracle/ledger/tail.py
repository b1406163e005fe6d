"""The shares of a window as a place in the share log: what leaves is read again, one segment after the other.

A window of 100 million shares is 6.4 GB of log and would be 15 GB of memory. Its newest shares stay in memory until
they have been seen in the log's files; all others are only counted, and come from the log when it is their turn to
leave. Reading runs through the log once, as the window does, so it costs in proportion to the shares that left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain
from pathlib import Path
from struct import Struct

from pool_oracle.errors import CorruptLog, InputError, WindowError
from pool_oracle.ledger.segments import Segments, file_size, long_record, read_file, size_of_long, whole_slots
from pool_oracle.payout.payee import parse_payee
from pool_oracle.payout.window import Share, share_unit
from pool_oracle.units import Payee
from pool_oracle.wire import uint32_hex
from pool_oracle.work.records import KIND_JOB, KIND_SHARE, KIND_WORKER, SLOT_SIZE, LongRecord, is_whole_slot
from pool_oracle.work.targets import nbits_to_target

KEEP = 1 << 14
"""How many of the newest shares stay in memory in any case."""

CHUNK = 1 << 20
"""How many bytes are read at once."""

_SLOT = Struct("<B3xI28xII8xQ4x")  # of a share: kind, job, share bits, worker, sequence number (work/records.py)
_LOOK_BACK = 1 << 14


class LogTail:
    """A `Tail` (payout/window.py) that reads the log in `folder`, while it is being written or not.

    `append` is memory alone. The others may read files, and raise CorruptLog naming segment and offset; then nothing
    has changed, and the next call tries again. What is appended stays in memory until `trim`, which a window calls
    whenever it settles: let that be every few seconds.
    """

    def __init__(
        self, folder: Path, emulated_target: int | None = None, *, keep: int = KEEP, chunk: int = CHUNK
    ) -> None:
        """No share yet. `emulated_target` is the policy's; `keep` and `chunk` are for tests."""
        self._segments = Segments(folder)
        self._emulated_target = emulated_target
        self._keep = keep
        self._chunk_size = chunk
        self._recent: deque[Share] = deque()
        self.append = self._recent.append
        self._behind = 0  # shares before the recent ones, which are in the log alone
        self._first = 0  # no share below this number is wanted from the log
        self._reader: Iterator[Share] | None = None

    def take(self) -> Share:
        """See Tail."""
        if not self._behind:
            return self._recent.popleft()
        share = self._read()
        self._behind -= 1
        self._first = share[0] + 1
        return share

    def trim(self) -> None:
        """Forget shares that are in the log's files by now, but for the newest."""
        recent = self._recent
        if len(recent) <= self._keep:
            return
        written = self._last_written()
        if not self._behind:
            self._first = recent[0][0]
        while len(recent) > self._keep and recent[0][0] <= written:
            recent.popleft()
            self._behind += 1

    def resume(self, first: int, count: int, before: int) -> None:
        """See Tail. Reads the segment of share `first` up to there, with every unit, since its header says T."""
        header = self._segments.header(self._segments.holding(first))
        if header is None:
            raise WindowError(f"share {first} is not in the log")
        t = header.t
        self._first = header.first_sequence
        self._behind = count
        while (share := self._read())[0] < first:
            t += share[2]
        if share[0] != first or t != before:
            raise WindowError(
                f"share {share[0]} begins at T = {t} in the log, where share {first} at {before} is wanted"
            )
        self._first = first
        self._reader = chain([share], self._reader or ())

    def _read(self) -> Share:
        """The next share of the log from `_first` on."""
        if self._reader is None:
            self._reader = self._shares()
        try:
            return next(self._reader)
        except BaseException:
            self._reader = None  # a generator that raised is at its end; the next call begins at `_first` again
            raise

    def _shares(self) -> Iterator[Share]:
        """Every share of a unit above 0, from `_first` on, which may rise meanwhile; for ever, or CorruptLog."""
        segment, expected = -1, None
        while True:
            wanted = self._segments.holding(self._first)
            if wanted > segment + 1 or expected is None:
                segment, expected = wanted, None
            else:
                segment += 1
            header = self._segments.header(segment)
            name = self._segments.path(segment).name
            if header is None:
                number = self._first if expected is None else expected
                raise CorruptLog(f"{name}: the log ends before share {number}, which was in it")
            if expected not in (None, header.first_sequence):
                raise CorruptLog(f"{name}: begins with share {header.first_sequence}, where {expected} belongs")
            expected = yield from self._shares_of(segment, header.first_sequence)

    def _shares_of(self, segment: int, expected: int) -> Generator[Share, None, int]:
        """The shares of a segment that begins with share `expected`; returns the number that the next begins with."""
        path = self._segments.path(segment)
        defined = _Definitions(path.name, self._emulated_target)
        payees = defined.payees
        units: dict[int, int] = {}
        at, job_before = 0, -1
        while data := whole_slots(path, at, self._chunk_size):
            for index, (kind, job, bits, worker, sequence) in enumerate(_SLOT.iter_unpack(data)):
                if kind == KIND_SHARE:
                    if sequence != expected:
                        where = f"share {sequence} at offset {at + index * SLOT_SIZE}"
                        raise CorruptLog(f"{path.name}: {where}, where share {expected} belongs")
                    expected += 1
                    if sequence < self._first:
                        continue
                    if job != job_before:
                        job_before, units = job, defined.units_of(job)
                    unit, payee = units.get(bits), payees.get(worker)
                    if unit is None or payee is None:
                        unit, payee = defined.look_up(job, bits, worker, at + index * SLOT_SIZE)
                    if unit:
                        yield sequence, payee, unit
                elif kind in (KIND_JOB, KIND_WORKER):
                    begin = index * SLOT_SIZE
                    size = size_of_long(data[begin : begin + SLOT_SIZE])
                    slots = data[begin : begin + size]
                    slots = slots if len(slots) == size else read_file(path, at + begin, size)
                    defined.add(long_record(path, slots, at + begin), at + begin)
            at += len(data)
        return expected

    def _last_written(self) -> int:
        """The number of the last share that is in a file; -1 where there is none."""
        for segment in range(self._segments.newest, -1, -1):
            path = self._segments.path(segment)
            end = file_size(path) // SLOT_SIZE * SLOT_SIZE
            while end:
                begin = max(0, end - _LOOK_BACK)
                data = read_file(path, begin, end - begin)
                for at in range(len(data) - SLOT_SIZE, -1, -SLOT_SIZE):
                    slot = data[at : at + SLOT_SIZE]
                    if slot[0] == KIND_SHARE and is_whole_slot(slot):
                        sequence: int = _SLOT.unpack(slot)[4]
                        return sequence
                end = begin
        return -1


class _Definitions:
    """The jobs and workers of a segment, and what they make of a share."""

    def __init__(self, name: str, emulated_target: int | None) -> None:
        self.payees: dict[int, Payee] = {}
        self._name = name
        self._emulated_target = emulated_target
        self._targets: dict[int, int] = {}  # job to network target
        self._units: dict[int, dict[int, int]] = {}  # job to share bits to unit

    def add(self, record: LongRecord, at: int) -> None:
        """Take a job or a worker, which is at this offset. Raises CorruptLog."""
        payload = record.payload
        try:
            if record.kind == KIND_WORKER:
                self.payees[int(payload["worker"])] = parse_payee(payload["payee"])
            else:
                target = self._emulated_target or nbits_to_target(uint32_hex(payload["nbits"], "nbits"))
                self._targets[int(payload["job"])] = target
        except (InputError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorruptLog(f"{self._name}: the record at offset {at} is no job or worker: {error!r}") from None

    def units_of(self, job: int) -> dict[int, int]:
        """The units of a job's shares by their share bits, as far as `look_up` has computed them."""
        return self._units.setdefault(job, {})

    def look_up(self, job: int, bits: int, worker: int, at: int) -> tuple[int, Payee]:
        """Unit and payee of a share. Raises CorruptLog."""
        for what, number, known in (("job", job, job in self._targets), ("worker", worker, worker in self.payees)):
            if not known:
                text = f"points to {what} {number}, which its segment does not define"
                raise CorruptLog(f"{self._name}: the share at offset {at} {text}")
        try:
            unit = share_unit(self._targets[job], nbits_to_target(bits))
        except InputError as error:
            raise CorruptLog(f"{self._name}: the share at offset {at}: {error}") from None
        self._units[job][bits] = unit
        return unit, self.payees[worker]

"""Reading a share log by its rules (docs/protocol.md, "Share log").

What a reader yields has been checked: checksums, order, definitions, T, and each close against the window that the
shares before it make. Proof of work is the auditor's matter (`audit`). Offsets are bytes from a segment's beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pool_oracle.errors import CorruptLog, InputError
from pool_oracle.hashes import sha256, sha256d
from pool_oracle.ledger.accounts import Accounts
from pool_oracle.ledger.index.events import (
    Event,
    LoggedBlock,
    LoggedBlockState,
    LoggedClose,
    LoggedJob,
    LoggedWorker,
    ReadShare,
)
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import SEGMENT_GLOB, segment_name
from pool_oracle.ledger.tail import LogTail
from pool_oracle.payout.payee import parse_payee
from pool_oracle.payout.schemes import Scheme
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_POLICY,
    KIND_WORKER,
    SLOT_SIZE,
    LongRecord,
    Record,
    SegmentHeader,
    ShareRecord,
    damage_shown,
    encode_header,
    read_records,
    slots_of_long,
)
from pool_oracle.work.share import StratumJob
from pool_oracle.work.targets import nbits_to_target

OnProblem = Callable[[str, int, str], None]
"""Told of something that is wrong, and can be read past: segment, offset, text."""


def work_of_target(target: int) -> int:
    """The hashes that meeting a target takes on average, 2^256 / (target + 1). Source: Bitcoin Core, GetBlockProof.

    Difficulty 1 of stratum is 4295032833 of them on SHA-256d networks, 65537 on scrypt ones.
    """
    return (1 << 256) // (target + 1)


def _refuse(_segment: str, _offset: int, problem: str) -> None:
    raise CorruptLog(problem)


class LogReader:
    """Reads a log from a segment on, as far as it is written; call `read` again for what was written since.

    While an event is handled, the reader stands right behind it: `place` (segment, offset), `sequence` (the next
    share's number) and `scheme` include it. `jobs` are those that the present segment defines; `workers` are all.
    """

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        *,
        segment: int = 0,
        epoch: int = 0,
        blocks: Iterable[bytes] = (),
        on_problem: OnProblem = _refuse,
    ) -> None:
        """To begin with a later `segment`, tell which `epoch` was closed last and which `blocks` were found before it.

        Its header is then believed, and closes are not compared with the weights until the PPLNS window has filled, or
        `trust` says that it has; under another scheme they are not compared at all, which goes on from the beginning.
        """
        self.folder = folder
        self._accounts = Accounts(rules, tail=self._tail)
        self.segment = segment
        self.offset = 0
        self.place = (0, 0)
        self.sequence = 0
        self.jobs: dict[int, LoggedJob] = {}
        self.workers: dict[int, LoggedWorker] = {}
        self.torn = 0
        self._newest: int | None = None  # as far as was looked
        self._epoch: int | None = epoch
        self._blocks = set(blocks)
        self._has_skipped = False
        self._on_problem = on_problem
        self._read_before = 0  # bytes of the segments before this one
        self._defined: set[int] = set()  # workers, in this segment
        self._values: dict[tuple[int, int], tuple[int, int]] = {}  # (job, share bits) to (unit, work)
        self._fingerprints: dict[int, bytes] = {}  # of all jobs: one number, one job
        self._is_sealed = False
        self._knows_start = segment == 0
        self._anchor: int | None = None if segment else -1

    def _tail(self, rules: Rules) -> LogTail:
        """What leaves a window is read again, behind this reader, so that a long one needs no memory."""
        return LogTail(self.folder, rules.emulated_target)

    @property
    def rules(self) -> Rules:
        """What shares are accounted by now."""
        return self._accounts.rules

    @property
    def scheme(self) -> Scheme:
        """The accounts of the shares that were read."""
        return self._accounts.scheme

    @property
    def consumed(self) -> int:
        """How many bytes were read so far."""
        return self._read_before + self.offset

    @property
    def is_trusted(self) -> bool:
        """Whether the window holds all that it should: it was read from the log's beginning, or has run over since."""
        if self._anchor == -1:
            return True
        return self.rules.is_window and self._anchor is not None and self._anchor != self.scheme.first_sequence

    def trust(self) -> None:
        """The window is known to be right."""
        self._anchor = -1

    def read(self) -> Iterator[Event]:
        """All that is whole and was not read yet. Raises CorruptLog naming segment and offset; then it is of no use."""
        if self._newest is None:
            self._newest = newest_segment(self.folder)
        while True:
            is_last = self.segment >= self._newest and not self._path(self.segment + 1).exists()
            if is_last and not self._path(self.segment).exists():
                return
            yield from self._read_segment(is_last=is_last)
            if is_last:
                return
            self._next_segment()

    def read_to(self, segment: int, offset: int) -> Iterator[Event]:
        """All that was not read yet before a place where a record ends. Raises CorruptLog."""
        while self.segment < segment:
            yield from self._read_segment(is_last=False)
            self._next_segment()
        yield from self._read_segment(is_last=False, end=offset)

    def skip_to(self, segment: int) -> None:
        """Go on with a later segment, also after CorruptLog: its header is believed, what was before is not known."""
        self._next_segment()
        self.segment = segment
        self._knows_start = False
        self._has_skipped = True
        self._epoch = None
        self._anchor = None

    def _path(self, segment: int) -> Path:
        return self.folder / segment_name(segment)

    def _next_segment(self) -> None:
        self._read_before += self.offset
        self.segment += 1
        self.offset = 0
        self.jobs = {}
        self._values = {}
        self._defined = set()
        self._is_sealed = False

    def _read_segment(self, *, is_last: bool, end: int | None = None) -> Iterator[Event]:
        path = self._path(self.segment)
        if not path.exists():
            raise CorruptLog(f"{path.name}: is missing, from offset 0 on")
        for at, behind, record in self._whole_records(path, is_last=is_last, end=end):
            if self._is_sealed:
                self._on_problem(path.name, at, f"{path.name}: a record at offset {at}, behind the close")
            if isinstance(record, ShareRecord):
                event: Event | None = self._take_share(record, at, path.name)
            elif isinstance(record, SegmentHeader):
                event = self._take_header(record, path.name)
            else:
                try:
                    event = self._take_long(record, at, path.name)
                except (InputError, KeyError, ValueError, TypeError, OverflowError) as error:
                    raise CorruptLog(
                        f"{path.name}: the record at offset {at} is not one of kind {record.kind}: {error!r}"
                    ) from None
            self.offset = behind
            self.place = self.segment, behind
            if event is not None:
                yield event

    def _whole_records(self, path: Path, *, is_last: bool, end: int | None) -> Iterator[tuple[int, int, Record]]:
        """(offset, offset behind it, record) of what was not read yet.

        The last segment may end in something that is not whole. Where `end` is given, the segment is read up to there.
        """
        with path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(-1 if end is None else end - self.offset)
        self.torn = 0
        if not data and not self.offset and not is_last:
            raise CorruptLog(f"{path.name}: is empty, from offset 0 on, and not the last segment")
        is_rest = self.offset > 0
        shift = behind = 0
        if is_rest:
            # The rest of a segment is read as a segment of its own.
            data = encode_header(SegmentHeader(self.segment, self.sequence, self.scheme.t, 0)) + data
            shift = self.offset - SLOT_SIZE
        try:
            for at, record in read_records(data, path.name):
                behind = at + _size(data, at, record)
                if at or not is_rest:
                    yield shift + at, shift + behind, record
        except CorruptLog:
            if is_last and damage_shown(data[behind:]) is None:
                self.torn = len(data) - behind
                return
            if is_rest:
                for _ in read_records(path.read_bytes(), path.name):  # it raises, too, and its offsets are the file's
                    pass
            raise

    def _take_header(self, header: SegmentHeader, name: str) -> SegmentHeader:
        if header.segment != self.segment:
            self._on_problem(name, 0, f"{name}: says at offset 0 that it is segment {header.segment}")
        if self._knows_start:
            if header.first_sequence != self.sequence:
                text = f"begins with share {header.first_sequence}, where {self.sequence} belongs (offset 0)"
                self._on_problem(name, 0, f"{name}: {text}")
            elif header.t != self.scheme.t:
                text = f"T is {header.t} at its start (offset 0), and {self.scheme.t} by the shares before"
                self._on_problem(name, 0, f"{name}: {text}")
        if not self._knows_start or (header.first_sequence, header.t) != (self.sequence, self.scheme.t):
            self._accounts = Accounts(self.rules, t=header.t, tail=self._tail)
            self.sequence = header.first_sequence
            self._anchor = None if header.first_sequence else -1
        self._knows_start = True
        self.scheme.settle()  # or all shares of a long log would wait in memory
        return header

    def _take_share(self, share: ShareRecord, at: int, name: str) -> ReadShare:
        values = self._values.get((share.job, share.share_bits)) or self._value(share, at, name)
        if share.worker not in self._defined:
            raise CorruptLog(
                f"{name}: share {share.sequence} at offset {at} points to worker {share.worker}, "
                "which its segment does not define"
            )
        height = self.jobs[share.job].height
        self._accounts.on_share(share.sequence, self.workers[share.worker].payee, values[0], height)
        if self._anchor is None:
            self._anchor = self.scheme.first_sequence
        self.sequence = share.sequence + 1
        return ReadShare(share, *values)

    def _value(self, share: ShareRecord, at: int, name: str) -> tuple[int, int]:
        """(unit, work) of a share."""
        job = self.jobs.get(share.job)
        if job is None:
            raise CorruptLog(
                f"{name}: share {share.sequence} at offset {at} points to job {share.job}, "
                "which its segment does not define"
            )
        try:
            target = nbits_to_target(share.share_bits)
            unit = self.rules.unit(job.stratum.nbits, share.share_bits)
        except InputError as error:
            raise CorruptLog(f"{name}: share {share.sequence} at offset {at}: {error}") from None
        values = unit, work_of_target(target)
        self._values[share.job, share.share_bits] = values
        return values

    def _take_long(self, record: LongRecord, at: int, name: str) -> Event | None:
        payload = record.payload
        if record.kind == KIND_JOB:
            self._define_job(payload, at, name)
            return None
        if record.kind == KIND_WORKER:
            return self._define_worker(payload, at, name)
        if record.kind == KIND_CLOSE:
            return self._close(payload, at, name)
        if record.kind == KIND_BLOCK:
            return self._find_block(payload, at, name)
        if record.kind == KIND_BLOCK_STATE:
            return self._set_state(payload, at, name)
        if record.kind == KIND_POLICY:
            self._accounts.on_policy(Rules.from_payload(payload))
        else:
            self._accounts.on_tip(payload)
        return None

    def _find_block(self, payload: dict[str, Any], at: int, name: str) -> LoggedBlock | None:
        block_hash = bytes.fromhex(payload["block"])[::-1]
        if block_hash in self._blocks:
            self._on_problem(name, at, f"{name}: block {payload['block']} at offset {at} was found before")
            return None
        if int(payload["worker"]) not in self._defined:
            text = f"points to worker {payload['worker']}, which its segment does not define"
            raise CorruptLog(f"{name}: block {payload['block']} at offset {at} {text}")
        self._blocks.add(block_hash)
        self._accounts.on_block(payload)
        return LoggedBlock(
            segment=self.segment,
            hash=block_hash,
            height=int(payload["height"]),
            epoch=int(payload["epoch"]),
            worker=int(payload["worker"]),
            txid=sha256d(bytes.fromhex(payload["coinbase"])),
            time=int(payload["time"]),
            t=self.scheme.t,
        )

    def _set_state(self, payload: dict[str, Any], at: int, name: str) -> LoggedBlockState | None:
        block_hash = bytes.fromhex(payload["block"])[::-1]
        if block_hash not in self._blocks and not self._has_skipped:
            text = f"a state of block {payload['block']} at offset {at}, which was never found"
            self._on_problem(name, at, f"{name}: {text}")
            return None
        self._accounts.on_block_state(payload)
        return LoggedBlockState(
            hash=block_hash,
            state=_storable(payload["state"]),
            depth=int(payload["depth"]),
            detail=_storable(payload["detail"]),
            time=int(payload["time"]),
        )

    def _define_job(self, payload: dict[str, Any], at: int, name: str) -> None:
        number = int(payload["job"])
        fingerprint = sha256(repr(sorted(payload.items())).encode(errors="surrogatepass"))[:8]
        if self._fingerprints.setdefault(number, fingerprint) != fingerprint:
            self._on_problem(name, at, f"{name}: job {number} at offset {at} is not the one that it was before")
        self.jobs[number] = LoggedJob(StratumJob.from_wire(payload), int(payload["height"]))

    def _define_worker(self, payload: dict[str, Any], at: int, name: str) -> LoggedWorker | None:
        worker = LoggedWorker(int(payload["worker"]), parse_payee(payload["payee"]), _storable(payload["name"]))
        self._defined.add(worker.number)
        known = self.workers.setdefault(worker.number, worker)
        if known != worker:
            self._on_problem(name, at, f"{name}: worker {worker.number} at offset {at} is not who it was before")
        return worker if known is worker else None

    def _close(self, payload: dict[str, Any], at: int, name: str) -> LoggedClose:
        """A close, compared with the shares before it."""
        expected: dict[str, int | None] = {"closing share": self.sequence - 1, "T": self.scheme.t}
        if self.is_trusted:
            expected["first share"] = self.scheme.first_sequence
        close = LoggedClose(
            epoch=int(payload["epoch"]),
            first_share=int(payload["firstShare"]),
            closing_share=int(payload["closingShare"]),
            t=int(payload["t"]),
            tip=_storable(payload["tip"]),
            tip_height=int(payload["tipHeight"]),
            time=int(payload["time"]),
            segment=self.segment,
            weights=self._accounts.on_close(),
        )
        found = {"closing share": close.closing_share, "T": close.t, "first share": close.first_share}
        if self._epoch is not None:
            expected["number"], found["number"] = self._epoch + 1, close.epoch
        for what, value in expected.items():
            if found[what] != value:
                text = f"the close of epoch {close.epoch} at offset {at} has {what} {found[what]}; it should be {value}"
                self._on_problem(name, at, f"{name}: {text}")
        self._epoch = close.epoch
        self._is_sealed = True
        return close


def newest_segment(folder: Path) -> int:
    """The number of the last segment that is there, whatever is missing before it; -1 where there is none."""
    numbers = [path.stem.partition("-")[2] for path in folder.glob(SEGMENT_GLOB)]
    return max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _size(data: bytes, at: int, record: Record) -> int:
    """How many bytes a record takes; a long one's head has its payload's length."""
    if not isinstance(record, LongRecord):
        return SLOT_SIZE
    return SLOT_SIZE * slots_of_long(int.from_bytes(data[at + 4 : at + 8], "little"))


def _storable(text: Any) -> str:
    """A text as every database holds it: half surrogate pairs and NUL are replaced."""
    return str(text).encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")

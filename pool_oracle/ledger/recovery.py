"""Where a share log ends, whatever ended its writer; and how far it was synced, as far as the log itself cannot say.

Every group of slots tells that all before it was synced. That the last group was, a mark beside the log tells: it is
written after each sync and not synced itself, so it may lag behind after a power cut, and never claims too much.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from pool_oracle.errors import CorruptLog
from pool_oracle.ledger.disk import sync_folder
from pool_oracle.work.records import (
    FORMAT_VERSION,
    KIND_CLOSE,
    SLOT_SIZE,
    LongRecord,
    SegmentHeader,
    ShareRecord,
    damage_shown,
    place_of,
    read_records,
    whole_length,
)

MARK_FILE = "synced"


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a log goes on: segment, bytes in it (0 where it is to be begun), and the next share's number."""

    segment: int = 0
    size: int = 0
    next_sequence: int = 0


class SyncMark:
    """The mark of a log, open for writing. A line: the segment's file name, how many of its bytes are on disk, CRC."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._file = os.open(folder / MARK_FILE, os.O_RDWR | os.O_CREAT, 0o644)

    def set(self, name: str, size: int) -> None:
        """So much of a segment is on disk. A mark that cannot be written stays behind, which harms nothing."""
        text = f"{name} {size:012d}"
        with contextlib.suppress(OSError):
            os.pwrite(self._file, f"{text} {zlib.crc32(text.encode()):08x}\n".encode(), 0)

    def sync(self) -> None:
        """Bring the mark itself to the disk, where the disk does it."""
        with contextlib.suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def read_mark(folder: Path) -> tuple[str, int] | None:
    """(segment's file name, bytes) that are known to have been synced; None where nothing is known."""
    try:
        text, _, check = (folder / MARK_FILE).read_text(encoding="ascii").rstrip("\n").rpartition(" ")
        name, size = text.split(" ")
        return (name, int(size)) if int(check, 16) == zlib.crc32(text.encode()) else None
    except (OSError, ValueError):
        return None


def recover(paths: list[Path], folder: Path) -> LogEnd:
    """Cut the torn tail of a log with these segments, bring the rest to the disk, and tell where it ends.

    Raises CorruptLog when the end is damaged, or not all that was synced is there.
    """
    mark = read_mark(folder)
    if mark is not None and mark[0] not in [path.name for path in paths]:
        raise CorruptLog(f"{folder / mark[0]}: is missing, and its first {mark[1]} bytes were synced")
    if paths:
        last = paths[-1]
        cut_torn_tail(last, synced=mark[1] if mark is not None and mark[0] == last.name else 0)
        if last.stat().st_size == 0:
            paths = paths[:-1]
            last.unlink()
    if not paths:
        return LogEnd()
    return _settle(paths[-1])


def cut_torn_tail(path: Path, synced: int = 0) -> int:
    """Cut what a crash left half written at the end of the last segment; returns how many bytes went.

    Raises CorruptLog where that is no crash's work: the first `synced` bytes are not whole, or a slot behind shows it.
    """
    data = path.read_bytes()
    whole = whole_length(data)
    if whole < synced:
        raise CorruptLog(
            f"{path.name}: the slot at offset {whole} is damaged or missing, and the first {synced} bytes were synced "
            f"(says the file '{MARK_FILE}'); nothing was cut"
        )
    if whole == len(data):
        return 0
    shown = damage_shown(memoryview(data)[whole:])
    if shown is not None:
        raise CorruptLog(
            f"{path.name}: the slot at offset {whole} is damaged or unknown, and a whole one of kind "
            f"{data[whole + shown]} stands at {whole + shown}; nothing was cut"
        )
    with path.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())
    return len(data) - whole


def _settle(path: Path) -> LogEnd:
    """Bring the last group of the last segment to the disk, and tell where the log goes on. Raises CorruptLog."""
    data = path.read_bytes()
    header: SegmentHeader | None = None
    sequence, last, is_left = 0, 0, False
    for at, record in read_records(data, path.name):
        last = at
        if isinstance(record, SegmentHeader):
            header, sequence = record, record.first_sequence
        elif isinstance(record, ShareRecord):
            sequence = record.sequence + 1
        is_left = isinstance(record, LongRecord) and record.kind == KIND_CLOSE
    if header is None:
        raise CorruptLog(f"{path.name}: has no header")
    # The writer may have been killed before it synced; or its sync failed, and then the kernel takes the pages for
    # written. So the last group is written once more, the same bytes, before anything builds on it.
    place = place_of(data[last : last + SLOT_SIZE])
    start = max(0, last - (place - 1) * SLOT_SIZE) if place else 0
    with path.open("r+b", buffering=0) as file:
        file.seek(start)
        view = memoryview(data)[start:]
        while view:
            view = view[os.write(file.fileno(), view) :]
        os.fsync(file.fileno())
    sync_folder(path.parent)
    if is_left or header.version != FORMAT_VERSION:
        return LogEnd(header.segment + 1, 0, sequence)
    return LogEnd(header.segment, len(data), sequence)

"""The segments of a log as files: which one a share is in, and bytes of them that have been checked.

A log may be written meanwhile: what is not whole yet at its end is taken as not there.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

from pool_oracle.errors import CorruptLog, LedgerError
from pool_oracle.ledger.sharelog import segment_name
from pool_oracle.work.records import (
    KIND_MORE,
    MAX_PAYLOAD,
    SLOT_SIZE,
    LongRecord,
    SegmentHeader,
    encode_header,
    is_whole_slot,
    read_records,
    slots_of_long,
)

_FRONT = encode_header(SegmentHeader(0, 0, 0, 0))
_NEVER = 1 << 64


class Segments:
    """The segments in a folder. Raises CorruptLog for a damaged or missing one, LedgerError where reading fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._newest = -1

    def path(self, segment: int) -> Path:
        """Its file, which may not be there."""
        return self.folder / segment_name(segment)

    @property
    def newest(self) -> int:
        """The last segment before the first that is not there; -1 where there is none."""
        while self.path(self._newest + 1).exists():
            self._newest += 1
        return self._newest

    def header(self, segment: int) -> SegmentHeader | None:
        """Its header; None where nothing of it is on disk."""
        path = self.path(segment)
        data = whole_slots(path, 0, SLOT_SIZE) if path.exists() else b""
        if not data:
            return None
        _, header = next(read_records(data, path.name))
        if not isinstance(header, SegmentHeader) or header.segment != segment:
            raise CorruptLog(f"{path.name}: does not begin with the header of segment {segment}")
        return header

    def holding(self, sequence: int) -> int:
        """The segment that share `sequence` is in, if it is in the log at all."""

        def first_of(segment: int) -> int:
            header = self.header(segment)
            return _NEVER if header is None else header.first_sequence

        return max(0, bisect_right(range(self.newest + 1), sequence, key=first_of) - 1)

    def last_record(self, segment: int) -> LongRecord | None:
        """The long record that it ends with; None where it ends with something else."""
        path = self.path(segment)
        size = file_size(path)
        at = size - SLOT_SIZE
        while at > 0 and size - at <= SLOT_SIZE * slots_of_long(MAX_PAYLOAD):
            slot = whole_slots(path, at, SLOT_SIZE)
            if slot[0] != KIND_MORE:
                return long_record(path, read_file(path, at, size - at), at)
            at -= SLOT_SIZE
        return None


def whole_slots(path: Path, at: int, size: int) -> bytes:
    """Up to `size` bytes of whole slots from `at` on, up to the first one that is damaged; none at the end of the file.

    A slot with the right checksum brings CRC-32 into the same state whatever it holds, so that of many slots depends
    on their number alone. Raises CorruptLog where the first slot is damaged.
    """
    data = read_file(path, at, size)
    data = data[: len(data) // SLOT_SIZE * SLOT_SIZE]
    if zlib.crc32(data) == _crc_of_whole(len(data) // SLOT_SIZE):
        return data
    bad = next(i for i in range(0, len(data), SLOT_SIZE) if not is_whole_slot(data[i : i + SLOT_SIZE]))
    if bad == 0:
        raise CorruptLog(f"{path.name}: the slot at offset {at} is damaged (checksum)")
    return data[:bad]


def long_record(path: Path, slots: bytes, at: int) -> LongRecord:
    """The record of these slots, the segment's from `at` on. Raises CorruptLog where they are none."""
    try:
        _, (_, record) = read_records(_FRONT + slots, path.name)
    except (CorruptLog, ValueError) as error:
        raise CorruptLog(f"{path.name}: the record at offset {at} is damaged") from error
    if not isinstance(record, LongRecord):
        raise CorruptLog(f"{path.name}: the record at offset {at} has no payload, but kind {slots[0]}")
    return record


def size_of_long(head: bytes) -> int:
    """How many bytes the record takes whose first slot this is; no more than the longest one."""
    return SLOT_SIZE * slots_of_long(min(MAX_PAYLOAD, int.from_bytes(head[4:8], "little")))


def read_file(path: Path, at: int, size: int) -> bytes:
    """What a file holds from `at` on. Raises CorruptLog where it is missing, LedgerError where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(at)
            return file.read(size)
    except FileNotFoundError:
        raise CorruptLog(f"{path.name}: is missing") from None
    except OSError as error:
        raise LedgerError(f"{path.name}: cannot be read: {error}") from None


def file_size(path: Path) -> int:
    """How many bytes a file has. Raises CorruptLog where it is missing, LedgerError where it cannot be looked at."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise CorruptLog(f"{path.name}: is missing") from None
    except OSError as error:
        raise LedgerError(f"{path.name}: cannot be read: {error}") from None


@lru_cache(maxsize=8)
def _crc_of_whole(slots: int) -> int:
    """CRC-32 of so many slots whose checksums are right."""
    return zlib.crc32(_FRONT * slots)

"""A look at a share log that others may be writing: its rare records, without its lock and without reading shares.

A slot's first byte is its kind, so that a segment of a million shares is looked through in some milliseconds. What is
not whole yet is not seen; what is damaged is the reader's matter who has the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from pool_oracle.errors import CorruptLog
from pool_oracle.ledger.sharelog import SEGMENT_GLOB
from pool_oracle.work.records import SLOT_SIZE, LongRecord, is_whole_slot, read_records, slots_of_long


def newest_segments(folder: Path, most: int) -> tuple[list[Path], int]:
    """The newest segments, newest first, and how many older ones there are; `most` bytes together, but at least one."""
    paths = sorted(folder.glob(SEGMENT_GLOB), reverse=True)
    size = 0
    for count, path in enumerate(paths):
        size += path.stat().st_size
        if size > most and count:
            return paths[:count], len(paths) - count
    return paths, 0


def glance(segments: Iterable[Path], kinds: tuple[int, ...]) -> Iterator[tuple[Path, LongRecord]]:
    """The records of these kinds with their segments, in the order of the segments, and of the log within each."""
    for path in segments:
        yield from ((path, record) for record in _records(path, kinds))


def _records(path: Path, kinds: tuple[int, ...]) -> Iterator[LongRecord]:
    data = path.read_bytes()
    every_kind = data[::SLOT_SIZE]
    for at in sorted(place for kind in kinds for place in _places(every_kind, kind)):
        start = at * SLOT_SIZE
        slot = data[start : start + SLOT_SIZE]
        if not is_whole_slot(slot):
            continue
        size = SLOT_SIZE * slots_of_long(int.from_bytes(slot[4:8], "little"))
        try:
            # The reader wants the segment's header in front of what it reads.
            record = next(islice(read_records(data[:SLOT_SIZE] + data[start : start + size], path.name), 1, 2))[1]
        except (CorruptLog, StopIteration):
            continue
        if isinstance(record, LongRecord):
            yield record


def _places(every_kind: bytes, kind: int) -> Iterator[int]:
    at = every_kind.find(kind)
    while at >= 0:
        yield at
        at = every_kind.find(kind, at + 1)

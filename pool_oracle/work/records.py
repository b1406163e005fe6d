"""The share log's bytes: slots of 64 bytes, each with its own checksum (protocol.md, "Share log").

A segment is a header slot followed by records. A share is one slot. Longer records (a job, a worker, an epoch's
close, a found block, a block's state, a tip's fees, the policy) are a head slot with the payload's length and its
first bytes, then continuation slots; their payload is JSON. Every segment defines each job and worker before the first
share in it that points there, so a segment can be read alone.

Slots are written and synced in groups. Every slot but a continuation tells its place in its group, counted in slots
from 1, so where its group begins: all of the segment before that was on disk when it was written. That tells damage
from what a power cut leaves of the last group. Version 1 has no places, 0 there.

All integers are little-endian; times are Unix microseconds; the checksum is CRC-32 over the slot's first 60 bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pool_oracle.errors import CorruptLog, LedgerError
from pool_oracle.work.share import StratumJob, pack_header

SLOT_SIZE = 64
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
MAGIC = b"PORCLOG1"

KIND_HEADER, KIND_SHARE, KIND_JOB, KIND_WORKER, KIND_CLOSE, KIND_BLOCK, KIND_MORE, KIND_BLOCK_STATE = range(1, 9)
KIND_TIP, KIND_POLICY = 9, 10
LONG_KINDS = (KIND_JOB, KIND_WORKER, KIND_CLOSE, KIND_BLOCK, KIND_BLOCK_STATE, KIND_TIP, KIND_POLICY)
MAX_PAYLOAD = 1 << 20
MAX_EXTRANONCE = 8
MAX_PLACE = (1 << 16) - 1

_HEADER = struct.Struct("<BxH8sIIQ16sQ8x")
_SHARE = struct.Struct("<BBHI8s8sIIIIIQQ")
_HEAD = struct.Struct("<BxHI52s")
_MORE = struct.Struct("<B59s")
_CRC = struct.Struct("<I")
_BODY_SIZE = SLOT_SIZE - _CRC.size


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """A segment's first slot. `t` is the running sum of units before its first share; `version` that of the format."""

    segment: int
    first_sequence: int
    t: int
    created: int
    version: int = FORMAT_VERSION


class ShareRecord(NamedTuple):
    """An accepted share: what is needed to rebuild its header, and the target it was judged by.

    `share_bits` is that target in compact form: the pool only assigns targets that have one, so nothing is lost.
    """

    sequence: int
    job: int
    extranonce1: bytes
    extranonce2: bytes
    ntime: int
    nonce: int
    version: int
    share_bits: int
    worker: int
    time: int

    def header(self, job: StratumJob) -> bytes:
        """The 80-byte header that this share solved, rebuilt from its job."""
        root = job.merkle_root(self.extranonce1, self.extranonce2)
        return pack_header(self.version, job.prev_hash, root, self.ntime, job.nbits, self.nonce)


@dataclass(frozen=True, slots=True)
class LongRecord:
    """A record of one of `LONG_KINDS`: its kind and its JSON payload."""

    kind: int
    payload: dict[str, Any]


Record = SegmentHeader | ShareRecord | LongRecord


def encode_header(header: SegmentHeader, place: int = 0) -> bytes:
    """The header slot, at a place in its group."""
    return _seal(
        _HEADER.pack(
            KIND_HEADER,
            place,
            MAGIC,
            header.version,
            header.segment,
            header.first_sequence,
            header.t.to_bytes(16, "little"),
            header.created,
        )
    )


def encode_share(share: ShareRecord, place: int = 0) -> bytes:
    """A share's slot, at a place in its group.

    Raises LedgerError for extranonces of more than eight bytes, which have no room in it.
    """
    sequence, job, extranonce1, extranonce2, ntime, nonce, version, share_bits, worker, time = share
    size1, size2 = len(extranonce1), len(extranonce2)
    if size1 > MAX_EXTRANONCE or size2 > MAX_EXTRANONCE:
        raise LedgerError(f"share {sequence} has an extranonce of more than {MAX_EXTRANONCE} bytes")
    sizes = size1 << 4 | size2
    body = _SHARE.pack(
        KIND_SHARE,
        sizes,
        place,
        job,
        extranonce1,
        extranonce2,
        ntime,
        nonce,
        version,
        share_bits,
        worker,
        time,
        sequence,
    )
    return body + _CRC.pack(zlib.crc32(body))


def encode_long(kind: int, payload: dict[str, Any], place: int = 0) -> bytes:
    """The slots of a record with a JSON payload, the first at a place in its group.

    Raises LedgerError above 1 MiB, which no reader would take.
    """
    data = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if len(data) > MAX_PAYLOAD:
        raise LedgerError(f"a record of {len(data)} bytes is longer than a log's reader takes, {MAX_PAYLOAD}")
    slots = [_seal(_HEAD.pack(kind, place, len(data), data[:52]))]
    slots += [_seal(_MORE.pack(KIND_MORE, data[at : at + 59])) for at in range(52, len(data), 59)]
    return b"".join(slots)


def slots_of_long(size: int) -> int:
    """How many slots a payload of `size` bytes takes."""
    return 1 + max(0, -(-(size - 52) // 59))


def is_whole_slot(data: bytes) -> bool:
    """Whether these are 64 bytes whose checksum is right."""
    return len(data) == SLOT_SIZE and zlib.crc32(data[:_BODY_SIZE]) == _CRC.unpack_from(data, _BODY_SIZE)[0]


def check_slots(data: bytes, name: str) -> None:
    """Check every slot's checksum, much faster than reading the records. Raises CorruptLog naming the first bad one."""
    crc32 = zlib.crc32
    view = memoryview(data)
    for at in range(0, len(data), SLOT_SIZE):
        end = at + SLOT_SIZE
        if end > len(data) or crc32(view[at : end - 4]) != _CRC.unpack_from(data, end - 4)[0]:
            raise CorruptLog(f"{name}: the slot at offset {at} is damaged or cut (checksum)")


def read_records(data: bytes | memoryview, name: str) -> Iterator[tuple[int, Record]]:
    """(offset, record) of a whole segment, in order. Raises CorruptLog naming `name` and the offset.

    The first record is the segment's header; shares must be numbered without a gap from what it says.
    """
    view = memoryview(data)
    at = 0
    expected: int | None = None
    while at < len(view):
        record, size = _read_record(view, at, name)
        if isinstance(record, SegmentHeader):
            if at:
                raise CorruptLog(f"{name}: a segment header at offset {at}, where only the first slot may be one")
            expected = record.first_sequence
        elif expected is None:
            raise CorruptLog(f"{name}: does not begin with a segment header")
        elif isinstance(record, ShareRecord):
            if record.sequence != expected:
                raise CorruptLog(f"{name}: share {record.sequence} at offset {at}, where share {expected} belongs")
            expected += 1
        yield at, record
        at += size


def whole_length(data: bytes | memoryview) -> int:
    """How many bytes from the front are whole records: where a torn tail begins."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        try:
            _, size = _read_record(view, at, "tail")
        except CorruptLog:
            break
        at += size
    return at


def damage_shown(tail: bytes | memoryview) -> int | None:
    """Where in a tail, which begins at a record that is not whole, a slot shows that this is no torn tail; else None.

    Torn is what was never synced, so what lies in one group. A whole slot shows more if its group begins behind the
    tail's beginning, or it does not tell; or if it is the first and no long record's head, whose rest may be missing.
    """
    view = memoryview(tail)
    for at in range(0, len(view) - SLOT_SIZE + 1, SLOT_SIZE):
        slot = bytes(view[at : at + SLOT_SIZE])
        if not is_whole_slot(slot) or slot[0] == KIND_MORE:
            continue
        if slot[0] in LONG_KINDS and at == 0:
            continue
        if slot[0] not in (KIND_SHARE, *LONG_KINDS) or at >= place_of(slot) * SLOT_SIZE or at == 0:
            return at
    return None


def place_of(slot: bytes) -> int:
    """The place in its group of a slot that is no continuation; 0 where it does not tell."""
    return int.from_bytes(slot[2:4], "little")


def _read_record(view: memoryview, at: int, name: str) -> tuple[Record, int]:
    slot = bytes(view[at : at + SLOT_SIZE])
    if not is_whole_slot(slot):
        raise CorruptLog(f"{name}: the slot at offset {at} is damaged or cut (checksum)")
    kind = slot[0]
    if kind == KIND_SHARE:
        return _decode_share(slot, at, name), SLOT_SIZE
    if kind in LONG_KINDS:
        return _decode_long(view, at, slot, name)
    if kind == KIND_HEADER:
        return _decode_header(slot, name), SLOT_SIZE
    raise CorruptLog(f"{name}: the slot at offset {at} has kind {kind}, which is none of version {FORMAT_VERSION}")


def _decode_header(slot: bytes, name: str) -> SegmentHeader:
    _, _, magic, version, segment, first, t, created = _HEADER.unpack_from(slot)
    if magic != MAGIC:
        raise CorruptLog(f"{name}: is no share log segment")
    if version not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise CorruptLog(f"{name}: has format version {version}; this reads {known}")
    return SegmentHeader(segment, first, int.from_bytes(t, "little"), created, version)


def _decode_share(slot: bytes, at: int, name: str) -> ShareRecord:
    _, sizes, _, job, en1, en2, ntime, nonce, version, bits, worker, time, sequence = _SHARE.unpack_from(slot)
    if sizes >> 4 > MAX_EXTRANONCE or sizes & 15 > MAX_EXTRANONCE:
        raise CorruptLog(f"{name}: the share at offset {at} claims an extranonce of more than {MAX_EXTRANONCE} bytes")
    return ShareRecord(sequence, job, en1[: sizes >> 4], en2[: sizes & 15], ntime, nonce, version, bits, worker, time)


def _decode_long(view: memoryview, at: int, slot: bytes, name: str) -> tuple[LongRecord, int]:
    kind, _, size, first = _HEAD.unpack_from(slot)
    if size > MAX_PAYLOAD:
        raise CorruptLog(f"{name}: the record at offset {at} announces {size} bytes")
    count = slots_of_long(size)
    pieces = [first]
    for i in range(1, count):
        offset = at + i * SLOT_SIZE
        more = bytes(view[offset : offset + SLOT_SIZE])
        if not is_whole_slot(more) or more[0] != KIND_MORE:
            raise CorruptLog(f"{name}: the slot at offset {offset} is damaged or cut (checksum)")
        pieces.append(_MORE.unpack_from(more)[1])
    try:
        payload = json.loads(b"".join(pieces)[:size])
    except (ValueError, RecursionError) as error:
        raise CorruptLog(f"{name}: the record at offset {at} is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise CorruptLog(f"{name}: the record at offset {at} is not a JSON object")
    return LongRecord(kind, payload), count * SLOT_SIZE


def _seal(body: bytes) -> bytes:
    return body + _CRC.pack(zlib.crc32(body))

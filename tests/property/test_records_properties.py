"""The share log's bytes: what was written is read, and whatever else is there is a corrupt log and no other error."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.errors import CorruptLog
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_CLOSE,
    KIND_JOB,
    KIND_MORE,
    KIND_WORKER,
    SLOT_SIZE,
    LongRecord,
    SegmentHeader,
    ShareRecord,
    damage_shown,
    encode_header,
    encode_long,
    encode_share,
    is_whole_slot,
    read_records,
    whole_length,
)

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
extranonces = st.binary(max_size=8)
shares = st.builds(
    ShareRecord, uint64, uint32, extranonces, extranonces, uint32, uint32, uint32, uint32, uint32, uint64
)
headers = st.builds(SegmentHeader, uint32, st.integers(0, 2**60), st.integers(0, 2**128 - 1), uint64)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=80)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
longs = st.builds(
    LongRecord,
    st.sampled_from([KIND_JOB, KIND_WORKER, KIND_CLOSE, KIND_BLOCK]),
    st.dictionaries(st.text(max_size=10), json_values, max_size=4),
)


def encoded(record, place: int = 0) -> bytes:
    if isinstance(record, ShareRecord):
        return encode_share(record, place)
    return encode_long(record.kind, record.payload, place)


@st.composite
def segments(draw):
    """A segment as its records, the shares numbered without a gap."""
    header = draw(headers)
    records = [header]
    sequence = header.first_sequence
    for record in draw(st.lists(st.one_of(shares, longs), max_size=8)):
        if isinstance(record, ShareRecord):
            records.append(record._replace(sequence=sequence))
            sequence += 1
        else:
            records.append(record)
    return records


def read(data: bytes) -> list:
    return [record for _, record in read_records(data, "segment")]


@given(segments())
@settings(max_examples=200)
def test_a_segment_is_read_as_it_was_written(records):
    data = encode_header(records[0]) + b"".join(map(encoded, records[1:]))
    assert len(data) % SLOT_SIZE == 0
    assert read(data) == records
    assert whole_length(data) == len(data)


@given(segments(), st.binary(max_size=200))
@settings(max_examples=150)
def test_a_torn_tail_hides_nothing_that_was_whole(records, tail):
    data = encode_header(records[0]) + b"".join(map(encoded, records[1:]))
    torn = encoded(records[-1])[:-1] if len(records) > 1 else tail
    for rest in (torn, bytes(len(tail))):
        assert whole_length(data + rest) == len(data)
        assert read((data + rest)[: whole_length(data + rest)]) == records


@given(segments(), st.data())
@settings(max_examples=200)
def test_a_burst_of_wrong_bytes_in_a_segment_is_noticed(records, data):
    good = encode_header(records[0]) + b"".join(map(encoded, records[1:]))
    # A checksum of 32 bits notices every burst of up to 32 bits.
    at = data.draw(st.integers(0, len(good) - 4))
    burst = data.draw(st.binary(min_size=4, max_size=4).filter(any))
    bad = bytearray(good)
    for i, byte in enumerate(burst):
        bad[at + i] ^= byte
    with pytest.raises(CorruptLog, match="segment: "):
        read(bytes(bad))


@given(st.lists(shares | longs, min_size=2, max_size=40), st.data())
@settings(max_examples=100)
def test_lost_slots_of_the_last_group_are_no_damage_and_those_of_one_before_are(records, data):
    """Where a slot of the last group is left that tells its place."""
    begins = data.draw(st.integers(1, len(records) - 1))
    slots: list[bytes] = []
    start = 0
    for i, record in enumerate(records):
        if i == begins:
            start = len(slots)
        piece = encoded(record, len(slots) - start + 1)
        slots += [piece[at : at + SLOT_SIZE] for at in range(0, len(piece), SLOT_SIZE)]
    lost = data.draw(st.sets(st.integers(start, len(slots) - 1)))
    left = [bytes(SLOT_SIZE) if i in lost else slot for i, slot in enumerate(slots)]
    front = encode_header(SegmentHeader(0, 0, 0, 0))

    def shown() -> int | None:
        segment = front + b"".join(left)
        return damage_shown(segment[whole_length(segment) :])

    assert shown() is None
    if any(slot[0] not in (0, KIND_MORE) for slot in left[start:]):
        left[data.draw(st.integers(0, start - 1))] = bytes(SLOT_SIZE)
        assert shown() is not None


def tolerated(data: bytes) -> None:
    """Read bytes in every way; only CorruptLog may come of it."""
    with suppress(CorruptLog):
        read(data)
    whole = whole_length(data)
    assert 0 <= whole <= len(data)
    shown = damage_shown(data[whole:])
    assert shown is None or is_whole_slot(data[whole + shown : whole + shown + SLOT_SIZE])


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_random_bytes_are_only_ever_a_corrupt_log(data):
    tolerated(data)
    tolerated(encode_header(SegmentHeader(0, 0, 0, 0)) + data)


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(min_size=59, max_size=59)), max_size=6), st.booleans())
@settings(max_examples=300)
def test_forged_slots_with_right_checksums_are_only_ever_a_corrupt_log(slots, begins_well):
    data = encode_header(SegmentHeader(0, 0, 0, 0)) if begins_well else b""
    for kind, rest in slots:
        body = bytes((kind,)) + rest
        data += body + zlib.crc32(body).to_bytes(4, "little")
    tolerated(data)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
@settings(max_examples=200)
def test_a_forged_payload_with_right_checksums_is_only_ever_a_corrupt_log(payload):
    bodies = [struct.pack("<B3xI52s", KIND_JOB, len(payload), payload[:52])]
    bodies += [struct.pack("<B59s", KIND_MORE, payload[at : at + 59]) for at in range(52, len(payload), 59)]
    slots = b"".join(body + zlib.crc32(body).to_bytes(4, "little") for body in bodies)
    tolerated(encode_header(SegmentHeader(0, 0, 0, 0)) + slots)

"""The share log's slots: what goes in comes out, and nothing that was damaged is read."""

from __future__ import annotations

import json
import struct
import zlib

import pytest

from pool_oracle.errors import CorruptLog, LedgerError
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_CLOSE,
    KIND_HEADER,
    KIND_JOB,
    KIND_MORE,
    KIND_SHARE,
    KIND_WORKER,
    MAX_PAYLOAD,
    SLOT_SIZE,
    LongRecord,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
    is_whole_slot,
    read_records,
    slots_of_long,
    whole_length,
)
from pool_oracle.work.share import StratumJob, check_header, check_share_from_wire
from pool_oracle.work.targets import nbits_to_target

HEADER = SegmentHeader(segment=3, first_sequence=17, t=(1 << 100) + 5, created=1_700_000_000_123_456)


def share(sequence: int, **changes) -> ShareRecord:
    record = ShareRecord(
        sequence=sequence,
        job=5,
        extranonce1=b"\x01\x02\x03\x04",
        extranonce2=b"\x05" * 8,
        ntime=1_700_000_000,
        nonce=0xDEADBEEF,
        version=0x20002000,
        share_bits=0x1F00FFFF,
        worker=9,
        time=1_700_000_000_123_456,
    )
    return record._replace(**changes)


def some_segment() -> tuple[bytes, list[int]]:
    """A segment with every kind of record, and the offsets of its records with its length at the end."""
    pieces = [
        encode_header(HEADER),
        encode_long(KIND_JOB, {"job": 5, "coinb1": "ab" * 90}),
        encode_long(KIND_WORKER, {"worker": 9}),
        encode_share(share(17)),
        encode_share(share(18, nonce=1)),
        encode_long(KIND_BLOCK, {"height": 1, "hash": "00" * 32}),
        encode_share(share(19, nonce=2)),
        encode_long(KIND_CLOSE, {"epoch": 1}),
    ]
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    return b"".join(pieces), offsets


def sealed(body: bytes) -> bytes:
    assert len(body) == SLOT_SIZE - 4
    return body + struct.pack("<I", zlib.crc32(body))


def records_of(data: bytes) -> list:
    return [record for _, record in read_records(data, "segment")]


def test_every_kind_of_record_comes_out_as_it_went_in():
    data, offsets = some_segment()
    read = list(read_records(data, "segment"))
    assert [at for at, _ in read] == offsets[:-1]
    assert [record for _, record in read] == [
        HEADER,
        LongRecord(KIND_JOB, {"job": 5, "coinb1": "ab" * 90}),
        LongRecord(KIND_WORKER, {"worker": 9}),
        share(17),
        share(18, nonce=1),
        LongRecord(KIND_BLOCK, {"height": 1, "hash": "00" * 32}),
        share(19, nonce=2),
        LongRecord(KIND_CLOSE, {"epoch": 1}),
    ]
    assert records_of(memoryview(data)) == records_of(data)


def test_a_share_takes_64_bytes():
    assert len(encode_share(share(0))) == SLOT_SIZE == 64
    assert len(encode_header(HEADER)) == SLOT_SIZE


def test_a_share_keeps_every_field_at_its_greatest_value():
    greatest = share(
        2**64 - 1,
        job=2**32 - 1,
        extranonce1=b"\xff" * 8,
        extranonce2=b"",
        ntime=2**32 - 1,
        nonce=2**32 - 1,
        version=2**32 - 1,
        share_bits=2**32 - 1,
        worker=2**32 - 1,
        time=2**64 - 1,
    )
    header = HEADER.__class__(2**32 - 1, 2**64 - 1, 2**128 - 1, 2**64 - 1)
    assert records_of(encode_header(header) + encode_share(greatest)) == [header, greatest]


@pytest.mark.parametrize("size", range(9))
def test_extranonces_keep_their_length_and_their_zeros(size):
    record = share(17, extranonce1=bytes(size), extranonce2=bytes(8 - size))
    assert records_of(encode_header(HEADER) + encode_share(record))[1] == record


@pytest.mark.parametrize("field", ["extranonce1", "extranonce2"])
def test_an_extranonce_of_nine_bytes_is_refused_and_not_cut(field):
    with pytest.raises(LedgerError, match="8 bytes"):
        encode_share(share(17, **{field: bytes(9)}))


@pytest.mark.parametrize("size", [0, 1, 40, 41, 42, 43, 98, 99, 100, 101, 102, 160, 161, 5000])
def test_a_payload_takes_as_few_slots_as_it_needs(size):
    payload = {"text": "x" * size}
    data = encode_long(KIND_WORKER, payload)
    assert len(data) == SLOT_SIZE * slots_of_long(len(json.dumps(payload, separators=(",", ":"))))
    assert all(is_whole_slot(data[at : at + SLOT_SIZE]) for at in range(0, len(data), SLOT_SIZE))
    assert records_of(encode_header(HEADER) + data)[1] == LongRecord(KIND_WORKER, payload)


def test_a_payload_keeps_text_of_any_language():
    payload = {"name": "Zürich → 東京 \u2028 \x00"}
    assert records_of(encode_header(HEADER) + encode_long(KIND_WORKER, payload))[1].payload == payload


def test_a_payload_that_no_reader_would_take_is_not_written():
    frame = len(json.dumps({"a": ""}, separators=(",", ":")))
    greatest = {"a": "x" * (MAX_PAYLOAD - frame)}
    assert records_of(encode_header(HEADER) + encode_long(KIND_JOB, greatest))[1].payload == greatest
    with pytest.raises(LedgerError, match=str(MAX_PAYLOAD)):
        encode_long(KIND_JOB, {"a": "x" * (MAX_PAYLOAD - frame + 1)})


@pytest.mark.cases("stratum_share", "shares")
def test_a_share_in_the_log_rebuilds_the_header_that_was_solved(case):
    job = StratumJob.from_wire(case["job"])
    checked = check_share_from_wire(case)
    record = share(
        17,
        extranonce1=bytes.fromhex(case["extranonce1"]),
        extranonce2=bytes.fromhex(case["extranonce2"]),
        ntime=int(case["ntime"], 16),
        nonce=int(case["nonce"], 16),
        version=int.from_bytes(checked.header[:4], "little"),
    )
    read = records_of(encode_header(HEADER) + encode_share(record))[1]
    assert read.header(job) == checked.header
    again = check_header(read.header(job), checked.merkle_root, 1, nbits_to_target(job.nbits))
    assert again.block_hash == checked.block_hash


# Damage


def test_every_flipped_bit_is_noticed():
    data, offsets = some_segment()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptLog, match=f"segment: the slot at offset {bit // 8 // SLOT_SIZE * SLOT_SIZE} "):
            records_of(bytes(damaged))
        whole = whole_length(damaged)
        assert whole == max(offset for offset in offsets if offset <= bit // 8)


def test_a_segment_cut_anywhere_is_whole_up_to_its_last_whole_record():
    data, offsets = some_segment()
    for size in range(len(data) + 1):
        whole = max(offset for offset in offsets if offset <= size)
        assert whole_length(data[:size]) == whole
        if size == whole:
            assert records_of(data[:size]) == records_of(data)[: offsets.index(size)]
        else:
            with pytest.raises(CorruptLog, match="cut"):
                records_of(data[:size])


def test_zeros_and_ones_are_no_slots():
    for filler in (b"\x00", b"\xff"):
        assert not is_whole_slot(filler * SLOT_SIZE)
    data, _ = some_segment()
    assert whole_length(data + bytes(4096)) == len(data)


@pytest.mark.parametrize("size", [0, SLOT_SIZE - 1, SLOT_SIZE + 1])
def test_a_slot_has_64_bytes(size):
    assert not is_whole_slot(bytes(size))


def test_a_log_must_begin_with_a_header():
    with pytest.raises(CorruptLog, match="does not begin with a segment header"):
        records_of(encode_share(share(0)))


def test_a_second_header_is_refused():
    with pytest.raises(CorruptLog, match="offset 64"):
        records_of(encode_header(HEADER) * 2)


@pytest.mark.parametrize("sequence", [16, 18, 2**64 - 1])
def test_a_gap_or_a_repetition_in_the_numbers_of_shares_is_refused(sequence):
    with pytest.raises(CorruptLog, match=f"share {sequence} at offset 64, where share 17 belongs"):
        records_of(encode_header(HEADER) + encode_share(share(sequence)))


@pytest.mark.parametrize("kind", [0, KIND_MORE, 11, 255])
def test_an_unknown_kind_of_record_is_refused_although_its_checksum_is_right(kind):
    with pytest.raises(CorruptLog, match=f"kind {kind}"):
        records_of(encode_header(HEADER) + sealed(bytes((kind,)) + bytes(59)))


def test_another_file_or_version_is_refused():
    body = bytearray(encode_header(HEADER)[:-4])
    body[12] = 3
    with pytest.raises(CorruptLog, match="format version 3; this reads 1 and 2"):
        records_of(sealed(bytes(body)))
    with pytest.raises(CorruptLog, match="no share log segment"):
        records_of(sealed(bytes((KIND_HEADER,)) + bytes(59)))


def forged_payload(data: bytes) -> bytes:
    """The slots of a payload that `encode_long` would never write, with right checksums."""
    slots = [sealed(struct.pack("<B3xI52s", KIND_JOB, len(data), data[:52]))]
    slots += [sealed(struct.pack("<B59s", KIND_MORE, data[at : at + 59])) for at in range(52, len(data), 59)]
    return b"".join(slots)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b'{"a":"\xff"}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_a_forged_payload_that_is_not_what_the_pool_writes_is_refused(payload):
    with pytest.raises(CorruptLog, match="the record at offset 64"):
        records_of(encode_header(HEADER) + forged_payload(payload))


def test_a_payload_that_announces_more_than_1_mib_is_refused_unread():
    slot = sealed(struct.pack("<B3xI52s", KIND_JOB, MAX_PAYLOAD + 1, b"{}"))
    with pytest.raises(CorruptLog, match=f"announces {MAX_PAYLOAD + 1}"):
        records_of(encode_header(HEADER) + slot)


def test_a_payload_that_goes_on_in_a_slot_of_another_kind_is_refused():
    data = encode_long(KIND_JOB, {"a": "x" * 100})
    with pytest.raises(CorruptLog, match="offset 128"):
        records_of(encode_header(HEADER) + data[:SLOT_SIZE] + encode_share(share(17)))


@pytest.mark.parametrize("sizes", [0x90, 0x09, 0xF0, 0xFF])
def test_a_share_whose_extranonces_claim_more_than_eight_bytes_is_refused(sizes):
    body = bytearray(encode_share(share(17))[:-4])
    assert body[0] == KIND_SHARE
    body[1] = sizes
    with pytest.raises(CorruptLog, match="extranonce"):
        records_of(encode_header(HEADER) + sealed(bytes(body)))

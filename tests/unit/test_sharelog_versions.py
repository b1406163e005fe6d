"""Segments of every format version, stored as files: what was written once is read as it was, for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.errors import CorruptLog
from pool_oracle.hashes import sha256
from pool_oracle.ledger.sharelog import ShareLog, replay, segment_files, segment_name
from pool_oracle.work.records import (
    FORMAT_VERSION,
    KIND_HEADER,
    KIND_SHARE,
    SLOT_SIZE,
    LongRecord,
    Record,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
    place_of,
    read_records,
)

VECTORS = Path(__file__).parents[1] / "vectors"


def stored(case: dict[str, Any]) -> bytes:
    return (VECTORS / case["file"]).read_bytes()


def record_of(row: dict[str, Any], version: int) -> Record:
    if row["kind"] == KIND_HEADER:
        return SegmentHeader(row["segment"], row["firstSequence"], int(row["t"]), row["created"], version)
    if row["kind"] != KIND_SHARE:
        return LongRecord(row["kind"], row["payload"])
    return ShareRecord(
        sequence=row["sequence"],
        job=row["job"],
        extranonce1=bytes.fromhex(row["extranonce1"]),
        extranonce2=bytes.fromhex(row["extranonce2"]),
        ntime=row["ntime"],
        nonce=row["nonce"],
        version=row["version"],
        share_bits=row["shareBits"],
        worker=row["worker"],
        time=row["time"],
    )


def encoded(record: Record, place: int) -> bytes:
    if isinstance(record, SegmentHeader):
        return encode_header(record, place)
    if isinstance(record, ShareRecord):
        return encode_share(record, place)
    return encode_long(record.kind, record.payload, place)


@pytest.mark.cases("sharelog", "segments")
def test_every_record_of_a_stored_segment_is_read_as_it_was_written(case):
    data = stored(case)
    assert f"0x{sha256(data).hex()}" == case["sha256"]
    rows = case["records"]
    assert [at for at, _ in read_records(data, case["file"])] == [row["offset"] for row in rows]
    assert [record for _, record in read_records(data, case["file"])] == [
        record_of(row, case["version"]) for row in rows
    ]
    assert [place_of(data[row["offset"] : row["offset"] + SLOT_SIZE]) for row in rows] == [row["place"] for row in rows]


@pytest.mark.cases("sharelog", "segments")
def test_the_encoder_writes_a_stored_segment_again_byte_for_byte(case):
    records = [encoded(record_of(row, case["version"]), row["place"]) for row in case["records"]]
    assert b"".join(records) == stored(case)


def test_the_present_version_has_a_stored_segment(vectors):
    assert max(case["version"] for case in vectors("sharelog")["segments"]) == FORMAT_VERSION


@pytest.mark.cases("sharelog", "segments")
def test_a_log_of_any_version_goes_on(case, tmp_path):
    """Without its close. What the present version does not write stays as it is: the log goes on in a new segment."""
    data = stored(case)[: case["records"][-1]["offset"]]
    path = tmp_path / segment_name(0)
    path.write_bytes(data + bytes(100))
    (job,) = [row["payload"] for row in case["records"] if row["kind"] == 3]
    (worker,) = [row["payload"] for row in case["records"] if row["kind"] == 4]

    async def run() -> None:
        log = ShareLog(tmp_path)
        assert log.next_sequence == 3
        log.define_job(2, job)
        log.define_worker(1, worker)
        await log.append(record_of(case["records"][4], 0)._replace(sequence=3, job=2, worker=1), 1000)
        await log.close()

    asyncio.run(run())
    assert len(segment_files(tmp_path)) == (1 if case["version"] == FORMAT_VERSION else 2)
    assert path.read_bytes().startswith(data)
    shares = [record.sequence for _, record in replay(tmp_path) if isinstance(record, ShareRecord)]
    assert shares == [0, 1, 2, 3]
    headers = [record for _, record in replay(tmp_path) if isinstance(record, SegmentHeader)]
    assert {header.version for header in headers} == {case["version"], FORMAT_VERSION}


def test_version_1_does_not_tell_a_hole_from_damage_so_nothing_is_cut_before_a_whole_slot(vectors, tmp_path):
    (case,) = [case for case in vectors("sharelog")["segments"] if case["version"] == 1]
    data = bytearray(stored(case))
    at = case["records"][3]["offset"]
    data[at : at + SLOT_SIZE] = bytes(SLOT_SIZE)
    (tmp_path / segment_name(0)).write_bytes(data)

    async def run() -> None:
        with pytest.raises(CorruptLog, match=rf"the slot at offset {at} is damaged or unknown, .*nothing was cut"):
            ShareLog(tmp_path)

    asyncio.run(run())
    assert (tmp_path / segment_name(0)).read_bytes() == data

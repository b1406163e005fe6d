"""Packed segments: what is inside names them, and nobody's file makes us hold more than a segment."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from pool_oracle.errors import CorruptLog
from pool_oracle.hashes import sha256
from pool_oracle.ledger.packed import MAX_SEGMENT_SIZE, MAX_WINDOW, pack_segment, unpack, unpack_segment

SEGMENT = b"".join(sha256(bytes((i % 256,)))[:20] + bytes(44) for i in range(5000))


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "shares-00000000.log"
    path.write_bytes(SEGMENT)
    return path


def test_a_segment_is_packed_under_the_hash_of_what_is_inside_and_once(segment, tmp_path):
    place = pack_segment(segment, tmp_path / "store")
    assert place.name == f"{sha256(SEGMENT).hex()}.zst"
    assert place.stat().st_size < len(SEGMENT) // 2
    assert unpack_segment(place) == SEGMENT == zstandard.ZstdDecompressor().decompress(place.read_bytes())
    before = place.stat()
    assert pack_segment(segment, tmp_path / "store") == place
    after = place.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [place.name]


def test_what_a_crash_left_half_packed_is_packed_again(segment, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / f"{sha256(SEGMENT).hex()}.part").write_bytes(b"half")
    assert unpack_segment(pack_segment(segment, store)) == SEGMENT
    assert len(list(store.iterdir())) == 1


@pytest.mark.parametrize("at", [0, 4, 8, 2000, -1, -5])
def test_a_packed_segment_that_was_changed_is_refused(segment, tmp_path, at):
    place = pack_segment(segment, tmp_path)
    data = bytearray(place.read_bytes())
    data[at] ^= 0x20
    place.write_bytes(data)
    with pytest.raises(CorruptLog, match=place.name):
        unpack_segment(place)


def test_a_packed_segment_under_another_name_or_cut_or_with_a_tail_is_refused(segment, tmp_path):
    place = pack_segment(segment, tmp_path)
    other = place.with_name(f"{'00' * 32}.zst")
    other.write_bytes(place.read_bytes())
    with pytest.raises(CorruptLog, match="what is inside has the SHA-256"):
        unpack_segment(other)
    packed = place.read_bytes()
    for data in (b"", packed[: len(packed) // 2], packed + b"tail", packed * 2, b"plain text", SEGMENT):
        place.write_bytes(data)
        with pytest.raises(CorruptLog, match=place.name):
            unpack_segment(place)


def test_packed_in_several_frames_by_another_program_it_is_the_same_segment(tmp_path):
    place = tmp_path / f"{sha256(SEGMENT).hex()}.zst"
    pieces = [SEGMENT[:100], b"", SEGMENT[100:]]
    frames = [zstandard.ZstdCompressor(level=1, write_content_size=i != 2).compress(p) for i, p in enumerate(pieces)]
    skippable = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"
    place.write_bytes(skippable.join(frames))
    assert unpack_segment(place) == SEGMENT


def bomb(size: int, **settings: int) -> bytes:
    """A file that unpacks to so many zeros, and does not say how many."""
    writer = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(**settings)).compressobj()
    chunk = bytes(1 << 20)
    return b"".join([*(writer.compress(chunk) for _ in range(size >> 20)), writer.flush()])


def test_no_more_is_unpacked_than_may_be_there(tmp_path):
    place = tmp_path / "bomb.zst"
    place.write_bytes(bomb(4 << 20))
    assert unpack(place, 4 << 20) == bytes(4 << 20)
    with pytest.raises(CorruptLog, match=r"bomb\.zst: holds more than 4194303 bytes"):
        unpack(place, (4 << 20) - 1)


def test_a_bomb_takes_no_memory(tmp_path):
    place = tmp_path / "bomb.zst"
    place.write_bytes(bomb(2 << 30))
    assert place.stat().st_size < 1 << 20
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from pool_oracle.errors import CorruptLog\nfrom pool_oracle.ledger.packed import unpack\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    unpack(Path(sys.argv[1]), 1 << 20)\nexcept CorruptLog as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )
    problem, kilobytes = done.stdout.splitlines()
    assert problem == "bomb.zst: holds more than 1048576 bytes"
    assert int(kilobytes) < 16 << 10


def test_a_file_that_asks_for_a_great_window_is_refused(tmp_path):
    place = tmp_path / "window.zst"
    place.write_bytes(bomb(64 << 20, window_log=26))
    with pytest.raises(CorruptLog, match="cannot be unpacked"):
        unpack(place)
    place.write_bytes(bomb(64 << 20, window_log=23))
    assert len(unpack(place)) == 64 << 20
    assert MAX_WINDOW == 1 << 23


def test_a_file_that_is_longer_than_its_content_could_be_is_not_read(tmp_path):
    place = tmp_path / "long.zst"
    skippable = b"\x50\x2a\x4d\x18" + (20_000).to_bytes(4, "little") + bytes(20_000)
    place.write_bytes(skippable + zstandard.compress(b"segment"))
    with pytest.raises(CorruptLog, match=r"long\.zst: has \d+ bytes, more than 7 bytes can take packed"):
        unpack(place, 7)
    noise = os.urandom(1 << 20)
    place.write_bytes(zstandard.compress(noise))
    assert place.stat().st_size > len(noise)
    assert unpack(place, len(noise)) == noise
    with place.open("wb") as file:
        file.truncate(MAX_SEGMENT_SIZE * 2)
    with pytest.raises(CorruptLog, match="more than 1073741824 bytes can take"):
        unpack(place)


def test_a_pipe_or_device_is_no_packed_segment(tmp_path):
    os.mkfifo(tmp_path / "pipe.zst")
    (tmp_path / "zero.zst").symlink_to("/dev/zero")
    for name in ("pipe.zst", "zero.zst"):
        with pytest.raises(OSError, match="no regular file"):
            unpack(tmp_path / name)

"""Sealed segments packed with zstd, in files named by the SHA-256 of what is inside: SHA256.zst.

A file appears whole or not at all, and is not written again. Two packings of one segment may differ in their bytes;
what names a segment, here and in manifests, is its content.
"""

from __future__ import annotations

import io
from pathlib import Path

import zstandard

from pool_oracle.errors import CorruptLog
from pool_oracle.hashes import sha256
from pool_oracle.ledger.disk import make_folder, open_regular, sync_folder, write_file

SUFFIX = ".zst"
MAX_SEGMENT_SIZE = 1 << 30
"""Longer than any segment: the log leaves one at 64 MiB."""
MAX_WINDOW = 8 << 20
"""The memory for its window that a packed file may ask for; what RFC 8878 wants of every decoder."""
CHUNK = 1 << 17
_LEVEL = 3
"""Halves a segment. Level 12 takes ten times as long for one per cent more: nonces and checksums do not shrink."""


def pack_segment(segment: Path, folder: Path) -> Path:
    """Pack a sealed segment into a folder; one that is there stays. Raises OSError."""
    data = segment.read_bytes()
    place = packed_place(folder, sha256(data))
    if not place.exists():
        make_folder(folder)
        draft = place.with_suffix(".part")
        write_file(draft, zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(data))
        draft.replace(place)
        sync_folder(folder)
    return place


def packed_place(folder: Path, digest: bytes) -> Path:
    """Where a folder holds the segment with this SHA-256."""
    return folder / f"{digest.hex()}{SUFFIX}"


def unpack(path: Path, length: int = MAX_SEGMENT_SIZE) -> bytes:
    """What is packed in a file of anyone's making: `length` bytes at the most, and not more in memory.

    Raises CorruptLog naming the file when it is no zstd or holds more; OSError.
    """
    data = io.BytesIO()
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        if size > length + (length >> 8) + 4096:
            raise CorruptLog(f"{path.name}: has {size} bytes, more than {length} bytes can take packed")
        file.seek(0)
        try:
            with decompressor.stream_reader(file, read_size=CHUNK, read_across_frames=True, closefd=False) as reader:
                while chunk := reader.read(CHUNK):
                    if data.tell() + len(chunk) > length:
                        raise CorruptLog(f"{path.name}: holds more than {length} bytes")
                    data.write(chunk)
        except zstandard.ZstdError as error:
            text = " ".join(str(error).split())
            raise CorruptLog(f"{path.name}: cannot be unpacked behind byte {data.tell()} of it: {text}") from None
    return data.getvalue()


def unpack_segment(path: Path) -> bytes:
    """The segment in a file named by its hash. Raises CorruptLog unless what is inside has that hash; OSError."""
    data = unpack(path)
    if sha256(data).hex() != path.stem:
        raise CorruptLog(f"{path.name}: what is inside has the SHA-256 {sha256(data).hex()}")
    return data

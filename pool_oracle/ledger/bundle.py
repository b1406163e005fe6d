"""An epoch's bundle on disk: manifest, leaves and share-log segments; all that an auditor needs.

    epoch-000007/manifest.json       canonical JSON, named by its hash in the commitment
                 leaves.json         canonical JSON: [[payee, weight], ...], ascending
                 shares-*.log.zst    every segment with a share of the window, packed
    segments/SHA256.zst              the same files by what is inside, for all bundles that share them

A segment is packed once; bundles have hard links to it, so each is complete by itself when it is served or copied. A
mirror of the whole folder may leave the links out: readers look into `segments`, too. A bundle appears whole or not at
all: it is written beside its place and renamed into it. Nothing is written again.

Readers take a segment packed or plain, trust nothing, and never hold more of it than the manifest says.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pool_oracle.errors import CorruptLog, InputError, ManifestError, PublishError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.disk import make_folder, open_regular, sync_folder, write_file
from pool_oracle.ledger.packed import MAX_SEGMENT_SIZE, SUFFIX, pack_segment, packed_place, unpack, unpack_segment
from pool_oracle.payout.manifest import MAX_MANIFEST_SIZE, Manifest, SegmentRef, canonical_json, parse_canonical
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.units import Payee
from pool_oracle.wire import integer

MANIFEST_FILE = "manifest.json"
LEAVES_FILE = "leaves.json"
SEGMENTS_FOLDER = "segments"
MAX_LEAVES_SIZE = 1 << 30
"""Longer than the leaves of ten million payees."""


def bundle_folder(root: Path, epoch: int) -> Path:
    """Where an epoch's bundle stands."""
    return root / f"epoch-{epoch:06d}"


def bundle_folders(root: Path) -> list[Path]:
    """All bundles, oldest first."""
    return sorted(root.glob("epoch-[0-9]*[0-9]"))


def bundle_file(folder: Path, manifest: Manifest, name: str) -> Path | None:
    """A file of a bundle that may be handed out, if it has one of that name: no other file, wherever it points."""
    segments = {segment.name for segment in manifest.segments}
    if name in (MANIFEST_FILE, LEAVES_FILE) or name in segments or name.removesuffix(SUFFIX) in segments:
        path = folder / name
        return path if Path(name).name == name and path.is_file() else None
    return None


def write_bundle(
    root: Path, epoch: int, manifest: bytes, leaves: Iterable[tuple[Payee, int]], segments: Iterable[Path]
) -> Path:
    """Write a bundle, on the disk when this returns; one that is there already with the same manifest stays as it is.

    Raises ManifestError when another manifest for this epoch is there: two roots for one epoch are never published;
    CorruptLog when a segment, or its packed file, is not what the manifest names; PublishError when the disk is full or
    fails.
    """
    place = bundle_folder(root, epoch)
    try:
        if place.exists():
            if (place / MANIFEST_FILE).read_bytes() != manifest:
                raise ManifestError(f"{place} holds another manifest for epoch {epoch}; it is not overwritten")
            sync_folder(root)  # the one who wrote it may not have come to that
            return place
        draft = root / f".draft-{epoch:06d}"
        shutil.rmtree(draft, ignore_errors=True)
        make_folder(draft)
        refs = {ref.name: ref for ref in Manifest.from_bytes(manifest).segments}
        for segment in segments:
            _publish_segment(root, segment, refs.get(segment.name), draft)
        rows = [[format_payee(payee), str(weight)] for payee, weight in leaves]
        write_file(draft / LEAVES_FILE, canonical_json(rows))
        write_file(draft / MANIFEST_FILE, manifest)
        sync_folder(draft)
        draft.rename(place)
        sync_folder(root)
    except OSError as error:
        raise PublishError(f"the bundle of epoch {epoch} could not be written to {root}: {error}") from error
    return place


def _publish_segment(root: Path, segment: Path, ref: SegmentRef | None, draft: Path) -> None:
    """Pack a segment, where it is not yet, and give it to a draft. Raises ManifestError, CorruptLog, OSError."""
    if ref is None:
        raise ManifestError(f"the manifest does not name the segment {segment.name}")
    store = root / SEGMENTS_FOLDER
    packed = packed_place(store, bytes.fromhex(ref.sha256[2:]))
    if not packed.exists() and pack_segment(segment, store) != packed:
        raise CorruptLog(f"{segment.name}: has changed since it was sealed (SHA-256, from offset 0 on)")
    written = packed.stat()
    _check_packed(packed, written.st_ino, written.st_mtime_ns)
    place = draft / f"{segment.name}{SUFFIX}"
    try:
        os.link(packed, place)
    except OSError:  # no hard links here, or no more to this file
        write_file(place, packed.read_bytes())


@lru_cache(maxsize=1 << 16)
def _check_packed(packed: Path, _inode: int, _mtime: int) -> None:
    """Read a packed segment back, each once: what cannot be fetched is not committed. Raises CorruptLog, OSError."""
    unpack_segment(packed)


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """(manifest, its hash) of a bundle. Raises ManifestError."""
    data = _read(folder / MANIFEST_FILE, MAX_MANIFEST_SIZE)
    return Manifest.from_bytes(data), sha256(data)


def read_leaves(folder: Path) -> list[tuple[Payee, int]]:
    """The leaves of a bundle. Raises ManifestError."""
    path = folder / LEAVES_FILE
    return parse_leaves(_read(path, MAX_LEAVES_SIZE), str(path))


def parse_leaves(data: bytes, where: str) -> list[tuple[Payee, int]]:
    """The leaves of a file's bytes; `where` names it in errors. Raises ManifestError."""
    rows = parse_canonical(data)
    if not isinstance(rows, list):
        raise ManifestError(f"{where} must hold a list")
    leaves = []
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
            raise ManifestError(f"{where}: leaf {i} must be [payee, weight]")
        try:
            leaves.append((parse_payee(row[0]), integer(row[1], "weight")))
        except InputError as error:
            raise ManifestError(f"{where}: leaf {i}: {error}") from None
    return leaves


def read_segment(folder: Path, name: str, digest: str, length: int) -> bytes:
    """A segment of a bundle, plain or packed, checked against the manifest's entry. Raises ManifestError."""
    if Path(name).name != name:
        raise ManifestError(f"the manifest names a segment outside the bundle: {name!r}")
    if not 0 <= length <= MAX_SEGMENT_SIZE:
        raise ManifestError(f"the manifest names a segment of {length} bytes; one has {MAX_SEGMENT_SIZE} at most")
    data = _read_segment(folder / name, digest, length)
    if len(data) != length or f"0x{sha256(data).hex()}" != digest:
        raise ManifestError(f"{folder / name} is not the segment that the manifest names (length or SHA-256)")
    return data


def _read_segment(path: Path, digest: str, length: int) -> bytes:
    """The bytes of a segment, `length` and a few more at the most."""
    packed = path.with_name(f"{path.name}{SUFFIX}")
    try:
        try:
            with open_regular(path) as file:
                return file.read(length + 1)
        except FileNotFoundError:
            shared = packed_place(path.parent.parent / SEGMENTS_FOLDER, bytes.fromhex(digest.removeprefix("0x")))
            return unpack(packed if packed.exists() else shared, length)
    except CorruptLog as error:
        raise ManifestError(f"{path.parent.name}/{error}") from None
    except FileNotFoundError:
        raise ManifestError(f"{path} cannot be read: it is not there, nor is {packed.name}") from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name, a SHA-256 that is none
        raise ManifestError(f"{str(path)!r} cannot be read: {error}") from None


def _read(path: Path, limit: int) -> bytes:
    """A file of up to `limit` bytes. Raises ManifestError."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise ManifestError(f"{path} has more than {limit} bytes")
    return data

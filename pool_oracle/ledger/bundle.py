"""An epoch's bundle on disk: manifest, leaves and share-log segments; all that an auditor needs.

    epoch-000007/manifest.json    canonical JSON, named by its hash in the commitment
                 leaves.json      canonical JSON: [[payee, weight], ...], ascending
                 shares-*.log     every segment with a share of the window

A bundle appears whole or not at all: it is written beside its place and renamed into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pool_oracle.errors import InputError, ManifestError
from pool_oracle.hashes import sha256
from pool_oracle.payout.manifest import Manifest, canonical_json, parse_canonical
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.units import Payee
from pool_oracle.wire import integer

MANIFEST_FILE = "manifest.json"
LEAVES_FILE = "leaves.json"


def bundle_folder(root: Path, epoch: int) -> Path:
    """Where an epoch's bundle stands."""
    return root / f"epoch-{epoch:06d}"


def bundle_folders(root: Path) -> list[Path]:
    """All bundles, oldest first."""
    return sorted(root.glob("epoch-[0-9]*[0-9]"))


def write_bundle(
    root: Path, epoch: int, manifest: bytes, leaves: Iterable[tuple[Payee, int]], segments: Iterable[Path]
) -> Path:
    """Write a bundle; one that is there already with the same manifest stays as it is.

    Raises ManifestError when another manifest for this epoch is there: two roots for one epoch are never published.
    """
    place = bundle_folder(root, epoch)
    if place.exists():
        if (place / MANIFEST_FILE).read_bytes() != manifest:
            raise ManifestError(f"{place} holds another manifest for epoch {epoch}; it is not overwritten")
        return place
    draft = root / f".draft-{epoch:06d}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for segment in segments:
        try:
            os.link(segment, draft / segment.name)
        except OSError:
            shutil.copyfile(segment, draft / segment.name)
    rows = [[format_payee(payee), str(weight)] for payee, weight in leaves]
    _write_durably(draft / LEAVES_FILE, canonical_json(rows))
    _write_durably(draft / MANIFEST_FILE, manifest)
    draft.rename(place)
    _sync(root)
    return place


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """(manifest, its hash) of a bundle. Raises ManifestError."""
    data = _read(folder / MANIFEST_FILE)
    return Manifest.from_bytes(data), sha256(data)


def read_leaves(folder: Path) -> list[tuple[Payee, int]]:
    """The leaves of a bundle. Raises ManifestError."""
    rows = parse_canonical(_read(folder / LEAVES_FILE))
    if not isinstance(rows, list):
        raise ManifestError(f"{folder / LEAVES_FILE} must hold a list")
    leaves = []
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
            raise ManifestError(f"{folder / LEAVES_FILE}: leaf {i} must be [payee, weight]")
        try:
            leaves.append((parse_payee(row[0]), integer(row[1], "weight")))
        except InputError as error:
            raise ManifestError(f"{folder / LEAVES_FILE}: leaf {i}: {error}") from None
    return leaves


def read_segment(folder: Path, name: str, digest: str, length: int) -> bytes:
    """A segment of a bundle, checked against the manifest's entry. Raises ManifestError."""
    if Path(name).name != name:
        raise ManifestError(f"the manifest names a segment outside the bundle: {name!r}")
    data = _read(folder / name)
    if len(data) != length or f"0x{sha256(data).hex()}" != digest:
        raise ManifestError(f"{folder / name} is not the segment that the manifest names (length or SHA-256)")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise ManifestError(f"{str(path)!r} cannot be read: {error}") from None


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

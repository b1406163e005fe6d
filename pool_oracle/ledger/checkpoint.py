"""Checkpoints: what follows from the log up to an epoch's close, so that a restart need not read it all again.

A checkpoint is a file beside the segments, written after a close. It is not believed: it names the close and each
sealed segment that its accounts rest on with its SHA-256, and is used only while the log says the same. The last two
are kept. Whatever happens to them, the log alone gives the same accounts.

The file: the hex SHA-256 of the rest, a line feed, canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog

from pool_oracle.errors import CorruptLog, InputError, LedgerError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.disk import sync_folder, write_file
from pool_oracle.ledger.segments import Segments
from pool_oracle.payout.manifest import canonical_json
from pool_oracle.work.records import KIND_CLOSE

VERSION = 1
KEPT = 2
"""How many checkpoints stay."""

_GLOB = "checkpoint-*"
_NAME = re.compile(r"checkpoint-(\d{8,})")
_DRAFT = "checkpoint.part"

log = structlog.get_logger("ledger")
Restored = TypeVar("Restored")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The accounts right after the close of `epoch`, before anything behind its record.

    `first_share`, `closing_share` and `t` are those of the close's record; `segment` is the one that the close sealed,
    so the log goes on in the next. `state` is the scheme's; `registers` are any JSON value of the pool's own.
    """

    epoch: int
    first_share: int
    closing_share: int
    t: int
    segment: int
    state: dict[str, Any]
    registers: Any


class _Digest(NamedTuple):
    """A sealed segment: its number, length in bytes, hex SHA-256."""

    segment: int
    length: int
    sha256: str


class Checkpoints:
    """The checkpoints of the log in a folder. One process at a time writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments = Segments(folder)
        self._digests: dict[int, _Digest] = {}  # of the last checkpoint's segments, as written or verified

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write one, sync it, and remove all but the last. Returns its file.

        The log must be on disk up to the close; the segments that came since the last checkpoint are hashed, so call
        this in a thread. Raises LedgerError, and ManifestError for registers that canonical JSON does not take.
        """
        name = f"checkpoint-{checkpoint.epoch:08d}"
        self._check_border(name, checkpoint)
        begin = self._segments.holding(checkpoint.first_share)
        numbers = range(begin, checkpoint.segment + 1)
        for number in numbers:
            if number not in self._digests:
                self._digests[number] = self._digest(number)
        self._digests = {number: self._digests[number] for number in numbers}
        data = canonical_json(
            {
                "version": VERSION,
                "epoch": checkpoint.epoch,
                "firstShare": checkpoint.first_share,
                "closingShare": checkpoint.closing_share,
                "t": str(checkpoint.t),
                "segments": [list(digest) for digest in self._digests.values()],
                "state": checkpoint.state,
                "registers": checkpoint.registers,
            }
        )
        path = self.folder / name
        draft = self.folder / _DRAFT
        try:
            write_file(draft, sha256(data).hex().encode() + b"\n" + data)
            draft.replace(path)
            sync_folder(self.folder)
            known = self.files()
            place = known.index(path)
            for other in known[: max(0, place + 1 - KEPT)] + known[place + 1 :]:  # later ones are of another log
                other.unlink()
        except OSError as error:
            raise LedgerError(f"{path.name}: cannot be written: {error}") from None
        return path

    def files(self) -> list[Path]:
        """The checkpoints that are there, the oldest first."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob(_GLOB))
        return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]

    def newest(self, restore: Callable[[Checkpoint], Restored]) -> Restored | None:
        """What `restore` makes of the newest checkpoint that fits the log; None where there is none.

        Where `restore` raises LedgerError or InputError, an older one is tried. Why one is not used is logged.
        """
        for path in reversed(self.files()):
            try:
                return restore(self.read(path))
            except (LedgerError, InputError) as error:
                log.warning("checkpoint not used", checkpoint=path.name, problem=str(error))
        return None

    def read(self, path: Path) -> Checkpoint:
        """The checkpoint in a file, verified against the log. Raises LedgerError naming what does not fit."""
        checkpoint, digests = _parse(path)
        begin = self._segments.holding(checkpoint.first_share)
        if [number for number, _, _ in digests] != list(range(begin, checkpoint.segment + 1)):
            raise LedgerError(
                f"{path.name}: names other segments than {begin} to {checkpoint.segment}, "
                f"where the log has shares {checkpoint.first_share} to {checkpoint.closing_share}"
            )
        self._check_border(path.name, checkpoint)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
            for said, found in zip(
                digests, threads.map(self._digest, range(begin, checkpoint.segment + 1)), strict=True
            ):
                if said != found:
                    segment = self._segments.path(found.segment).name
                    raise LedgerError(f"{path.name}: {segment} is not what it was: {found}, where {said} was written")
        self._digests = {digest.segment: digest for digest in digests}
        return checkpoint

    def _check_border(self, name: str, checkpoint: Checkpoint) -> None:
        """Raises LedgerError unless the log has this close, and goes on behind it."""
        record = self._segments.last_record(checkpoint.segment)
        said = {
            "epoch": checkpoint.epoch,
            "firstShare": checkpoint.first_share,
            "closingShare": checkpoint.closing_share,
            "t": str(checkpoint.t),
        }
        found = {} if record is None or record.kind != KIND_CLOSE else {key: record.payload.get(key) for key in said}
        if found != said:
            segment = self._segments.path(checkpoint.segment).name
            raise LedgerError(f"{name}: {segment} ends with the close {found}, where {said} was written")
        header = self._segments.header(checkpoint.segment + 1)
        if header is not None and (header.first_sequence, header.t) != (checkpoint.closing_share + 1, checkpoint.t):
            segment = self._segments.path(header.segment).name
            raise LedgerError(
                f"{name}: {segment} begins with share {header.first_sequence} at T = {header.t}, behind the close of "
                f"share {checkpoint.closing_share} at {checkpoint.t}"
            )

    def _digest(self, segment: int) -> _Digest:
        """What a segment is now."""
        path = self._segments.path(segment)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return _Digest(segment, file.tell(), digest)
        except FileNotFoundError:
            raise CorruptLog(f"{path.name}: is missing") from None
        except OSError as error:
            raise LedgerError(f"{path.name}: cannot be read: {error}") from None


def _parse(path: Path) -> tuple[Checkpoint, list[_Digest]]:
    """What a file says. Raises LedgerError."""
    try:
        check, _, data = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise LedgerError(f"{path.name}: cannot be read: {error}") from None
    if check != sha256(data).hex().encode():
        raise LedgerError(f"{path.name}: is damaged or cut: it does not have the SHA-256 that it says")
    try:
        value = json.loads(data)
        if value["version"] != VERSION:
            raise LedgerError(f"{path.name}: has version {value['version']}; this reads {VERSION}")
        digests = [_Digest(int(segment), int(length), str(digest)) for segment, length, digest in value["segments"]]
        checkpoint = Checkpoint(
            epoch=int(value["epoch"]),
            first_share=int(value["firstShare"]),
            closing_share=int(value["closingShare"]),
            t=int(value["t"]),
            segment=digests[-1].segment,
            state=dict(value["state"]),
            registers=value["registers"],
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise LedgerError(f"{path.name}: is no checkpoint: {error!r}") from None
    return checkpoint, digests

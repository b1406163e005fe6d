"""The durable journal of an account's transactions: an append-only file of JSON lines, and the lock that guards it.

A line is on the disk when `append` returns. It is `{"n": number, "crc": CRC-32, "entry": {...}}`; numbers ascend by one
from 0, and the CRC-32 (ISO-HDLC, 8 hex digits) covers the number in decimal, a colon, and the entry's bytes. A line
that a crash has cut off is removed at opening: whatever it said was not done yet. Any other damage is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

import msgspec
import structlog

from pool_oracle.errors import OutboxError

VERSION = 1
JOURNAL_NAME = "outbox.jsonl"
LOCK_NAME = "outbox.lock"

log = structlog.get_logger("outbox")


class Opened(msgspec.Struct, frozen=True, tag="opened", tag_field="kind"):
    """The first entry: whose transactions these are."""

    version: int
    chain: int
    address: str


class Begun(msgspec.Struct, frozen=True, tag="intent", tag_field="kind"):
    """What is to be sent, once. `asks`: whether it is done already can be asked, and has to be before each send.

    `value` is in wei, as text, since JSON's numbers end at 2^53; `to` is empty for a deployment.
    """

    key: str
    what: str
    to: str
    data: str
    value: str
    asks: bool


class Attempt(msgspec.Struct, frozen=True, tag="attempt", tag_field="kind"):
    """A transaction that was signed, written before it is sent. `time` (Unix) is for people.

    `max_fee` and `tip` are wei per gas; without `tip`, `max_fee` is a gas price.
    """

    key: str
    nonce: int
    hash: str
    raw: str
    gas: int
    max_fee: int
    tip: int | None
    time: int


class Mined(msgspec.Struct, frozen=True, tag="mined", tag_field="kind"):
    """An attempt is in a block; `succeeded` is its receipt's status."""

    key: str
    hash: str
    block: int
    block_hash: str
    succeeded: bool


class Dropped(msgspec.Struct, frozen=True, tag="dropped", tag_field="kind"):
    """A reorganisation took an attempt out of the chain."""

    key: str
    hash: str


class Void(msgspec.Struct, frozen=True, tag="void", tag_field="kind"):
    """Another transaction used this nonce: the attempts with it will never be mined."""

    key: str
    nonce: int


class Final(msgspec.Struct, frozen=True, tag="final", tag_field="kind"):
    """Nothing more happens: `mined` deep enough, done `elsewhere` by somebody else, or `withdrawn` by the caller."""

    key: str
    outcome: str


Entry = Opened | Begun | Attempt | Mined | Dropped | Void | Final


class _Line(msgspec.Struct):
    n: int
    crc: str
    entry: msgspec.Raw


class Holder(msgspec.Struct, frozen=True):
    """Who has an outbox open. `since` is UTC, ISO 8601."""

    host: str
    pid: int
    since: str


class Journal:
    """An account's journal, open in this process alone."""

    def __init__(self, folder: Path) -> None:
        """Lock and read the journal in `folder`, which is made where it is missing. Raises OutboxError."""
        self.path = folder / JOURNAL_NAME
        with _named(folder, "cannot be opened"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(folder / LOCK_NAME)
        try:
            with _named(self.path, "cannot be read"):
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self.entries: Sequence[Entry] = self._read()
            except BaseException:
                os.close(self._file)
                raise
        except BaseException:
            os.close(self._lock)
            raise
        self._is_broken = False

    def _read(self) -> list[Entry]:
        with _named(self.path, "cannot be read"):
            data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines(keepends=True)
        # A crash may leave a hole of zeros before the end of the last line, where its blocks were never written.
        if lines and b"\0" in lines[-1]:
            whole -= len(lines.pop())
        entries = [self._parse(n, line) for n, line in enumerate(lines)]
        self._length, self._next = whole, len(lines)
        with _named(self.path, "cannot be written"):
            if whole < len(data):
                log.warning("journal's torn tail is cut", file=str(self.path), bytes=len(data) - whole)
                os.ftruncate(self._file, whole)
            os.fsync(self._file)
            _sync_folder(self.path.parent)
        return entries

    def _parse(self, n: int, line: bytes) -> Entry:
        try:
            found = msgspec.json.decode(line, type=_Line)
            if (found.n, found.crc) == (n, _checksum(n, bytes(found.entry))):
                entry: Entry = msgspec.json.decode(found.entry, type=Entry)
                return entry
        except msgspec.MsgspecError:
            pass
        raise OutboxError(
            f"{self.path} is damaged at line {n + 1}; look in a block explorer at what the account has sent, "
            "then move the file away"
        )

    def append(self, entry: Entry) -> None:
        """Write an entry; it is on the disk when this returns. Raises OutboxError, and then nothing was written."""
        if self._is_broken:
            raise OutboxError(f"{self.path} cannot be written any more; start the program again")
        body = msgspec.json.encode(entry)
        line = b'{"n":%d,"crc":"%s","entry":%s}\n' % (self._next, _checksum(self._next, body).encode(), body)
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError("the disk is full")  # noqa: TRY301 - a short write says so in its own way
            os.fsync(self._file)
        except OSError as error:
            self._undo()
            raise OutboxError(f"{self.path} cannot be written: {error.strerror or error}") from None
        self._length += len(line)
        self._next += 1

    def _undo(self) -> None:
        """Take back half a line. Where even that fails, no further line may follow it."""
        try:
            os.ftruncate(self._file, self._length)
            os.fsync(self._file)
        except OSError:
            self._is_broken = True

    def close(self) -> None:
        """Let go of the file and the lock. Calling it again does nothing."""
        if self._lock >= 0:
            os.close(self._file)
            os.close(self._lock)
            self._lock = -1
            self._is_broken = True


def _checksum(n: int, entry: bytes) -> str:
    return f"{crc32(b'%d:' % n + entry):08x}"


def _take_lock(path: Path) -> int:
    """Lock the file and write our name into it. Raises OutboxError naming who has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutboxError(f"the outbox in {path.parent} is in use by {_holder_of(path)}; stop it first") from None
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        os.ftruncate(lock, 0)
        os.pwrite(lock, msgspec.json.encode(Holder(socket.gethostname(), os.getpid(), since)), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _holder_of(path: Path) -> str:
    try:
        holder = msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return "another process"
    return f"process {holder.pid} on host {holder.host} since {holder.since}"


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: Path, problem: str) -> Iterator[None]:
    """Turns an OSError into an OutboxError that names the path."""
    try:
        yield
    except OSError as error:
        raise OutboxError(f"{path} {problem}: {error.strerror or error}") from None

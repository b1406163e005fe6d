"""Bundles beyond the pool's own disk: sent to servers, and fetched back from them, before an epoch is committed.

A publisher keeps every bundle somewhere else. Those that are not optional must have given a bundle back, byte for byte,
before its epoch may be committed; one that fails delays the commit, and is tried again. Nothing is lost meanwhile: the
bundle stands in its folder, and the API serves it from there. An optional one works by itself, behind the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import structlog

from pool_oracle.epoch.remote import Body, Credentials, Patience, Remote, bytes_body, file_body
from pool_oracle.errors import ManifestError, PublishError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import LEAVES_FILE, MANIFEST_FILE, SEGMENTS_FOLDER, bundle_file, read_manifest
from pool_oracle.ledger.packed import SUFFIX
from pool_oracle.payout.manifest import cid

PUBLISHERS = ("kubo", "put")
AT_ONCE = 4
"""Files that are sent to or fetched from one server at the same time."""
_STATED_SECONDS = 30
"""How often a long transfer tells how far it is."""

_THERE, _ABSENT = frozenset({200}), frozenset({403, 404, 410})
_STORED = frozenset({200, 201, 202, 204})
_NO_HEAD = frozenset({405, 501})
_NO_FOLDER, _IS_FOLDER = 409, 405
_PROBE = "check.txt"

log = structlog.get_logger("publish")


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of a bundle. `place` is where a mirror of all bundles has it, once where several bundles share it."""

    name: str
    path: Path
    size: int
    sha256: bytes
    place: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it goes out: segments, leaves, and the manifest last, so that what has a manifest is complete."""

    name: str
    manifest_hash: bytes
    files: tuple[BundleFile, ...]


class Publisher(Protocol):
    """Somewhere that bundles are published. `name` is what logs and errors call it; it shows no secret."""

    name: str

    async def publish(self, bundle: Bundle) -> str:
        """Bring what is not there yet; returns what finds the bundle there. Raises PublishError."""

    async def fetch_back(self, bundle: Bundle) -> None:
        """Check that every file can be had from there, byte for byte. Raises PublishError."""

    async def probe(self) -> str:
        """Try it without a bundle; returns what was found. Raises PublishError."""

    async def close(self) -> None:
        """Close the connections."""


def open_bundle(folder: Path, manifest_hash: bytes) -> Bundle:
    """The bundle of a folder. Raises PublishError when it has another manifest, or lacks a file."""
    try:
        manifest, digest = read_manifest(folder)
    except ManifestError as error:
        raise PublishError(f"{folder} cannot be published: {error}") from None
    if digest != manifest_hash:
        raise PublishError(f"{folder} cannot be published: its manifest is not that of the epoch to be committed")
    files = []
    for segment in manifest.segments:
        name = f"{segment.name}{SUFFIX}"
        path = bundle_file(folder, manifest, name) or _missing(folder, name)
        files.append(_file(path, f"{SEGMENTS_FOLDER}/{segment.sha256[2:]}{SUFFIX}"))
    for name in (LEAVES_FILE, MANIFEST_FILE):
        path = bundle_file(folder, manifest, name) or _missing(folder, name)
        files.append(_file(path, f"{folder.name}/{name}"))
    return Bundle(folder.name, manifest_hash, tuple(files))


def _missing(folder: Path, name: str) -> Path:
    raise PublishError(f"{folder} cannot be published: it has no {name}")


def _file(path: Path, place: str) -> BundleFile:
    try:
        found = path.stat()
        digest = _digest(path, found.st_ino, found.st_mtime_ns)
    except OSError as error:
        raise PublishError(f"{path} cannot be read: {error.strerror}") from None
    return BundleFile(path.name, path, found.st_size, digest, place)


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, _inode: int, _mtime: int) -> bytes:
    return sha256(path.read_bytes())


class PutPublisher:
    """A server that takes files by PUT and gives them by GET: WebDAV, an object store behind its gateway, nginx.

    It becomes a mirror of the folder of bundles: URL/epoch-000007/manifest.json and leaves.json, and every segment
    once, as URL/segments/SHA256.zst. What is there already is not sent again.
    """

    def __init__(self, url: str, credentials: Credentials, patience: Patience | None = None) -> None:
        """`url` is where the mirror is, without query."""
        self._remote = Remote("put", url, credentials, patience or Patience())
        self.name = self._remote.name
        self._fetched: dict[str, bytes] = {}

    async def publish(self, bundle: Bundle) -> str:
        """Bring what is not there yet; returns the bundle's folder on the server. Raises PublishError."""
        *others, manifest = bundle.files
        sent = Progress(self.name, bundle)
        await _for_each(others, lambda file: self._bring(file, sent))
        await self._bring(manifest, sent)
        return bundle.name

    async def _bring(self, file: BundleFile, sent: Progress) -> None:
        if await self._holds(file):
            sent.is_there(file)
            return
        await self._send(file.place, file_body(file.path, file.size))
        sent.was_sent(file)

    async def _send(self, place: str, body: Body) -> None:
        what = f"sending {place}"
        answer = await self._remote.request("PUT", place, what, body=body, fine=_STORED | {_NO_FOLDER})
        if answer.status == _NO_FOLDER:  # WebDAV makes no folders by itself
            folder, _, _ = place.rpartition("/")
            await self._remote.request("MKCOL", f"{folder}/", f"making {folder}", fine=_STORED | {_IS_FOLDER})
            await self._remote.request("PUT", place, what, body=body, fine=_STORED)

    async def fetch_back(self, bundle: Bundle) -> None:
        """Fetch every file once, and later ask whether it is still there. Raises PublishError."""
        await _for_each(bundle.files, self._require)

    async def _require(self, file: BundleFile) -> None:
        if not await self._holds(file):
            raise PublishError(
                f"{self.name}: {file.place} cannot be fetched back as it was sent; does the server answer GET, "
                "to this user, with the file's own bytes?"
            )

    async def _holds(self, file: BundleFile) -> bool:
        """Whether the server has the file: by its bytes the first time, by its length when those were seen."""
        what, place = f"fetching {file.place}", file.place
        if self._fetched.get(place) == file.sha256:
            answer = await self._remote.request("HEAD", place, what, fine=_THERE | _ABSENT | _NO_HEAD)
            if answer.status in _THERE and answer.announced == file.size:
                return True
            del self._fetched[place]
        answer = await self._remote.request("GET", place, what, limit=file.size, fine=_THERE | _ABSENT)
        if answer.status in _THERE and answer.sha256 == file.sha256:
            self._fetched[place] = file.sha256
            return True
        return False

    async def probe(self) -> str:
        """Send a few bytes and fetch them back; returns what was found. Raises PublishError."""
        data = b"pool_oracle\n"
        await self._send(_PROBE, bytes_body(data))
        answer = await self._remote.request("GET", _PROBE, f"fetching {_PROBE}")
        if answer.sha256 != sha256(data):
            raise PublishError(f"{self.name}: {_PROBE} came back with other bytes")
        return f"takes files and gives them back ({_PROBE})"

    async def close(self) -> None:
        """Close the connections."""
        await self._remote.close()


class Progress:
    """Tells now and then how much of a bundle is on its way."""

    def __init__(self, name: str, bundle: Bundle) -> None:
        """`name` is the publisher's."""
        self._name = name
        self._bundle = bundle
        self._done = self._sent = 0
        self._stated = time.monotonic()

    def is_there(self, file: BundleFile) -> None:
        """Count a file that needs nothing more."""
        self._done += file.size
        if time.monotonic() - self._stated < _STATED_SECONDS:
            return
        self._stated = time.monotonic()
        size = sum(each.size for each in self._bundle.files)
        log.info(
            "publishing", publisher=self._name, bundle=self._bundle.name, done=self._done, of=size, sent=self._sent
        )

    def was_sent(self, file: BundleFile) -> None:
        """Count a file that was sent."""
        self._sent += file.size
        self.is_there(file)


async def _for_each(files: Sequence[BundleFile], work: Callable[[BundleFile], Awaitable[None]]) -> None:
    """Do something with all files, a few at a time; the first that fails ends it. Raises PublishError."""
    left = iter(files)

    async def take_turns() -> None:
        for file in left:
            await work(file)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(files))):
                group.create_task(take_turns())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How to reach a publisher. `kind` is one of PUBLISHERS."""

    kind: str
    url: str
    credentials: Credentials = field(default_factory=Credentials)
    optional: bool = False


def open_publisher(settings: PublishSettings) -> Publisher:
    """The publisher of its settings. Nothing is sent yet."""
    if settings.kind == "kubo":
        from pool_oracle.epoch.kubo import KuboPublisher

        return KuboPublisher(settings.url, settings.credentials)
    return PutPublisher(settings.url, settings.credentials)


class Publishing:
    """All publishers of a pool."""

    def __init__(self, required: Iterable[Publisher] = (), optional: Iterable[Publisher] = ()) -> None:
        """`required` are waited for before a commit, `optional` are not."""
        self._required = tuple(required)
        self._optional = tuple(optional)
        self._waiting: dict[Publisher, deque[tuple[Path, bytes]]] = {each: deque() for each in self._optional}
        self._tasks: dict[Publisher, asyncio.Task[None]] = {}

    async def publish(self, folder: Path, manifest_hash: bytes) -> None:
        """Publish a bundle wherever that is required, and fetch it back; the optional publishers get to it later.

        Raises PublishError that names each publisher that failed.
        """
        if self._required:
            bundle = await asyncio.to_thread(open_bundle, folder, manifest_hash)
            results = await asyncio.gather(*(_publish(each, bundle) for each in self._required), return_exceptions=True)
            failed = [result for result in results if result is not None]
            for error in failed:
                if not isinstance(error, PublishError):
                    raise error
            if failed:
                raise PublishError(f"{folder.name} is not published: " + "; ".join(str(error) for error in failed))
        for publisher in self._optional:
            self._waiting[publisher].append((folder, manifest_hash))
            task = self._tasks.get(publisher)
            if task is None or task.done():
                self._tasks[publisher] = asyncio.create_task(self._catch_up(publisher))

    async def _catch_up(self, publisher: Publisher) -> None:
        """Publish what waits for an optional publisher. What fails waits on, and is tried again with the next epoch."""
        waiting = self._waiting[publisher]
        while waiting:
            folder, manifest_hash = waiting[0]
            try:
                await _publish(publisher, await asyncio.to_thread(open_bundle, folder, manifest_hash))
            except PublishError as error:
                log.warning("not published, and committed all the same", problem=str(error), waiting=len(waiting))
                return
            waiting.popleft()

    async def settle(self) -> None:
        """Wait until the optional publishers are done for now."""
        await asyncio.gather(*self._tasks.values())

    async def close(self) -> None:
        """Give up what is under way, and close the connections."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for publisher in (*self._required, *self._optional):
            await publisher.close()


def open_publishing(settings: Iterable[PublishSettings]) -> Publishing:
    """All publishers of a configuration. Nothing is sent yet."""
    required: list[Publisher] = []
    optional: list[Publisher] = []
    for each in settings:
        (optional if each.optional else required).append(open_publisher(each))
    return Publishing(required, optional)


async def _publish(publisher: Publisher, bundle: Bundle) -> None:
    began = time.monotonic()
    place = await publisher.publish(bundle)
    await publisher.fetch_back(bundle)
    seconds = round(time.monotonic() - began, 1)
    log.info(
        "bundle published and fetched back",
        publisher=publisher.name,
        bundle=bundle.name,
        place=place,
        cid=cid(bundle.manifest_hash),
        seconds=seconds,
    )

"""Bundles on IPFS, by the HTTP API of a Kubo node, 0.13 or newer (https://docs.ipfs.tech/reference/kubo/rpc/).

Every file is added and pinned. The manifest is one raw block, so its CID is the hash in the commitment. The others are
found by a directory of all files of the bundle; it is made here, as one block, and pinned with everything below it, by
which the node says itself that it has all of that.

Formats: CIDv1 (https://github.com/multiformats/cid), dag-pb (https://ipld.io/specs/codecs/dag-pb/spec/), UnixFS
(https://specs.ipfs.tech/unixfs/).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec

from pool_oracle.epoch.publishing import Bundle, BundleFile, Progress
from pool_oracle.epoch.remote import Credentials, Patience, Remote, bytes_body, file_body, form_body, one_line
from pool_oracle.errors import PublishError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import MANIFEST_FILE
from pool_oracle.payout.manifest import MAX_MANIFEST_SIZE, cid

_CID_SIZE = 36
_DAG_PB = bytes((0x01, 0x70, 0x12, 0x20))
_DIRECTORY = bytes((0x0A, 0x02, 0x08, 0x01))
"""The data of a directory's node: field 1, a UnixFS message whose type is 1."""
_ADD = {
    "cid-version": "1",
    "hash": "sha2-256",
    "raw-leaves": "true",
    "chunker": f"size-{MAX_MANIFEST_SIZE}",  # the default cuts at 256 KiB, and a manifest is one block
    "pin": "true",
    "progress": "false",
}


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of a directory: its name, its CID, and the size of all blocks below."""

    name: str
    cid: str
    size: int


def directory_block(links: list[Link]) -> bytes:
    """The dag-pb block of a UnixFS directory. Raises PublishError for a CID that is none."""
    block = b""
    for link in sorted(links, key=lambda link: link.name.encode()):
        name = link.name.encode()
        entry = b"\x0a" + _sized(cid_bytes(link.cid)) + b"\x12" + _sized(name) + b"\x18" + _varint(link.size)
        block += b"\x12" + _sized(entry)
    return block + _DIRECTORY


def directory_cid(block: bytes) -> str:
    """The CIDv1 (dag-pb, sha2-256, base32) of a directory's block."""
    return "b" + base64.b32encode(_DAG_PB + sha256(block)).decode().lower().rstrip("=")


def cid_bytes(text: str) -> bytes:
    """The bytes of a CIDv1 in base32, with a SHA-256. Raises PublishError."""
    try:
        data = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
    except (binascii.Error, ValueError):
        data = b""
    if text[:1] != "b" or len(data) != _CID_SIZE or data[0] != 1 or data[2:4] != _DAG_PB[2:]:
        raise PublishError(f"{one_line(text)!r} is no CIDv1 with a SHA-256; is it a Kubo node's API, 0.13 or newer?")
    return data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


class KuboPublisher:
    """A Kubo node, asked by its HTTP API, which nobody else should reach: it lets one do everything with the node."""

    def __init__(self, url: str, credentials: Credentials, patience: Patience | None = None) -> None:
        """`url` is that of the API: http://127.0.0.1:5001."""
        self._remote = Remote("kubo", url, credentials, patience or Patience())
        self.name = self._remote.name
        self._added: dict[bytes, Link] = {}
        self._fetched: set[bytes] = set()

    async def publish(self, bundle: Bundle) -> str:
        """Add and pin what is not there yet, and the directory; returns its path. Raises PublishError."""
        progress = Progress(self.name, bundle)
        links = [await self._add(file, progress) for file in bundle.files]
        manifest = links[-1]
        if manifest.cid != cid(bundle.manifest_hash):
            self._forget()
            raise PublishError(
                f"{self.name}: the manifest's CID must be {cid(bundle.manifest_hash)}, and the node says {manifest.cid}"
            )
        block = directory_block(links)
        path = f"/ipfs/{directory_cid(block)}"
        try:
            await self._put_directory(block, bundle.name)
        except PublishError:
            self._forget()  # a node that has lost what it had gets all of it the next time
            raise
        return path

    async def _add(self, file: BundleFile, progress: Progress) -> Link:
        known = self._added.get(file.sha256)
        if known is None:
            body = form_body(file.name, file_body(file.path, file.size))
            what = f"adding {file.name}"
            answer = await self._remote.request("POST", "api/v0/add", what, params=_ADD, body=body)
            said = self._value(answer.head.strip().rpartition(b"\n")[2], what)
            text, size = said.get("Hash"), str(said.get("Size"))
            if not isinstance(text, str) or not size.isdecimal():
                raise PublishError(f"{self.name}: {what}: the answer has no CID and size: {one_line(str(said))}")
            try:
                cid_bytes(text)
            except PublishError as error:
                raise PublishError(f"{self.name}: {what}: {error}") from None
            known = self._added[file.sha256] = Link("", text, int(size))
            progress.was_sent(file)
        return Link(file.name, known.cid, known.size)

    async def _put_directory(self, block: bytes, name: str) -> None:
        what, wanted = f"putting the directory of {name}", directory_cid(block)
        params = {"cid-codec": "dag-pb", "mhtype": "sha2-256", "pin": "false"}
        body = form_body(name, bytes_body(block))
        answer = await self._remote.request("POST", "api/v0/block/put", what, params=params, body=body)
        key = self._value(answer.head, what).get("Key")
        if key != wanted:
            raise PublishError(f"{self.name}: {what}: its CID must be {wanted}, and the node says {one_line(str(key))}")
        # Offline: a block that the node does not have itself is an error, not a search.
        params = {"arg": wanted, "recursive": "true", "progress": "false", "offline": "true"}
        what = f"pinning {name}"
        answer = await self._remote.request("POST", "api/v0/pin/add", what, params=params)
        pins = self._value(answer.head, what).get("Pins")
        if not isinstance(pins, list) or wanted not in pins:
            raise PublishError(f"{self.name}: {what}: the node does not say that {wanted} is pinned")

    async def fetch_back(self, bundle: Bundle) -> None:
        """Read every file once by its CID, and the manifest each time by the directory. Raises PublishError."""
        for file in bundle.files:
            if file.sha256 not in self._fetched:
                await self._read(f"/ipfs/{self._added[file.sha256].cid}", file)
                self._fetched.add(file.sha256)
        block = directory_block([Link(file.name, *self._place(file)) for file in bundle.files])
        await self._read(f"/ipfs/{directory_cid(block)}/{MANIFEST_FILE}", bundle.files[-1])

    def _place(self, file: BundleFile) -> tuple[str, int]:
        return self._added[file.sha256].cid, self._added[file.sha256].size

    async def _read(self, path: str, file: BundleFile) -> None:
        params = {"arg": path, "offline": "true"}
        what = f"fetching {file.name}"
        answer = await self._remote.request("POST", "api/v0/cat", what, params=params, limit=file.size)
        if answer.sha256 != file.sha256:
            self._forget()
            raise PublishError(f"{self.name}: {file.name} cannot be fetched back as it was added, by {path}")

    def _forget(self) -> None:
        self._added.clear()
        self._fetched.clear()

    def _value(self, line: bytes, what: str) -> dict[str, object]:
        """A JSON object of an answer. Raises PublishError."""
        try:
            return msgspec.json.decode(line, type=dict[str, object])
        except (msgspec.DecodeError, RecursionError):
            said = one_line(line.decode("utf-8", "replace"))
            raise PublishError(f"{self.name}: {what}: the answer is not a Kubo node's: {said!r}") from None

    async def probe(self) -> str:
        """Ask the node for its version. Raises PublishError."""
        what = "asking for the version"
        answer = await self._remote.request("POST", "api/v0/version", what)
        version = self._value(answer.head, what).get("Version")
        if not isinstance(version, str):
            raise PublishError(f"{self.name}: {what}: the answer is not a Kubo node's")
        return f"a Kubo node, version {one_line(version)}"

    async def close(self) -> None:
        """Close the connections."""
        await self._remote.close()

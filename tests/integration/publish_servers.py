"""Small servers that bundles are published to: one that keeps files as WebDAV does, one that answers as Kubo does.

Both do the real thing: the first writes files, the second cuts them into blocks, and computes and checks CIDs. Both can
be told to fail: `faults` says what becomes of the next requests.

python tests/integration/publish_servers.py FOLDER KIND
    Serves until standard input ends; prints its URL.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

SLOW_SECONDS = 30
CLOSING_SECONDS = 0.05
"""For connections that were closed on either side to be gone before the loop is."""

Fault = Callable[[str, str], str | None]
"""From method and path to what goes wrong: a status, "cut" (half an answer), "flip" (a bit), "silent", "chatty"."""


class Server:
    """What both kinds have in common."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda _method, _path: None
        self.authorization: str | None = None
        self.app = web.Application(client_max_size=1 << 30, middlewares=[self._around])
        self._fault: str | None = None

    def count(self, method: str) -> int:
        return sum(each == method for each, _ in self.requests)

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        method, path = request.method, request.path.strip("/")
        self.requests.append((method, path))
        if self.authorization is not None and request.headers.get("Authorization") != self.authorization:
            return web.Response(status=401)
        fault = self.fault(method, path)
        if fault is not None and fault.isdecimal():
            await request.read()
            return web.Response(status=int(fault), text="out of order\n")
        if fault == "silent":
            await asyncio.sleep(SLOW_SECONDS)
        answer: web.StreamResponse = await handler(request)
        if fault is None or not isinstance(answer, web.Response) or not answer.body or method == "HEAD":
            return answer
        return await self._spoil(request, answer, fault)

    async def _spoil(self, request: web.Request, answer: web.Response, fault: str) -> web.StreamResponse:
        body = bytes(answer.body or b"")  # type: ignore[arg-type]
        if fault == "flip":
            return web.Response(body=bytes([body[0] ^ 1]) + body[1:])
        spoiled = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await spoiled.prepare(request)
        if fault == "chatty":
            for byte in body:
                await spoiled.write(bytes([byte]))
                await asyncio.sleep(0.05)
            return spoiled
        await spoiled.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return spoiled

    @contextlib.asynccontextmanager
    async def serve(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Listen; gives the URL."""
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
            await asyncio.sleep(CLOSING_SECONDS)


class FileServer(Server):
    """PUT, GET, HEAD and MKCOL on a folder; like Apache's mod_dav, it makes no folder by itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        place = self.folder / request.match_info["path"]
        if request.method == "MKCOL":
            if place.exists():
                return web.Response(status=405)
            place.mkdir()
            return web.Response(status=201)
        if request.method == "PUT":
            return await self._take(request, place)
        if not place.is_file():
            return web.Response(status=404)
        return web.Response(body=place.read_bytes(), content_type="application/octet-stream")

    async def _take(self, request: web.Request, place: Path) -> web.Response:
        if request.content_length is None:
            return web.Response(status=411)
        if not place.parent.is_dir():
            return web.Response(status=409)
        try:
            with place.open("wb") as file:
                file.write(await request.read())
        except OSError:  # what a server does whose disk is full: a part of the file stays
            return web.Response(status=507)
        return web.Response(status=201)


# Kubo

CODEC_RAW, CODEC_DAG_PB = 0x55, 0x70


def cid_of(codec: int, block: bytes) -> str:
    data = bytes([1, codec, 0x12, 32]) + hashlib.sha256(block).digest()
    return "b" + base64.b32encode(data).decode().lower().rstrip("=")


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer: numbers and byte strings."""
    out = bytearray()
    for number, value in fields:
        for part in (
            number << 3 | (0 if isinstance(value, int) else 2),
            value if isinstance(value, int) else len(value),
        ):
            rest = part
            while rest > 0x7F:
                out.append(rest & 0x7F | 0x80)
                rest >>= 7
            out.append(rest)
        if isinstance(value, bytes):
            out += value
    return bytes(out)


def fields_of(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protocol buffer."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    found: list[tuple[int, int | bytes]] = []
    while at < len(data):
        key = varint()
        value = varint()
        if key & 7 == 2:
            found.append((key >> 3, data[at : at + value]))
            at += value
        else:
            found.append((key >> 3, value))
    return found


def binary(cid: str) -> bytes:
    return base64.b32decode(cid[1:].upper() + "=" * (-(len(cid) - 1) % 8))


@dataclass
class Blocks:
    """Blocks by CID, as a node keeps them."""

    blocks: dict[str, bytes] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)

    def put(self, codec: int, block: bytes) -> str:
        cid = cid_of(codec, block)
        self.blocks[cid] = block
        return cid

    def add(self, data: bytes, chunk: int) -> tuple[str, int]:
        """A file, in raw leaves below one node: CID and size of all blocks."""
        pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)] or [b""]
        cids = [self.put(CODEC_RAW, piece) for piece in pieces]
        if len(pieces) == 1:
            return cids[0], len(data)
        unixfs = message((1, 2), (3, len(data)), *((4, len(piece)) for piece in pieces))
        links = [
            (2, message((1, binary(cid)), (2, b""), (3, len(piece)))) for cid, piece in zip(cids, pieces, strict=True)
        ]
        node = message(*links, (1, unixfs))
        return self.put(CODEC_DAG_PB, node), len(node) + len(data)

    def links(self, cid: str) -> list[tuple[str, str]]:
        """(name, CID) of what a node links to. Raises KeyError when the node is not there."""
        block = self.blocks[cid]
        if binary(cid)[1] == CODEC_RAW:
            return []
        found = []
        for number, value in fields_of(block):
            if number == 2:
                link = dict(fields_of(bytes(value)))  # type: ignore[arg-type]
                target = "b" + base64.b32encode(bytes(link[1])).decode().lower().rstrip("=")  # type: ignore[arg-type]
                found.append((bytes(link[2]).decode(), target))  # type: ignore[arg-type]
        return found

    def read(self, cid: str) -> bytes:
        if binary(cid)[1] == CODEC_RAW:
            return self.blocks[cid]
        return b"".join(self.read(below) for _, below in self.links(cid))

    def require(self, cid: str) -> None:
        """Raises KeyError when something is not there."""
        for _, below in self.links(cid):
            self.require(below)


class KuboServer(Server):
    """Kubo's RPC of version 0.39, as far as a publisher asks it, offline."""

    def __init__(self, blocks: Blocks | None = None) -> None:
        super().__init__()
        self.store = blocks or Blocks()
        for name in ("add", "block/put", "pin/add", "cat", "version"):
            self.app.router.add_post(f"/api/v0/{name}", getattr(self, "_" + name.replace("/", "_")))

    async def _file(self, request: web.Request) -> tuple[str, bytes]:
        form = await request.multipart()
        part = await form.next()
        assert part is not None
        return part.filename or "", bytes(await part.read())  # type: ignore[union-attr, arg-type]

    async def _add(self, request: web.Request) -> web.Response:
        query = request.query
        assert (query["cid-version"], query["raw-leaves"], query["hash"]) == ("1", "true", "sha2-256")
        chunk = int(query.get("chunker", "size-262144").removeprefix("size-"))
        name, data = await self._file(request)
        cid, size = self.store.add(data, chunk)
        if query["pin"] == "true":
            self.store.pins.add(cid)
        return web.json_response({"Name": name, "Hash": cid, "Size": str(size)})

    async def _block_put(self, request: web.Request) -> web.Response:
        assert (request.query["cid-codec"], request.query["mhtype"]) == ("dag-pb", "sha2-256")
        _, data = await self._file(request)
        return web.json_response({"Key": self.store.put(CODEC_DAG_PB, data), "Size": len(data)})

    async def _pin_add(self, request: web.Request) -> web.Response:
        cid = request.query["arg"]
        try:
            self.store.require(cid)
        except KeyError as error:
            return self._not_found(str(error))
        self.store.pins.add(cid)
        return web.json_response({"Pins": [cid]})

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"Version": "0.39.0", "Commit": "", "Repo": "18"})

    async def _cat(self, request: web.Request) -> web.Response:
        assert request.query["offline"] == "true"
        cid, *names = request.query["arg"].removeprefix("/ipfs/").split("/")
        try:
            for name in names:
                cid = dict(self.store.links(cid))[name]
            return web.Response(body=self.store.read(cid))
        except KeyError as error:
            return self._not_found(str(error))

    def _not_found(self, what: str) -> web.Response:
        text = f"block was not found locally (offline): ipld: could not find {what}"
        return web.json_response({"Message": text, "Code": 0, "Type": "error"}, status=500)


async def _main(folder: Path) -> None:
    async with FileServer(folder).serve() as url:
        print(url, flush=True)  # noqa: T201 - it tells its parent
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))

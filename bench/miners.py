"""Miners that hash for real, over real TCP, and know what became of each of their shares: for tests and the soak."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pool_oracle.hashes import sha256d
from pool_oracle.networks import DIFFICULTY_1_TARGET
from pool_oracle.work.share import StratumJob, hash_to_int, pack_header

ANSWER_SECONDS = 60
ACCOUNT = "0x000000000000000000000000000000000000000A"

_NONCE = struct.Struct("<I")


class Work(NamedTuple):
    """A job as this miner got it, with the share target that it had then; `tip` counts the tips that it has seen."""

    id: str
    job: StratumJob
    ntime: int
    clean: bool
    target: int
    tip: int


class Share(NamedTuple):
    """A solved header: its hash (internal order), what to submit, and its work's `tip`."""

    digest: bytes
    params: tuple[str, ...]
    tip: int


class Miner:
    """One connection with one worker. Whatever the pool says is taken up as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str) -> None:
        self.reader, self.writer, self.user = reader, writer, user
        self.extranonce1 = b""
        self.session = ""
        self.works: list[Work] = []
        self.accepted: list[bytes] = []
        self.refused: list[tuple[bytes, int]] = []
        self.late: list[tuple[bytes, int]] = []
        """Hashes of the shares that were answered, in order; the refused ones with the code.

        Those in `late` were refused, too, but their work was two tips old, so that no pool could have taken them.
        """
        self.submitted: dict[int, Share] = {}
        """The shares that were not answered yet, by the request's id."""
        self.told: list[str] = []
        self.is_connected = True
        self._extranonce2_size = 0
        self._extranonce2 = 0
        self._head: tuple[Work, bytes, bytes, int] | None = None
        self._target = 0
        self._next_id = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(
        cls, port: int, user: str = ACCOUNT, *, session: str | None = None, source: str | None = None
    ) -> Miner:
        """Connect, sign in and wait for a job. Raises ConnectionError.

        `session` is that of an earlier connection; `source` is the address that a PROXY header names.
        """
        miner = cls(*await asyncio.open_connection("127.0.0.1", port), user)
        try:
            if source is not None:
                miner.writer.write(proxy_header(source))
            subscribed = await miner.call("mining.subscribe", "miner/1", *([] if session is None else [session]))
            subscriptions, extranonce1, miner._extranonce2_size = subscribed["result"]
            miner.session, miner.extranonce1 = subscriptions[0][1], bytes.fromhex(extranonce1)
            await miner.call("mining.authorize", user, "x")
            await miner.until(lambda: bool(miner.works))
        except BaseException:
            await miner.close()
            raise
        return miner

    async def close(self) -> None:
        """Hang up."""
        self._reading.cancel()
        self.writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await self._reading
        with suppress(OSError):
            await self.writer.wait_closed()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something that the pool said makes `is_so` true. Raises ConnectionError if it hangs up before."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while not is_so():
                if not self.is_connected:
                    raise ConnectionError("the pool has hung up")
                self._news.clear()
                await self._news.wait()

    async def gone(self) -> None:
        """Wait until the pool has hung up."""
        async with asyncio.timeout(ANSWER_SECONDS):
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        try:
            while line := await self.reader.readline():
                if line.endswith(b"\n"):
                    self._take(json.loads(line))
                self._news.set()
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self.is_connected = False
            self._news.set()

    def _take(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params")
        if method == "mining.notify" and params:
            names = ("prevhash", "coinb1", "coinb2", "merkleBranch", "version", "nbits")
            job = StratumJob.from_wire(dict(zip(names, params[1:7], strict=True)))
            tip = self.works[-1].tip + (job.prev_hash != self.works[-1].job.prev_hash) if self.works else 0
            self.works.append(Work(params[0], job, int(params[7], 16), params[8], self._target, tip))
            del self.works[:-100]
        elif method == "mining.set_difficulty" and params:
            self._target = int(DIFFICULTY_1_TARGET / params[0])
        elif method is not None:
            self.told.append(method)
        elif message["id"] in self.submitted:
            share = self.submitted.pop(message["id"])
            if message["result"] is True:
                self.accepted.append(share.digest)
            else:
                is_late = share.tip + 2 <= self.works[-1].tip
                (self.late if is_late else self.refused).append((share.digest, message["error"][0]))
        else:
            self._answers[message["id"]] = message

    async def call(self, method: str, *params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        request_id = self._send(method, params)
        await self.until(lambda: request_id in self._answers)
        return self._answers.pop(request_id)

    def _send(self, method: str, params: Any) -> int:
        self._next_id += 1
        self.writer.write(json.dumps({"id": self._next_id, "method": method, "params": params}).encode() + b"\n")
        return self._next_id

    # Shares

    def solve(self, block_target: int = 0, *, is_block: bool = False, work: Work | None = None) -> Share:
        """Hash until a share turns up: no block, or with `is_block` one, as `block_target` says."""
        work = work or self.works[-1]
        low, high = (-1, block_target) if is_block else (block_target, work.target)
        while True:
            extranonce2, head = self._new_head(work)
            for nonce in _search(head, range(1 << 16), low, high):
                return self._share(work, extranonce2, head, nonce)

    def hash(self, count: int) -> list[Share]:
        """Try so many nonces of the latest work, going on where the last call ended; the shares among them."""
        work = self.works[-1]
        if self._head is None or self._head[0] is not work or self._head[3] >= 1 << 24:
            self._head = (work, *self._new_head(work), 0)
        _, extranonce2, head, first = self._head
        self._head = work, extranonce2, head, first + count
        return [
            self._share(work, extranonce2, head, nonce)
            for nonce in _search(head, range(first, first + count), -1, work.target)
        ]

    def _new_head(self, work: Work) -> tuple[bytes, bytes]:
        """A new extranonce2, and the header that it makes, without a nonce."""
        self._extranonce2 += 1
        extranonce2 = self._extranonce2.to_bytes(self._extranonce2_size, "big")
        job = work.job
        root = job.merkle_root(self.extranonce1, extranonce2)
        return extranonce2, pack_header(job.version, job.prev_hash, root, work.ntime, job.nbits, 0)[:76]

    def _share(self, work: Work, extranonce2: bytes, head: bytes, nonce: int) -> Share:
        params = (self.user, work.id, extranonce2.hex(), f"{work.ntime:08x}", f"{nonce:08x}")
        return Share(sha256d(head + _NONCE.pack(nonce)), params, work.tip)

    def submit(self, *shares: Share) -> None:
        """Hand in shares, all at once; nothing is awaited."""
        for share in shares:
            self.submitted[self._send("mining.submit", share.params)] = share

    async def mine(self, count: int, block_target: int = 0) -> list[Share]:
        """Hand in `count` shares at once and wait until all are answered."""
        shares = [self.solve(block_target) for _ in range(count)]
        self.submit(*shares)
        await self.answered()
        return shares

    async def answered(self) -> None:
        """Wait until every share is answered."""
        await self.until(lambda: not self.submitted)


def _search(head: bytes, nonces: Iterable[int], low: int, high: int) -> Iterator[int]:
    """The nonces whose hash is above `low` and at most `high`."""
    sha256, pack = hashlib.sha256, _NONCE.pack
    start = sha256(head[:64])
    for nonce in nonces:
        inner = start.copy()
        inner.update(head[64:] + pack(nonce))
        if low < hash_to_int(sha256(inner.digest()).digest()) <= high:
            yield nonce


def proxy_header(source: str) -> bytes:
    """What a proxy says first for a miner at the address `source` (PROXY protocol, version 1)."""
    return f"PROXY TCP4 {source} 127.0.0.1 4711 3333\r\n".encode()

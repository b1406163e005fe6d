"""A pool with a stratum server on real parts, and a stratum client that a test drives line by line.

Everything runs in uvloop, as the pool does. The network target is emulated: 256 hashes meet it on average, so shares
and blocks are really solved.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import uvloop

from pool_oracle.hashes import sha256d
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.networks import DIFFICULTY_1_TARGET, network_named
from pool_oracle.node.embedded import EmbeddedRegtest
from pool_oracle.pool import Commitment, Pool
from pool_oracle.stratum.desk import LocalDesk
from pool_oracle.stratum.limits import LimitSettings
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.work.share import StratumJob, hash_to_int, pack_header

NETWORK_TARGET = 1 << 248
"""An emulated network target that 256 hashes meet on average."""
SHARE_TARGET = 1 << 252
"""A share target that 16 hashes meet on average."""
ACCOUNT = "0x000000000000000000000000000000000000000A"
PATIENCE = 30
"""Seconds for whatever must happen; nothing is asserted about how long it takes."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test in the event loop that the pool runs in."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a state of the pool."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def difficulty_of(target: int) -> Fraction:
    """The share difficulty of a target, exact."""
    return Fraction(DIFFICULTY_1_TARGET, target)


def target_of(share_difficulty: float) -> int:
    """The target that a miner works out of `mining.set_difficulty`."""
    return int(DIFFICULTY_1_TARGET / Fraction(share_difficulty))


@dataclass(frozen=True)
class Job:
    """The parameters of a `mining.notify`."""

    id: str
    work: StratumJob
    ntime: int
    is_clean: bool

    @classmethod
    def of(cls, params: list[Any]) -> Job:
        names = ("prevhash", "coinb1", "coinb2", "merkleBranch", "version", "nbits")
        work = StratumJob.from_wire(dict(zip(names, params[1:7], strict=True)))
        return cls(params[0], work, int(params[7], 16), params[8])

    def solve(
        self,
        extranonce1: str,
        extranonce2: str,
        target: int,
        above: int,
        *,
        version: int | None = None,
        ntime: int | None = None,
    ) -> Iterator[str]:
        """Nonces whose hashes are at most `target` and more than `above`."""
        job, time = self.work, self.ntime if ntime is None else ntime
        root = job.merkle_root(bytes.fromhex(extranonce1), bytes.fromhex(extranonce2))
        chosen = job.version if version is None else version
        for nonce in range(1 << 32):
            header = pack_header(chosen, job.prev_hash, root, time, job.nbits, nonce)
            if above < hash_to_int(sha256d(header)) <= target:
                yield f"{nonce:08x}"


class Client:
    """One connection. What the server says without being asked waits in `pending`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, network_target: int) -> None:
        self.reader, self.writer = reader, writer
        self.network_target = network_target
        self.pending: deque[dict[str, Any]] = deque()
        self.session_id = self.extranonce1 = ""
        self.extranonce2_size = 0
        self.target = 0
        self._id = 0
        self._extranonce2 = 0

    # Lines

    def send(self, value: Any) -> None:
        self.send_line(json.dumps(value).encode())

    def send_line(self, line: bytes) -> None:
        self.writer.write(line + b"\n")

    def ask(self, method: str, *params: Any) -> int:
        """Send a request; returns its id."""
        self._id += 1
        self.send({"id": self._id, "method": method, "params": list(params)})
        return self._id

    async def call(self, method: str, *params: Any) -> dict[str, Any]:
        return await self.answer(self.ask(method, *params))

    async def result(self, method: str, *params: Any) -> Any:
        answer = await self.call(method, *params)
        assert answer["error"] is None, answer
        return answer["result"]

    async def refusal(self, method: str, *params: Any) -> tuple[int, str]:
        """The code and the text that a request is refused with."""
        answer = await self.call(method, *params)
        assert answer["result"] is None, answer
        code, text, _ = answer["error"]
        return code, text

    async def answer(self, request_id: Any) -> dict[str, Any]:
        for message in self.pending:
            if "method" not in message and message["id"] == request_id:
                self.pending.remove(message)
                return message
        while True:
            message = await self.read()
            if "method" not in message and message["id"] == request_id:
                return message
            self.pending.append(message)

    async def take(self, method: str) -> list[Any]:
        """The parameters of the first message of `method` that was not taken yet."""
        message = next((m for m in self.pending if m.get("method") == method), None)
        while message is None:
            self.pending.append(await self.read())
            if self.pending[-1].get("method") == method:
                message = self.pending[-1]
        self.pending.remove(message)
        params: list[Any] = message["params"]
        return params

    async def read(self) -> dict[str, Any]:
        """The next line. Raises EOFError at the end."""
        line = await asyncio.wait_for(self.reader.readline(), PATIENCE)
        if not line:
            raise EOFError
        value: dict[str, Any] = json.loads(line)
        return value

    async def ended(self) -> bool:
        """Read on until the server ends the connection, in whatever way."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self.pending.append(await self.read())
        return True

    # Mining

    async def subscribe(self, *params: Any) -> None:
        subscriptions, self.extranonce1, self.extranonce2_size = await self.result("mining.subscribe", *params)
        self.session_id = dict(subscriptions)["mining.notify"]

    async def sign_in(self, user: str = ACCOUNT, options: Any = "x", *resumed: str) -> Job:
        """Subscribe and authorize; returns the first job."""
        await self.subscribe("test/1", *resumed)
        assert await self.result("mining.authorize", user, options) is True
        return await self.next_job()

    async def next_job(self) -> Job:
        """The next job. The target is that of the last `mining.set_difficulty` before it, as on a miner."""
        while not any(message.get("method") == "mining.notify" for message in self.pending):
            self.pending.append(await self.read())
        others = []
        while (message := self.pending.popleft()).get("method") != "mining.notify":
            if message.get("method") == "mining.set_difficulty":
                self.target = target_of(message["params"][0])
            else:
                others.append(message)
        self.pending.extendleft(reversed(others))
        return Job.of(message["params"])

    def share(self, job: Job, target: int | None = None, above: int | None = None, **changes: Any) -> list[str]:
        """The parameters of a `mining.submit` after the user's name: a new share, no block unless `above` is 0."""
        target, above = target or self.target, self.network_target if above is None else above
        self._extranonce2 += 1
        extranonce2 = f"{self._extranonce2:0{2 * self.extranonce2_size}x}"
        nonce = next(job.solve(self.extranonce1, extranonce2, target, above, **changes))
        return [job.id, extranonce2, f"{changes.get('ntime', job.ntime):08x}", nonce]

    async def mine(self, job: Job, user: str = ACCOUNT) -> dict[str, Any]:
        """Solve a share, hand it in, return the answer."""
        return await self.call("mining.submit", user, *self.share(job))


class Site:
    """A pool, its stratum server, and whoever connects to it."""

    def __init__(self, node: EmbeddedRegtest, log: ShareLog, pool: Pool, server: StratumServer, port: int) -> None:
        self.node, self.log, self.pool, self.server, self.port = node, log, pool, server, port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, first: bytes = b"", **how: Any) -> Client:
        """A new connection; `first` are its first bytes, `how` is for asyncio.open_connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **how)
        self._writers.append(writer)
        writer.write(first)
        assert self.pool.job is not None
        return Client(reader, writer, self.pool.job.network_target)

    async def new_tip(self, client: Client, job: Job) -> None:
        """Let `client` find a block on `job`, and hand out jobs on it."""
        await client.call("mining.submit", ACCOUNT, *client.share(job, NETWORK_TARGET, 0))
        await self.pool.block_keeper.settle()
        await self.pool.refresh()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        await self.server.stop()


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *,
    stale_grace: float = 0,
    extranonce2_size: int = 8,
    share_target: int = SHARE_TARGET,
    network_target: int = NETWORK_TARGET,
    limits: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Site]:
    """A pool that serves miners; vardiff is off unless `shares_per_minute` says otherwise."""
    node = EmbeddedRegtest(folder / "node")
    log = ShareLog(folder / "shares")
    pool = Pool(
        network_named("regtest"),
        node,
        log,
        rules=Rules(2, network_target),
        tag=b"/test/",
        blocks_folder=folder / "blocks",
        stale_grace=stale_grace,
        extranonce2_size=extranonce2_size,
    )
    try:
        await pool.set_commitment(Commitment(0, bytes(32), b"\x51"))
        settings = {"shares_per_minute": 0, "limits": LimitSettings(**(limits or {})), **settings}
        server = StratumServer(LocalDesk(pool), StratumSettings(difficulty_of(share_target), **settings))
        site = Site(node, log, pool, server, await server.start("127.0.0.1", 0))
        try:
            yield site
        finally:
            await site.close()
    finally:
        await pool.block_keeper.close()
        await log.close()
        await node.close()

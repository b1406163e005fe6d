"""Litecoin Core nodes on regtest, in processes of their own, and a pool on whatever node a test has.

A node is started and ended by its own process id, and dies with the tests (see pool_oracle/processes.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pool_oracle.chain.anvil import free_port
from pool_oracle.hashes import sha256d
from pool_oracle.judge import LiveJob, Submission, Worker
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.logbook import BlockState, FoundBlock
from pool_oracle.networks import Network, network_named
from pool_oracle.node.core import CoreNode
from pool_oracle.node.embedded import solve
from pool_oracle.node.jsonrpc import Login
from pool_oracle.node.source import NodeSource
from pool_oracle.payout.payee import payee_of_account
from pool_oracle.pool import Commitment, Pool
from pool_oracle.processes import start_child, stop_child
from pool_oracle.units import Payee
from pool_oracle.work.block import Block, parse_block
from pool_oracle.work.share import HEADER_SIZE, hash_to_int, pack_header
from pool_oracle.work.targets import target_to_nbits
from pool_oracle.work.template import Job, Template, assemble_block
from tests.integration.spends import Lock, job_of

LITECOIN = network_named("litecoin-regtest")
GUARD_SECONDS = 60
"""Nothing here takes that long; it ends a test that would wait for ever."""

NO_MWEB = "-vbparams=mweb:9999999998:9999999999"
"""Keeps MWEB off, which regtest would switch on at block 432."""

ALICE: Payee = payee_of_account(b"\xa1" * 20)
EMULATED_TARGET = 1 << 252
"""An emulated network target that 16 hashes meet on average."""
SHARE_BITS = target_to_nbits(1 << 254)
"""A share target that 4 hashes meet on average."""


class Litecoind:
    """A running litecoind. `stop` ends it; `kill` and `start` are for tests of a node that goes and comes back."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Start a node on free ports with its data in `folder`, and wait until it answers."""
        program = shutil.which("litecoind")
        if program is None:
            pytest.fail("litecoind is missing, and these tests need a real node: apt-get install litecoind")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port, self.rpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.rpc_port}"
        self.cookie_file = folder / "regtest" / ".cookie"
        # Debian's program is a script that writes into the home folder before it becomes the node.
        self._command = ["env", f"HOME={folder}", program, "-regtest", f"-datadir={folder}"]
        self._command += [f"-port={self.port}", f"-bind=127.0.0.1:{self.port}", f"-rpcport={self.rpc_port}"]
        self._command += ["-server", "-dnsseed=0", "-discover=0", "-upnp=0", "-listenonion=0", "-dbcache=4"]
        self._command += ["-keypool=2", "-fallbackfee=0.0001"]
        self._command.append("-whitelist=noban@127.0.0.1")  # transactions are relayed to such peers at once
        self._command += options
        self._http = httpx.Client(trust_env=False, timeout=GUARD_SECONDS, headers={"Connection": "close"})
        self.start()

    def start(self) -> None:
        """Start the program on the same folder and ports."""
        self.cookie_file.unlink(missing_ok=True)
        self.process = start_child(self._command)
        deadline = time.monotonic() + GUARD_SECONDS
        while True:
            try:
                self.rpc("getblockcount")
                return
            except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
                if self.process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.stop()
                pytest.fail(f"litecoind does not answer ({error}); the end of its log:\n{self._log_end()}")

    def _log_end(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "regtest" / "debug.log").read_text(errors="replace")[-2000:]
        return "(none)"

    def kill(self) -> None:
        """End the program as a power cut would."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End the program for good. Its folder is thrown away, so it need not tidy up."""
        if self.process.poll() is None:
            self.process.kill()
        stop_child(self.process)
        self._http.close()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def rpc(self, method: str, *params: Any) -> Any:
        """A call's result, for steering. Raises RuntimeError with the node's error."""
        user, _, password = self.cookie_file.read_text().partition(":")
        request = {"id": 1, "method": method, "params": params}
        reply = self._http.post(self.url, json=request, auth=(user, password)).json()
        if reply["error"] is not None:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    @property
    def tip(self) -> bytes:
        """The best block's hash, internal order."""
        return bytes.fromhex(self.rpc("getbestblockhash"))[::-1]

    @property
    def working_on(self) -> list[str]:
        """The calls that the node has not answered yet."""
        return [call["method"] for call in self.rpc("getrpcinfo")["active_commands"]]

    def generate(self, count: int) -> None:
        """Let the node mine blocks of its own, to a key of the tests."""
        address = self.rpc("decodescript", Lock.P2WPKH.value.hex())["addresses"][0]
        self.rpc("generatetoaddress", count, address)

    def block(self, hash: bytes) -> Block:
        return parse_block(bytes.fromhex(self.rpc("getblock", hash[::-1].hex(), 0)))

    @property
    def login(self) -> Login:
        return Login(cookie_file=self.cookie_file)

    def source(self, name: str | None = None, **settings: Any) -> CoreNode:
        """The pool's view of this node."""
        return CoreNode(LITECOIN, self.url, self.login, name=name, **settings)


class LitecoinNetwork:
    """Nodes that are all connected to each other. Use it as a context manager."""

    def __init__(self, folder: Path, count: int, *options: str) -> None:
        """Start the nodes; with a first block, without which they hold themselves to be syncing."""
        self.nodes: list[Litecoind] = []
        try:
            for number in range(count):
                self.nodes.append(Litecoind(folder / f"node{number}", *options))
            self.connect()
            self.nodes[0].generate(1)
            self.sync()
        except BaseException:
            self.stop()
            raise

    def connect(self) -> None:
        """Connect each running node to each other one."""
        running = [node for node in self.nodes if node.is_running]
        for node in running:
            node.rpc("setnetworkactive", True)
        for one, other in itertools.combinations(running, 2):
            if not self._are_connected(one, other):
                one.rpc("addnode", f"127.0.0.1:{other.port}", "onetry")
        wait_for(
            lambda: all(self._are_connected(one, other) for one, other in itertools.combinations(running, 2)),
            "nodes to connect",
        )

    @staticmethod
    def _are_connected(one: Litecoind, other: Litecoind) -> bool:
        """Whether `one` has shaken hands with `other`; connections go from the earlier node to the later."""
        address = f"127.0.0.1:{other.port}"
        return any(peer["addr"] == address and peer["version"] for peer in one.rpc("getpeerinfo"))

    def cut(self, node: Litecoind) -> None:
        """Take a node off the network."""
        node.rpc("setnetworkactive", False)
        others = [other for other in self.nodes if other.is_running and other is not node]
        wait_for(lambda: node.rpc("getconnectioncount") == 0, "a node to be cut off")
        wait_for(
            lambda: all(other.rpc("getconnectioncount") == len(others) - 1 for other in others),
            "the others to notice that a node is gone",
        )

    def sync(self) -> None:
        """Wait until all running nodes are on one tip."""
        running = [node for node in self.nodes if node.is_running]
        wait_for(lambda: len({node.tip for node in running}) == 1, "nodes to agree on a tip")

    def heal(self) -> None:
        """All nodes run, are connected, on a new tip that is on disk, with empty mempools: what a test starts from."""
        for node in self.nodes:
            if not node.is_running:
                node.start()
        self.connect()
        self.nodes[-1].generate(1)
        self.sync()
        for node in self.nodes:
            node.rpc("gettxoutsetinfo")  # flushes; else a node that is killed begins with its first block again

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> LitecoinNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Block until a condition of real nodes holds."""
    deadline = time.monotonic() + GUARD_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Let the pool work until a condition holds."""
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


Answer = Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]
"""What a relay does with a call: it writes to the pool's connection, or does not."""


class Relay:
    """Stands between a pool and a node, passes calls on, and spoils the ones that a test wants spoilt."""

    def __init__(self, node: Litecoind) -> None:
        self.calls: list[str] = []
        """The methods that were called, in order."""
        self.answers: dict[str, Answer] = {}
        """What to do with calls of a method instead of passing them on; "*" is for all others."""
        self._node = node
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def source(self, name: str | None = "bad", **settings: Any) -> CoreNode:
        """The pool's view of the node behind this relay."""
        return CoreNode(LITECOIN, self.url, self._node.login, name=name, **settings)

    def hang_up(self) -> None:
        """Close all connections, as a node that is started again."""
        for connection in self._connections:
            connection.cancel()

    def spoil(self, method: str, change: Callable[[Any], Any]) -> None:
        """Pass a method's results on through `change`."""

        async def answer(writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
            _, body = await self._forward(request)
            await send(writer, msgspec.json.encode({"result": change(msgspec.json.decode(body)["result"]), "id": 1}))

        self.answers[method] = answer

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # a task of asyncio's streams that ends as cancelled would be reported as an error
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.splitlines())}
        request = msgspec.json.decode(await reader.readexactly(int(fields["content-length"])))
        request["authorization"] = fields.get("authorization", "")
        self.calls.append(request["method"])
        answer = self.answers.get(request["method"]) or self.answers.get("*")
        if answer is not None:
            await answer(writer, request)
            return
        status, body = await self._forward(request)
        await send(writer, body, status=status)

    async def _forward(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of the node's own answer."""
        body = msgspec.json.encode({name: request[name] for name in ("id", "method", "params")})
        fields = f"POST / HTTP/1.1\r\nHost: node\r\nConnection: close\r\nAuthorization: {request['authorization']}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._node.rpc_port)
        try:
            writer.write(f"{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split()[1]), body
        finally:
            writer.close()


async def send(writer: asyncio.StreamWriter, body: bytes, *, status: int = 200, size: int | None = None) -> None:
    """An HTTP reply; `size` is what its head says, where that is not true."""
    size = len(body) if size is None else size
    writer.write(f"HTTP/1.1 {status} Whatever\r\nContent-Length: {size}\r\n\r\n".encode() + body)
    await writer.drain()


async def hold(_writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
    """The answer that never comes."""
    await asyncio.Event().wait()


_extranonces = itertools.count()


def mined(template: Template, network: Network) -> bytes:
    """A solved block of the template, another one at each call."""
    job = job_of(template, reward=Lock.P2WPKH, extranonce_size=4)
    pair = (next(_extranonces).to_bytes(2, "big"), os.urandom(2))
    root = job.stratum.merkle_root(*pair)
    header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 0)
    header = solve(header, template.network_target, network.pow_hash)
    return assemble_block(header, job.stratum.coinbase(*pair), template)


def hash_of(block: bytes) -> bytes:
    """A block's hash, internal order."""
    return sha256d(block[:HEADER_SIZE])


class PoolOn:
    """A pool on a node, with its log and blocks in `folder`, following it; and a miner in the same process."""

    def __init__(self, folder: Path, node: NodeSource, network: Network, *, emulated_target: int, grace: float) -> None:
        self.node = node
        self.log = ShareLog(folder / "shares")
        self.pool = Pool(
            network,
            node,
            self.log,
            rules=Rules(2, emulated_target),
            tag=b"/test/",
            blocks_folder=folder / "blocks",
            stale_grace=grace,
        )
        self.heard: list[tuple[LiveJob, bool]] = []
        """Jobs in the order in which miners got them, and whether they were clean."""
        self.pool.on_job.append(lambda job, clean: self.heard.append((job, clean)))
        self._network = network
        self._nonces = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Give the pool a commitment, and with it a first job; then follow node and blocks."""
        await self.pool.set_commitment(Commitment(0, bytes(32), Lock.P2WPKH.value))
        self.follow()

    def follow(self) -> None:
        self._tasks.append(asyncio.create_task(self.pool.follow_node()))
        self._tasks.append(asyncio.create_task(self.pool.block_keeper.follow()))

    async def close(self, seconds: float = 0.1) -> None:
        """Stop and let go of everything; blocks on their way get `seconds`. Fails if following the node had ended."""
        ended = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.block_keeper.close(seconds)
        await self.log.close()
        await self.node.close()
        for task in ended:
            task.result()
        assert not ended, "following the node has ended"

    @property
    def job(self) -> Job:
        assert self.pool.job is not None
        return self.pool.job

    @property
    def blocks(self) -> list[FoundBlock]:
        return self.pool.blocks

    @property
    def states(self) -> list[BlockState]:
        return [block.state for block in self.pool.blocks]

    def solve(
        self,
        job: Job | None = None,
        *,
        is_block: bool = False,
        share_bits: int = SHARE_BITS,
        wanted: Callable[[int], bool] | None = None,
    ) -> Submission:
        """Hash until it is a share and no block, or with `is_block` a block, or what `wanted` likes."""
        job = job or self.job
        live = self.pool.judge.find(job.number)
        assert live is not None
        terms = live.terms(share_bits)
        if wanted is None:
            low, high = (0, job.network_target) if is_block else (job.network_target + 1, terms.target)
            wanted = lambda number: low <= number <= high  # noqa: E731 - as short as the default it stands for
        extranonce1, extranonce2 = b"\x00\x00\x00\x01", bytes(8)
        root = job.stratum.merkle_root(extranonce1, extranonce2)
        template = job.template
        while True:
            nonce = next(self._nonces)
            header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, nonce)
            if wanted(hash_to_int(self._network.pow_hash(header))):
                break
        worker = Worker(ALICE, "rig")
        return Submission(terms, worker, extranonce1, extranonce2, template.curtime, nonce, template.version, root)

    async def mine(self, count: int) -> None:
        """Hand in shares that are no blocks, and wait until they are durable."""
        await asyncio.gather(*[self.pool.submit(self.solve()) for _ in range(count)])

    async def find_block(self, job: Job | None = None) -> FoundBlock:
        """Hand in a share that is a block; returns when the share is durable, wherever the block is."""
        await self.pool.submit(self.solve(job, is_block=True))
        return self.pool.blocks[-1]

    async def state(self, block: FoundBlock, *states: BlockState) -> None:
        """Wait until a block is in one of these states."""
        await until(lambda: block.state in states, f"block {block.height} to be {' or '.join(states)}")

    async def job_on(self, tip: bytes) -> Job:
        """Wait for a job on that tip."""
        await until(lambda: self.job.stratum.prev_hash == tip, f"a job on {tip[::-1].hex()}")
        return self.job


@contextlib.asynccontextmanager
async def pool_on(
    folder: Path,
    node: NodeSource,
    network: Network = LITECOIN,
    *,
    emulated_target: int = EMULATED_TARGET,
    grace: float = 0,
    start: bool = True,
) -> AsyncIterator[PoolOn]:
    """A pool that has started and follows its node; closed, with the node, at the end."""
    rig = PoolOn(folder, node, network, emulated_target=emulated_target, grace=grace)
    try:
        if start:
            await rig.start()
        yield rig
    finally:
        await rig.close()


@contextlib.asynccontextmanager
async def opened(node: CoreNode) -> AsyncIterator[CoreNode]:
    """A node that is closed at the end."""
    try:
        yield node
    finally:
        await node.close()


def raw_files(folder: Path) -> list[str]:
    """The names of the raw blocks that a pool in `folder` keeps."""
    return sorted(path.name for path in (folder / "blocks").glob("*.block"))

"""A node of the Core family (Bitcoin Core, Bitcoin Knots, Litecoin Core) as a source of templates, by JSON-RPC.

New tips are learned from a long poll (BIP-22), and where the node publishes it, from ZMQ's `hashblock`, whichever
speaks first.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog
import zmq
import zmq.asyncio

from pool_oracle.errors import BlockRejected, InputError, NodeError, NodeRefused
from pool_oracle.networks import Network
from pool_oracle.node.jsonrpc import CALL_SECONDS, JsonRpc, Login, one_line
from pool_oracle.node.source import Tip
from pool_oracle.wire import hex_bytes, integer, member
from pool_oracle.work.gbt import KnownTransactions, template_from_gbt
from pool_oracle.work.share import HEADER_SIZE, display
from pool_oracle.work.template import Template

WATCH_SECONDS = 5.0
"""How often the tip is asked beside a long poll."""

POLL_SECONDS = 1.0
REFRESH_SECONDS = 30.0
"""Where a node offers no long poll: how often its tip is asked, and a template."""

MIN_REFRESH_SECONDS = 5.0
"""Templates on the same tip do not come faster, whatever a node answers to long polls."""

SUBMIT_SECONDS = 60.0
SYNC_SLACK = 2
"""Headers that a synced node may be ahead of its blocks."""

RPC_INVALID_ADDRESS_OR_KEY = -5
RPC_INVALID_PARAMETER = -8
RPC_DESERIALIZATION_ERROR = -22

ACCEPTED = (None, "duplicate", "inconclusive", "duplicate-inconclusive")
"""What submitblock says of a block that the node holds (BIP-22); inconclusive: on a branch that is not the best."""

log = structlog.get_logger("node")


class CoreNode:
    """One node. See NodeSource for the calls."""

    def __init__(
        self,
        network: Network,
        url: str,
        login: Login,
        *,
        name: str | None = None,
        zmq_hashblock: str | None = None,
        seconds: float = CALL_SECONDS,
    ) -> None:
        """`zmq_hashblock` is the endpoint of the node's setting zmqpubhashblock; `seconds` a call's time limit."""
        self.network = network
        self.name = name or url.rpartition("://")[2].rstrip("/")
        self._rpc = JsonRpc(self.name, url, login)
        self._seconds = seconds
        self._longpoll_id: str | None = None
        self._known: KnownTransactions = {}
        self._fetched_tip: bytes | None = None
        self._open_longpoll: tuple[bytes, asyncio.Task[Template] | None] = b"", None
        self._is_checked = False
        self._announcements = _Announcements(zmq_hashblock) if zmq_hashblock else None

    async def _call(self, method: str, *params: Any) -> Any:
        return await self._rpc.call(method, *params, seconds=self._seconds)

    # Checks

    async def check(self) -> str:
        """See NodeSource."""
        info = await self._call("getblockchaininfo")
        chain, blocks, headers = self._field(info, "chain"), self._count(info, "blocks"), self._count(info, "headers")
        genesis = await self._call("getblockhash", 0)
        if not isinstance(chain, str) or self.network.chains.get(chain) != genesis:
            raise NodeError(
                f"{self.name} is on chain {one_line(chain)[:40]!r} with block 0 {one_line(genesis)[:64]}, "
                f"and the pool mines {self.network.name}"
            )
        if info.get("initialblockdownload") or headers - blocks > SYNC_SLACK:
            raise NodeError(f"{self.name} is still syncing: it has {blocks} of {headers} blocks")
        self._is_checked = True
        return f"{self.name}: {self.network.name}, chain {chain}, height {blocks}"

    def _field(self, value: Any, name: str) -> Any:
        """A member of an answer. Raises NodeError naming it."""
        try:
            return member(value, name)
        except InputError as error:
            raise NodeError(f"{self.name}: {error}") from None

    def _integer(self, value: Any, name: str) -> int:
        """An integer member of an answer. Raises NodeError naming it."""
        try:
            return integer(member(value, name), name)
        except InputError as error:
            raise NodeError(f"{self.name}: {error}") from None

    def _count(self, value: Any, name: str) -> int:
        """An integer member that is not negative, and no larger than any chain is long. Raises NodeError naming it."""
        count = self._integer(value, name)
        if not 0 <= count < 1 << 31:
            raise NodeError(f"{self.name}: {name} must be 0 to 2^31 - 1, not {one_line(count)[:40]}")
        return count

    # Templates

    async def template(self) -> Template:
        """See NodeSource."""
        return await self._get_template({}, self._seconds)

    async def _get_template(self, request: dict[str, Any], seconds: float | None) -> Template:
        try:
            if not self._is_checked:
                await self.check()
            asked = {"rules": list(self.network.rules), "capabilities": ["longpoll"], **request}
            reply = await self._rpc.call("getblocktemplate", asked, seconds=seconds)
        except NodeError:
            self._is_checked = False  # it may be another node that answers next
            raise
        try:
            template = template_from_gbt(reply, self.network, self._known)
        except InputError as error:
            raise NodeError(f"{self.name}: {error}") from None
        longpoll_id = reply.get("longpollid")
        self._longpoll_id = longpoll_id if isinstance(longpoll_id, str) else None
        self._fetched_tip = template.prev_hash
        return template

    async def next_template(self, known: Template) -> Template:
        """See NodeSource."""
        if known.prev_hash != self._fetched_tip:  # the long poll would wait for what comes after the last fetched one
            template = await self.template()
            if template.prev_hash != known.prev_hash:
                return template
        waits = {asyncio.create_task(self._await_longpoll(known)), asyncio.create_task(self._watch_tip(known))}
        if self._announcements is not None:
            waits.add(asyncio.create_task(self._await_announcement(self._announcements, known)))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return min(done, key=lambda task: task.exception() is not None).result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _await_longpoll(self, known: Template) -> Template:
        """What the node answers when it has something new; a template now and then where it offers no long poll."""
        earliest = asyncio.get_running_loop().time() + MIN_REFRESH_SECONDS
        if self._longpoll_id is not None:
            try:
                template = await asyncio.shield(self._longpoll(known.prev_hash, self._longpoll_id))
            except NodeRefused as error:
                if error.code != RPC_INVALID_PARAMETER:
                    raise
                self._longpoll_id = None  # not one of this node's any more
            else:
                if template.prev_hash == known.prev_hash:
                    await asyncio.sleep(earliest - asyncio.get_running_loop().time())
                return template
        await asyncio.sleep(REFRESH_SECONDS)
        return await self.template()

    def _longpoll(self, tip: bytes, longpoll_id: str) -> asyncio.Task[Template]:
        """The long poll that is open for this tip, or a new one.

        It is never given up while its tip stands. A node keeps one of its few threads busy with a long poll until there
        is something new, whether anybody still listens or not: a handful of them, and it answers nothing else.
        """
        tip_before, poll = self._open_longpoll
        if poll is None or poll.done() or tip_before != tip:
            if poll is not None:
                poll.cancel()
            poll = asyncio.create_task(self._get_template({"longpollid": longpoll_id}, None))
            poll.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, if nobody waits for it
            self._open_longpoll = tip, poll
        return poll

    async def _watch_tip(self, known: Template) -> Template:
        """Ask for the tip all the time: a long poll's connection may be dead, or the node."""
        while True:
            await asyncio.sleep(POLL_SECONDS if self._longpoll_id is None else WATCH_SECONDS)
            if await self._best_hash() != known.prev_hash:
                template = await self.template()
                if template.prev_hash != known.prev_hash:
                    return template

    async def _await_announcement(self, announcements: _Announcements, known: Template) -> Template:
        while True:
            if await announcements.next_hash() != known.prev_hash:
                template = await self.template()
                if template.prev_hash != known.prev_hash:
                    return template

    # Blocks

    async def submit(self, block: bytes) -> tuple[str, ...]:
        """See NodeSource."""
        try:
            verdict = await self._rpc.call("submitblock", block.hex(), seconds=SUBMIT_SECONDS)
        except NodeRefused as error:
            if error.code == RPC_DESERIALIZATION_ERROR:
                raise BlockRejected("the block cannot be parsed") from None
            raise
        if verdict == "prev-blk-not-found":
            raise NodeError(f"{self.name} does not have the block before this one yet")
        if verdict in ACCEPTED:
            return (self.name,)
        if not isinstance(verdict, str):  # not the node's validation that speaks, so the block may still be good
            raise NodeError(f"{self.name}: submitblock's verdict must be a string or null, not {one_line(verdict)}")
        raise BlockRejected(one_line(verdict))

    async def propose(self, block: bytes) -> None:
        """Let the node check a block without proof of work (BIP-23). Raises BlockRejected with its reason."""
        request = {"mode": "proposal", "data": block.hex(), "rules": list(self.network.rules)}
        verdict = await self._rpc.call("getblocktemplate", request, seconds=SUBMIT_SECONDS)
        if verdict is not None:
            raise BlockRejected(one_line(verdict))

    # The chain

    async def _best_hash(self) -> bytes:
        return self._hash(await self._call("getbestblockhash"))

    def _hash(self, text: Any) -> bytes:
        """A hash of an answer, internal order."""
        return self._bytes(text, "a block hash", 32)[::-1]

    def _bytes(self, text: Any, what: str, size: int | None = None) -> bytes:
        try:
            return hex_bytes(text, what, size=size)
        except InputError as error:
            raise NodeError(f"{self.name}: {error}") from None

    async def tip(self) -> Tip:
        """See NodeSource."""
        info = await self._call("getblockchaininfo")
        height = self._count(info, "blocks")
        return Tip(self._hash(info.get("bestblockhash")), height)

    async def _hash_at(self, height: int) -> str:
        try:
            return str(await self._call("getblockhash", height))
        except NodeRefused as error:
            if error.code != RPC_INVALID_PARAMETER:
                raise
            raise NodeError(f"{self.name}: the best chain has no block {height}") from None

    async def header(self, height: int) -> bytes:
        """See NodeSource."""
        header = await self._call("getblockheader", await self._hash_at(height), False)
        return self._bytes(header, "a header", HEADER_SIZE)

    async def block(self, height: int) -> bytes:
        """See NodeSource."""
        return self._bytes(await self._call("getblock", await self._hash_at(height), 0), "a block")

    async def confirmations(self, block_hash: bytes) -> int | None:
        """See NodeSource."""
        try:
            header = await self._call("getblockheader", display(block_hash), True)
        except NodeRefused as error:
            if error.code == RPC_INVALID_ADDRESS_OR_KEY:
                return None
            raise
        return max(0, self._integer(header, "confirmations"))

    async def close(self) -> None:
        """See NodeSource."""
        _, poll = self._open_longpoll
        if poll is not None:
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
        if self._announcements is not None:
            self._announcements.close()
        await self._rpc.close()


class _Announcements:
    """The hashes that a node publishes by ZMQ. Lost ones do no harm: the long poll goes on beside it."""

    def __init__(self, endpoint: str) -> None:
        """Connects when it is first asked, and again by itself after the node was away."""
        self._endpoint = endpoint
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._is_broken = False

    async def next_hash(self) -> bytes:
        """The next block hash (internal order); never, where the endpoint is none."""
        if self._socket is None and not self._is_broken:
            self._connect()
        socket = self._socket
        while socket is not None:
            parts = await socket.recv_multipart()
            if len(parts) >= 2 and parts[0] == b"hashblock" and len(parts[1]) == 32:
                return bytes(parts[1])[::-1]
            log.warning("a message that is no hashblock", endpoint=self._endpoint)
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return await never

    def _connect(self) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"hashblock")
        try:
            self._socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            log.error("no announcements of new tips", endpoint=self._endpoint, problem=str(error))
            self.close()
            self._is_broken = True

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(zmq.ZMQError):
            if self._socket is not None:
                self._socket.close()
            if self._context is not None:
                self._context.term()
        self._socket = self._context = None

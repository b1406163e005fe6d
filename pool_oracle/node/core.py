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
from pool_oracle.node.jsonrpc import JsonRpc, Login
from pool_oracle.node.source import Tip
from pool_oracle.wire import hex_bytes, integer, member
from pool_oracle.work.gbt import template_from_gbt
from pool_oracle.work.share import HEADER_SIZE, display
from pool_oracle.work.template import Template

LONGPOLL_SECONDS = 90.0
"""A node answers a long poll after a minute at the latest when it has new transactions; then the line is dead."""

POLL_SECONDS = 1.0
REFRESH_POLLS = 30
"""Where a node offers no long poll: its tip is asked every second, a template every 30."""

SUBMIT_SECONDS = 60.0
SYNC_SLACK = 2
"""Headers that a synced node may be ahead of its blocks."""

RPC_INVALID_ADDRESS_OR_KEY = -5
RPC_INVALID_PARAMETER = -8
RPC_DESERIALIZATION_ERROR = -22

ACCEPTED = frozenset({None, "duplicate", "inconclusive", "duplicate-inconclusive"})
"""What submitblock says of a block that the node holds (BIP-22); inconclusive: on a branch that is not the best."""

log = structlog.get_logger("node")


class CoreNode:
    """One node. See NodeSource for the calls."""

    def __init__(
        self, network: Network, url: str, login: Login, *, name: str | None = None, zmq_hashblock: str | None = None
    ) -> None:
        """`zmq_hashblock` is the endpoint of the node's setting zmqpubhashblock."""
        self.network = network
        self.name = name or url.rpartition("://")[2].rstrip("/")
        self._rpc = JsonRpc(self.name, url, login)
        self._longpoll_id: str | None = None
        self._is_checked = False
        self._announcements = _Announcements(zmq_hashblock) if zmq_hashblock else None

    # Checks

    async def check(self) -> str:
        """See NodeSource."""
        info = await self._rpc.call("getblockchaininfo")
        chain, blocks, headers = (self._field(info, name) for name in ("chain", "blocks", "headers"))
        genesis = await self._rpc.call("getblockhash", 0)
        if self.network.chains.get(chain) != genesis:
            raise NodeError(
                f"{self.name} is on chain {str(chain)[:40]!r} with block 0 {str(genesis)[:64]}, "
                f"and the pool mines {self.network.name}"
            )
        if info.get("initialblockdownload") or headers - blocks > SYNC_SLACK:
            raise NodeError(f"{self.name} is still syncing: it has {blocks} of {headers} blocks")
        self._is_checked = True
        return f"{self.name}: {self.network.name}, chain {chain}, height {blocks}"

    def _field(self, value: Any, name: str) -> Any:
        """A member of an answer. Raises NodeError naming it."""
        try:
            found = member(value, name)
            return integer(found, name) if name != "chain" else found
        except InputError as error:
            raise NodeError(f"{self.name}: {error}") from None

    # Templates

    async def template(self) -> Template:
        """See NodeSource."""
        return await self._get_template({})

    async def _get_template(self, request: dict[str, Any], seconds: float | None = None) -> Template:
        limit = {} if seconds is None else {"seconds": seconds}
        try:
            if not self._is_checked:
                await self.check()
            asked = {"rules": list(self.network.rules), "capabilities": ["longpoll"], **request}
            reply = await self._rpc.call("getblocktemplate", asked, **limit)
        except NodeError:
            self._is_checked = False  # it may be another node that answers next
            raise
        try:
            template = template_from_gbt(reply, self.network)
        except InputError as error:
            raise NodeError(f"{self.name}: {error}") from None
        longpoll_id = reply.get("longpollid")
        self._longpoll_id = longpoll_id if isinstance(longpoll_id, str) else None
        return template

    async def next_template(self, known: Template) -> Template:
        """See NodeSource."""
        waits = [asyncio.create_task(self._poll(known))]
        if self._announcements is not None:
            waits.append(asyncio.create_task(self._await_announcement(self._announcements, known)))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _poll(self, known: Template) -> Template:
        """By long poll, or by asking often where the node has none."""
        if self._longpoll_id is not None:
            try:
                return await self._get_template({"longpollid": self._longpoll_id}, LONGPOLL_SECONDS)
            except NodeRefused as error:
                if error.code != RPC_INVALID_PARAMETER:
                    raise
                self._longpoll_id = None  # not one of this node's any more
        for _ in range(REFRESH_POLLS):
            if (await self._best_hash()) != known.prev_hash:
                break
            await asyncio.sleep(POLL_SECONDS)
        return await self.template()

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
        if verdict not in ACCEPTED:
            raise BlockRejected(str(verdict)[:200])
        return (self.name,)

    async def propose(self, block: bytes) -> None:
        """Let the node check a block without proof of work (BIP-23). Raises BlockRejected with its reason."""
        request = {"mode": "proposal", "data": block.hex(), "rules": list(self.network.rules)}
        verdict = await self._rpc.call("getblocktemplate", request, seconds=SUBMIT_SECONDS)
        if verdict is not None:
            raise BlockRejected(str(verdict)[:200])

    # The chain

    async def _best_hash(self) -> bytes:
        return self._hash(await self._rpc.call("getbestblockhash"))

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
        info = await self._rpc.call("getblockchaininfo")
        height = self._field(info, "blocks")
        return Tip(self._hash(info.get("bestblockhash")), height)

    async def _hash_at(self, height: int) -> str:
        try:
            return str(await self._rpc.call("getblockhash", height))
        except NodeRefused as error:
            if error.code != RPC_INVALID_PARAMETER:
                raise
            raise NodeError(f"{self.name}: the best chain has no block {height}") from None

    async def header(self, height: int) -> bytes:
        """See NodeSource."""
        header = await self._rpc.call("getblockheader", await self._hash_at(height), False)
        return self._bytes(header, "a header", HEADER_SIZE)

    async def block(self, height: int) -> bytes:
        """See NodeSource."""
        return self._bytes(await self._rpc.call("getblock", await self._hash_at(height), 0), "a block")

    async def confirmations(self, block_hash: bytes) -> int | None:
        """See NodeSource."""
        try:
            header = await self._rpc.call("getblockheader", display(block_hash), True)
        except NodeRefused as error:
            if error.code == RPC_INVALID_ADDRESS_OR_KEY:
                return None
            raise
        return max(0, int(self._field(header, "confirmations")))

    async def close(self) -> None:
        """See NodeSource."""
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

    async def next_hash(self) -> bytes:
        """The next block hash (internal order)."""
        if self._socket is None:
            self._context = zmq.asyncio.Context()
            self._socket = self._context.socket(zmq.SUB)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.SUBSCRIBE, b"hashblock")
            self._socket.connect(self._endpoint)
        while True:
            parts = await self._socket.recv_multipart()
            if len(parts) >= 2 and parts[0] == b"hashblock" and len(parts[1]) == 32:
                return bytes(parts[1])[::-1]
            log.warning("a message that is no hashblock", endpoint=self._endpoint)

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(zmq.ZMQError):
            if self._socket is not None:
                self._socket.close()
            if self._context is not None:
                self._context.term()
        self._socket = self._context = None

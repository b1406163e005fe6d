"""Several nodes as one: templates from the first that works, blocks to all of them at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from pool_oracle.errors import BlockRejected, NodeError
from pool_oracle.node.source import NodeSource, Tip
from pool_oracle.work.template import Template

LOOK_SECONDS = 10.0
"""How often the nodes that are not in use are looked at."""

LAG = 2
"""Blocks by which the node in use may be behind another before it is left."""

CLOSE_SECONDS = 5.0
"""How long a node may take over a block that another has taken already, when the pool ends."""

_DIGITS = re.compile("[0-9]+")

log = structlog.get_logger("node")

T = TypeVar("T")


class NodeGroup:
    """Nodes of one network, in order of preference. See NodeSource for the calls."""

    def __init__(self, nodes: Sequence[NodeSource], *, look_seconds: float = LOOK_SECONDS) -> None:
        """At least one node."""
        self.nodes = tuple(nodes)
        self.name = ", ".join(node.name for node in nodes)
        self._look_seconds = look_seconds
        self._active = 0
        self._problems: dict[str, str] = {}
        self._submissions: set[asyncio.Task[tuple[str, ...]]] = set()

    @property
    def active(self) -> NodeSource:
        """The node that templates come from."""
        return self.nodes[self._active]

    def _in_order(self) -> list[NodeSource]:
        """The node in use, then the others in order of preference."""
        return [self.active, *(node for node in self.nodes if node is not self.active)]

    async def check(self) -> str:
        """See NodeSource; fails when no node is fit."""
        return await self._first(lambda node: node.check())

    async def _first(self, call: Callable[[NodeSource], Awaitable[T]]) -> T:
        """The answer of the node in use, else of the first that has one. Raises NodeError with all problems."""
        problems = []
        for node in self._in_order():
            try:
                return await call(node)
            except BlockRejected:
                raise
            except NodeError as error:
                problems.append(str(error))
        raise NodeError("; ".join(problems))

    # Templates

    async def template(self) -> Template:
        """See NodeSource; the node that answers becomes the one in use."""
        problems = []
        count = len(self.nodes)
        for number in [(self._active + i) % count for i in range(count)]:
            try:
                template = await self.nodes[number].template()
            except NodeError as error:
                problems.append(str(error))
                continue
            self._use(number, "; ".join(problems))
            return template
        raise NodeError("; ".join(problems))

    def _use(self, number: int, why: str) -> None:
        if number != self._active:
            log.warning("another node is used", node=self.nodes[number].name, instead=self.active.name, why=why)
            self._active = number

    async def next_template(self, known: Template) -> Template:
        """See NodeSource. Goes to another node when this one fails or stays behind, and back when that has passed."""
        if len(self.nodes) == 1:
            return await self.active.next_template(known)
        waiting = asyncio.create_task(self.active.next_template(known))
        looking = asyncio.create_task(self._better_node(known))
        try:
            await asyncio.wait((waiting, looking), return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                self._use(*looking.result())
                return await self.template()
            try:
                return waiting.result()
            except NodeError as error:
                log.error("node failed", node=self.active.name, problem=str(error))
                return await self.template()
        finally:
            for task in (waiting, looking):
                task.cancel()
            await asyncio.gather(waiting, looking, return_exceptions=True)

    async def _better_node(self, known: Template) -> tuple[int, str]:
        """Wait until another node should be used; returns its number and why."""
        while True:
            await asyncio.sleep(self._look_seconds)
            for number, node in enumerate(self.nodes):
                if number == self._active:
                    continue
                try:
                    why = await self._why_better(number, known)
                except NodeError as error:
                    self._tell(node, str(error))
                    continue
                self._tell(node, "")
                if why:
                    return number, why

    async def _why_better(self, number: int, known: Template) -> str:
        """Why a node should be used instead of the present one, or nothing. Raises NodeError when it is not fit."""
        node = self.nodes[number]
        await node.check()
        height = (await node.tip()).height
        if height >= known.height - 1 + LAG:
            why = f"it has height {height}, and templates are for {known.height}"
        elif number < self._active and height >= known.height - 1:
            why = "it is preferred and works again"
        else:
            return ""
        await node.template()  # a node may be in order, and its templates not: then it would only be left again
        return why

    def _tell(self, node: NodeSource, problem: str) -> None:
        """Log what is wrong with a node in reserve, once while it lasts."""
        kind = _DIGITS.sub("", problem)  # a height that changes is no news
        if kind == self._problems.get(node.name, ""):
            return
        self._problems[node.name] = kind
        if problem:
            log.error("node in reserve is not fit", node=node.name, problem=problem)
        else:
            log.info("node in reserve is fit again", node=node.name)

    # Blocks

    async def submit(self, block: bytes) -> tuple[str, ...]:
        """See NodeSource. All nodes get the block at once; this returns when the first has taken it.

        Raises BlockRejected when every node refuses, NodeError when none took it and one could not be asked.
        """
        tasks = [asyncio.create_task(node.submit(block), name=node.name) for node in self.nodes]
        self._submissions.update(tasks)
        for task in tasks:
            task.add_done_callback(self._submitted)
        for next_done in asyncio.as_completed(tasks):
            try:
                return await next_done
            except NodeError:
                continue
        errors = [task.exception() for task in tasks]
        reasons = {error.reason for error in errors if isinstance(error, BlockRejected)}
        if all(isinstance(error, BlockRejected) for error in errors):
            raise BlockRejected("; ".join(sorted(reasons)))
        raise NodeError("; ".join(str(error) for error in errors))

    def _submitted(self, task: asyncio.Task[tuple[str, ...]]) -> None:
        self._submissions.discard(task)
        if not task.cancelled() and isinstance(task.exception(), NodeError):
            log.warning("block not taken by a node", node=task.get_name(), problem=str(task.exception()))

    # The chain

    async def tip(self) -> Tip:
        """See NodeSource."""
        return await self._first(lambda node: node.tip())

    async def header(self, height: int) -> bytes:
        """See NodeSource."""
        return await self._first(lambda node: node.header(height))

    async def block(self, height: int) -> bytes:
        """See NodeSource."""
        return await self._first(lambda node: node.block(height))

    async def confirmations(self, block_hash: bytes) -> int | None:
        """See NodeSource; a node that knows the block is believed before one that does not."""
        problems, is_unknown = [], False
        for node in self._in_order():
            try:
                depth = await node.confirmations(block_hash)
            except NodeError as error:
                problems.append(str(error))
                continue
            if depth is not None:
                return depth
            is_unknown = True
        if is_unknown:
            return None
        raise NodeError("; ".join(problems))

    async def close(self) -> None:
        """See NodeSource; blocks that are on their way to a node get there first, unless it has stopped answering."""
        if self._submissions:
            _, late = await asyncio.wait(self._submissions, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self.nodes))

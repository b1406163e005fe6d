"""What the pool needs of a Bitcoin node, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pool_oracle.work.template import Template


@dataclass(frozen=True, slots=True)
class Tip:
    """The last block of a node's best chain. `hash` is in internal order."""

    hash: bytes
    height: int


class NodeSource(Protocol):
    """A source of templates that takes blocks. All calls may raise NodeError."""

    name: str
    """What logs and errors call it."""

    async def check(self) -> str:
        """Say in words what the node is, for people. Raises NodeError for a wrong network or a node still syncing."""

    async def template(self) -> Template:
        """What the next block should hold."""

    async def next_template(self, known: Template) -> Template:
        """Wait for a better template than `known`: at once when the tip changes, now and then for higher fees."""

    async def submit(self, block: bytes) -> tuple[str, ...]:
        """Hand in a solved block; handing in one again is harmless. Returns the names of the nodes that took it.

        Raises BlockRejected with the node's reason.
        """

    async def tip(self) -> Tip:
        """The best chain's last block."""

    async def header(self, height: int) -> bytes:
        """The 80-byte header of the best chain at `height`."""

    async def block(self, height: int) -> bytes:
        """The whole block of the best chain at `height`."""

    async def confirmations(self, block_hash: bytes) -> int | None:
        """How deep a block (hash in internal order) is in the best chain: 1 is the tip, 0 is beside the chain.

        None when the node does not know it.
        """

    async def close(self) -> None:
        """Let go of the node."""

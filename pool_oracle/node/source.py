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

    @property
    def network_name(self) -> str:
        """The network that the node is on, as in `networks.py`."""

    async def template(self) -> Template:
        """What the next block should hold."""

    async def submit(self, block: bytes) -> None:
        """Hand in a solved block. Raises BlockRejected with the node's reason."""

    async def tip(self) -> Tip:
        """The best chain's last block."""

    async def wait_for_tip(self, known: bytes) -> Tip:
        """Return as soon as the tip is another than `known`."""

    async def header(self, height: int) -> bytes:
        """The 80-byte header of the best chain at `height`."""

    async def block(self, height: int) -> bytes:
        """The whole block of the best chain at `height`."""

    async def close(self) -> None:
        """Let go of the node."""

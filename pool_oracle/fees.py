"""What the blocks of the best chain paid in fees, for schemes whose shares are priced by it: read, and written down.

The log names each block, so that anyone can check its fees: what its coinbase pays in all, less the subsidy.
"""

from __future__ import annotations

import structlog

from pool_oracle.errors import JobError, NodeError
from pool_oracle.ledger.accounts import AccountedLog
from pool_oracle.node.source import NodeSource
from pool_oracle.payout.schemes.base import block_subsidy
from pool_oracle.payout.schemes.fpps import FEE_BLOCKS
from pool_oracle.units import Satoshi
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import display
from pool_oracle.work.template import Template

log = structlog.get_logger("fees")


class FeeKeeper:
    """Keeps the fees in a log up with the node's best chain."""

    def __init__(self, node: NodeSource, book: AccountedLog, tips: dict[int, str], halving_interval: int) -> None:
        """`tips` are the blocks that the log knows, by height: their hashes, in display order."""
        self._node = node
        self._book = book
        self._known = tips
        self._halving_interval = halving_interval

    async def follow(self, template: Template) -> None:
        """Write down every block before the template's that the log does not know: shares for it can then be priced.

        After a reorganisation that is all from the fork on; at the very first the last 144 blocks. Raises NodeError,
        also when the chain moves meanwhile: then a newer template is on its way.
        """
        lowest = max(0, template.height - FEE_BLOCKS)
        if self._known:
            lowest = min(self._known)
        wanted = display(template.prev_hash)
        missing: list[tuple[int, str, Satoshi]] = []
        height = template.height - 1
        if height - lowest > 1 and not self._known:
            log.info("reading fees", blocks=height - lowest + 1)
        while height >= lowest and self._known.get(height) != wanted:
            fees, parent = await self._read(height, wanted)
            missing.append((height, wanted, fees))
            height, wanted = height - 1, parent
        for known in [known for known in self._known if known > height]:
            del self._known[known]
        for place, block_hash, fees in reversed(missing):
            self._book.append_tip(place, block_hash, fees)
            self._known[place] = block_hash

    async def _read(self, height: int, wanted: str) -> tuple[Satoshi, str]:
        """A block's fees, and the hash of the block before it. Raises NodeError where it is not the `wanted` one."""
        try:
            block = parse_block(await self._node.block(height))
        except JobError as error:
            raise NodeError(f"{self._node.name} gave block {height} that cannot be read: {error}") from None
        if display(block.hash) != wanted:
            raise NodeError(f"the chain of {self._node.name} has moved: block {height} is no longer {wanted}")
        paid = sum(output.value for output in block.coinbase.outputs)
        fees = paid - block_subsidy(height, self._halving_interval)
        return Satoshi(max(0, fees)), display(block.header[4:36])

"""Found blocks: written down, handed to every node until one answers, and followed until they are mature.

A block is worth more than everything else that the pool handles, so nothing waits for it and it waits for nothing: a
slow disk delays it by a quarter of a second at the most, a node that is away gets it when it comes back, and a restart
goes on where it was. The raw block stays in a file until the block is mature.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import stamina
import structlog

from pool_oracle.errors import BlockRejected, JobError, LedgerError, NodeError
from pool_oracle.ledger.accounts import AccountedLog
from pool_oracle.ledger.sharelog import now_micros
from pool_oracle.logbook import FINAL_STATES, BlockState, FoundBlock, block_payload, block_state_payload
from pool_oracle.node.source import NodeSource
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import display

COINBASE_MATURITY = 100
"""Blocks, its own included, after which a coinbase can be spent in the next one (consensus.h)."""

DISK_SECONDS = 0.25
FOLLOW_SECONDS = 10.0
RETRY_MAX_SECONDS = 5.0
"""A node that comes back gets its blocks as soon as this: for every second that they wait, others may find one."""


_FILE_NAME = re.compile(r"([0-9]{9,10})-([0-9]{1,10})-([0-9]{1,10})-([0-9a-f]{64})\.block")
"""Height, epoch, worker, hash."""

log = structlog.get_logger("blocks")


class BlockKeeper:
    """The blocks that were found, and what is done about them."""

    def __init__(self, node: NodeSource, share_log: AccountedLog, folder: Path, blocks: list[FoundBlock]) -> None:
        """`blocks` are those that the log knows; `folder` keeps raw blocks."""
        folder.mkdir(parents=True, exist_ok=True)
        self._node = node
        self._log = share_log
        self._folder = folder
        self.blocks = blocks
        self._by_hash = {block.hash: block for block in blocks}
        self._submissions: dict[bytes, asyncio.Task[None]] = {}
        self._look_soon = asyncio.Event()

    def __contains__(self, block_hash: bytes) -> bool:
        """Whether a block is known already."""
        return block_hash in self._by_hash

    def take(self, block: FoundBlock, raw: bytes) -> None:
        """Record a new block and hand it in, both at once; returns without waiting."""
        self.blocks.append(block)
        self._by_hash[block.hash] = block
        recorded: list[asyncio.Future[None]] = [asyncio.ensure_future(asyncio.to_thread(self._save, block, raw))]
        try:
            recorded.append(self._log.append_block(block_payload(block), block.worker))
        except LedgerError as error:
            log.error("block not recorded", hash=display(block.hash), problem=str(error))
        for future in recorded:
            future.add_done_callback(_report_unrecorded)
        self._start(block, raw, recorded)

    def _start(self, block: FoundBlock, raw: bytes, recorded: list[asyncio.Future[None]]) -> None:
        task = asyncio.create_task(self._hand_in(block, raw, recorded), name=f"block-{block.height}")
        self._submissions[block.hash] = task
        task.add_done_callback(lambda _: self._handed_in(block, task))

    def _handed_in(self, block: FoundBlock, task: asyncio.Task[None]) -> None:
        """A block is looked after from now on, and handed in again if it turns out that no node has it."""
        del self._submissions[block.hash]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.look_soon()
        else:
            log.error("block could not be handed in", hash=display(block.hash), problem=repr(error))

    # Handing in

    async def _hand_in(self, block: FoundBlock, raw: bytes, recorded: list[asyncio.Future[None]]) -> None:
        """Submit until a node takes the block or all refuse it."""
        if recorded:
            await asyncio.wait(recorded, timeout=DISK_SECONDS)
        policy = stamina.retry_context(on=NodeError, attempts=None, timeout=None, wait_max=RETRY_MAX_SECONDS)
        try:
            async for attempt in policy:
                with attempt:
                    try:
                        names = await self._node.submit(raw)
                    except BlockRejected as error:
                        self._set(block, BlockState.REJECTED, detail=error.reason)
                        return
                    except NodeError as error:
                        log.error("block could not be handed in", hash=display(block.hash), problem=str(error))
                        raise
        except NodeError:  # never: there is no last attempt
            return
        if block.state is BlockState.SUBMITTED:
            self._set(block, BlockState.ACCEPTED, detail=", ".join(names))

    def _set(self, block: FoundBlock, state: BlockState, *, depth: int = 0, detail: str | None = None) -> None:
        """A block's new state, into memory, log and the operator's eyes. A new depth alone is no new state."""
        block.depth = depth
        if state is block.state:
            return
        before, block.state = block.state, state
        if detail is not None:
            block.detail = detail
        say = log.error if state is BlockState.REJECTED else log.warning if state is BlockState.ORPHANED else log.info
        say(
            f"block {state.value}",
            height=block.height,
            hash=display(block.hash),
            before=before.value,
            depth=depth,
            detail=block.detail,
        )
        try:
            self._log.append_block_state(block_state_payload(block, now_micros()))
        except LedgerError as error:
            log.error("block's state not recorded", hash=display(block.hash), problem=str(error))

    # Following

    def look_soon(self) -> None:
        """Tell that something has changed: a new tip, an accepted block."""
        self._look_soon.set()

    async def follow(self) -> None:
        """For ever: look after all blocks at every new tip, and every few seconds."""
        await self._take_strays()
        while True:
            try:
                await self.look()
            except NodeError as error:
                log.error("blocks cannot be followed", problem=str(error))
            try:
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await self._look_soon.wait()
            except TimeoutError:
                pass
            self._look_soon.clear()

    async def look(self) -> None:
        """Where does every block stand that is not settled for ever? Raises NodeError when no node can say."""
        for block in [block for block in self.blocks if block.state not in FINAL_STATES]:
            if block.hash in self._submissions:
                continue
            depth = await self._node.confirmations(block.hash)
            if depth is None:
                await self._hand_in_again(block)
            elif depth == 0:
                self._set(block, BlockState.ORPHANED)
            elif depth < COINBASE_MATURITY:
                self._set(block, BlockState.BEST, depth=depth)
            else:
                self._set(block, BlockState.MATURE, depth=depth)
                await asyncio.to_thread(self._raw_file(block).unlink, missing_ok=True)

    async def _hand_in_again(self, block: FoundBlock) -> None:
        """No node knows the block: it was away, lost it, or was replaced."""
        try:
            raw = await asyncio.to_thread(self._raw_file(block).read_bytes)
        except OSError as error:
            log.error("no node knows a block, and its file is gone", hash=display(block.hash), problem=str(error))
            return
        log.warning("no node knows a block; it is handed in again", height=block.height, hash=display(block.hash))
        self._start(block, raw, [])

    async def settle(self) -> None:
        """Wait for blocks that are on their way to a node; those that wait for a node to come back stay in the file."""
        await asyncio.gather(*self._submissions.values(), return_exceptions=True)

    async def close(self, seconds: float = 5.0) -> None:
        """Give blocks on their way a last chance, then stop; what is open is handed in again after a restart."""
        tasks = list(self._submissions.values())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Files

    def _raw_file(self, block: FoundBlock) -> Path:
        """A block's file. Its name says what the block itself does not, in case the log loses its record."""
        return self._folder / f"{block.height:09d}-{block.epoch}-{block.worker}-{display(block.hash)}.block"

    async def _take_strays(self) -> None:
        """Record blocks whose files are here and whose records are not: a crash came between, or the log failed."""
        for block, raw in await asyncio.to_thread(self._strays):
            log.error("the log has lost a block; its file is here", height=block.height, hash=display(block.hash))
            try:
                self._log.append_block(block_payload(block), block.worker)
            except LedgerError as error:
                log.error("block not recorded", hash=display(block.hash), problem=str(error))
                await self._hand_in_unrecorded(block, raw)
            else:
                self.blocks.append(block)
                self._by_hash[block.hash] = block

    def _strays(self) -> list[tuple[FoundBlock, bytes]]:
        """The blocks of files that the log does not know, with their bytes."""
        found = []
        for path in sorted(self._folder.glob("*.block")):
            name = _FILE_NAME.fullmatch(path.name)
            if name is None or bytes.fromhex(name[4])[::-1] in self._by_hash:
                continue
            try:
                raw = path.read_bytes()
                parsed = parse_block(raw)
                seen = path.stat().st_mtime_ns // 1000
            except (OSError, JobError) as error:
                log.error("a block's file cannot be read", file=str(path), problem=str(error))
                continue
            coinbase = parsed.coinbase.serialize(with_witness=False)
            found.append((FoundBlock(parsed.hash, int(name[1]), int(name[2]), coinbase, int(name[3]), seen), raw))
        return [(block, raw) for block, raw in found if block.hash not in self._by_hash]

    async def _hand_in_unrecorded(self, block: FoundBlock, raw: bytes) -> None:
        """Once at each start: without a record there is nothing that could be followed."""
        try:
            await self._node.submit(raw)
        except NodeError as error:
            log.error("block could not be handed in", hash=display(block.hash), problem=str(error))

    def _save(self, block: FoundBlock, raw: bytes) -> None:
        """The raw block into its file, durably."""
        path = self._raw_file(block)
        scratch = path.with_suffix(".part")
        with scratch.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _report_unrecorded(future: asyncio.Future[None]) -> None:
    """A block that could not be written down is handed in all the same; the operator is told."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("block not recorded", problem=str(error))

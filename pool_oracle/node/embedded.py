"""A regtest node inside this process, on Bitcoin Core's own validation engine (libbitcoinkernel).

It has no peers and no mempool: its templates are empty blocks. What it accepts, Bitcoin Core's consensus code accepted.
The kernel's calls block, so they run in one thread of their own; that thread also owns the kernel's objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pbk

from pool_oracle.errors import BlockRejected, NodeError
from pool_oracle.hashes import sha256d
from pool_oracle.node.source import Tip
from pool_oracle.units import SATOSHI_PER_COIN, Satoshi
from pool_oracle.work.coinbase import witness_commitment_script
from pool_oracle.work.template import Template

REGTEST_NBITS = 0x207FFFFF
REGTEST_HALVING_INTERVAL = 150
REGTEST_GENESIS_HASH = bytes.fromhex("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206")[::-1]
BLOCK_VERSION = 0x20000000
MEDIAN_TIME_SPAN = 11

_REASON = re.compile(r"(?:AcceptBlock FAILED \(|ConnectBlock \w+ failed, )([\w-]+(?:\(\w+\))?)")
"""Where the kernel's log names its reason: `bad-cb-amount`, `bad-version(0x00000003)`."""


class EmbeddedRegtest:
    """Bitcoin regtest in `folder`; starts where the folder's chain ends. See NodeSource for the calls.

    The kernel writes its chain when it is let go of. What it took since then lies in a file beside it, so that a
    process that is killed loses no block.
    """

    name = "embedded"

    def __init__(self, folder: Path) -> None:
        """Load or create the chain. Raises NodeError when the folder is in use or unreadable."""
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._log: list[str] = []
        self._invalid: list[Any] = []
        self._new_tip = asyncio.Event()
        try:
            self._thread.submit(self._load, folder).result()
        except Exception as error:
            self._thread.shutdown()
            raise NodeError(f"the regtest chain in {folder} cannot be opened (is it in use?): {error}") from None

    def _load(self, folder: Path) -> None:
        pbk.logging_set_options(pbk.LoggingOptions())
        self._logging = pbk.LoggingConnection(self._log.append)
        callbacks = pbk.ValidationInterfaceCallbacks(block_checked=self._on_block_checked)
        self._kernel = pbk.load_chainman(folder, pbk.ChainType.REGTEST, validation_callbacks=callbacks)
        self._chain = self._kernel.get_active_chain()
        self._taken = folder / "taken.blocks"
        for block in _blocks_in(self._taken):
            with contextlib.suppress(RuntimeError, pbk.ProcessBlockException):  # the kernel has it, or never took it
                self._kernel.process_block(pbk.Block(block))

    def _on_block_checked(self, _user_data: Any, _block: Any, state: Any) -> None:
        """Called for every block that one submission makes the kernel connect; the last may be the old tip again."""
        if state.validation_mode != pbk.ValidationMode.VALID:
            self._invalid.append(state.block_validation_result)

    async def _call(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def check(self) -> str:
        """See NodeSource."""
        return f"embedded regtest node, height {(await self.tip()).height}"

    async def template(self) -> Template:
        """An empty block on the tip."""
        template: Template = await self._call(self._template)
        return template

    def _template(self) -> Template:
        tip = self._tip()
        entries = self._chain.block_tree_entries
        times = [
            int(entries[height].block_header.timestamp.timestamp())
            for height in range(max(0, tip.height - MEDIAN_TIME_SPAN + 1), tip.height + 1)
        ]
        mintime = sorted(times)[len(times) // 2] + 1  # the node's median; of an even number the upper one
        height = tip.height + 1
        return Template(
            height=height,
            version=BLOCK_VERSION,
            prev_hash=tip.hash,
            nbits=REGTEST_NBITS,
            curtime=max(int(time.time()), mintime),
            mintime=mintime,
            coinbase_value=Satoshi(50 * SATOSHI_PER_COIN >> height // REGTEST_HALVING_INTERVAL),
            txids=(),
            transactions=(),
            witness_commitment=witness_commitment_script(bytes(32)),
        )

    async def next_template(self, known: Template) -> Template:
        """Wait for another tip than the one that `known` builds on; without a mempool there is nothing else new."""
        while True:
            self._new_tip.clear()
            template = await self.template()
            if template.prev_hash != known.prev_hash:
                return template
            await self._new_tip.wait()

    async def submit(self, block: bytes) -> tuple[str, ...]:
        """Give a block to Bitcoin Core's validation. Raises BlockRejected with its reason."""
        await self._call(self._submit, block)
        self._new_tip.set()
        return (self.name,)

    def _submit(self, block: bytes) -> None:
        self._log.clear()
        self._invalid.clear()
        try:
            self._kernel.process_block(pbk.Block(block))
        except RuntimeError:
            raise BlockRejected("the block cannot be parsed") from None
        except pbk.ProcessBlockException:
            raise BlockRejected(self._reason()) from None
        if self._invalid:
            raise BlockRejected(self._reason())
        with self._taken.open("ab") as file:
            file.write(len(block).to_bytes(4, "little") + block)

    def _reason(self) -> str:
        """The kernel's own word for the refusal: from its log, else the class of its verdict."""
        for line in reversed(self._log):
            found = _REASON.search(line)
            if found:
                return found.group(1)
        return str(self._invalid[-1].name).lower() if self._invalid else "refused without a reason"

    async def tip(self) -> Tip:
        """The best chain's last block."""
        tip: Tip = await self._call(self._tip)
        return tip

    def _tip(self) -> Tip:
        height = self._chain.height
        return Tip(bytes(self._chain.block_tree_entries[height].block_hash), height)

    async def header(self, height: int) -> bytes:
        """The 80-byte header of the best chain at `height`."""
        return (await self.block(height))[:80]

    async def block(self, height: int) -> bytes:
        """The whole block of the best chain at `height`. Raises NodeError above the tip."""
        block: bytes = await self._call(self._block, height)
        return block

    def _block(self, height: int) -> bytes:
        if not 0 <= height <= self._chain.height:
            raise NodeError(f"the best chain has no block {height}; its height is {self._chain.height}")
        return bytes(self._kernel.blocks[self._chain.block_tree_entries[height]])

    async def confirmations(self, block_hash: bytes) -> int | None:
        """See NodeSource."""
        depth: int | None = await self._call(self._confirmations, block_hash)
        return depth

    def _confirmations(self, block_hash: bytes) -> int | None:
        try:
            entry = self._kernel.block_tree_entries[pbk.BlockHash(block_hash)]
        except KeyError:
            return None
        if not 0 <= entry.height <= self._chain.height:
            return 0
        in_chain = bytes(self._chain.block_tree_entries[entry.height].block_hash) == block_hash
        return self._chain.height - entry.height + 1 if in_chain else 0

    async def close(self) -> None:
        """Write the chain to disk and let go of the folder."""
        await asyncio.get_running_loop().run_in_executor(None, self.unload)

    def unload(self) -> None:
        """The same, outside an event loop. Calling it again does nothing."""
        if self._kernel is not None:
            self._thread.submit(self._unload).result()
            self._thread.shutdown()

    def _unload(self) -> None:
        self._chain = self._kernel = self._logging = None
        self._taken.unlink(missing_ok=True)


def _blocks_in(path: Path) -> Iterator[bytes]:
    """Blocks that were written down one after the other; the last may be torn."""
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + 4 <= len(data) and at + 4 + (size := int.from_bytes(data[at : at + 4], "little")) <= len(data):
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def solve(header: bytes, target: int, pow_hash: Callable[[bytes], bytes] = sha256d) -> bytes:
    """The header with the first nonce whose proof of work meets `target`. For blocks that no miner is asked for."""
    head = header[:76]
    for nonce in range(1 << 32):
        candidate = head + nonce.to_bytes(4, "little")
        if int.from_bytes(pow_hash(candidate), "little") <= target:
            return candidate
    raise NodeError("no nonce of this header meets the target")

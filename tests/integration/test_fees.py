"""Fees of blocks in the log, through reorganisations and restarts, for schemes that price shares by them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.errors import CorruptLog, NodeError
from pool_oracle.fees import FeeKeeper
from pool_oracle.hashes import sha256d
from pool_oracle.ledger.accounts import AccountedLog
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.payout.schemes.base import block_subsidy
from pool_oracle.payout.schemes.fpps import FEE_BLOCKS
from pool_oracle.restoring import restore_state
from pool_oracle.work.records import KIND_TIP
from pool_oracle.work.share import display, pack_header

RULES = Rules(scheme="fpps", fee_bps=100, halving_interval=150)


class FakeNode:
    """A chain of blocks with nothing but a coinbase; `fees` by height."""

    name = "fake"

    def __init__(self, fees: list[int]) -> None:
        self.asked: list[int] = []
        self.chain: list[bytes] = []
        self.grow(fees)

    def grow(self, fees: list[int]) -> None:
        for fee in fees:
            height = len(self.chain)
            value = block_subsidy(height, RULES.halving_interval) + fee
            script = b"\x04" + height.to_bytes(4, "little")
            coinbase = b"".join(
                (
                    (1).to_bytes(4, "little"),
                    b"\x01" + bytes(32) + b"\xff" * 4 + bytes([len(script)]) + script + b"\xff" * 4,
                    b"\x01" + value.to_bytes(8, "little") + b"\x01\x51",
                    bytes(4),
                )
            )
            previous = sha256d(self.chain[-1][:80]) if self.chain else bytes(32)
            header = pack_header(4, previous, sha256d(coinbase), 1_700_000_000 + height, 0x207FFFFF, fee)
            self.chain.append(header + b"\x01" + coinbase)

    def cut(self, height: int) -> None:
        del self.chain[height:]

    def hash(self, height: int) -> bytes:
        return sha256d(self.chain[height][:80])

    async def block(self, height: int) -> bytes:
        self.asked.append(height)
        return self.chain[height]

    @property
    def template(self) -> Any:
        class Template:
            height = len(self.chain)
            prev_hash = self.hash(len(self.chain) - 1)

        return Template


async def followed(folder: Path, node: Any) -> tuple[Any, FeeKeeper, ShareLog]:
    log = ShareLog(folder)
    state = restore_state(log, RULES)
    book = AccountedLog(log, state.accounts)
    return state, FeeKeeper(node, book, state.tips, RULES.halving_interval), log


def mean_at(state: Any, height: int) -> int:
    scheme = state.accounts.scheme
    return int(scheme.guaranteed(height) - block_subsidy(height, RULES.halving_interval))


def test_the_last_144_blocks_are_read_once_and_then_each_new_one(tmp_path: Path) -> None:
    node = FakeNode([1000 + i for i in range(200)])

    async def work() -> None:
        state, keeper, log = await followed(tmp_path, node)
        await keeper.follow(node.template)
        assert sorted(node.asked) == list(range(200 - FEE_BLOCKS, 200))
        kept = sorted(1000 + i for i in range(200 - FEE_BLOCKS, 200))[14:-14]
        assert mean_at(state, 200) == sum(kept) // len(kept)
        node.asked.clear()
        await keeper.follow(node.template)
        node.grow([5])
        await keeper.follow(node.template)
        assert node.asked == [200]
        await log.close()
        state, keeper, log = await followed(tmp_path, node)
        before = mean_at(state, 201)
        node.asked.clear()
        node.grow([7] * 3)
        await keeper.follow(node.template)
        assert node.asked == [203, 202, 201]
        assert mean_at(state, 201) == before
        await log.close()

    asyncio.run(work())


def test_after_a_reorganisation_the_log_names_every_block_from_the_fork_on(tmp_path: Path) -> None:
    node = FakeNode([1000] * 20)

    async def work() -> None:
        state, keeper, log = await followed(tmp_path, node)
        await keeper.follow(node.template)
        node.cut(15)
        node.grow([9000] * 7)
        node.asked.clear()
        await keeper.follow(node.template)
        assert node.asked == [21, 20, 19, 18, 17, 16, 15]
        mean = mean_at(state, 22)
        assert mean == (1000 * 13 + 9000 * 5) // 18  # of 22 the lowest two and the highest two are left out
        node.cut(16)
        node.grow([1000])  # a lower tip, as a node tells it for a moment
        await keeper.follow(node.template)
        await log.close()
        state, _, log = await followed(tmp_path, node)
        assert state.tips[16] == display(node.hash(16))
        assert max(state.tips) == 16
        await log.close()
        heights = [r.payload["height"] for _, r in replay(tmp_path) if getattr(r, "kind", 0) == KIND_TIP]
        assert heights == [*range(20), *range(15, 22), 16]

    asyncio.run(work())


def test_a_chain_that_moves_meanwhile_writes_nothing(tmp_path: Path) -> None:
    node = FakeNode([1000] * 5)

    async def work() -> None:
        _, keeper, log = await followed(tmp_path, node)
        template = node.template
        node.cut(4)
        node.grow([1, 2])
        with pytest.raises(NodeError, match="has moved: block 4"):
            await keeper.follow(template)
        await log.close()
        assert not [r for _, r in replay(tmp_path) if getattr(r, "kind", 0) == KIND_TIP]

    asyncio.run(work())


def test_a_block_that_cannot_be_read_is_the_nodes_fault(tmp_path: Path) -> None:
    node = FakeNode([1000] * 5)
    node.chain[4] += b"\0"

    async def work() -> None:
        _, keeper, log = await followed(tmp_path, node)
        with pytest.raises(NodeError, match="fake gave block 4 that cannot be read"):
            await keeper.follow(node.template)
        await log.close()

    asyncio.run(work())


def test_a_log_with_a_gap_in_its_fees_is_corrupt(tmp_path: Path) -> None:
    node = FakeNode([1000] * 5)

    async def work() -> None:
        _, keeper, log = await followed(tmp_path, node)
        await keeper.follow(node.template)
        log.append_tip({"height": 9, "block": "00" * 32, "fees": 1})
        await log.close()
        log = ShareLog(tmp_path)
        with pytest.raises(CorruptLog, match=r"shares-00000000\.log: fees of block 9 leave a gap"):
            restore_state(log, RULES)
        await log.close()

    asyncio.run(work())

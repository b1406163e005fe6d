"""What becomes of a found block when nodes, disks and the pool itself do their worst.

The nodes are played: real ones cannot be made to refuse, hang and forget on command.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pool_oracle import blocks
from pool_oracle.blocks import COINBASE_MATURITY, BlockKeeper
from pool_oracle.errors import BlockRejected, LedgerError, NodeError, ShareRefused
from pool_oracle.hashes import sha256d
from pool_oracle.ledger.accounts import AccountedLog
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.logbook import BlockState, FoundBlock
from pool_oracle.networks import network_named
from pool_oracle.node.group import NodeGroup
from pool_oracle.node.source import NodeSource, Tip
from pool_oracle.payout.payee import format_payee
from pool_oracle.restoring import restore_state
from pool_oracle.units import Satoshi
from pool_oracle.work.coinbase import witness_commitment_script
from pool_oracle.work.records import KIND_BLOCK, KIND_BLOCK_STATE, LongRecord
from pool_oracle.work.share import display, hash_to_int, pack_header
from pool_oracle.work.targets import nbits_to_target, target_to_nbits
from pool_oracle.work.template import Template
from tests.integration.litecoin import ALICE, GUARD_SECONDS, PoolOn, hash_of, mined, pool_on, raw_files, until

REGTEST = network_named("regtest")
SUBMITTED, ACCEPTED, REJECTED, BEST, ORPHANED, MATURE = BlockState
HARD_BITS = target_to_nbits(1 << 240)

AWAY = NodeError("the node is away")
REFUSED = BlockRejected("bad-cb-amount")


def template_on(prev_hash: bytes, height: int = 1) -> Template:
    return Template(
        height=height,
        version=0x20000000,
        prev_hash=prev_hash,
        nbits=0x207FFFFF,
        curtime=1_700_000_000,
        mintime=1_699_990_000,
        coinbase_value=Satoshi(50 * 10**8),
        txids=(),
        transactions=(),
        witness_commitment=witness_commitment_script(bytes(32)),
    )


class PlayedNode:
    """A node that answers as a test wishes."""

    def __init__(self, *answers: Exception | None, name: str = "played") -> None:
        """`answers` to submissions in order, the last one for ever: None takes the block."""
        self.name = name
        self.answers = list(answers) or [None]
        self.submitted: list[bytes] = []
        self.depths: dict[bytes, int | NodeError | None] = {}
        """What is said of a block; nothing is known of others."""
        self.asked: list[bytes] = []
        self.present = template_on(sha256d(b"first"))
        self.tip_changed = asyncio.Event()

    async def check(self) -> str:
        return self.name

    async def template(self) -> Template:
        return self.present

    async def next_template(self, known: Template) -> Template:
        while self.present.prev_hash == known.prev_hash:
            self.tip_changed.clear()
            await self.tip_changed.wait()
        return self.present

    async def submit(self, block: bytes) -> tuple[str, ...]:
        self.submitted.append(block)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        self.depths.setdefault(hash_of(block), 1)
        return (self.name,)

    async def tip(self) -> Tip:
        return Tip(self.present.prev_hash, self.present.height - 1)

    async def header(self, height: int) -> bytes:
        raise NodeError(f"no header {height}")

    async def block(self, height: int) -> bytes:
        raise NodeError(f"no block {height}")

    async def confirmations(self, block_hash: bytes) -> int | None:
        self.asked.append(block_hash)
        depth = self.depths.get(block_hash)
        if isinstance(depth, NodeError):
            raise depth
        return depth

    async def close(self) -> None:
        pass


class Keeper:
    """A keeper on a log of its own, both in `folder`, as a pool has them."""

    def __init__(self, folder: Path, node: NodeSource) -> None:
        self.folder = folder
        self.log = ShareLog(folder / "shares")
        self.state = restore_state(self.log, Rules(2))
        self.keeper = BlockKeeper(
            node, AccountedLog(self.log, self.state.accounts), folder / "blocks", self.state.blocks
        )
        self.log.define_worker(0, {"worker": 0, "payee": format_payee(ALICE), "name": "rig"})

    @property
    def blocks(self) -> list[FoundBlock]:
        return self.keeper.blocks

    def take(self, raw: bytes, height: int = 1) -> FoundBlock:
        block = FoundBlock(hash_of(raw), height, 3, raw[81:], 0, 1_700_000_000_000_000)
        self.keeper.take(block, raw)
        return block

    async def taken(self, raw: bytes, height: int = 1) -> FoundBlock:
        """A block that was handed in, with whatever came of it."""
        block = self.take(raw, height)
        await self.keeper.settle()
        return block

    async def recorded(self) -> list[str]:
        """The records of blocks in the log, in order: found, or a state."""
        await self.log.flush()
        records = [record for _, record in replay(self.log.folder) if isinstance(record, LongRecord)]
        return [
            record.payload.get("state", "found") for record in records if record.kind in (KIND_BLOCK, KIND_BLOCK_STATE)
        ]


OpenKeeper = Callable[[NodeSource], AbstractAsyncContextManager[Keeper]]


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenKeeper:
    """Opens a keeper in this test's folder; a second call finds what the first left there."""
    monkeypatch.setattr(blocks, "RETRY_MAX_SECONDS", 0.05)

    @contextlib.asynccontextmanager
    async def open_keeper(node: NodeSource) -> AsyncIterator[Keeper]:
        async with asyncio.timeout(GUARD_SECONDS):
            opened = Keeper(tmp_path, node)
            try:
                yield opened
            finally:
                await opened.keeper.close(0)
                with contextlib.suppress(LedgerError):
                    await opened.log.close()

    return open_keeper


@contextlib.asynccontextmanager
async def following(keeper: Keeper) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.keeper.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def raw() -> bytes:
    return mined(template_on(sha256d(b"before")), REGTEST)


# Handing in


def test_a_block_that_a_node_takes_is_accepted_with_that_nodes_name(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            block = await k.taken(raw)
            assert (block.state, block.detail) == (ACCEPTED, "played")
            assert node.submitted == [raw]
            assert await k.recorded() == ["found", "accepted"]

    asyncio.run(work())


def test_a_block_that_every_node_refuses_is_rejected_with_their_reasons_and_let_go(
    keeper: OpenKeeper, raw: bytes
) -> None:
    async def work() -> None:
        one, other = PlayedNode(REFUSED), PlayedNode(BlockRejected("high-hash"))
        async with keeper(NodeGroup([one, other])) as k:
            with capture_logs() as log:
                block = await k.taken(raw)
            assert (block.state, block.detail) == (REJECTED, "bad-cb-amount; high-hash")
            assert [e["log_level"] for e in log if e["event"] == "block rejected"] == ["error"]
            await k.keeper.look()
            assert one.submitted == other.submitted == [raw]
            assert one.asked == other.asked == []
            assert await k.recorded() == ["found", "rejected"]

    asyncio.run(work())


def test_a_block_that_one_node_refuses_and_another_takes_is_accepted(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        async with keeper(NodeGroup([PlayedNode(REFUSED), PlayedNode(name="other")])) as k:
            block = await k.taken(raw)
            assert (block.state, block.detail) == (ACCEPTED, "other")

    asyncio.run(work())


@pytest.mark.parametrize("order", [1, -1])
def test_a_block_that_one_node_refuses_while_another_is_away_is_handed_in_again_and_again(
    keeper: OpenKeeper, raw: bytes, order: int
) -> None:
    async def work() -> None:
        refusing, away = PlayedNode(REFUSED, name="refusing"), PlayedNode(AWAY, AWAY, AWAY, None, name="away")
        async with keeper(NodeGroup([refusing, away][::order])) as k:
            with capture_logs() as log:
                block = await k.taken(raw)
            assert (block.state, block.detail) == (ACCEPTED, "away")
            assert len(away.submitted) == 4
            problems = [e["problem"] for e in log if e["event"] == "block could not be handed in"]
            assert len(problems) == 3
            assert all("bad-cb-amount" in problem and "the node is away" in problem for problem in problems)

    asyncio.run(work())


def test_a_block_that_the_last_node_to_come_back_refuses_too_is_rejected(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        async with keeper(NodeGroup([PlayedNode(REFUSED), PlayedNode(AWAY, REFUSED)])) as k:
            assert (await k.taken(raw)).state is REJECTED

    asyncio.run(work())


def test_a_node_that_hangs_does_not_keep_a_block_from_the_others(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        gate = asyncio.Event()

        class Hanging(PlayedNode):
            async def submit(self, block: bytes) -> tuple[str, ...]:
                await gate.wait()
                return await super().submit(block)

        hanging = Hanging(name="hanging")
        group = NodeGroup([hanging, PlayedNode(name="quick")])
        async with keeper(group) as k:
            block = await k.taken(raw)
            assert (block.state, block.detail) == (ACCEPTED, "quick")
            gate.set()
            await group.close()
            assert hanging.submitted == [raw]

    asyncio.run(work())


def test_a_node_whose_code_fails_does_not_lose_a_block(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        node = PlayedNode(TypeError("not as planned"), None)
        async with keeper(node) as k:
            with capture_logs() as log:
                block = await k.taken(raw)
                await until(lambda: k.keeper._submissions == {}, "the first try to end")
                assert block.state is SUBMITTED
                await k.keeper.look()
                await k.keeper.settle()
            assert block.state is ACCEPTED
            assert any("not as planned" in str(e.get("problem")) for e in log if e["log_level"] == "error")

    asyncio.run(work())


# Disks


def test_a_disk_that_hangs_does_not_keep_a_block_from_the_node(
    keeper: OpenKeeper, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    save = BlockKeeper._save

    def slow(self: BlockKeeper, block: FoundBlock, data: bytes) -> None:
        gate.wait(GUARD_SECONDS)
        save(self, block, data)

    monkeypatch.setattr(BlockKeeper, "_save", slow)

    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            try:
                block = await k.taken(raw)
                assert block.state is ACCEPTED
                assert raw_files(k.folder) == []
            finally:
                gate.set()
            await until(lambda: raw_files(k.folder), "the file to be written at last")

    asyncio.run(work())


def test_a_share_log_that_hangs_does_not_keep_a_block_from_the_node(
    keeper: OpenKeeper, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr("os.fdatasync", lambda _descriptor: gate.wait(GUARD_SECONDS))

    async def work() -> None:
        async with keeper(PlayedNode()) as k:
            try:
                assert (await k.taken(raw)).state is ACCEPTED
            finally:
                gate.set()
            assert await k.recorded() == ["found", "accepted"]

    asyncio.run(work())


def test_a_block_is_on_disk_before_it_is_handed_in_where_the_disk_is_quick(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        class Looking(PlayedNode):
            async def submit(self, block: bytes) -> tuple[str, ...]:
                (name,) = raw_files(k.folder)
                assert (k.folder / "blocks" / name).read_bytes() == block
                assert await k.recorded() == ["found"]
                return await super().submit(block)

        async with keeper(Looking()) as k:
            assert (await k.taken(raw)).state is ACCEPTED

    asyncio.run(work())


def test_a_folder_that_cannot_be_written_does_not_keep_a_block_from_the_node(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            shutil.rmtree(k.folder / "blocks")
            with capture_logs() as log:
                block = await k.taken(raw)
            assert block.state is ACCEPTED
            assert [e["log_level"] for e in log if e["event"] == "block not recorded"] == ["error"]
            node.depths[block.hash] = COINBASE_MATURITY
            await k.keeper.look()
            assert block.state is MATURE

    asyncio.run(work())


def test_a_share_log_that_has_failed_does_not_keep_a_block_from_the_node(
    keeper: OpenKeeper, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    async def work() -> None:
        async with keeper(PlayedNode()) as k:
            monkeypatch.setattr("os.fdatasync", broken)
            with capture_logs() as log:
                failing = await k.taken(raw)
                failed = await k.taken(mined(template_on(sha256d(b"another")), REGTEST))
            assert failing.state is failed.state is ACCEPTED
            told = [e["problem"] for e in log if e["log_level"] == "error"]
            assert sum("could not be written" in problem for problem in told) == 1
            assert sum("accepts nothing" in problem for problem in told) >= 2
            monkeypatch.undo()

        # After a restart the log works again, and does not know of the second.
        node = PlayedNode()
        async with keeper(node) as k:
            assert failed.hash not in [block.hash for block in k.blocks]
            async with following(k):
                await until(lambda: [b.state for b in k.blocks] == [BEST, BEST], "both blocks to be there again")
            assert {block.hash for block in k.blocks} == {failing.hash, failed.hash}
            assert sorted(await k.recorded()) == ["accepted"] * 2 + ["best"] * 2 + ["found"] * 2

    asyncio.run(work())


# A block that the log lost


def test_a_block_whose_record_was_lost_in_a_crash_is_found_again_by_its_file(
    keeper: OpenKeeper, raw: bytes, tmp_path: Path
) -> None:
    async def work() -> None:
        async with keeper(PlayedNode(AWAY)) as k:
            block = k.take(raw, 77)
            await until(lambda: raw_files(k.folder), "the raw block's file")
        for segment in (tmp_path / "shares").glob("*.log"):
            segment.unlink()
            (segment.parent / "synced").unlink()

        node = PlayedNode()
        async with keeper(node) as k:
            k.log.define_worker(0, {"worker": 0, "payee": format_payee(ALICE), "name": "rig"})
            async with following(k):
                await until(lambda: [b.state for b in k.blocks] == [BEST], "the block to be followed")
            (found,) = k.blocks
            assert (found.hash, found.height, found.epoch, found.worker) == (block.hash, 77, 3, 0)
            assert node.submitted == [raw]

        async with keeper(node) as k, following(k):
            await until(lambda: node.asked, "a look")
            assert [(b.hash, b.state) for b in k.blocks] == [(block.hash, BEST)]
            assert node.submitted == [raw]

    asyncio.run(work())


def test_a_block_whose_worker_the_log_has_lost_too_is_handed_in_all_the_same(
    keeper: OpenKeeper, raw: bytes, tmp_path: Path
) -> None:
    async def work() -> None:
        async with keeper(PlayedNode(AWAY)) as k:
            block = FoundBlock(hash_of(raw), 1, 0, raw[81:], 12, 0)
            k.log.define_worker(12, {"worker": 12, "payee": format_payee(ALICE), "name": "gone"})
            k.keeper.take(block, raw)
            await until(lambda: raw_files(k.folder), "the raw block's file")
        for segment in (tmp_path / "shares").glob("*.log"):
            segment.unlink()
            (segment.parent / "synced").unlink()

        node = PlayedNode()
        async with keeper(node) as k:
            with capture_logs() as log:
                async with following(k):
                    await until(lambda: node.submitted, "the block to be handed in")
            assert k.blocks == []
            assert "error" in [e["log_level"] for e in log if display(block.hash) in str(e)]

    asyncio.run(work())


def test_files_that_are_no_blocks_of_ours_are_left_alone(keeper: OpenKeeper, raw: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    folder.mkdir()
    names = [
        "notes.block",
        "000000001-3-0-" + "00" * 32 + ".block",
        f"000000001-3-0-{display(hash_of(raw))}.part",
        f"000000001-3-0-{display(sha256d(b''))}.block",
    ]
    for name in names:
        (folder / name).write_bytes(raw[: len(raw) // 2])

    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            async with following(k):
                node.depths[hash_of(raw)] = 1
                block = await k.taken(raw)
                await until(lambda: block.state is BEST, "the block to be followed")
            assert k.blocks == [block]
            assert node.submitted == [raw]
        assert {path.name for path in folder.iterdir()} > set(names) - {names[2]}

    asyncio.run(work())


# Following


def test_a_block_matures_at_a_depth_of_a_hundred_and_then_its_file_goes(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            block = await k.taken(raw)
            for depth in (1, 2, COINBASE_MATURITY - 1):
                node.depths[block.hash] = depth
                await k.keeper.look()
                assert (block.state, block.depth) == (BEST, depth)
                assert len(raw_files(k.folder)) == 1
            node.depths[block.hash] = COINBASE_MATURITY
            await k.keeper.look()
            assert (block.state, block.depth) == (MATURE, COINBASE_MATURITY)
            assert raw_files(k.folder) == []
            asked = len(node.asked)
            await k.keeper.look()
            assert len(node.asked) == asked
            assert await k.recorded() == ["found", "accepted", "best", "mature"]

    asyncio.run(work())


def test_a_block_is_orphaned_and_back_as_often_as_the_chain_changes_its_mind(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            block = await k.taken(raw)
            for depth, state in ((1, BEST), (0, ORPHANED), (0, ORPHANED), (3, BEST), (0, ORPHANED), (100, MATURE)):
                node.depths[block.hash] = depth
                await k.keeper.look()
                assert (block.state, block.depth) == (state, depth)
                assert block.was_accepted == (state is not ORPHANED)
            assert await k.recorded() == ["found", "accepted", *["best", "orphaned"] * 2, "mature"]
            assert node.submitted == [raw]

    asyncio.run(work())


def test_a_node_that_cannot_say_how_a_block_stands_changes_nothing_and_is_asked_again(
    keeper: OpenKeeper, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FOLLOW_SECONDS", 0.02)

    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            block = await k.taken(raw)
            node.depths[block.hash] = AWAY
            with capture_logs() as log:
                async with following(k):
                    await until(lambda: len(node.asked) > 3, "some tries")
                    assert block.state is ACCEPTED
                    node.depths[block.hash] = 5
                    await until(lambda: block.state is BEST, "the node to answer")
            assert "the node is away" in [e.get("problem") for e in log]

    asyncio.run(work())


def test_a_block_that_the_node_has_forgotten_and_whose_file_is_gone_does_not_stop_the_others(
    keeper: OpenKeeper, raw: bytes
) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with keeper(node) as k:
            lost = await k.taken(raw)
            (k.folder / "blocks" / raw_files(k.folder)[0]).unlink()
            other = await k.taken(mined(template_on(sha256d(b"another")), REGTEST))
            node.depths[lost.hash] = None
            with capture_logs() as log:
                await k.keeper.look()
            assert (lost.state, other.state) == (ACCEPTED, BEST)
            assert "no node knows a block, and its file is gone" in [e["event"] for e in log]

    asyncio.run(work())


# Restarts


async def left_in(open_keeper: OpenKeeper, raw: bytes, depths: Iterable[int]) -> FoundBlock:
    """A block that the last run of the pool left after these looks."""
    node = PlayedNode()
    async with open_keeper(node) as k:
        block = await k.taken(raw)
        for depth in depths:
            node.depths[block.hash] = depth
            await k.keeper.look()
    return block


def test_a_block_that_was_on_its_way_at_the_end_is_handed_in_after_a_restart(keeper: OpenKeeper, raw: bytes) -> None:
    async def work() -> None:
        async with keeper(PlayedNode(AWAY)) as k:
            k.take(raw)
            await until(lambda: raw_files(k.folder), "the raw block's file")
        node = PlayedNode()
        async with keeper(node) as k, following(k):
            (block,) = k.blocks
            await until(lambda: block.state is BEST, "the block to be followed")
            assert node.submitted == [raw]
            assert await k.recorded() == ["found", "accepted", "best"]

    asyncio.run(work())


def has_depth(block: FoundBlock, depth: int) -> bool:
    return block.depth == depth


@pytest.mark.parametrize(("depths", "state"), [((), ACCEPTED), ((1,), BEST), ((1, 0), ORPHANED)], ids=str)
def test_an_open_block_is_followed_after_a_restart_and_handed_in_where_it_was_forgotten(
    keeper: OpenKeeper, raw: bytes, depths: tuple[int, ...], state: BlockState
) -> None:
    async def work() -> None:
        block = await left_in(keeper, raw, depths)
        assert block.state is state
        for known in (True, False):
            node = PlayedNode()
            if known:
                node.depths[block.hash] = 7
            async with keeper(node) as k:
                (restored,) = k.blocks
                assert restored.coinbase == block.coinbase
                assert restored.state is (state if known else BEST)
                async with following(k):
                    await until(partial(has_depth, restored, 7 if known else 1), "the block to be followed")
                assert restored.state is BEST
                assert node.submitted == ([] if known else [raw])

    asyncio.run(work())


@pytest.mark.parametrize(("answer", "depths", "state"), [(REFUSED, (), REJECTED), (None, (100,), MATURE)])
def test_a_settled_block_stays_settled_after_a_restart(
    keeper: OpenKeeper, raw: bytes, answer: Exception | None, depths: tuple[int, ...], state: BlockState
) -> None:
    async def work() -> None:
        node = PlayedNode(answer)
        async with keeper(node) as k:
            block = await k.taken(raw)
            for depth in depths:
                node.depths[block.hash] = depth
                await k.keeper.look()
            assert block.state is state
        node = PlayedNode()
        async with keeper(node) as k:
            for _ in range(2):
                await k.keeper.look()
            assert [b.state for b in k.blocks] == [state]
            assert k.blocks[0].detail == block.detail
            assert node.submitted == node.asked == []

    asyncio.run(work())


# Through the pool


def meets_network_but_not_share_target(rig: PoolOn) -> Callable[[int], bool]:
    return lambda number: nbits_to_target(HARD_BITS) < number <= rig.job.network_target


def refusal_of(rig: PoolOn, submission: Any) -> str:
    with pytest.raises(ShareRefused) as refused:
        rig.pool.submit(submission)
    return refused.value.reason


def test_a_block_is_handed_in_though_its_share_has_too_low_a_difficulty(tmp_path: Path) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with asyncio.timeout(GUARD_SECONDS), pool_on(tmp_path, node, REGTEST) as rig:
            low = rig.solve(wanted=meets_network_but_not_share_target(rig), share_bits=HARD_BITS)
            assert refusal_of(rig, low) == "low difficulty share"
            await rig.state(rig.blocks[0], BEST)
            assert rig.pool.scheme.share_count == 0
            assert [hash_of(block) for block in node.submitted] == [rig.blocks[0].hash]

    asyncio.run(work())


def test_a_block_is_handed_in_though_its_share_is_stale(tmp_path: Path) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with asyncio.timeout(GUARD_SECONDS), pool_on(tmp_path, node, REGTEST) as rig:
            late = rig.solve(is_block=True)
            node.present = template_on(sha256d(b"second"), 2)
            node.tip_changed.set()
            await rig.job_on(node.present.prev_hash)
            assert "stale" in refusal_of(rig, late)
            await rig.state(rig.blocks[0], BEST)
            assert rig.pool.scheme.share_count == 0

    asyncio.run(work())


def test_a_block_is_handed_in_though_its_time_is_out_of_range(tmp_path: Path) -> None:
    async def work() -> None:
        node = PlayedNode()
        async with asyncio.timeout(GUARD_SECONDS), pool_on(tmp_path, node, REGTEST) as rig:
            template = rig.job.stratum
            share = rig.solve()
            ntime = share.ntime + 100_000
            nonce = next(
                nonce
                for nonce in range(1 << 32)
                if hash_to_int(sha256d(_header(template, share.merkle_root, ntime, nonce))) <= rig.job.network_target
            )
            assert "out of range" in refusal_of(rig, share._replace(ntime=ntime, nonce=nonce))
            await rig.state(rig.blocks[0], BEST)

    asyncio.run(work())


def _header(stratum: Any, root: bytes, ntime: int, nonce: int) -> bytes:
    return pack_header(stratum.version, stratum.prev_hash, root, ntime, stratum.nbits, nonce)


def test_a_block_that_comes_twice_is_handed_in_once_and_its_second_share_is_a_duplicate(tmp_path: Path) -> None:
    async def work() -> None:
        node = PlayedNode(AWAY, None)
        async with asyncio.timeout(GUARD_SECONDS), pool_on(tmp_path, node, REGTEST) as rig:
            solution = rig.solve(is_block=True)
            await rig.pool.submit(solution)
            for _ in range(3):
                assert refusal_of(rig, solution) == "duplicate share"
            await rig.state(rig.blocks[0], BEST)
            assert len(rig.blocks) == 1
            assert len(node.submitted) == 2

    asyncio.run(work())


def test_a_block_found_while_the_node_is_away_does_not_hold_up_shares(tmp_path: Path) -> None:
    async def work() -> None:
        node = PlayedNode(AWAY)
        async with asyncio.timeout(GUARD_SECONDS), pool_on(tmp_path, node, REGTEST) as rig:
            block = await rig.find_block()
            await rig.mine(20)
            await until(lambda: len(node.submitted) > 1, "some tries")
            assert block.state is SUBMITTED
            assert rig.log.next_sequence == 21

    asyncio.run(work())

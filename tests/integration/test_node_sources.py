"""One set of tests for every source of templates: the built-in node, a node by JSON-RPC, several nodes as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pool_oracle import pool
from pool_oracle.blocks import COINBASE_MATURITY
from pool_oracle.errors import BlockRejected, NodeError
from pool_oracle.hashes import sha256d
from pool_oracle.logbook import BlockState
from pool_oracle.networks import Network, network_named
from pool_oracle.node.embedded import EmbeddedRegtest
from pool_oracle.node.group import NodeGroup
from pool_oracle.node.source import NodeSource
from pool_oracle.units import Satoshi
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import HEADER_SIZE
from pool_oracle.work.template import Template
from tests.integration.litecoin import (
    GUARD_SECONDS,
    LITECOIN,
    NO_MWEB,
    LitecoinNetwork,
    hash_of,
    mined,
    pool_on,
    until,
)
from tests.integration.spends import Lock, coins_of, spend

KINDS = ("embedded", "core", "group")
FIRST_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class Source:
    """A node and what it mines."""

    node: NodeSource
    network: Network

    async def extend(self) -> bytes:
        """Hand in a block on the tip; returns it."""
        block = mined(await self.node.template(), self.network)
        await self.node.submit(block)
        return block


OpenSource = Callable[[], AbstractAsyncContextManager[Source]]


@pytest.fixture(scope="module")
def litecoins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LitecoinNetwork]:
    with LitecoinNetwork(tmp_path_factory.mktemp("litecoin"), 2, NO_MWEB, "-disablewallet") as network:
        network.nodes[0].generate(FIRST_BLOCKS)
        network.sync()
        yield network


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> OpenSource:
    """Opens the source under test, with a chain of some blocks."""

    @contextlib.asynccontextmanager
    async def open_source() -> AsyncIterator[Source]:
        async with asyncio.timeout(GUARD_SECONDS):
            if request.param == "embedded":
                opened = Source(EmbeddedRegtest(tmp_path / "node"), network_named("regtest"))
                for _ in range(FIRST_BLOCKS):
                    await opened.extend()
            else:
                nodes = [node.source() for node in network.nodes]
                opened = Source(NodeGroup(nodes) if request.param == "group" else nodes[0], LITECOIN)
            try:
                yield opened
            finally:
                await opened.node.close()

    if request.param != "embedded":
        network: LitecoinNetwork = request.getfixturevalue("litecoins")
        network.sync()
    return open_source


def test_a_block_of_a_template_becomes_the_tip(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            template = await s.node.template()
            before = await s.node.tip()
            assert (template.prev_hash, template.height) == (before.hash, before.height + 1)
            assert template.coinbase_value > 0
            block = mined(template, s.network)
            names = await s.node.submit(block)
            assert names
            assert set(names) <= set(s.node.name.split(", "))
            tip = await s.node.tip()
            assert (tip.hash, tip.height) == (hash_of(block), template.height)
            assert (await s.node.template()).prev_hash == tip.hash

    asyncio.run(work())


def test_a_node_says_in_words_what_it_is(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            words = await s.node.check()
            assert "regtest" in words
            assert f"height {(await s.node.tip()).height}" in words

    asyncio.run(work())


def test_headers_and_blocks_of_the_best_chain_are_the_ones_that_were_handed_in(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            block = await s.extend()
            height = (await s.node.tip()).height
            assert await s.node.block(height) == block
            assert await s.node.header(height) == block[:HEADER_SIZE]
            parsed = parse_block(await s.node.block(height))
            assert parsed.hash == hash_of(block)
            assert (await s.node.header(height))[4:36] == hash_of(await s.node.block(height - 1))
            assert (await s.node.block(0))[:HEADER_SIZE] == await s.node.header(0)

    asyncio.run(work())


def test_a_height_above_the_tip_or_below_the_first_block_is_an_error(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            height = (await s.node.tip()).height + 1
            for call in (s.node.header, s.node.block):
                for wrong in (height, -1):
                    with pytest.raises(NodeError, match=f"the best chain has no block {wrong}"):
                        await call(wrong)

    asyncio.run(work())


def test_confirmations_count_from_the_tip_and_are_zero_beside_the_chain_and_none_for_a_stranger(
    source: OpenSource,
) -> None:
    async def work() -> None:
        async with source() as s:
            template = await s.node.template()
            first, rival = (mined(template, s.network) for _ in range(2))
            assert await s.node.confirmations(hash_of(first)) is None
            await s.node.submit(first)
            assert await s.node.confirmations(hash_of(first)) == 1
            await s.node.submit(rival)
            assert await s.node.confirmations(hash_of(rival)) == 0
            await s.extend()
            assert await s.node.confirmations(hash_of(first)) == 2
            assert await s.node.confirmations(hash_of(rival)) == 0
            assert await s.node.confirmations(b"\x07" * 32) is None

    asyncio.run(work())


def test_waiting_for_a_template_ends_when_a_block_comes(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            known = await s.node.template()
            waiting = asyncio.create_task(s.node.next_template(known))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            block = await s.extend()
            new = await waiting
            assert (new.prev_hash, new.height) == (hash_of(block), known.height + 1)

    asyncio.run(work())


def test_waiting_from_an_old_template_ends_at_once(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            known = await s.node.template()
            await s.extend()
            await s.node.template()
            assert (await s.node.next_template(known)).height == known.height + 1

    asyncio.run(work())


def test_handing_in_a_block_again_is_harmless(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            block = await s.extend()
            tip = await s.node.tip()
            assert await s.node.submit(block)
            assert await s.node.tip() == tip
            await s.extend()
            assert await s.node.submit(block)
            assert await s.node.confirmations(hash_of(block)) == 2

    asyncio.run(work())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: replace(t, coinbase_value=Satoshi(t.coinbase_value + 1)), "bad-cb-amount"),
        (lambda t: replace(t, witness_commitment=t.witness_commitment[:-1] + b"\x00"), "bad-witness-merkle-match"),
        (lambda t: replace(t, txids=(bytes(32),)), "bad-txnmrklroot"),
        (lambda t: replace(t, curtime=t.mintime - 1), "time-too-old"),
        (lambda t: replace(t, curtime=t.curtime + 3 * 3600), "time-too-new"),
        (lambda t: replace(t, nbits=0x207FFFFE), "bad-diffbits"),
        (lambda t: replace(t, transactions=(b"",)), "the block cannot be parsed"),
    ],
)
def test_a_spoilt_block_is_refused_with_the_nodes_own_reason(
    source: OpenSource, spoil: Callable[[Template], Template], reason: str
) -> None:
    async def work() -> None:
        async with source() as s:
            tip = await s.node.tip()
            with pytest.raises(BlockRejected) as refusal:
                await s.node.submit(mined(spoil(await s.node.template()), s.network))
            # A second node may have heard of the block from the first, and say only that it knows it for bad.
            assert set(refusal.value.reason.split("; ")) - {"duplicate-invalid"} == {reason}
            assert await s.node.tip() == tip

    asyncio.run(work())


def test_a_block_without_proof_of_work_is_refused(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            template = await s.node.template()
            block = mined(template, s.network)
            header = next(
                header
                for nonce in range(1 << 32)
                if int.from_bytes(
                    s.network.pow_hash(header := block[: HEADER_SIZE - 4] + nonce.to_bytes(4, "little")), "little"
                )
                > template.network_target
            )
            with pytest.raises(BlockRejected, match="high-hash"):
                await s.node.submit(header + block[HEADER_SIZE:])
            with pytest.raises(BlockRejected, match="cannot be parsed"):
                await s.node.submit(bytes(50))

    asyncio.run(work())


def test_letting_go_of_a_node_twice_is_harmless(source: OpenSource) -> None:
    async def work() -> None:
        async with source() as s:
            await s.node.close()
            await s.node.close()

    asyncio.run(work())


def test_a_pool_on_it_finds_a_block_and_works_on_that_blocks_tip(source: OpenSource, tmp_path: Path) -> None:
    async def work() -> None:
        async with source() as s, pool_on(tmp_path, s.node, s.network) as rig:
            await rig.mine(3)
            first = rig.job
            block = await rig.find_block()
            await rig.job_on(block.hash)
            await rig.state(block, BlockState.BEST)
            assert [clean for _, clean in rig.heard] == [True, True]
            assert sha256d((await s.node.block(block.height))[:HEADER_SIZE]) == block.hash
            assert parse_block(await s.node.block(block.height)).coinbase.serialize(with_witness=False) == (
                block.coinbase
            )
            assert first.template.height == block.height
            await rig.mine(3)
            assert rig.pool.scheme.share_count == 7

    asyncio.run(work())


def test_new_fees_give_a_job_that_is_not_clean(
    litecoins: LitecoinNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node answers a long poll for higher fees after a minute, and nothing makes it answer earlier."""
    monkeypatch.setattr(pool, "JOB_SECONDS", 3600)
    node = litecoins.nodes[0]
    (coin,) = coins_of(node.block(bytes.fromhex(node.rpc("getblockhash", 1))[::-1]).coinbase)
    node.generate(COINBASE_MATURITY)
    value = 50 * 10**8 >> (node.rpc("getblockcount") + 1) // 150

    async def work() -> None:
        async with asyncio.timeout(2 * GUARD_SECONDS), pool_on(tmp_path, node.source()) as rig:
            before = rig.solve()
            tx = spend([coin], [Lock.P2WPKH], fee=44_000)
            await until(lambda: "getblocktemplate" in node.working_on, "the long poll")
            node.rpc("sendrawtransaction", tx.serialize().hex())
            while len(rig.heard) == 1:
                await asyncio.sleep(0.1)
            assert [clean for _, clean in rig.heard] == [True, False]
            assert rig.job.template.txids == (tx.txid,)
            assert rig.job.template.coinbase_value == value + 44_000
            await rig.pool.submit(before)
            await rig.mine(1)

    asyncio.run(work())

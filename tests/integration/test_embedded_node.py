"""Blocks that we assemble, judged by Bitcoin Core's own validation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pool_oracle.errors import BlockRejected, NodeError
from pool_oracle.hashes import sha256d
from pool_oracle.node.embedded import REGTEST_GENESIS_HASH, EmbeddedRegtest
from pool_oracle.units import Satoshi
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import HEADER_SIZE, hash_to_int
from pool_oracle.work.template import Template, block_hash
from tests.integration.spends import assembled, job_of, solved


def too_hard(template: Template) -> bytes:
    """A block whose hash is above its target."""
    block = assembled(template)
    for nonce in range(1 << 32):
        header = block[: HEADER_SIZE - 4] + nonce.to_bytes(4, "little")
        if hash_to_int(sha256d(header)) > template.network_target:
            return header + block[HEADER_SIZE:]
    raise AssertionError


def above(template: Template, block: bytes) -> Template:
    """A template on a block that was made of `template`."""
    return replace(template, height=template.height + 1, prev_hash=block_hash(block[:HEADER_SIZE]))


def test_hundreds_of_blocks_are_accepted_across_two_halvings_and_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        assert (await node.tip()).hash == REGTEST_GENESIS_HASH
        for _ in range(310):
            await node.submit(assembled(await node.template()))
        tip = await node.tip()
        assert tip.height == 310
        await node.close()
        again = EmbeddedRegtest(tmp_path)
        assert await again.tip() == tip
        block = parse_block(await again.block(305))
        assert sum(output.value for output in block.coinbase.outputs) == 50 * 10**8 // 4
        assert block.header == await again.header(305)
        await again.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: assembled(replace(t, height=t.height + 1)), "bad-cb-height"),
        (lambda t: assembled(replace(t, coinbase_value=t.coinbase_value + 1)), "bad-cb-amount"),
        (lambda t: assembled(replace(t, curtime=t.mintime - 1)), "time-too-old"),
        (lambda t: assembled(replace(t, curtime=t.curtime + 3 * 3600)), "time-too-new"),
        (
            lambda t: assembled(replace(t, witness_commitment=t.witness_commitment[:-1] + b"\x00")),
            "bad-witness-merkle-match",
        ),
        (lambda t: assembled(replace(t, txids=(bytes(32),))), "bad-txnmrklroot"),
        (lambda t: assembled(replace(t, nbits=0x207FFFFE)), "bad-diffbits"),
        (lambda t: assembled(replace(t, prev_hash=b"\x07" * 32)), "prev-blk-not-found"),
        (lambda t: solved(job_of(t), version=3), "bad-version(0x00000003)"),
        (too_hard, "high-hash"),
    ],
)
def test_a_spoilt_block_is_refused_with_the_kernels_own_reason(
    tmp_path: Path, spoil: Callable[[Template], bytes], reason: str
) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        # Coinbases need two bytes of height for the amount and height rules to be told apart.
        for _ in range(20):
            await node.submit(assembled(await node.template()))
        with pytest.raises(BlockRejected) as refusal:
            await node.submit(spoil(await node.template()))
        assert refusal.value.reason == reason
        assert (await node.tip()).height == 20
        await node.close()

    asyncio.run(work())


def test_a_block_may_be_handed_in_again_and_one_that_was_refused_stays_refused(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        good = assembled(await node.template())
        assert await node.submit(good) == await node.submit(good) == ("embedded",)
        template = await node.template()
        greedy = assembled(replace(template, coinbase_value=Satoshi(template.coinbase_value + 1)))
        for reason in ("bad-cb-amount", "duplicate-invalid"):
            with pytest.raises(BlockRejected) as refusal:
                await node.submit(greedy)
            assert refusal.value.reason == reason
        with pytest.raises(BlockRejected, match="bad-prevblk"):
            await node.submit(assembled(above(template, greedy)))
        await node.close()

    asyncio.run(work())


def test_a_longer_branch_takes_over_and_one_that_ends_in_a_bad_block_does_not(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        await node.submit(assembled(await node.template()))
        template = await node.template()
        first, second = (solved(job_of(template), extranonces=(bytes((n,)), b"\x00")) for n in (1, 2))
        await node.submit(first)
        await node.submit(second)
        hashes = [block_hash(block[:HEADER_SIZE]) for block in (first, second)]
        assert [await node.confirmations(name) for name in hashes] == [1, 0]
        on_second = above(template, second)
        greedy = assembled(replace(on_second, coinbase_value=Satoshi(on_second.coinbase_value + 1)))
        with pytest.raises(BlockRejected, match="bad-cb-amount"):
            await node.submit(greedy)
        assert (await node.tip()).hash == hashes[0]
        await node.submit(assembled(on_second))
        assert [await node.confirmations(name) for name in hashes] == [0, 2]
        await node.close()

    asyncio.run(work())


def test_bytes_that_are_no_block_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        with pytest.raises(BlockRejected, match="cannot be parsed"):
            await node.submit(b"\x00" * 50)
        with pytest.raises(NodeError, match="has no block 7"):
            await node.block(7)
        await node.close()

    asyncio.run(work())


def test_a_second_node_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        with pytest.raises(NodeError, match="in use"):
            EmbeddedRegtest(tmp_path)
        await node.close()

    asyncio.run(work())


def test_waiting_for_a_tip_ends_when_a_block_comes(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        known = await node.template()
        waiting = asyncio.create_task(node.next_template(known))
        await asyncio.sleep(0)
        await node.submit(assembled(await node.template()))
        assert (await waiting).height == 2
        await node.close()

    asyncio.run(work())

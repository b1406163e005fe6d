"""Blocks that we assemble, judged by Bitcoin Core's own validation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pool_oracle.errors import BlockRejected, NodeError
from pool_oracle.node.embedded import REGTEST_GENESIS_HASH, EmbeddedRegtest, solve
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import pack_header
from pool_oracle.work.template import Template, assemble_block, make_job


def assembled(template: Template) -> bytes:
    job = make_job(
        1,
        template,
        reward_script=b"\x51",
        commitment_script=b"\x6a",
        commitment=b"",
        epoch=0,
        tag=b"/test/",
        extranonce_size=2,
    )
    root = job.stratum.merkle_root(b"\x01", b"\x02")
    header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 0)
    return assemble_block(solve(header, template.network_target), job.stratum.coinbase(b"\x01", b"\x02"), template)


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
        (lambda t: replace(t, height=t.height + 1), "bad-cb-height"),
        (lambda t: replace(t, coinbase_value=t.coinbase_value + 1), "bad-cb-amount"),
        (lambda t: replace(t, curtime=t.mintime - 1), "time-too-old"),
        (lambda t: replace(t, curtime=t.curtime + 3 * 3600), "time-too-new"),
        (lambda t: replace(t, witness_commitment=t.witness_commitment[:-1] + b"\x00"), "bad-witness-merkle-match"),
        (lambda t: replace(t, txids=(bytes(32),)), "bad-txnmrklroot"),
        (lambda t: replace(t, nbits=0x207FFFFE), "bad-diffbits"),
    ],
)
def test_a_spoilt_block_is_refused_with_the_kernels_own_reason(
    tmp_path: Path, spoil: Callable[[Template], Template], reason: str
) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        # Coinbases need two bytes of height for the amount and height rules to be told apart.
        for _ in range(20):
            await node.submit(assembled(await node.template()))
        with pytest.raises(BlockRejected) as refusal:
            await node.submit(assembled(spoil(await node.template())))
        assert refusal.value.reason == reason
        assert (await node.tip()).height == 20
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

"""A pool on real nodes: Litecoin Core on regtest, connected, cut, rejoined, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import zmq.asyncio

from pool_oracle import blocks
from pool_oracle.chain.anvil import free_port
from pool_oracle.errors import NodeError, ShareRefused
from pool_oracle.ledger.sharelog import replay
from pool_oracle.logbook import BlockState
from pool_oracle.node import core
from pool_oracle.node.group import NodeGroup
from pool_oracle.work.block import parse_block
from pool_oracle.work.merkle import fold_branch, merkle_root
from pool_oracle.work.records import KIND_BLOCK_STATE, LongRecord
from pool_oracle.work.share import display
from pool_oracle.work.transaction import Transaction
from tests.integration.litecoin import (
    GUARD_SECONDS,
    LITECOIN,
    NO_MWEB,
    Litecoind,
    LitecoinNetwork,
    PoolOn,
    Relay,
    hash_of,
    hold,
    mined,
    opened,
    pool_on,
    raw_files,
    until,
    wait_for,
)
from tests.integration.spends import Coin, Lock, coins_of, spend

ACCEPTED, BEST, ORPHANED, SUBMITTED = (
    BlockState.ACCEPTED,
    BlockState.BEST,
    BlockState.ORPHANED,
    BlockState.SUBMITTED,
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LitecoinNetwork]:
    with LitecoinNetwork(tmp_path_factory.mktemp("litecoin"), 3, NO_MWEB, "-disablewallet") as network:
        network.nodes[0].generate(110)
        network.sync()
        yield network


@pytest.fixture
def network(running: LitecoinNetwork) -> LitecoinNetwork:
    """Three nodes, all connected: the pool's own, its second or the rest of the world, and one for company.

    A node alone gives no templates, so there must be a third one while one is cut off or dead.
    """
    running.heal()
    return running


@pytest.fixture
def coins(network: LitecoinNetwork) -> Iterator[Coin]:
    """Ripe coins of the tests' key, none of them twice."""
    return (coin for block in _ripe_blocks(network.nodes[0]) for coin in coins_of(block))


def _ripe_blocks(node: Litecoind) -> Iterator[Transaction]:
    for height in range(1, node.rpc("getblockcount") - blocks.COINBASE_MATURITY + 1):
        coinbase = node.block(bytes.fromhex(node.rpc("getblockhash", height))[::-1]).coinbase
        if node.rpc("gettxout", display(coinbase.txid), 0) is not None:
            yield coinbase


def send(node: Litecoind, *transactions: Transaction) -> None:
    for tx in transactions:
        assert node.rpc("sendrawtransaction", tx.serialize().hex()) == display(tx.txid)


def subsidy(node: Litecoind) -> int:
    return 50 * 10**8 >> (int(node.rpc("getblockcount")) + 1) // 150


@contextlib.asynccontextmanager
async def guarded() -> AsyncIterator[None]:
    async with asyncio.timeout(2 * GUARD_SECONDS):
        yield


def test_a_missing_litecoind_fails_a_test_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="apt-get install litecoind"):
        Litecoind(tmp_path)


# Transactions


def test_a_template_carries_the_mempools_transactions_and_pays_their_fees(
    network: LitecoinNetwork, coins: Iterator[Coin], tmp_path: Path
) -> None:
    first, second, _ = network.nodes

    async def work() -> None:
        parent = spend([next(coins)], [Lock.P2WPKH, Lock.P2PKH, Lock.NESTED_P2WPKH], fee=11_000)
        child = spend(coins_of(parent), [Lock.P2WPKH], fee=22_000)
        legacy = spend(coins_of(child), [Lock.P2PKH], fee=33_000)
        send(second, parent, child, legacy)
        wait_for(lambda: first.rpc("getmempoolinfo")["size"] == 3, "transactions to be relayed")
        async with guarded(), pool_on(tmp_path, first.source()) as rig:
            template = rig.job.template
            assert template.txids == (parent.txid, child.txid, legacy.txid)
            assert template.transactions == tuple(tx.serialize() for tx in (parent, child, legacy))
            assert template.coinbase_value == subsidy(first) + 66_000
            block = await rig.find_block()
            await rig.state(block, BEST)
            network.sync()
            in_chain = second.block(block.hash)
            assert in_chain.txids[1:] == template.txids
            assert sum(output.value for output in in_chain.coinbase.outputs) == template.coinbase_value
            assert first.rpc("getmempoolinfo")["size"] == second.rpc("getmempoolinfo")["size"] == 0

    asyncio.run(work())


def test_a_block_of_hundreds_of_transactions_is_accepted(
    network: LitecoinNetwork, coins: Iterator[Coin], tmp_path: Path
) -> None:
    node = network.nodes[0]
    fan_out = spend([next(coins)], [Lock.P2WPKH] * 260, fee=100_000)
    send(node, fan_out)
    node.generate(1)

    async def work() -> None:
        many = [spend([coin], [Lock.P2WPKH], fee=10_000 + n) for n, coin in enumerate(coins_of(fan_out))]
        send(node, *many)
        async with guarded(), pool_on(tmp_path, node.source()) as rig:
            template = rig.job.template
            assert sorted(template.txids) == sorted(tx.txid for tx in many)
            assert template.coinbase_value == subsidy(node) + sum(range(10_000, 10_260))
            assert len(rig.job.stratum.branch) == 9
            block = await rig.find_block()
            await rig.state(block, BEST)
            parsed = node.block(block.hash)
            root = parsed.header[36:68]
            assert merkle_root(parsed.txids) == root
            assert fold_branch(parsed.coinbase.txid, rig.heard[0][0].stratum.branch) == root

    asyncio.run(work())


# Jobs


def test_a_tip_of_another_miner_gives_a_clean_job_at_once(network: LitecoinNetwork, tmp_path: Path) -> None:
    ours, theirs, _ = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, ours.source()) as rig:
            old = rig.job
            late = rig.solve(old)
            theirs.generate(1)
            job = await rig.job_on(theirs.tip)
            assert [clean for _, clean in rig.heard] == [True, True]
            assert job.template.height == old.template.height + 1
            with pytest.raises(ShareRefused, match="stale"):
                rig.pool.submit(late)
            await rig.mine(1)

    asyncio.run(work())


def test_shares_of_the_tip_before_are_good_for_the_policys_grace_and_older_ones_are_not(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    ours, theirs, _ = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, ours.source(), grace=3600) as rig:
            late, later = rig.solve(), rig.solve()
            theirs.generate(1)
            await rig.job_on(theirs.tip)
            await rig.pool.submit(late)
            theirs.generate(1)
            await rig.job_on(theirs.tip)
            with pytest.raises(ShareRefused, match="stale"):
                rig.pool.submit(later)

    asyncio.run(work())


def test_waiting_that_is_given_up_again_and_again_does_not_use_up_the_nodes_threads(network: LitecoinNetwork) -> None:
    """A node keeps a thread for each long poll until there is something new, and has four."""

    async def work() -> None:
        async with guarded(), opened(network.nodes[0].source(seconds=5)) as node:
            template = await node.template()
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await node.next_template(template)
                template = await node.template()
            network.nodes[1].generate(1)
            assert (await node.next_template(template)).height == template.height + 1

    asyncio.run(work())


def test_a_published_hash_wakes_the_pool_where_the_long_poll_sleeps(
    network: LitecoinNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's litecoind is built without ZMQ, so the test publishes what a node does."""
    monkeypatch.setattr(core, "WATCH_SECONDS", 3600)
    ours, theirs, _ = network.nodes
    endpoint = f"tcp://127.0.0.1:{free_port()}"

    async def work() -> None:
        async with guarded(), Relay(ours) as relay:
            node = relay.source(zmq_hashblock=endpoint)
            known = await node.template()
            relay.answers["getblocktemplate"] = hold
            waiting = asyncio.create_task(node.next_template(known))
            await until(lambda: relay.calls.count("getblocktemplate") == 2, "the long poll")
            del relay.answers["getblocktemplate"]
            context = zmq.asyncio.Context()
            publisher = context.socket(zmq.XPUB)
            publisher.setsockopt(zmq.LINGER, 0)
            publisher.bind(endpoint)
            assert await publisher.recv() == b"\x01hashblock"
            await publisher.send_multipart([b"hashblock", b"too short", bytes(4)])
            await publisher.send_multipart([b"hashblock", known.prev_hash[::-1], bytes(4)])
            await publisher.send_multipart([b"hashblock"])
            await asyncio.sleep(0.1)
            assert not waiting.done()
            theirs.generate(1)
            network.sync()
            await publisher.send_multipart([b"hashblock", ours.tip[::-1], (1).to_bytes(4, "little")])
            assert (await waiting).prev_hash == ours.tip
            publisher.close()
            context.term()
            await node.close()

    asyncio.run(work())


# Blocks


def test_a_found_block_spreads_to_the_whole_network(network: LitecoinNetwork, tmp_path: Path) -> None:
    async def work() -> None:
        async with guarded(), pool_on(tmp_path, network.nodes[0].source()) as rig:
            for _ in range(3):
                block = await rig.find_block()
                await rig.job_on(block.hash)
                network.sync()
                assert {node.tip for node in network.nodes} == {block.hash}
            await until(lambda: [b.depth for b in rig.blocks] == [3, 2, 1], "all blocks to be followed")
            assert rig.states == [BEST] * 3
            assert [clean for _, clean in rig.heard] == [True] * 4
            assert raw_files(tmp_path) == [f"{b.height:09d}-0-0-{display(b.hash)}.block" for b in rig.blocks]

    asyncio.run(work())


def recorded_states(rig: PoolOn) -> list[tuple[str, str]]:
    """(block, state) of each block state in the log."""
    return [
        (record.payload["block"], record.payload["state"])
        for _, record in replay(rig.log.folder)
        if isinstance(record, LongRecord) and record.kind == KIND_BLOCK_STATE
    ]


def test_a_block_that_a_reorganisation_drops_is_orphaned_and_best_again_when_it_comes_back(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    ours, theirs, company = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, NodeGroup([ours.source()])) as rig:
            network.cut(theirs)
            block = await rig.find_block()
            await rig.state(block, BEST)
            theirs.generate(2)
            network.connect()
            await rig.job_on(theirs.tip)
            await rig.state(block, ORPHANED)
            assert block.depth == 0
            assert not block.was_accepted
            assert [clean for _, clean in rig.heard] == [True, True, True]
            assert ours.tip == company.tip == theirs.tip
            await rig.mine(2)

        async with guarded(), pool_on(tmp_path, ours.source()) as rig:
            (block,) = rig.blocks
            assert block.state is ORPHANED
            network.cut(theirs)
            for template in await _branch_above(block.hash, rig):
                await rig.node.submit(template)
            await rig.state(block, BEST)
            assert block.depth == 3
            network.connect()
            network.sync()
            await rig.job_on(theirs.tip)
            await rig.log.flush()
            name = display(block.hash)
            assert recorded_states(rig) == [(name, s) for s in ("accepted", "best", "orphaned", "best")]

        async with guarded(), pool_on(tmp_path, ours.source(), start=False) as rig:
            assert rig.states == [BEST]

    asyncio.run(work())


async def _branch_above(tip: bytes, rig: PoolOn) -> Sequence[bytes]:
    """Two empty blocks on a block that the node holds beside its best chain: enough to overtake two."""
    template = replace(rig.job.template, prev_hash=tip, txids=(), transactions=())
    first = mined(replace(template, height=template.height - 1), LITECOIN)
    second = mined(replace(template, prev_hash=hash_of(first)), LITECOIN)
    return first, second


def test_our_longer_branch_takes_over_the_others(network: LitecoinNetwork, tmp_path: Path) -> None:
    ours, theirs, _ = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, ours.source()) as rig:
            network.cut(theirs)
            theirs.generate(1)
            for _ in range(2):
                block = await rig.find_block()
                await rig.job_on(block.hash)
            network.connect()
            network.sync()
            assert theirs.tip == block.hash
            await until(lambda: [b.depth for b in rig.blocks] == [2, 1], "both blocks to be followed")
            assert rig.states == [BEST, BEST]
            await rig.log.flush()
            assert "orphaned" not in [state for _, state in recorded_states(rig)]

    asyncio.run(work())


def test_a_block_goes_to_both_nodes_though_they_are_cut_off_from_each_other(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    first, second, _ = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, NodeGroup([first.source(), second.source()])) as rig:
            network.cut(second)
            block = await rig.find_block()
            await rig.job_on(block.hash)
            await until(lambda: second.tip == block.hash, "the second node to have the block")
            await rig.state(block, BEST)

    asyncio.run(work())


# Nodes that go and come back


def test_a_killed_node_is_replaced_by_the_other_and_taken_back_when_it_returns(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    first, second, company = network.nodes

    async def work() -> None:
        group = NodeGroup([first.source("first"), second.source("second")], look_seconds=0.2)
        async with guarded(), pool_on(tmp_path, group) as rig:
            await rig.find_block()
            await rig.job_on(rig.blocks[0].hash)
            cookie = first.cookie_file.read_text()
            first.kill()
            await rig.mine(2)
            await rig.find_block()
            await rig.job_on(rig.blocks[1].hash)
            assert group.active.name == "second"
            await rig.find_block()
            await rig.job_on(rig.blocks[2].hash)
            first.start()
            assert first.cookie_file.read_text() != cookie
            network.connect()
            await until(lambda: group.active.name == "first", "the first node to be used again")
            await rig.find_block()
            await rig.job_on(rig.blocks[3].hash)
            await until(lambda: [b.depth for b in rig.blocks] == [4, 3, 2, 1], "all blocks to be followed")
            network.sync()
            assert {node.tip for node in (first, second, company)} == {rig.blocks[3].hash}
            assert rig.states == [BEST] * 4

    asyncio.run(work())


def test_a_node_that_stays_behind_is_left_for_the_other_until_it_has_caught_up(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    first, second, _ = network.nodes

    async def work() -> None:
        group = NodeGroup([first.source("first"), second.source("second")], look_seconds=0.1)
        async with guarded(), pool_on(tmp_path, group) as rig:
            # It would give no template without a peer; but this long poll it has taken.
            await until(lambda: "getblocktemplate" in first.working_on, "the long poll")
            network.cut(first)
            behind = rig.job.stratum.prev_hash
            second.generate(1)
            await asyncio.sleep(0.5)  # one block may well be on its way
            assert group.active.name == "first"
            assert rig.job.stratum.prev_hash == behind
            second.generate(1)
            await rig.job_on(second.tip)
            assert group.active.name == "second"
            network.connect()
            await until(lambda: group.active.name == "first", "the first node to be used again")
            second.generate(1)
            await rig.job_on(second.tip)

    asyncio.run(work())


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RETRY_MAX_SECONDS", 0.2)


@pytest.mark.usefixtures("short_retries")
def test_a_block_that_a_killed_node_has_forgotten_is_handed_in_again(
    network: LitecoinNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FOLLOW_SECONDS", 0.2)
    ours, _, company = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, ours.source()) as rig:
            network.cut(ours)
            block = await rig.find_block()
            await rig.state(block, BEST)
            ours.kill()
            ours.start()
            network.connect()
            await until(lambda: company.tip == block.hash, "the block to be there again")
            await rig.job_on(block.hash)
            assert rig.states == [BEST]

    asyncio.run(work())


def kill_both(network: LitecoinNetwork) -> None:
    for node in network.nodes[:2]:
        node.kill()


def start_both(network: LitecoinNetwork) -> None:
    for node in network.nodes[:2]:
        node.start()
    network.connect()


@pytest.mark.usefixtures("short_retries")
def test_a_block_found_while_all_nodes_are_away_is_handed_in_when_one_comes_back(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    first, second, company = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, NodeGroup([first.source(), second.source()])) as rig:
            kill_both(network)
            job = rig.job
            block = await rig.find_block()
            await rig.mine(2)
            assert rig.job is job
            assert block.state is SUBMITTED
            start_both(network)
            await rig.state(block, BEST)
            await rig.job_on(block.hash)
            network.sync()
            assert company.tip == block.hash

    asyncio.run(work())


@pytest.mark.usefixtures("short_retries")
def test_a_block_found_while_all_nodes_are_away_outlives_a_restart_of_the_pool(
    network: LitecoinNetwork, tmp_path: Path
) -> None:
    first, second, company = network.nodes

    async def work() -> None:
        async with guarded(), pool_on(tmp_path, NodeGroup([first.source(), second.source()])) as rig:
            kill_both(network)
            name = display((await rig.find_block()).hash)
            await until(lambda: raw_files(tmp_path), "the raw block's file")

        async with guarded(), pool_on(tmp_path, NodeGroup([first.source(), second.source()]), start=False) as rig:
            (block,) = rig.blocks
            assert (display(block.hash), block.state) == (name, SUBMITTED)
            with pytest.raises(NodeError):
                await rig.start()
            rig.follow()
            start_both(network)
            await rig.state(block, BEST)
            network.sync()
            assert company.tip == block.hash

    asyncio.run(work())


# The extension block


@pytest.fixture
def mweb_node(tmp_path: Path) -> Iterator[Litecoind]:
    """A node one block before MWEB begins, with a wallet and a peer."""
    with LitecoinNetwork(tmp_path / "mweb", 2) as network:
        node = network.nodes[0]
        node.rpc("createwallet", "rich")
        node.rpc("generatetoaddress", 430, node.rpc("getnewaddress", "", "bech32"))
        network.sync()
        yield node


def test_blocks_with_an_extension_block_are_accepted_and_read_back(mweb_node: Litecoind, tmp_path: Path) -> None:
    def pay(kind: str, amount: int) -> None:
        mweb_node.rpc("sendtoaddress", mweb_node.rpc("getnewaddress", "", kind), amount)

    async def work() -> None:
        pay("mweb", 3)
        async with guarded(), pool_on(tmp_path, mweb_node.source()) as rig:
            for step in (lambda: pay("mweb", 2), lambda: pay("bech32", 1), lambda: None, lambda: None):
                template = rig.job.template
                assert template.extension[:1] == b"\x01"
                block = await rig.find_block()
                await rig.state(block, BEST)
                raw = bytes.fromhex(mweb_node.rpc("getblock", display(block.hash), 0))
                assert raw.endswith(template.extension)
                parsed = parse_block(raw)
                assert parsed.txids[1:] == template.txids
                assert merkle_root(parsed.txids) == parsed.header[36:68]
                assert parsed.coinbase.serialize(with_witness=False) == block.coinbase
                step()
                await rig.pool.refresh()
            assert [b.height for b in rig.blocks] == [432, 433, 434, 435]

    asyncio.run(work())


def test_a_block_without_its_extension_block_is_not_taken(mweb_node: Litecoind) -> None:
    """What becomes of a pool that does not know of LIP-3: this is why templates are read strictly."""
    mweb_node.rpc("sendtoaddress", mweb_node.rpc("getnewaddress", "", "mweb"), 1)

    async def work() -> None:
        async with guarded(), opened(mweb_node.source()) as node:
            template = await node.template()
            with pytest.raises(NodeError):
                await node.submit(mined(replace(template, extension=b""), LITECOIN))
            await node.submit(mined(template, LITECOIN))
            assert (await node.tip()).height == template.height

    asyncio.run(work())

"""Epochs and rewards through the whole application, on a real node and a real chain."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pool_oracle import app as app_module
from pool_oracle.app import PoolApp
from pool_oracle.audit.bundles import BundleAudit
from pool_oracle.audit.chain import audit_chain
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.distributor import DistributorClient, part_of
from pool_oracle.config import Config, proposing_to
from pool_oracle.demo.scenario import STRANGER, demo_accounts, network_block
from pool_oracle.epoch.publishing import Publishing
from pool_oracle.errors import (
    ChainError,
    CorruptLog,
    ManifestError,
    NotSent,
    PublishError,
    SetupError,
    TransactionReverted,
)
from pool_oracle.hashes import sha256d
from pool_oracle.judge import Submission, Worker
from pool_oracle.ledger.bundle import bundle_folder, read_leaves
from pool_oracle.ledger.sharelog import segment_files
from pool_oracle.payout.commitment import find_commitment
from pool_oracle.payout.payee import format_payee, payee_of_account
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import WEI_PER_SATOSHI
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import hash_to_int, pack_header
from pool_oracle.work.targets import nbits_to_target, target_to_nbits
from pool_oracle.work.transaction import parse_transaction

ALICE = payee_of_account(b"\xa1" * 20)
BOB = payee_of_account(b"\xb2" * 20)
SHARE_BITS = target_to_nbits(1 << 252)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[PoolApp]:
    """The application, with nobody registering rewards but the test."""
    app = PoolApp(config, register_rewards=False)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def mine(app: PoolApp, payee: Any, count: int, *, block: bool = False) -> None:
    """Hand in shares of a target that a test meets quickly; with `block`, one that is a block."""
    job = app.pool.job
    assert job is not None
    worker = Worker(payee, "rig")
    target = job.network_target if block else nbits_to_target(SHARE_BITS)
    live = app.pool.judge.find(job.number)
    assert live is not None
    extranonce1 = secrets.token_bytes(4)
    root = job.stratum.merkle_root(extranonce1, bytes(8))
    version = job.stratum.version
    done = []
    nonce = 0
    while len(done) < count:
        nonce += 1
        header = pack_header(version, job.stratum.prev_hash, root, job.template.curtime, job.stratum.nbits, nonce)
        if hash_to_int(sha256d(header)) <= target:
            submission = Submission(
                live.terms(SHARE_BITS), worker, extranonce1, bytes(8), job.template.curtime, nonce, version, root
            )
            done.append(app.pool.submit(submission))
    await asyncio.gather(*done)
    await app.pool.block_keeper.settle()


def test_epochs_are_published_committed_and_carried_by_the_next_jobs(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            assert [epoch.number for epoch in app.keeper.epochs] == [0]
            assert await app.keeper.close() is None
            await mine(app, ALICE, 3)
            await mine(app, BOB, 1)
            epoch = await app.keeper.close()
            assert epoch is not None
            assert dict(read_leaves(epoch.folder))[ALICE] == 3 * dict(read_leaves(epoch.folder))[BOB]
            active = app.distributor.active_epoch()
            assert (active.number, active.root, active.manifest_hash) == (1, epoch.root, epoch.manifest_hash)
            coinbase = parse_transaction(app.pool.job.stratum.coinbase(bytes(4), bytes(8)))  # type: ignore[union-attr]
            found = find_commitment(output.script for output in coinbase.outputs)
            assert found is not None
            assert found[1] == epoch.commitment
            assert coinbase.outputs[0].script == app.route.reward_script(epoch.commitment)

    asyncio.run(work())


def test_a_restart_between_publishing_and_committing_ends_in_the_same_place(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 2)
            close = app.pool.close_epoch("00" * 32, 0, 1)
            assert close is not None
            await app.log.flush()
        async with running(deployed) as app:
            assert app.distributor.active_epoch().number == 1
            root = app.keeper.epochs[1].root
            manifest = (app.keeper.epochs[1].folder / "manifest.json").read_bytes()
        shutil.rmtree(bundle_folder(deployed.data / "bundles", 1))
        async with running(deployed) as app:
            assert app.keeper.epochs[1].root == root
            assert (app.keeper.epochs[1].folder / "manifest.json").read_bytes() == manifest
            assert len(app.distributor.committed_epochs()) == 2
            await mine(app, BOB, 1)
            epoch = await app.keeper.close()
            assert epoch is not None
            assert epoch.number == 2

    asyncio.run(work())


def test_commits_that_fail_are_made_up_for_in_order(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            rich = app.chain.balance(app.operator.address)
            app.chain.rpc("anvil_setBalance", app.operator.address, "0x0")
            for payee in (ALICE, BOB):
                await mine(app, payee, 1)
                with pytest.raises(ChainError, match="has 0 wei and needs"):
                    await app.keeper.close()
            assert app.pool.job is not None
            assert app.pool.job.epoch == 0
            app.chain.rpc("anvil_setBalance", app.operator.address, hex(rich))
            await mine(app, ALICE, 1)
            epoch = await app.keeper.close()
            assert epoch is not None
            assert epoch.number == 3
            committed = app.distributor.committed_epochs()
            assert [(e.number, e.root) for e in committed] == [(e.number, e.root) for e in app.keeper.epochs]
            assert app.pool.job.epoch == 3

    asyncio.run(work())


def test_publishing_looks_at_no_segment_behind_the_one_that_the_close_sealed(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 2)
            # The next segment's file is there, and nothing is in it yet.
            (app.log.folder / "shares-00000001.log").touch()
            epoch = await app.keeper.close()
            assert epoch is not None
            assert [segment.name for segment in epoch.manifest.segments] == ["shares-00000000.log"]

    asyncio.run(work())


def test_a_reward_that_cannot_be_registered_does_not_keep_others_waiting(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await app.node.submit(network_block(await app.node.template()))
            await app.pool.refresh()
            await mine(app, ALICE, 1, block=True)
            (good,) = app.pool.blocks
            # Somebody else's block, which pays the route nothing.
            theirs = parse_block(await app.node.block(1))
            coinbase = theirs.coinbase.serialize(with_witness=False)
            app.pool.blocks.insert(0, replace(good, hash=theirs.hash, height=1, coinbase=coinbase))
            for _ in range(99):
                await app.node.submit(network_block(await app.node.template()))
            await app.header_relay.relay()
            for _ in range(2):
                rewards = await app.rewards.register_due()
            assert list(app.rewards.rewards) == [good.hash]
            assert rewards == []

    asyncio.run(work())


def test_a_payout_that_a_stranger_funded_is_a_note_and_not_a_finding_against_the_pool(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            own_root = SumTree([(BOB, 7)]).root
            funded = app.distributor.contract.functions.fund(own_root, bytes(32))
            await asyncio.to_thread(app.operator.send, funded, value=1000)
            audit = BundleAudit(deployed.data / "bundles")
            audit.run()
            audit_chain(audit, app.distributor)
            assert [finding.severity for finding in audit.report.findings] == ["note"]
            assert audit.report.passed

    asyncio.run(work())


def test_another_distributors_story_is_refused(deployed: Config) -> None:
    async def work() -> None:
        changed = msgspec.structs.replace(deployed, pool=msgspec.structs.replace(deployed.pool, name="another pool"))
        with pytest.raises(ManifestError, match="is it the right distributor"):
            async with running(changed):
                pass

    asyncio.run(work())


def test_a_chain_that_does_not_answer_a_missing_key_and_a_missing_contract_are_named(
    deployed: Config, tmp_path: Path
) -> None:
    async def start(**changes: str) -> None:
        async with running(msgspec.structs.replace(deployed, chain=msgspec.structs.replace(deployed.chain, **changes))):
            pass

    with pytest.raises(ChainError, match="no chain node answers"):
        asyncio.run(start(rpc="http://127.0.0.1:1"))
    with pytest.raises(ChainError) as unreachable:
        asyncio.run(start(rpc="http://user:secret@127.0.0.1:1/v3/secret"))
    assert "http://127.0.0.1:1 is reachable" in str(unreachable.value)
    assert "secret" not in str(unreachable.value)
    with pytest.raises(SetupError, match="cannot be read"):
        asyncio.run(start(operator_key_file=str(tmp_path / "nothing")))
    with pytest.raises(ChainError, match="no contract NativeDistributor"):
        asyncio.run(start(distributor="0x" + "11" * 20))


def test_a_block_reward_is_registered_after_its_confirmations_and_once(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 3)
            await mine(app, BOB, 2)
            epoch = await app.keeper.close()
            assert epoch is not None
            await mine(app, ALICE, 1, block=True)
            (block,) = app.pool.blocks
            assert block.state == "accepted"
            while (await app.node.tip()).height < block.height + 98:
                await app.node.submit(network_block(await app.node.template()))
            await app.header_relay.relay()
            assert await app.rewards.register_due() == []
            await app.node.submit(network_block(await app.node.template()))
            await app.header_relay.relay()
            (reward,) = await app.rewards.register_due()
            value = sum(output.value for output in parse_transaction(block.coinbase).outputs)
            assert reward.registration.amount == value * WEI_PER_SATOSHI
            assert await app.rewards.register_due() == []
            app.rewards.rewards.clear()
            # As after a restart, or when a stranger was faster: what the chain knows is not registered again.
            assert [found.registration for found in await app.rewards.register_due()] == [reward.registration]
            (payout,) = app.distributor.payouts()
            assert payout.root == epoch.root
            stranger = Sender(app.chain, demo_accounts()[STRANGER])
            tree = SumTree(read_leaves(epoch.folder))
            for payee in (ALICE, BOB):
                app.distributor.claim(stranger, payee, [(payout.id, tree.proof(payee))])
                amount = part_of(payout, tree.proof(payee).weight)
                assert app.chain.balance(f"0x{payee[1:].hex()}") == amount
                with pytest.raises(TransactionReverted, match="AlreadyClaimed"):
                    app.distributor.claim(stranger, payee, [(payout.id, tree.proof(payee))])

    asyncio.run(work())


def test_nothing_is_committed_over_a_damaged_log_and_miners_go_on_with_the_last_commitment(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 2)
            assert await app.keeper.close() is not None
            await mine(app, ALICE, 2)
            await app.log.flush()
            path = segment_files(app.log.folder)[-1]
            data = bytearray(path.read_bytes())
            data[200] ^= 1
            path.write_bytes(data)
            with pytest.raises(CorruptLog, match=rf"{path.name}: the slot at offset 192 is damaged"):
                await app.keeper.close()
            assert app.distributor.latest_epoch().number == 1
            assert app.pool.job is not None
            assert app.pool.job.epoch == 1
            await mine(app, ALICE, 1)
            data[200] ^= 1
            path.write_bytes(data)
            assert await app.keeper.close() is not None
            assert [epoch.number for epoch in app.keeper.epochs] == [0, 1, 2, 3]
            assert app.distributor.latest_epoch().number == 3

    asyncio.run(work())


def test_a_bundle_that_cannot_be_written_is_made_up_for_by_the_next_close(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 2)
            obstacle = deployed.data / "bundles" / ".draft-000001"
            obstacle.touch()
            with pytest.raises(PublishError, match="the bundle of epoch 1 could not be written"):
                await app.keeper.close()
            assert app.distributor.latest_epoch().number == 0
            await mine(app, BOB, 1)
            obstacle.unlink()
            assert await app.keeper.close() is not None
            assert app.distributor.latest_epoch().number == 2
            report = BundleAudit(deployed.data / "bundles").run()
            assert report.passed
            assert report.shares == 2 + 3

    asyncio.run(work())


def test_the_api_shows_epochs_files_blocks_and_proofs_and_refuses_nonsense(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app, httpx.AsyncClient(base_url=f"http://127.0.0.1:{app.api_port}") as client:
            await mine(app, ALICE, 2)
            epoch = await app.keeper.close()
            assert epoch is not None
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            pool = (await client.get("/api/v1/pool")).json()
            assert (pool["accepted"], pool["jobEpoch"], pool["distributor"]) == (2, 1, app.distributor.address)
            assert [row["epoch"] for row in (await client.get("/api/v1/epochs")).json()] == [1, 0]
            metrics = (await client.get("/metrics")).text
            assert "pool_oracle_window_shares 2.0" in metrics
            assert 'pool_oracle_shares_refused_total{code="21",reason="stale"} 0.0' in metrics
            file = await client.get("/api/v1/epochs/1/manifest.json")
            assert file.content == (epoch.folder / "manifest.json").read_bytes()
            segment = f"{epoch.manifest.segments[0].name}.zst"
            assert (await client.get(f"/api/v1/epochs/1/{segment}")).content == (epoch.folder / segment).read_bytes()
            for path in (
                "epochs/1/../../operator.key",
                "epochs/1/lock",
                "epochs/9/manifest.json",
                "epochs/x/leaves.json",
            ):
                assert (await client.get(f"/api/v1/{path}")).status_code in (404, 422)
            assert (await client.get("/api/v1/blocks")).json() == []
            assert (await client.get("/api/v1/workers")).json()[0]["accepted"] == 2
            funded = app.distributor.contract.functions.fund(epoch.root, epoch.manifest_hash)
            await asyncio.to_thread(app.operator.send, funded, value=1000)
            proof = (await client.get(f"/api/v1/proof/0/{format_payee(ALICE)}")).json()
            assert (proof["amount"], proof["claimed"], proof["epoch"]) == ("990", False, 1)
            for path, status in ((f"proof/7/{format_payee(ALICE)}", 503), (f"proof/0/{format_payee(BOB)}", 404)):
                answer = await client.get(f"/api/v1/{path}")
                assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
            page = await client.get("/")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert "pool_oracle" in page.text
            assert (await client.get("/page.js")).headers["content-type"].startswith("text/javascript")

    asyncio.run(work())


def test_the_audit_of_what_an_application_published_passes(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            for _ in range(3):
                await mine(app, ALICE, 20)
                await mine(app, BOB, 20)
                await app.keeper.close()
            audit = BundleAudit(deployed.data / "bundles", terms=app.route.terms())
            report = audit.run()
            audit_chain(audit, DistributorClient(Chain(deployed.chain.rpc), app.distributor.address))
            assert report.findings == []
            assert report.chain_checked
            assert [epoch.epoch for epoch in report.epochs] == [0, 1, 2, 3]
            assert report.shares >= 120

    asyncio.run(work())


def test_a_lazy_pool_commits_only_epochs_that_a_block_of_its_own_pays(deployed: Config) -> None:
    lazy = msgspec.structs.replace(deployed, policy=msgspec.structs.replace(deployed.policy, commit="found"))

    async def work() -> None:
        async with running(lazy) as app:
            for number in (1, 2, 3):
                await mine(app, ALICE, 2)
                await app.keeper.close()
                assert app.pool.job.epoch == number  # jobs carry it without a commit
            assert (await asyncio.to_thread(app.distributor.latest_epoch)).number == 0
            await mine(app, BOB, 1, block=True)
            await app.keeper.close()  # epoch 4; the block pays epoch 3
            latest = await asyncio.to_thread(app.distributor.latest_epoch)
            assert (latest.number, latest.manifest_hash) == (1, app.keeper.epochs[3].manifest_hash)
        async with running(lazy) as app:
            assert len(app.keeper.epochs) == 5
            assert (await asyncio.to_thread(app.distributor.latest_epoch)).number == 1
            await app.pool.refresh()
            await mine(app, BOB, 1, block=True)
            assert await app.keeper.close() is not None
            latest = await asyncio.to_thread(app.distributor.latest_epoch)
            assert (latest.number, latest.manifest_hash) == (2, app.keeper.epochs[4].manifest_hash)
            audit = BundleAudit(lazy.bundles)
            audit.run()
            await asyncio.to_thread(audit_chain, audit, app.distributor)
            assert audit.report.findings == []

    asyncio.run(work())


def test_a_commit_that_failed_is_made_up_for_without_a_new_share(
    deployed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 2)
            with monkeypatch.context() as patch:
                patch.setattr(app.distributor, "latest_epoch", _fails)
                with pytest.raises(ChainError):
                    await app.keeper.close()
            assert app.pool.job.epoch == 0
            assert await app.keeper.close() is None
            assert app.pool.job.epoch == 1

    asyncio.run(work())


def _fails() -> None:
    raise ChainError("the chain node does not answer")


class Elsewhere:
    """A publisher that fails while it is told to, and remembers what it was brought."""

    name = "elsewhere"

    def __init__(self) -> None:
        self.fails = False
        self.brought: list[str] = []

    async def publish(self, bundle: Any) -> str:
        if self.fails:
            raise PublishError("elsewhere is full")
        self.brought.append(bundle.name)
        return bundle.name

    async def fetch_back(self, bundle: Any) -> None:
        if self.fails:
            raise PublishError("elsewhere gives nothing back")

    async def probe(self) -> str:
        return self.name

    async def close(self) -> None:
        pass


def test_what_cannot_be_published_elsewhere_is_not_committed_and_is_made_up_for(
    deployed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Elsewhere()
    monkeypatch.setattr(app_module, "open_publishing", lambda _: Publishing([elsewhere]))

    async def work() -> None:
        async with running(deployed) as app:
            assert elsewhere.brought == ["epoch-000000"]
            await mine(app, ALICE, 2)
            await app.keeper.close()
            elsewhere.fails = True
            for number in (2, 3):
                await mine(app, ALICE, 2)
                with pytest.raises(PublishError):
                    await app.keeper.close()
                assert len(app.keeper.epochs) == number + 1  # in its folder it is published
            assert (await asyncio.to_thread(app.distributor.latest_epoch)).number == 1
            assert app.pool.job.epoch == 1
        async with running(deployed) as app:  # still full: the pool starts all the same
            assert app.pool.job.epoch == 1
            elsewhere.fails = False
            await app.keeper.close()
            assert (await asyncio.to_thread(app.distributor.latest_epoch)).number == 3
            assert app.pool.job.epoch == 3
            assert elsewhere.brought[-2:] == ["epoch-000002", "epoch-000003"]

    asyncio.run(work())


@pytest.mark.parametrize("depth", [1, 3, 12])
def test_a_commit_that_a_reorganisation_drops_is_sent_again(deployed: Config, depth: int) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            chain = app.chain
            for _ in range(2):
                await mine(app, ALICE, 2)
                await app.keeper.close()
            await asyncio.to_thread(chain.rpc, "anvil_mine", hex(depth - 1))
            await asyncio.to_thread(chain.rpc, "anvil_reorg", depth, [])
            assert (await asyncio.to_thread(app.distributor.latest_epoch)).number == 1
            await mine(app, BOB, 2)
            await app.keeper.close()  # finds that epoch 2 is missing, before epoch 3
            while (await asyncio.to_thread(app.distributor.latest_epoch)).number < 3:
                await asyncio.to_thread(app.outbox.tend)
            commits = await asyncio.to_thread(app.distributor.committed_epochs)
            assert [c.manifest_hash for c in commits] == [epoch.manifest_hash for epoch in app.keeper.epochs]

    asyncio.run(work())


def test_a_dry_run_needs_no_key_and_sends_nothing(deployed: Config) -> None:
    config = msgspec.structs.replace(deployed, chain=msgspec.structs.replace(deployed.chain, operator_key_file=""))

    async def work() -> None:
        app = PoolApp(config, register_rewards=False, is_dry=True)
        await app.start()
        try:
            await mine(app, ALICE, 2)
            with pytest.raises(NotSent, match="dry run: commit would be sent with"):
                await app.keeper.close()
            assert len(app.keeper.epochs) == 2
            assert (await asyncio.to_thread(app.distributor.latest_epoch)).number == 0
            assert app.pool.job.epoch == 0
        finally:
            await app.stop()

    asyncio.run(work())


def test_commits_are_proposed_to_a_safe_and_used_once_its_owners_have_sent_them(deployed: Config) -> None:
    operator = Chain(str(deployed.chain.rpc))
    safe = DistributorClient(operator, deployed.chain.distributor).operator()
    config = proposing_to(deployed, safe)

    async def work() -> None:
        async with running(config) as app:
            await mine(app, ALICE, 2)
            with pytest.raises(NotSent, match="is proposed in"):
                await app.keeper.close()
            assert app.pool.job.epoch == 0
            (path,) = (config.data / "proposals").iterdir()
            (wanted,) = json.loads(path.read_text())["transactions"]
            chain = app.chain
            await asyncio.to_thread(chain.rpc, "anvil_impersonateAccount", safe)
            call = {"from": safe, "to": wanted["to"], "data": wanted["data"]}
            await asyncio.to_thread(chain.rpc, "eth_sendTransaction", call)
            await app.keeper.close()
            assert app.pool.job.epoch == 1

    asyncio.run(work())


@pytest.mark.parametrize("depth", [1, 6])
def test_a_registration_that_a_reorganisation_drops_is_sent_again_and_the_reward_comes_once(
    deployed: Config, depth: int
) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 3)
            await app.keeper.close()
            await mine(app, ALICE, 1, block=True)
            (block,) = app.pool.blocks
            while (await app.node.tip()).height < block.height + 99:
                await app.node.submit(network_block(await app.node.template()))
            await app.header_relay.relay()
            await asyncio.to_thread(app.chain.rpc, "anvil_mine", hex(10))
            (reward,) = await app.rewards.register_due()
            if depth > 1:
                await asyncio.to_thread(app.chain.rpc, "anvil_mine", hex(depth - 1))
            await asyncio.to_thread(app.chain.rpc, "anvil_reorg", depth, [])
            assert await asyncio.to_thread(app.distributor.payouts) == []
            while not await asyncio.to_thread(app.distributor.payouts):
                await asyncio.to_thread(app.outbox.tend)
            app.rewards.rewards.clear()
            (again,) = await app.rewards.register_due()
            assert again.registration.amount == reward.registration.amount
            assert len(await asyncio.to_thread(app.distributor.payouts)) == 1

    asyncio.run(work())

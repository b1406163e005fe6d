"""Every scheme through the whole application, on a real node and a real chain, and audited from its bundles alone."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from pool_oracle.audit.bundles import BundleAudit
from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.config import Config
from pool_oracle.demo.scenario import FEE_RECIPIENT, OPERATOR, demo_accounts, deploy_distributor
from pool_oracle.errors import ConfigError
from pool_oracle.ledger.bundle import bundle_folder, read_leaves, read_manifest
from pool_oracle.ledger.sharelog import replay
from pool_oracle.payout.addresses import encode_segwit
from pool_oracle.payout.manifest import canonical_json
from pool_oracle.payout.payee import format_payee, payee_of_account
from pool_oracle.payout.schemes import SCHEMES, PaidBy
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.work.records import KIND_TIP, LongRecord
from tests.integration.test_oracle import BOB, mine, running

FARM = payee_of_account(b"\xa1" * 20)
TREASURY_INDEX = 19
FEE_BPS = 200
SUBSIDY = 50 * 10**8


@pytest.fixture
def pool_of(deployed: Config, anvil: Anvil):
    """A configuration of a pool of a scheme, with a distributor of its own."""

    def make(scheme: str, **policy: object) -> Config:
        accounts = demo_accounts()
        by_treasury = SCHEMES[scheme].paid_by is PaidBy.TREASURY
        changes = {"scheme": scheme, "fee_bps": FEE_BPS if by_treasury else 0}
        if by_treasury:
            changes["treasury"] = changes["genesis_payee"] = str(accounts[TREASURY_INDEX].address)
        if scheme == "solo":
            changes["solo_payee"] = f"0x{FARM[1:].hex()}"
        address = encode_segwit(deployed.network.hrp, 0, bytes(20))
        chain = msgspec.structs.replace(deployed.chain, route="deposit", deposit_address=address)
        config = msgspec.structs.replace(
            deployed, policy=msgspec.structs.replace(deployed.policy, **(changes | policy)), chain=chain
        )
        operator = Sender(Chain(anvil.url), accounts[OPERATOR])
        recipient = str(accounts[FEE_RECIPIENT].address)
        fee = 0 if by_treasury else config.policy.fee_bps
        distributor = deploy_distributor(find_project_root(), operator, recipient, config, fee)
        return msgspec.structs.replace(config, chain=msgspec.structs.replace(chain, distributor=distributor))

    return make


def audited(config: Config) -> list[str]:
    return [str(finding) for finding in BundleAudit(config.bundles).run().findings]


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_a_pool_of_each_scheme_closes_commits_restarts_and_passes_the_audit(pool_of, scheme: str) -> None:
    config = pool_of(scheme)
    other = FARM if scheme == "solo" else BOB

    async def work() -> None:
        async with running(config) as app:
            await mine(app, FARM, 9)
            await app.keeper.close()
            await mine(app, other, 5)
            await mine(app, FARM, 1, block=True)
            await app.pool.refresh()
            await mine(app, other, 7)
            await app.keeper.close()
            await mine(app, FARM, 2)
        async with running(config) as app:
            await mine(app, other, 3)
            await app.keeper.close()
            assert [epoch.number for epoch in app.keeper.epochs] == [0, 1, 2, 3]
            latest = await asyncio.to_thread(app.distributor.latest_epoch)
            assert (latest.number, latest.root) == (3, app.keeper.epochs[3].root)
            pays_treasury = SCHEMES[scheme].paid_by is PaidBy.TREASURY
            assert app.pool.job.epoch == (0 if pays_treasury else 3)

    asyncio.run(work())
    assert audited(config) == []
    manifest, _ = read_manifest(bundle_folder(config.bundles, 3))
    assert manifest.policy.scheme == scheme
    tips = [r for _, r in replay(config.shares) if isinstance(r, LongRecord) and r.kind == KIND_TIP]
    assert bool(tips) == SCHEMES[scheme].needs_fees
    _raise_a_weight(config, 3)
    assert any("weight of" in finding for finding in audited(config))


def _raise_a_weight(config: Config, epoch: int) -> None:
    """As an operator would who publishes and commits a root of his own making."""
    folder = bundle_folder(config.bundles, epoch)
    leaves = read_leaves(folder)
    tree = SumTree([(leaves[0][0], leaves[0][1] + 1), *leaves[1:]])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"root": f"0x{tree.root.hex()}", "total": str(tree.total)}
    rows = [[format_payee(payee), str(weight)] for payee, weight in tree.leaves]
    for name, value in (("leaves.json", rows), ("manifest.json", manifest)):
        (folder / name).unlink()
        (folder / name).write_bytes(canonical_json(value))


def test_pps_pays_each_share_its_part_of_the_subsidy_after_the_fee(pool_of) -> None:
    config = pool_of("pps")

    async def work() -> None:
        async with running(config) as app:
            await mine(app, FARM, 8)
            await mine(app, BOB, 3)
            await app.keeper.close()

    asyncio.run(work())
    leaves = dict(read_leaves(bundle_folder(config.bundles, 1)))
    manifest, _ = read_manifest(bundle_folder(config.bundles, 1))
    target = int(manifest.policy.emulated_network_target or "", 16)
    unit = S * target // (1 << 252)
    assert leaves == {
        FARM: SUBSIDY * 8 * unit * (10_000 - FEE_BPS) // (S * 10_000),
        BOB: SUBSIDY * 3 * unit * (10_000 - FEE_BPS) // (S * 10_000),
    }


@pytest.mark.parametrize("scheme", ["pps", "fpps", "pps+"])
def test_a_treasury_that_does_not_cover_the_reserve_is_refused_with_both_numbers(pool_of, scheme: str) -> None:
    # 50 coins, ruin one time in 1,000, fee 1 %: 50 * ln(1000) / 0.02 = 17,269.4; an account of anvil's holds 10,000.
    config = pool_of(scheme, fee_bps=100)

    async def work() -> None:
        with pytest.raises(ConfigError, match=r"17269\.38819746 rBTC .* it holds 10000\.00000000 rBTC"):
            async with running(config):
                pass

    asyncio.run(work())


def test_what_is_owed_to_closed_epochs_counts_against_the_treasury(pool_of) -> None:
    config = pool_of("pps")

    async def work() -> None:
        async with running(config) as app:
            await mine(app, FARM, 8)
            await app.keeper.close()
            owed = app.keeper.owed()
            assert owed == sum(weight for _, weight in read_leaves(app.keeper.epochs[1].folder)) > 0

    asyncio.run(work())


def test_a_solo_pool_lets_its_payee_alone_sign_in(pool_of) -> None:
    config = pool_of("solo")

    async def work() -> None:
        async with running(config) as app:
            reader, writer = await asyncio.open_connection("127.0.0.1", app.stratum_port)
            for number, payee in enumerate((BOB, FARM), 10):
                request = {"id": number, "method": "mining.authorize", "params": [f"0x{payee[1:].hex()}.rig", "x"]}
                writer.write(json.dumps(request).encode() + b"\n")
                answer = json.loads(await reader.readline())
                while answer.get("id") != number:
                    answer = json.loads(await reader.readline())
                assert (answer["result"] is True) == (payee == FARM)
                if payee != FARM:
                    assert answer["error"][0] == 24
                    assert "mines for 0x00a1a1" in answer["error"][1]
            writer.close()

    asyncio.run(work())


def test_a_changed_window_is_a_note_of_the_audit_and_its_weights_are_exact(pool_of) -> None:
    config = pool_of("pplns", window=1)

    async def work() -> None:
        async with running(config) as app:
            await mine(app, FARM, 20)
            await app.keeper.close()
        wider = msgspec.structs.replace(config, policy=msgspec.structs.replace(config.policy, window=3))
        async with running(wider) as app:
            assert app.pool.accounts.rules.window == 3
            await mine(app, BOB, 9)
            await app.keeper.close()
            await mine(app, FARM, 9)
            await app.keeper.close()

    asyncio.run(work())
    report = BundleAudit(config.bundles).run()
    assert report.passed
    assert [(f.what, f.expected, f.found) for f in report.findings] == [("window of the policy", "1", "3")]

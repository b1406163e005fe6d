"""`status`: one view of the oracle, while the pool runs and when it does not, whatever of it does not answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool_oracle.chain.events import PayoutEvent
from pool_oracle.chain.flyover import Registration
from pool_oracle.claims.matching import MinedBlock, match_registrations, match_roots
from pool_oracle.config import Config
from pool_oracle.ledger.glance import glance, newest_segments
from pool_oracle.ledger.sharelog import segment_files
from pool_oracle.status import gather_status, status_text
from pool_oracle.units import Wei
from pool_oracle.work.records import KIND_BLOCK, KIND_BLOCK_STATE, KIND_CLOSE, LongRecord
from tests.integration.claim_world import CLI
from tests.integration.test_oracle import ALICE, mine, running
from tests.integration.test_register_commands import bury

PAID = 5_000 * 10**10
BLOCK = MinedBlock(b"\x01" * 32, b"\x02" * 32, 100, 1, b"\x03" * 32, Wei(PAID), True)
PAYOUT = PayoutEvent(0, b"\x03" * 32, None, Wei(PAID - 7), Wei(7), 0, 0, bytes(32), bytes(32))
MADE = Registration(0, Wei(PAID), "0x")


@pytest.fixture
def operator_folder(deployed: Config, tmp_path: Path) -> Path:
    """A folder with the configuration file of a pool that never ran."""
    policy = f'[policy]\ngenesis_payee = "{deployed.policy.genesis_payee}"\nwindow = 2\nfee_bps = 100\n'
    chain = "".join(
        f'{name} = "{getattr(deployed.chain, name)}"\n'
        for name in ("rpc", "distributor", "flyover_route", "operator_key_file")
    )
    pool = f'[pool]\nname = "{deployed.pool.name}"\nnetwork = "regtest"\ndata = "data"\n'
    target = f'emulated_network_target = "{deployed.pool.emulated_network_target}"\n'
    stratum = f'[stratum]\nshare_difficulty = "{deployed.stratum.share_difficulty}"\n'
    text = "".join((pool, target, stratum, policy, "[chain]\n", chain, "[api]\nport = 1\n"))
    (tmp_path / "pool-oracle.toml").write_text(text)
    return tmp_path


def test_status_shows_every_step_while_the_pool_runs_and_the_same_when_it_does_not(
    deployed: Config, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    async def work() -> None:
        empty = await asyncio.to_thread(gather_status, deployed)
        assert (empty["running"], empty["closed"], empty["published"], empty["blocks"]) == (None, None, None, [])
        async with running(deployed) as app:
            at_port = msgspec.structs.replace(deployed, api=msgspec.structs.replace(deployed.api, port=app.api_port))
            await mine(app, ALICE, 3)
            assert await app.keeper.close() is not None
            await mine(app, ALICE, 1, block=True)
            (block,) = app.pool.blocks
            await bury(app, block.height + 49)
            early = await asyncio.to_thread(gather_status, at_port)
            assert early["blocks"][0]["reward"] == "waits for 50 blocks"
            await bury(app, block.height + 99)
            assert (await asyncio.to_thread(gather_status, at_port))["blocks"][0]["reward"] == "due"
            await app.rewards.register_due()
            status = await asyncio.to_thread(gather_status, at_port)
            assert status["running"]["jobEpoch"] == 1
            assert status["running"]["indexBehindShares"] in range(5)  # it fills by itself
            assert [status[name]["epoch"] for name in ("closed", "published", "committed")] == [1, 1, 1]
            assert status["finalized"] is None  # a chain so young has no final block
            assert status["blocks"][0]["reward"] == "payout 0"
            assert status["alarms"] == status["problems"] == []
            assert (status["lag"]["unpublished"], status["lag"]["uncommitted"]) == (0, 0)
            assert status["wallet"]["balance"] == str(app.chain.balance(status["wallet"]["address"]))
            assert (status["transactions"]["pending"], status["unattributed"]) == (0, "0")
            app.chain.rpc("anvil_mine", hex(200))
            status = await asyncio.to_thread(gather_status, at_port)
            assert status["finalized"] == status["committed"] | {"by": "the chain's finality"}
            seen.update(status)
            # An epoch that closed and was neither published nor committed yet.
            await mine(app, ALICE, 2)
            assert app.pool.close_epoch("00" * 32, 0, 1) is not None
            await app.log.flush()
            behind = await asyncio.to_thread(gather_status, at_port)
            assert (behind["closed"]["epoch"], behind["lag"]["unpublished"]) == (2, 1)
            assert "1 closed, not published" in status_text(behind)

    asyncio.run(work())
    stopped = gather_status(deployed)
    assert stopped["running"] is None
    assert stopped["blocks"] == seen["blocks"]
    assert "no pool answers" in status_text(stopped)


def test_a_user_asks_for_the_status(operator_folder: Path) -> None:
    done = subprocess.run(
        [*CLI, "status"], cwd=operator_folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "committed    one that is not published here" in done.stdout
    assert "problem" not in done.stdout
    asked = subprocess.run(
        [*CLI, "status", "--json"], cwd=operator_folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert json.loads(asked.stdout)["committed"]["commit"] == 0
    command = [*CLI, "reward", "sync", "--config", "pool-oracle.toml"]
    waiting = subprocess.run(command, cwd=operator_folder, capture_output=True, text=True, timeout=120, check=False)
    assert waiting.stdout == "0.00000000 RBTC wait to become a payout of epoch 0\n"


def test_what_does_not_answer_is_a_problem_and_hides_nothing_else(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 1)
            assert await app.keeper.close() is not None

    asyncio.run(work())
    away = msgspec.structs.replace(
        deployed, chain=msgspec.structs.replace(deployed.chain, rpc="http://user:secret@127.0.0.1:1/v3/secret")
    )
    status = gather_status(away)
    assert (status["closed"]["epoch"], status["published"]["epoch"], status["committed"]) == (1, 1, None)
    assert any("does not answer" in problem for problem in status["problems"])
    assert "secret" not in status_text(status) + json.dumps(status)


def test_another_amount_than_the_coinbase_paid_is_an_alarm() -> None:
    def alarm(made: Registration, payout: PayoutEvent | None) -> str:
        (standing,) = match_registrations([BLOCK], {BLOCK.txid: made}, [payout] if payout else [], 300)
        assert standing.payouts == (0,)
        return standing.alarm

    assert alarm(MADE, PAYOUT) == ""
    assert "was registered with 1" in alarm(replace(MADE, amount=Wei(1)), PAYOUT)
    assert f"got {PAID - 1}" in alarm(MADE, replace(PAYOUT, amount=Wei(PAID - 8)))
    assert "has root 0x0404" in alarm(MADE, replace(PAYOUT, root=b"\x04" * 32))
    assert "does not have" in alarm(MADE, None)


def test_a_reward_that_is_not_registered_waits_is_due_or_is_none() -> None:
    def reward(block: MinedBlock, height: int) -> str:
        (standing,) = match_registrations([block], {}, [], height)
        return standing.reward

    assert reward(BLOCK, 99) == "waits for 100 blocks"
    assert reward(BLOCK, 198) == "waits for 1 blocks"
    assert reward(BLOCK, 199) == "due"
    assert reward(replace(BLOCK, is_alive=False), 199) == "none"


def test_deposits_are_matched_by_root_and_blocks_of_one_root_together() -> None:
    second = replace(BLOCK, hash=b"\x05" * 32, height=101)
    both = replace(PAYOUT, number=1, amount=Wei(2 * PAID - 7))
    assert [s.reward for s in match_roots([BLOCK, second], [])] == ["not funded yet"] * 2
    for payouts, alarms in (([PAYOUT, replace(PAYOUT, number=1)], 0), ([both], 0), ([PAYOUT], 2)):
        standings = match_roots([BLOCK, second], payouts)
        assert sum(bool(standing.alarm) for standing in standings) == alarms
    dead = replace(second, is_alive=False)
    assert [s.reward for s in match_roots([BLOCK, dead], [PAYOUT])] == ["payout 0", "none"]


def test_a_glance_sees_what_a_reading_of_the_whole_log_sees_and_no_torn_record(rig: Any) -> None:
    async def work() -> None:
        async with rig(window=2) as mined:
            for _ in range(3):
                await mined.mine(20)
                mined.pool.close_epoch("ab" * 32, 5, 1)
            await mined.mine(5)
            await mined.log.flush()
            folder = mined.log.folder
            segments, older = newest_segments(folder, 1 << 30)
            assert (len(segments), older) == (4, 0)
            closes = list(glance(segments, (KIND_CLOSE,)))
            assert [record.payload["epoch"] for _, record in closes] == [3, 2, 1]
            assert all(isinstance(record, LongRecord) for _, record in closes)
            assert list(glance(segments, (KIND_BLOCK, KIND_BLOCK_STATE))) == []
        size = sum(path.stat().st_size for path in segments[:2])
        assert newest_segments(folder, size) == (segments[:2], 2)
        assert newest_segments(folder, 1) == (segments[:1], 3)
        last = segment_files(folder)[2]
        data = last.read_bytes()
        last.write_bytes(data[:-70])
        assert [record.payload["epoch"] for _, record in glance(segments, (KIND_CLOSE,))] == [2, 1]

    asyncio.run(work())

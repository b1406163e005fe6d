"""A pool killed at each step from close to claim: whoever starts it again finds the way to the same end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool_oracle.audit.bundles import BundleAudit
from pool_oracle.audit.chain import audit_chain
from pool_oracle.chain.client import Chain
from pool_oracle.chain.distributor import DistributorClient, part_of
from pool_oracle.config import Config
from pool_oracle.ledger.bundle import bundle_folder, read_leaves
from pool_oracle.ledger.checkpoint import Checkpoints
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.restoring import restore_state
from tests.integration.oracle_child import STEPS
from tests.integration.test_oracle import ALICE

ROOT = Path(__file__).resolve().parents[2]
KILLED = -9
DEATHS = [
    *((step, 1, when) for step in STEPS for when in ("before", "after")),
    ("log", 3, "after"),
    ("file", 3, "after"),
    ("journal", 3, "after"),
    ("journal", 4, "after"),
    ("send", 2, "after"),
    ("sign", 2, "after"),
]


def run_child(path: Path, *death: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.integration.oracle_child", str(path), *map(str, death)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_kill_at_any_step_from_close_to_claim_changes_nothing_but_the_time(deployed: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(msgspec.json.encode(deployed))
    for death in DEATHS:
        done = run_child(path, *death)
        assert done.returncode == KILLED, f"{death}: {done.returncode} {done.stdout} {done.stderr}"
    done = run_child(path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["closes"] == facts["epochs"] - 1 > len(DEATHS) // 2
    check_everything(deployed, facts)


def check_everything(config: Config, facts: dict[str, Any]) -> None:
    """Log, bundles and chain tell one story; nothing is there twice, nothing is missing."""
    chain = Chain(str(config.chain.rpc))
    distributor = DistributorClient(chain, config.chain.distributor)
    audit = BundleAudit(config.bundles)
    report = audit.run()
    audit_chain(audit, distributor)
    assert report.findings == []
    commits = distributor.committed_epochs()
    assert [commit.number for commit in commits] == list(range(facts["epochs"]))
    assert len({commit.manifest_hash for commit in commits}) == len(commits)
    payouts = distributor.payouts()
    assert len(payouts) == facts["blocks"] > 0
    roots = {audited.epoch: bytes.fromhex(audited.root[2:]) for audited in report.epochs}
    expected = 0
    for payout in payouts:
        epoch = max(number for number, root in roots.items() if root == payout.root)
        weight = dict(read_leaves(bundle_folder(config.bundles, epoch))).get(ALICE, 0)
        assert distributor.is_claimed(ALICE, payout.id) == (weight > 0)
        expected += part_of(payout, weight)
    assert distributor.claimed_amounts().get(ALICE, 0) == expected > 0

    async def replayed() -> tuple[Any, Any]:
        log = ShareLog(config.shares)
        try:
            whole = restore_state(log, Rules())
            short = restore_state(log, Rules(), published=facts["closes"], checkpoints=Checkpoints(config.shares))
            return whole.accounts.scheme.weights, short.accounts.scheme.weights
        finally:
            await log.close()

    whole, short = asyncio.run(replayed())
    assert whole == short


@pytest.mark.parametrize("step", list(STEPS))
def test_every_step_is_taken_in_a_round(step: str) -> None:
    """So that no kill above waits for a call that never comes."""
    holder, name = STEPS[step]
    assert callable(getattr(holder, name))
    assert any(death[0] == step for death in DEATHS)

"""The whole pool, as an operator starts it, with a miner: killed in the middle, and what its index says then."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from pool_oracle.config import Config
from pool_oracle.demo.scenario import demo_accounts
from pool_oracle.ledger.index.store import Index
from pool_oracle.processes import start_child, stop_child
from tests.integration.databases import NewUrl

ROUNDS = 3
HASHES_PER_SECOND = 150_000


def to_toml(config: Config) -> str:
    """The file that a configuration comes from."""
    sections = msgspec.to_builtins(config)
    lines = []
    for name, section in sections.items():
        if isinstance(section, dict):
            lines.append(f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in section.items() if value not in (None, {}, [])]
    return "\n".join(lines)


class RunningPool:
    """`pool-oracle run` and a miner."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "pool_oracle.cli", "run", "--config", str(path), "--json"]
        self._log = path.with_suffix(".log").open("a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        facts = json.loads(self.process.stdout.readline())
        host, port = facts["stratum"].split(":")
        self.api = f"{facts['api']}api/v1"
        user = f"{demo_accounts()[10].address}.rig"
        miner = [sys.executable, "-m", "pool_oracle.simulated_miner", host, port, user, str(HASHES_PER_SECOND)]
        self._miner = start_child(miner)

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.api}/{path}", timeout=10)
        return answer.json() if answer.status_code == 200 else {}

    def wait_for(self, shares: int) -> None:
        """Until so many shares are indexed."""
        deadline = time.monotonic() + 60
        while self.get("index").get("shares", 0) < shares:
            assert time.monotonic() < deadline, "the index does not grow"
            time.sleep(0.05)

    def end(self, number: int) -> int:
        """End the pool by a signal; returns its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(30)
        stop_child(self._miner)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return status


def test_a_pool_killed_in_the_middle_goes_on_at_its_indexs_cursor(
    new_url: NewUrl, deployed: Config, tmp_path: Path
) -> None:
    url = new_url()
    config = msgspec.structs.replace(
        deployed,
        index=msgspec.structs.replace(deployed.index, url=url),
        policy=msgspec.structs.replace(deployed.policy, epoch_seconds=2),
    )
    path = tmp_path / "pool-oracle.toml"
    path.write_text(to_toml(config))
    shares = 0
    for _ in range(ROUNDS):
        pool = RunningPool(path)
        try:
            pool.wait_for(shares + 40)
            shares = pool.get("index")["shares"]
        finally:
            assert pool.end(signal.SIGKILL) == -signal.SIGKILL
        with Index(url) as index, index.reading() as ask:
            assert ask.shares() >= shares
    pool = RunningPool(path)
    try:
        pool.wait_for(shares + 10)
        (worker,) = pool.get("index/workers")["rows"]
        assert worker["worker"] == "rig"
        assert pool.get("index/epochs")["rows"]
    finally:
        pool.end(signal.SIGTERM)
    logged = path.with_suffix(".log").read_text()
    assert "Traceback" not in logged
    assert "index not filled" not in logged
    with Index(url) as index, Index(new_url()) as again:
        index.fill(config.shares, config.log_rules)  # what the pool wrote after the last look
        again.fill(config.shares, config.log_rules)
        with index.reading() as ask, again.reading() as other:
            assert ask.shares() == other.shares() > shares
            place, payouts, claims = ask.chain_place(), ask.payouts(), ask.claims()
        assert place is not None
        again.record_chain(0, place, payouts, claims)
        assert again.digest() == index.digest()

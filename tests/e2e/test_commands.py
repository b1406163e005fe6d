"""`init`, `check`, `run` and `audit` as an operator and an auditor use them."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.client import Chain
from pool_oracle.config import load_config
from pool_oracle.demo.scenario import EMULATED_TARGET, demo_accounts, deploy_demo

CLI = [sys.executable, "-m", "pool_oracle.cli"]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def operator(tmp_path: Path) -> Any:
    """A folder with a filled-in configuration for contracts that are deployed, and the chain they are on."""
    with Anvil(find_project_root()) as anvil:
        demo = deploy_demo(find_project_root(), tmp_path, Chain(anvil.url), demo_accounts())
        assert run("init", folder=tmp_path).returncode == 0
        path = tmp_path / "pool-oracle.toml"
        text = path.read_text()
        for field, value in (
            ("name", demo.pool.name),
            ("genesis_payee", demo.policy.genesis_payee),
            ("distributor", demo.chain.distributor),
            ("flyover_route", demo.chain.flyover_route),
            ("rpc", anvil.url),
        ):
            text = re.sub(rf'^{field} = ".*"$', f'{field} = "{value}"', text, flags=re.M)
        text = text.replace("# window = 8", "window = 2").replace("# fee_bps = 0", "fee_bps = 100")
        text = text.replace("# port = 3333", "port = 0").replace("# port = 8080", "port = 0")
        text = text.replace('# host = "0.0.0.0"', 'host = "127.0.0.1"')
        path.write_text(text)
        yield tmp_path, anvil


def test_the_configuration_that_init_writes_needs_only_its_blanks_filled(operator: Any) -> None:
    folder, _ = operator
    config = load_config(folder / "pool-oracle.toml")
    assert config.emulated_target == EMULATED_TARGET
    assert (config.policy.window, config.policy.fee_bps, config.policy.epoch_seconds) == (2, 100, 600)
    again = run("init", folder=folder)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists already" in again.stderr


def test_check_finds_everything_in_order(operator: Any) -> None:
    folder, _ = operator
    done = run("check", "--json", folder=folder)
    assert done.returncode == 0, done.stdout
    checks = json.loads(done.stdout)
    assert [check["name"] for check in checks] == ["disk", "node", "key", "chain", "contracts", "clock"]
    assert all(check["ok"] for check in checks)


def test_check_says_what_is_wrong_and_what_would_be_right(operator: Any) -> None:
    folder, anvil = operator
    key = folder / "operator.key"
    path = folder / "pool-oracle.toml"
    path.write_text(path.read_text().replace("fee_bps = 100", "fee_bps = 50"))
    done = run("check", "--json", folder=folder)
    assert done.returncode == 1
    details = {check["name"]: check["detail"] for check in json.loads(done.stdout) if not check["ok"]}
    assert details.keys() == {"contracts"}
    assert "the distributor takes 100" in details["contracts"]
    key.chmod(0o644)
    done = run("check", "--json", folder=folder)
    details = {check["name"]: check["detail"] for check in json.loads(done.stdout) if not check["ok"]}
    assert "chmod 600" in details["key"]
    key.chmod(0o600)
    secret = key.read_text()
    key.write_text("not a key")
    anvil.stop()
    done = run("check", folder=folder)
    assert done.returncode == 1
    assert "no chain node answers" in done.stdout
    assert "does not hold a private key" in done.stdout
    assert secret not in done.stdout
    assert "Traceback" not in done.stderr


def test_run_serves_until_it_is_told_to_stop(operator: Any) -> None:
    folder, _ = operator
    process = subprocess.Popen(
        [*CLI, "run", "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        host, port = facts["stratum"].split(":")
        with socket.create_connection((host, int(port)), timeout=10) as miner:
            miner.sendall(b'{"id":1,"method":"mining.subscribe","params":[]}\n')
            assert json.loads(miner.makefile().readline())["id"] == 1
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert (folder / "data" / "bundles" / "epoch-000000" / "manifest.json").exists()


def test_run_on_a_port_that_is_taken_says_so_in_one_line(operator: Any) -> None:
    folder, _ = operator
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = folder / "pool-oracle.toml"
        path.write_text(path.read_text().replace("port = 0", f"port = {taken.getsockname()[1]}", 1))
        done = run("run", folder=folder)
    assert done.returncode == 2
    assert "stratum cannot listen" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_audit_of_nothing_says_what_was_missing(tmp_path: Path) -> None:
    done = run("audit", "epoch", "--bundle", str(tmp_path), folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds no bundle" in done.stderr


def test_help_names_every_command_and_exit_code(tmp_path: Path) -> None:
    text = run("--help", folder=tmp_path).stdout
    for word in (
        "init",
        "check",
        "run",
        "demo",
        "tree",
        "window",
        "share",
        "payee",
        "audit",
        "claim",
        "reward",
        "Exit codes",
    ):
        assert word in text


def test_every_command_takes_json(tmp_path: Path) -> None:
    commands = [
        "init",
        "check",
        "run",
        "demo",
        "tree root",
        "tree proof",
        "tree verify",
        "window",
        "share check",
        "payee",
        "claim",
        "link",
        "relay",
        "reward register",
        "reward fund",
        "reward sync",
        "status",
    ]
    for command in [*commands, "audit epoch"]:
        assert "--json" in run(*command.split(), "--help", folder=tmp_path).stdout, command
    assert "--lines" in run("window", "--help", folder=tmp_path).stdout

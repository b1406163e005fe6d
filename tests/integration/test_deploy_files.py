"""What `deploy/` ships fits the pool: units that systemd reads, alerts and panels about metrics that there are."""

from __future__ import annotations

import asyncio
import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pool_oracle.api.metrics import REASONS
from pool_oracle.app import PoolApp
from pool_oracle.chain.anvil import find_project_root
from pool_oracle.config import PASSWORD_FILE_VARIABLE, Config
from pool_oracle.logbook import BlockState
from pool_oracle.stratum.limits import LimitSettings

DEPLOY = find_project_root() / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
RULES = DEPLOY / "prometheus" / "pool-oracle.rules.yml"
EXPOSURE = 25
"""In tenths, what `systemd-analyze security` may find; 100 is a service without any hardening."""


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "pool-oracle.json").read_text())["panels"]
    return found


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [each["expr"] for panel in panels() for each in panel["targets"]]


# Metrics


def test_every_metric_of_alerts_and_dashboard_is_there_when_a_running_pool_is_scraped(deployed: Config) -> None:
    named = {name for each in expressions() for name in re.findall(r"\bpool_oracle_\w+", each)}
    assert len(named) > 10

    async def scrape() -> set[str]:
        app = PoolApp(deployed)
        await app.start()
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                missing = named
                for _ in range(200):
                    text = (await client.get(f"http://127.0.0.1:{app.api_port}/metrics")).text
                    missing = named - set(re.findall(r"^(\w+)", text, re.M)) - set(re.findall(r"# TYPE (\w+)", text))
                    if not missing:  # the index tells how far it is when it has been there once
                        break
                    await asyncio.sleep(0.05)
                return missing
        finally:
            await app.stop()

    assert asyncio.run(scrape()) == set()


def test_labels_of_alerts_and_dashboard_have_values_that_there_are() -> None:
    states, reasons = {state.value for state in BlockState}, set(REASONS.values())
    for each in expressions():
        assert set(re.findall(r'state="([^"]*)"', each)) <= states
        assert set(re.findall(r'reason!?="([^"]*)"', each)) <= reasons
        assert set(re.findall(r'job="([^"]*)"', each)) <= {"pool-oracle"}
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus" / "pool-oracle.yml").read_text())["scrape_configs"]
    assert scraped["job_name"] == "pool-oracle"


# Alerts


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_leads_to_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert 20 < len(rule["annotations"]["summary"]) < 120
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (find_project_root() / path).read_text(), re.M)
    assert anchor == rule["alert"].lower()
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_no_alert_of_the_runbook_is_gone() -> None:
    text = (find_project_root() / "docs" / "operator.md").read_text()
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.M) == [rule["alert"] for rule in rules()]


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    folder = DEPLOY / "prometheus"
    cases = yaml.safe_load((folder / "pool-oracle.rules.test.yml").read_text())["tests"]
    tested = {each["alertname"] for case in cases for each in case["alert_rule_test"] if "exp_alerts" in each}
    assert tested == {rule["alert"] for rule in rules()}


# Units


def read_unit(path: Path) -> configparser.RawConfigParser:
    """A unit; of settings that stand there more than once, the last."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text().replace("\\\n", ""))
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_as_a_user_of_its_own_and_writes_only_its_own_data(unit: Path) -> None:
    service = read_unit(unit)["Service"]
    assert service["User"] not in ("", "root")
    assert service["ReadWritePaths"] == f"/var/lib/{service['StateDirectory']}"
    for setting, value in (
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("CapabilityBoundingSet", ""),
        ("Restart", "on-failure"),
    ):
        assert service[setting] == value, setting


def test_the_pools_unit_gives_it_its_password_and_enough_files() -> None:
    text = (DEPLOY / "systemd" / "pool-oracle.service").read_text()
    service = read_unit(DEPLOY / "systemd" / "pool-oracle.service")["Service"]
    assert f"Environment={PASSWORD_FILE_VARIABLE}=%d/operator.password" in text
    assert "LoadCredential=operator.password:/etc/pool-oracle/operator.password" in text
    assert int(service["LimitNOFILE"]) > 2 * LimitSettings().max_connections
    assert (service["SuccessExitStatus"], service["RestartPreventExitStatus"]) == ("130", "2")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    """The units' programs are not installed, so others stand in for them."""
    program = shutil.which("systemd-analyze")
    assert program, "the program systemd-analyze is missing: apt-get install systemd"
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.M))
    verified = subprocess.run([program, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    security = [program, "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(copy)]
    exposed = subprocess.run(security, capture_output=True, text=True, check=False)
    assert exposed.returncode == 0, exposed.stdout[-200:]

"""The demo as a user runs it: it passes, and whatever happens to it, it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pool_oracle.units import WEI_PER_COIN

COMMAND = [sys.executable, "-m", "pool_oracle.cli", "demo"]
TIMEOUT_SECONDS = 240


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """The user's environment, with temporary files where the test can see what is left of them."""
    kept = {name: value for name, value in os.environ.items() if name != "KEEP"}
    return kept | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"} | more


def descendants(pid: int) -> set[int]:
    """The process ids below `pid` (Linux)."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found |= {child} | descendants(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening_ports(pids: set[int]) -> set[int]:
    """The TCP ports on which any of the processes listens (Linux)."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            ports.add(int(fields[1].split(":")[1], 16))
    return ports


def wait_until_gone(pids: set[int]) -> set[int]:
    """Those that are still there after a while."""
    for _ in range(100):
        left = {pid for pid in pids if is_alive(pid)}
        if not left:
            break
        time.sleep(0.1)
    return left


def test_the_demo_passes_and_every_amount_adds_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = subprocess.run(
        [*COMMAND, "--json", "--data", str(data)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["failures"] == []
    assert report["audit"] == "PASS"
    miners = [row for row in report["rows"] if row["name"].startswith("miner")]
    assert len(miners) == 5
    assert [row["address"][:2] for row in miners[:3]] == ["0x"] * 3
    assert miners[3]["address"].startswith("bcrt1q")
    assert miners[4]["address"].startswith("2")
    assert all(int(row["paid"]) > 0 and row["claim_transactions"] for row in miners)
    assert report["blocks"] >= 2
    assert report["epochs"] >= 3
    total = sum(int(row["paid"]) for row in report["rows"])
    assert total == int(report["paid"])
    assert total + int(report["fee"]) + int(report["dust"]) == int(report["registered"])
    assert int(report["registered"]) == 50 * report["blocks"] * WEI_PER_COIN
    assert "100 confirmations" in done.stderr

    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "pool_oracle.cli",
            "audit",
            "epoch",
            "--bundle",
            str(data / "pool" / "bundles"),
            "--json",
        ],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert again.returncode == 0, again.stdout
    assert json.loads(again.stdout)["verdict"] == "PASS"


@pytest.mark.parametrize("scheme", ["prop", "solo"])
def test_the_demo_passes_under_every_scheme_that_needs_no_treasury(tmp_path: Path, scheme: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--json", "--scheme", scheme],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["passed"], report["audit"]) == (True, "PASS")
    total = sum(int(row["paid"]) for row in report["rows"])
    assert total + int(report["fee"]) + int(report["dust"]) == int(report["registered"]) > 0


def test_the_demo_names_the_schemes_that_it_can_show(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--scheme", "fpps"], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pplns, prop, solo" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_demo_leaves_no_process_no_port_and_no_file(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMAND, env=environment(scratch, KEEP="1"), stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(600):
            children = descendants(process.pid)
            if len(children) >= 6 or process.poll() is not None:
                break
            time.sleep(0.1)
        assert len(children) >= 6, log.read_text()
        ports = listening_ports({process.pid, *children})
        assert len(ports) >= 3
        process.send_signal(number)
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert wait_until_gone(children) == set()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "Traceback" not in log.read_text()
        assert list(scratch.glob("pool-oracle-demo-*")) == []


def test_a_data_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = subprocess.run(
        [*COMMAND, "--data", str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not empty" in done.stderr

"""How many shares a second, at what latency and cost: our stratum server under `stratum_load.c`.

    make bench-stratum    writes docs/performance.md's table and bench/results/stratum.json; with --quick only tries it

Method: every share has an extranonce2 of its own, 12 merkle branch levels, all shares are valid and acknowledged only
after fdatasync. Where the machine has two cores, the server has one and the generator the other; with two stratum
processes nothing is pinned. Latency counts from when a share was due (open loop) or sent. CPU is of all of the
server's processes, user and system. `other` is what the rest of the machine took: above a few percent, repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "stratum.json"
USER = "0x000000000000000000000000000000000000000A.w%d"
LOADS = (
    # name, connections, depth, shares per connection, rate
    ("500 x 16", 500, 16, 600, 0),
    ("50 x 16", 50, 16, 6000, 0),
    ("500 x 1", 500, 1, 300, 0),
    ("50 x 1", 50, 1, 3000, 0),
    ("open loop 10,000/s", 200, 1, 500, 10_000),
)
IDLE = 10_000


class Server:
    """A server under test, on a fresh share log."""

    def __init__(self, folder: Path, *, workers: int = 0, core: str | None = None) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, str(ROOT / "bench" / "stratum_server.py"), str(folder), "--workers", str(workers)]
        if core is not None:
            command = ["taskset", "-c", core, *command]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        facts = self.line()
        self.port: int = facts["port"]
        self.pids: list[int] = facts["pids"]

    def line(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self._process.stdout is not None
        value: dict[str, Any] = json.loads(self._process.stdout.readline())
        return value

    def new_tip(self) -> int:
        """Bring a new tip; returns when the pool had it."""
        os.kill(self.pids[0], signal.SIGUSR1)
        return int(self.line()["tip"])

    def resident_kb(self) -> int:
        """Resident memory of all its processes."""
        total = 0
        for pid in self.pids:
            for row in Path(f"/proc/{pid}/status").read_text().splitlines():
                if row.startswith("VmRSS:"):
                    total += int(row.split()[1])
        return total

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run_load(
    generator: Path, server: Server, core: str | None, connections: int, depth: int, shares: int, rate: int
) -> dict[str, Any]:
    """One run of the generator. Raises SystemExit where a share was lost or refused."""
    command = [
        str(generator), "--port", str(server.port), "--user", USER, "--mine",
        "--conns", str(connections), "--depth", str(depth), "--shares", str(shares),
        "--pid", ",".join(map(str, server.pids)), "--max-secs", "120",
    ]  # fmt: skip
    if rate:
        command += ["--rate", str(rate)]
    if core is not None:
        command = ["taskset", "-c", core, *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr or done.stdout}")
    value: dict[str, Any] = json.loads(done.stdout)
    if value["accepted"] != value["sent"]:
        raise SystemExit(f"not every share was accepted: {value['rejected']}")
    return value


class Crowd:
    """Connections that are authorized and do nothing."""

    def __init__(self, port: int, count: int) -> None:
        """Connect and sign in."""
        self._selector = selectors.DefaultSelector()
        self._sockets = []
        hello = b'{"id":1,"method":"mining.subscribe","params":["crowd"]}\n'
        sign_in = b'{"id":2,"method":"mining.authorize","params":["%s.c","x"]}\n' % USER.partition(".")[0].encode()
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(hello + sign_in)
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ)
            self._sockets.append(connection)
        self.drain(3.0)

    def drain(self, quiet: float) -> None:
        """Read until nothing came for `quiet` seconds."""
        while events := self._selector.select(quiet):
            for key, _ in events:
                key.fileobj.recv(65536)  # type: ignore[union-attr]

    def arrivals(self) -> list[int]:
        """For each connection, when the next bytes came to it (CLOCK_MONOTONIC, nanoseconds)."""
        first: dict[int, int] = {}
        while len(first) < len(self._sockets):
            events = self._selector.select(10)
            if not events:
                break
            for key, _ in events:
                key.fileobj.recv(65536)  # type: ignore[union-attr]
                first.setdefault(key.fd, time.monotonic_ns())
        return list(first.values())

    def close(self) -> None:
        """Hang up."""
        for connection in self._sockets:
            connection.close()


def measure_crowd(folder: Path, count: int, core: str | None) -> dict[str, int]:
    """Memory of idle connections, and how fast a new tip reaches them."""
    with Server(folder, core=core) as server:
        before = server.resident_kb()
        crowd = Crowd(server.port, count)
        after = server.resident_kb()
        delays = []
        for _ in range(3):
            since = server.new_tip()
            arrived = sorted(at - since for at in crowd.arrivals())
            if len(arrived) != count:
                raise SystemExit(f"a new tip reached {len(arrived)} of {count} connections")
            delays.append((arrived[len(arrived) // 2] // 1000, arrived[-1] // 1000))
            crowd.drain(0.5)
        crowd.close()
    median, last = min(delays, key=lambda delay: delay[1])
    return {
        "connections": count,
        "resident_kb": after,
        "bytes_per_connection": (after - before) * 1024 // count,
        "tip_to_median_us": median,
        "tip_to_last_us": last,
    }


def row_of(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run; microseconds."""
    return {
        "load": name,
        "shares_per_s": round(value["replies_per_s"]),
        "cpu_us_per_share": round(value["server_cpu_s_per_1000"] * 1000, 1),
        "server_cores": value["server_cores"],
        "p50_us": round(value["lat_ms"]["p50"] * 1000),
        "p99_us": round(value["lat_ms"]["p99"] * 1000),
        "other_cores": value["other_cores"],
    }


class Bench:
    """All runs, in a scratch folder that goes away."""

    def __init__(self, scratch: Path, console: Console, *, quick: bool, repeat: int) -> None:
        """Compile the generator. Raises SystemExit without a compiler."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise SystemExit("a C compiler is missing: apt-get install gcc")
        self._scratch = scratch
        self._console = console
        self._quick = quick
        self._repeat = 1 if quick else repeat
        self._runs = 0
        self._two_cores = (os.cpu_count() or 1) >= 2 and shutil.which("taskset") is not None
        self._generator = scratch / "stratum_load"
        subprocess.run([compiler, "-O2", "-o", self._generator, ROOT / "bench" / "stratum_load.c"], check=True)

    def load(self, name: str, connections: int, depth: int, shares: int, rate: int, workers: int = 0) -> dict[str, Any]:
        """The best run of a load: by throughput, or by latency where the rate is given."""
        rows = []
        for _ in range(self._repeat):
            self._runs += 1
            folder = self._scratch / f"log{self._runs}"
            cores = ("0", "1") if self._two_cores and not workers else (None, None)
            with Server(folder, workers=workers, core=cores[0]) as server:
                count = max(2, shares // 50) if self._quick else shares
                value = run_load(self._generator, server, cores[1], connections, depth, count, rate)
            shutil.rmtree(folder)
            rows.append(row_of(name, value))
            self._console.print(rows[-1])
        return min(rows, key=lambda row: row["p99_us"] if rate else -row["shares_per_s"])

    def crowd(self) -> dict[str, int]:
        """Idle connections and new tips."""
        count = 200 if self._quick else IDLE
        return measure_crowd(self._scratch / "crowd", count, "0" if self._two_cores else None)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run, only to see that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each load; the best counts")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.json)
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pool-oracle-bench-", dir=ROOT / "build") as scratch:
        bench = Bench(Path(scratch), console, quick=arguments.quick, repeat=arguments.repeat)
        rows = [bench.load(*load) for load in LOADS]
        rows += [bench.load(f"500 x 16, {n} process{'es' * (n > 1)}", 500, 16, 600, 0, workers=n) for n in (1, 2)]
        crowd = bench.crowd()
    result = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "loads": rows, "crowd": crowd}
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(result))
        return
    table = Table(title="stratum server, durable")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table, crowd)


if __name__ == "__main__":
    main()

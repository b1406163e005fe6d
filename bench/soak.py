"""A stratum server under good and bad clients for a long time: the good ones lose no share, its memory does not grow.

    python bench/soak.py [--seconds N] [--processes N]     prints a table and writes bench/results/soak.json
    python bench/soak.py --quick                           12 seconds; memory is not judged, and nothing is written
    --json                                                 prints the figures instead of the table

The pool is real: Bitcoin Core's kernel as node, a durable log, vardiff, stratum processes, limits as by default but for
shorter times. Its miners stand behind a PROXY header, so each client has an address that can be banned. Blocks are
found all the time, and a new commitment comes every few seconds. The exit status is 1 if a rule does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import uvloop
from miners import ACCOUNT, Miner, proxy_header

from pool_oracle.hashes import sha256d
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.logs import configure_logs
from pool_oracle.networks import DIFFICULTY_1_TARGET, network_named
from pool_oracle.node.embedded import EmbeddedRegtest
from pool_oracle.pool import Commitment, Pool
from pool_oracle.processes import start_child, stop_child
from pool_oracle.stratum.desk import LocalDesk
from pool_oracle.stratum.fleet import StratumFleet
from pool_oracle.stratum.limits import LimitSettings
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.work.records import KIND_JOB, LongRecord, ShareRecord
from pool_oracle.work.share import StratumJob, hash_to_int
from pool_oracle.work.targets import nbits_to_target

LOG = "server.log"
RESULTS = Path(__file__).parent / "results" / "soak.json"
GOOD_MINERS = 16
HASHES_PER_SECOND = 2000
"""Of each good miner; vardiff makes 10 shares a second of it."""
BLOCK_TARGET = 1 << 239
"""All good miners together find a block about every four seconds."""
SHARE_TARGET = 1 << 250
COMMITMENT_SECONDS = 7.0
STALE_GRACE = 5.0
WARM_UP = 0.3
"""The part of the run after which memory must not grow any more."""
MAX_GROWTH_MB = 16
"""Of all processes together. What is forgotten in time, such as sessions that may be resumed and garbage in cycles,
comes on top of what the warm-up shows."""
LIMITS = LimitSettings(
    handshake_seconds=5,
    proxy_header_seconds=3,
    share_patience_seconds=3,
    ban_seconds=5,
    max_ban_seconds=10,
    max_connections=400,
    max_remembered_addresses=64,
)


# The server


async def serve(folder: Path, processes: int, descriptor: int) -> None:
    """The pool, until SIGTERM; says on `descriptor` where it is, and in the end what it has counted."""
    share_log = ShareLog(folder / "shares", segment_bytes=4 << 20)
    pool = Pool(
        network_named("regtest"),
        EmbeddedRegtest(folder / "node"),
        share_log,
        rules=Rules(2, BLOCK_TARGET),
        tag=b"/soak/",
        blocks_folder=folder / "blocks",
        stale_grace=STALE_GRACE,
    )
    await pool.set_commitment(Commitment(0, bytes(32), b"\x51"))
    settings = StratumSettings(
        Fraction(DIFFICULTY_1_TARGET, SHARE_TARGET), shares_per_minute=600, limits=LIMITS, proxies=("127.0.0.0/8",)
    )
    server: StratumServer | StratumFleet
    if processes:
        server = StratumFleet(pool, settings, processes, STALE_GRACE)
    else:
        server = StratumServer(LocalDesk(pool), settings)
    port = await server.start("127.0.0.1", 0)
    pids = [os.getpid(), *(server.pids if isinstance(server, StratumFleet) else [])]
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    tasks = [asyncio.create_task(work) for work in (pool.follow_node(), pool.block_keeper.follow(), _commit(pool))]
    with os.fdopen(descriptor, "w") as pipe:
        print(json.dumps({"port": port, "pids": pids}), file=pipe, flush=True)
        await stopped.wait()
        await server.stop()
        for task in tasks:
            task.cancel()
        await pool.block_keeper.close()
        await share_log.close()
        print(json.dumps({**server.values(), "blocks": len(pool.blocks)}), file=pipe, flush=True)


async def _commit(pool: Pool) -> None:
    """A new commitment now and then: miners get a job that is not clean."""
    for epoch in range(1, 1 << 30):
        await asyncio.sleep(COMMITMENT_SECONDS)
        await pool.set_commitment(Commitment(epoch, epoch.to_bytes(32, "big"), b"\x51"))


# Clients that misbehave: each function does it once, and is called again until the end


class Site:
    """Where the pool is, and what was done to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self._address = 0

    def address(self) -> str:
        """One of 100 addresses: some are banned, and come again all the same."""
        self._address = (self._address + 1) % 100
        return f"203.0.113.{self._address}"

    async def open(self, *, header: bool = True, receive_bytes: int = 0) -> asyncio.StreamWriter:
        """A raw connection that reads nothing. Raises OSError."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=256)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        if header:
            writer.write(proxy_header(self.address()))
        return writer

    async def miner(self) -> Miner:
        """A miner that is signed in. Raises OSError where it is not let in."""
        return await Miner.connect(self.port, f"{ACCOUNT}.bad", source=self.address())


async def write_until_cut(writer: asyncio.StreamWriter, data: bytes, times: int) -> None:
    """Send `data` again and again, until the pool hangs up or reads no more for a while."""
    with suppress(OSError, TimeoutError):
        for _ in range(times):
            writer.write(data)
            async with asyncio.timeout(2):
                await writer.drain()
    writer.transport.abort()


def line(method: str, *params: Any) -> bytes:
    """A request."""
    return json.dumps({"id": 7, "method": method, "params": params}).encode() + b"\n"


SIGN_IN = line("mining.subscribe", "bad/1") + line("mining.authorize", f"{ACCOUNT}.bad", "x")


async def never_reading(site: Site) -> None:
    """Asks a lot and reads nothing."""
    writer = await site.open(receive_bytes=4096)
    await write_until_cut(writer, SIGN_IN + line("mining.ping") * 100, 200)


async def slow_reader(site: Site) -> None:
    """Asks for more than it reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
    writer.write(proxy_header(site.address()) + SIGN_IN)
    with suppress(OSError):
        for _ in range(50):
            writer.write(line("mining.configure", ["version-rolling"] * 20) * 20)
            if not await reader.read(100):
                break
            await asyncio.sleep(0.1)
    writer.transport.abort()


async def half_open(site: Site) -> None:
    """Connects, perhaps begins a sentence, and waits."""
    openings = [b"", proxy_header(site.address())[:11], proxy_header(site.address()), b'{"id":1,"met']
    writer = await site.open(header=False)
    writer.write(random.choice(openings))
    await asyncio.sleep(random.uniform(0, 15))
    writer.transport.abort()


async def flood(site: Site, shares: Callable[[Miner], Awaitable[list[tuple[str, ...]]]]) -> None:
    """Shares that are refused, as fast as they are answered, until it is banned."""
    miner = await site.miner()
    try:
        params = await shares(miner)
        while miner.is_connected:
            for values in params:
                miner.writer.write(line("mining.submit", *values))
            await miner.call("mining.ping")
            site.counts["refused shares"] += len(params)
            await asyncio.sleep(0.02)
    finally:
        await miner.close()


async def low_flood(site: Site) -> None:
    """Low difficulty shares, most of them."""

    async def shares(miner: Miner) -> list[tuple[str, ...]]:
        work = miner.works[-1]
        return [(miner.user, work.id, f"{i:016x}", f"{work.ntime:08x}", "00000000") for i in range(40)]

    await flood(site, shares)


async def duplicate_flood(site: Site) -> None:
    """One share, again and again."""

    async def shares(miner: Miner) -> list[tuple[str, ...]]:
        (share,) = await miner.mine(1)
        return [share.params] * 40

    await flood(site, shares)


async def stale_flood(site: Site) -> None:
    """Shares of a job that never was."""

    async def shares(miner: Miner) -> list[tuple[str, ...]]:
        return [(miner.user, "1", "00" * 8, "00000000", f"{i:08x}") for i in range(40)]

    await flood(site, shares)


async def huge_lines(site: Site) -> None:
    """Lines without an end."""
    await write_until_cut(await site.open(), random.choice([b"x", b'{"id":"', b"[", b" "]) * (1 << 20), 4)


async def malformed_lines(site: Site) -> None:
    """Requests with some bytes changed."""
    data = bytearray(SIGN_IN * 20)
    for _ in range(100):
        data[random.randrange(len(data))] = random.randrange(256)
    await write_until_cut(await site.open(), bytes(data), 5)


async def random_bytes(site: Site) -> None:
    """Anything at all."""
    await write_until_cut(await site.open(header=random.random() < 0.5), random.randbytes(1 << 16), 4)


async def blank_lines(site: Site) -> None:
    """Line ends, and nothing else."""
    await write_until_cut(await site.open(), b"\n" * (1 << 16), 4)


async def storm(site: Site) -> None:
    """Connects and hangs up at once, half of the times by a reset."""
    for number in range(20):
        writer = await site.open(header=number % 2 == 0)
        if number % 4 < 2:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        site.counts["storm connections"] += 1


BAD = [
    *(never_reading, slow_reader, half_open, half_open, low_flood, duplicate_flood, stale_flood, huge_lines),
    *(malformed_lines, random_bytes, blank_lines, storm),
]


async def misbehave(site: Site, act: Callable[[Site], Awaitable[None]]) -> None:
    """For ever."""
    while True:
        with suppress(OSError, TimeoutError):
            await act(site)
        site.counts[act.__name__.replace("_", " ")] += 1
        await asyncio.sleep(random.uniform(0.1, 0.5))


# Clients that mine


async def mine(miner: Miner, until: float) -> None:
    """Hash at a constant rate and hand in what is found, until the time has come; then wait for the last answers."""
    then = time.monotonic()
    while then < until:
        await asyncio.sleep(0.02)
        now = time.monotonic()
        miner.submit(*miner.hash(min(int((now - then) * HASHES_PER_SECOND), 500)))
        then = now
    await miner.answered()


# What comes out


def resident_mb(pid: int) -> float:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(entry.split()[1]) / 1024 for entry in status.splitlines() if entry.startswith("VmRSS:"))


async def watch(pids: list[int], seconds: float, samples: list[list[float]]) -> None:
    """Note the resident memory of each process every second."""
    began = time.monotonic()
    while True:
        samples.append([resident_mb(pid) for pid in pids])
        if len(samples) % 60 == 0:
            print(f"{time.monotonic() - began:4.0f} of {seconds:.0f} s, {sum(samples[-1]):.1f} MB", file=sys.stderr)
        await asyncio.sleep(1)


def verify_log(folder: Path) -> Counter[bytes]:
    """How often each share is in the log, by its hash. Raises CorruptLog, and ValueError for a share without work."""
    jobs: dict[int, StratumJob] = {}
    found: Counter[bytes] = Counter()
    for _, record in replay(folder):
        if isinstance(record, LongRecord) and record.kind == KIND_JOB:
            jobs[record.payload["job"]] = StratumJob.from_wire(record.payload)
        elif isinstance(record, ShareRecord):
            digest = sha256d(record.header(jobs[record.job]))
            if record.sequence != found.total() or hash_to_int(digest) > nbits_to_target(record.share_bits):
                raise ValueError(f"share {record.sequence} of the log does not verify")
            found[digest] += 1
    return found


async def soak(folder: Path, seconds: float, processes: int) -> dict[str, Any]:
    """Run it and return the figures."""
    ours, theirs = os.pipe()
    command = [sys.executable, __file__, "--serve", str(folder), "--processes", str(processes)]
    child = start_child([*command, "--descriptor", str(theirs)], descriptors=[theirs])
    os.close(theirs)
    samples: list[list[float]] = []
    try:
        with os.fdopen(ours) as pipe:
            where = json.loads(await asyncio.to_thread(pipe.readline))
            site = Site(where["port"])
            miners = [
                await Miner.connect(site.port, f"{ACCOUNT}.good{i}", source=f"198.51.100.{i}")
                for i in range(GOOD_MINERS)
            ]
            others = [asyncio.create_task(misbehave(site, act)) for act in BAD]
            others.append(asyncio.create_task(watch(where["pids"], seconds, samples)))
            until = time.monotonic() + seconds
            ends = await asyncio.gather(*[mine(miner, until) for miner in miners], return_exceptions=True)
            for task in others:
                task.cancel()
            stopped = await asyncio.gather(*others, return_exceptions=True)
            disconnected = sum(not miner.is_connected for miner in miners)
            await asyncio.to_thread(stop_child, child)
            counters = json.loads(pipe.readline() or "{}")
    finally:
        stop_child(child)
    broken = [repr(end) for end in (*ends, *stopped) if isinstance(end, Exception)]
    said = (folder / LOG).read_text()
    if "Traceback" in said:
        broken.append(said[said.index("Traceback") - 300 :][:3000])
    accepted = [digest for miner in miners for digest in miner.accepted]
    in_log = verify_log(folder / "shares")
    warm = max(samples[: int(WARM_UP * len(samples)) + 1], key=sum)
    end = max(samples[-10:], key=sum)
    return {
        "seconds": seconds,
        "processes": processes,
        "good miners": len(miners),
        "disconnected": disconnected,
        "acknowledged": len(accepted),
        "unanswered": sum(len(miner.submitted) for miner in miners),
        "refused": sum(len(miner.refused) for miner in miners),
        "late by two tips": sum(len(miner.late) for miner in miners),
        "not in the log": sum(digest not in in_log for digest in accepted),
        "twice in the log": sum(count > 1 for count in in_log.values()),
        "in the log": in_log.total(),
        "tips": max(miner.works[-1].tip for miner in miners),
        "memory after warm-up, MB": [round(sample, 1) for sample in warm],
        "memory at the end, MB": [round(sample, 1) for sample in end],
        "bad clients": dict(sorted(site.counts.items())),
        "server": dict(sorted(counters.items())),
        "errors": broken,
        "memory, MB": [round(sum(sample), 1) for sample in samples[:: max(1, len(samples) // 60)]],
    }


def problems(figures: dict[str, Any], *, is_quick: bool) -> list[str]:
    """The rules that do not hold."""
    found = [
        f"{name}: {figures[name]}"
        for name in ("disconnected", "unanswered", "refused", "not in the log", "twice in the log")
        if figures[name]
    ]
    found += figures["errors"]
    if not figures["acknowledged"] or not figures["server"]:
        found.append("no share was acknowledged, or the server did not end in order")
    growth = sum(figures["memory at the end, MB"]) - sum(figures["memory after warm-up, MB"])
    if not is_quick and growth > MAX_GROWTH_MB:
        found.append(f"memory grew by {growth:.1f} MB after the warm-up, which is more than {MAX_GROWTH_MB}")
    return found


def main() -> None:
    """Soak, or be the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--descriptor", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        os.dup2(os.open(arguments.serve / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)  # its processes' too
        configure_logs(sys.stderr)
        uvloop.run(serve(arguments.serve, arguments.processes, arguments.descriptor))
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds = 12 if arguments.quick else arguments.seconds
        figures = uvloop.run(soak(Path(folder), seconds, arguments.processes))
    found = problems(figures, is_quick=arguments.quick)
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        for name, value in figures.items():
            rows = value.items() if isinstance(value, dict) else ()
            print(f"{name:28}{'' if rows else value}")
            for row, count in rows:
                print(f"    {row:24}{count}")
    if not arguments.quick:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

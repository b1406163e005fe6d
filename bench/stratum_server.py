"""A stratum server to be measured: the pool on a template that never changes, with a durable share log.

python bench/stratum_server.py FOLDER [--levels N] [--workers N]    prints {"port": ..., "pids": [...]} when it listens

SIGUSR1 brings a new tip; the time at which the pool had it is printed (CLOCK_MONOTONIC, nanoseconds).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import uvloop

from pool_oracle.hashes import sha256d
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.logs import configure_logs
from pool_oracle.networks import network_named
from pool_oracle.node.source import Tip
from pool_oracle.pool import Commitment, Pool
from pool_oracle.processes import tune_for_serving
from pool_oracle.stratum.desk import LocalDesk
from pool_oracle.stratum.fleet import StratumFleet
from pool_oracle.stratum.limits import LimitSettings
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.units import Satoshi
from pool_oracle.work.template import Template

SHARE_DIFFICULTY = Fraction(1, 10**8)


class StillNode:
    """A node on which nothing ever happens."""

    name = "still"

    def __init__(self, levels: int) -> None:
        txids = tuple(sha256d(b"%d" % i) for i in range((1 << levels) - 1))
        self._template = Template(
            height=900_000,
            version=0x20000000,
            prev_hash=sha256d(b"tip"),
            nbits=0x1702905C,
            curtime=1_750_000_000,
            mintime=1_749_999_000,
            coinbase_value=Satoshi(312_500_000),
            txids=txids,
            transactions=(),
            witness_commitment=b"\x6a\x24\xaa\x21\xa9\xed" + bytes(32),
        )

    def new_tip(self) -> None:
        """Somebody found a block."""
        self._template = replace(
            self._template, height=self._template.height + 1, prev_hash=sha256d(self._template.prev_hash)
        )

    async def check(self) -> str:
        return "nothing happens"

    async def template(self) -> Template:
        return self._template

    async def next_template(self, known: Template) -> Template:
        await asyncio.Event().wait()
        raise AssertionError

    async def submit(self, block: bytes) -> tuple[str, ...]:
        return (self.name,)

    async def tip(self) -> Tip:
        return Tip(self._template.prev_hash, self._template.height - 1)

    async def header(self, height: int) -> bytes:
        return bytes(80)

    async def block(self, height: int) -> bytes:
        return b""

    async def confirmations(self, block_hash: bytes) -> int | None:
        return 0

    async def close(self) -> None:
        pass


async def serve(folder: Path, levels: int, workers: int) -> None:
    """Serve until SIGTERM."""
    share_log = ShareLog(folder / "shares")
    node = StillNode(levels)
    pool = Pool(
        network_named("regtest"),
        node,
        share_log,
        rules=Rules(8),
        tag=b"/bench/",
        blocks_folder=folder / "blocks",
    )
    await pool.set_commitment(Commitment(0, bytes(32), b"\x00\x14" + bytes(20)))
    limits = LimitSettings(cost_per_second=10**6, cost_burst=10**7, idle_seconds=10**6)
    settings = StratumSettings(SHARE_DIFFICULTY, shares_per_minute=0, limits=limits)
    server = StratumFleet(pool, settings, workers, 0) if workers else StratumServer(LocalDesk(pool), settings)
    port = await server.start("127.0.0.1", 0)
    pids = [os.getpid(), *(server.pids if isinstance(server, StratumFleet) else [])]
    print(json.dumps({"port": port, "pids": pids}), flush=True)
    loop = asyncio.get_running_loop()

    def new_tip() -> None:
        node.new_tip()
        print(json.dumps({"tip": time.monotonic_ns()}), flush=True)
        refreshing.append(loop.create_task(pool.refresh()))

    refreshing: list[asyncio.Task[None]] = []
    loop.add_signal_handler(signal.SIGUSR1, new_tip)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop()
    await share_log.close()


def main() -> None:
    """Parse and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    configure_logs(sys.stderr, level=logging.WARNING)
    tune_for_serving()
    uvloop.run(serve(arguments.folder, arguments.levels, arguments.workers))


if __name__ == "__main__":
    main()

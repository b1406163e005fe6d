"""A pool that is killed in the middle of its work: what it acknowledged is in the log afterwards, once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.hashes import sha256d
from pool_oracle.ledger.sharelog import replay, segment_files
from pool_oracle.payout.window import share_unit
from pool_oracle.processes import start_child, stop_child
from pool_oracle.work.records import KIND_JOB, LongRecord, ShareRecord
from pool_oracle.work.share import StratumJob
from tests.benches import bench_module
from tests.integration import kill_child
from tests.integration.kill_child import BLOCK_TARGET, SHARE_TARGET

ACCOUNT = "0x000000000000000000000000000000000000000A"
KILLS = 10
"""Of each kind of pool."""
MINERS = 4
MOST_SHARES = 300
"""The pool is killed before so many are acknowledged: about a segment."""
AT_ONCE = 20


@contextmanager
def pool_process(folder: Path, processes: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The pool in a process of its own, and what it says when it serves."""
    ours, theirs = os.pipe()
    child = start_child(
        [sys.executable, kill_child.__file__, str(folder), str(processes), str(theirs)], descriptors=[theirs]
    )
    os.close(theirs)
    try:
        with os.fdopen(ours) as pipe:
            yield child, json.load(pipe)
    finally:
        stop_child(child)


class Books:
    """What miners know: hashes of shares that they handed in, and of those acknowledged; codes of refusals."""

    def __init__(self) -> None:
        self.submitted: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.refusals: set[int] = set()


async def mine_until_it_dies(port: int, child: Any, books: Books, kill_at: int, delay: float) -> None:
    """Keep pipelines full; kill the pool `delay` seconds after the acknowledgement of share number `kill_at`."""
    miners = await asyncio.gather(
        *[bench_module("miners").Miner.connect(port, f"{ACCOUNT}.{i}") for i in range(MINERS)]
    )

    async def work(miner: Any) -> None:
        with suppress(ConnectionError):
            while True:
                shares = [miner.solve() for _ in range(AT_ONCE)]
                books.submitted.update(share.digest for share in shares)
                miner.submit(*shares)
                await miner.until(lambda: len(miner.submitted) < 2 * AT_ONCE)

    async def kill() -> None:
        while sum(len(miner.accepted) for miner in miners) < kill_at:
            await asyncio.sleep(0)
        await asyncio.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.wait)

    async with asyncio.timeout(120):
        await asyncio.gather(kill(), *map(work, miners))
    for miner in miners:
        await miner.gone()
        await miner.close()
        books.acknowledged.update(miner.accepted)
        books.refusals.update(code for _, code in miner.refused)


def shares_in(folder: Path) -> list[bytes]:
    """The hashes of the shares in a log, in order; their numbers have no gap."""
    jobs: dict[int, StratumJob] = {}
    digests = []
    for _, record in replay(folder):
        if isinstance(record, LongRecord) and record.kind == KIND_JOB:
            jobs[record.payload["job"]] = StratumJob.from_wire(record.payload)
        elif isinstance(record, ShareRecord):
            assert record.sequence == len(digests)
            digests.append(sha256d(record.header(jobs[record.job])))
    return digests


@pytest.mark.parametrize("processes", [0, 2], ids=["in one process", "with two stratum processes"])
def test_whatever_was_acknowledged_before_a_kill_is_in_the_log_once(tmp_path: Path, processes: int) -> None:
    books = Books()
    chance = random.Random(processes)
    unit = share_unit(BLOCK_TARGET, SHARE_TARGET)
    for number in range(KILLS + 1):
        with pool_process(tmp_path, processes) as (child, ready):
            in_log = shares_in(tmp_path / "shares")
            assert len(in_log) == len(set(in_log)), "a share is counted twice"
            assert books.acknowledged <= set(in_log) <= books.submitted
            assert ready["t"] == len(in_log) * unit
            if number < KILLS:
                kill_at, delay = chance.randrange(MOST_SHARES), chance.random() / 50
                asyncio.run(mine_until_it_dies(ready["port"], child, books, kill_at, delay))
                while any(map(is_alive, ready["pids"])):  # the kernel ends them with their parent, a moment later
                    time.sleep(0.01)
    assert len(segment_files(tmp_path / "shares")) > 1
    # A new tip makes shares stale; a process that outlives its pool for a moment cannot have them written down.
    assert books.refusals <= ({20, 21} if processes else {21})


def is_alive(pid: int) -> bool:
    """Whether a process runs that is no child of ours; a dead one that nobody has waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False

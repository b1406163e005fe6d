"""Several stratum processes on one port, and one pool behind them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool_oracle.errors import LedgerError
from pool_oracle.hashes import sha256d
from pool_oracle.judge import Worker
from pool_oracle.ledger.sharelog import replay
from pool_oracle.networks import DIFFICULTY_1_TARGET
from pool_oracle.pool import Commitment
from pool_oracle.processes import start_child, stop_child
from pool_oracle.stratum import fleet as fleet_module
from pool_oracle.stratum import pipe as wire
from pool_oracle.stratum.fleet import StratumFleet
from pool_oracle.stratum.pipe import Pipe
from pool_oracle.stratum.process import RemoteDesk
from pool_oracle.stratum.settings import StratumSettings, encode_settings
from pool_oracle.units import Payee
from pool_oracle.work.records import KIND_BLOCK, KIND_JOB, LongRecord, ShareRecord
from pool_oracle.work.share import StratumJob
from tests.benches import bench_module

OpenRig = Callable[..., AbstractAsyncContextManager[Any]]
BLOCK_TARGET = 1 << 248
SETTINGS = StratumSettings(Fraction(DIFFICULTY_1_TARGET, 1 << 252), shares_per_minute=0)
PROCESSES = 2

Miner = bench_module("miners").Miner
USER = "0x000000000000000000000000000000000000000A.rig"


class Fleet:
    """A rig with stratum processes, and miners that are let go at the end."""

    def __init__(self, rig: Any, processes: int) -> None:
        self.rig, self.pool, self.processes = rig, rig.pool, processes
        self.stratum = StratumFleet(rig.pool, SETTINGS, processes, 0)
        self.port = 0
        self.miners: list[Any] = []

    async def connect(self, **options: Any) -> Any:
        miner = await Miner.connect(self.port, USER, **options)
        self.miners.append(miner)
        return miner

    def process_of(self, miner: Any) -> int:
        return int(miner.extranonce1[0] * self.processes // 256)

    async def one_each(self) -> list[Any]:
        """A miner on each process: the kernel spreads connections by chance."""
        found: dict[int, Any] = {}
        while len(found) < self.processes:
            miner = await self.connect()
            found.setdefault(self.process_of(miner), miner)
        return [found[number] for number in range(self.processes)]

    def shares(self) -> list[bytes]:
        """The hashes of the shares on disk, in order."""
        jobs, digests = {}, []
        for _, record in replay(self.rig.log.folder):
            if isinstance(record, LongRecord) and record.kind == KIND_JOB:
                jobs[record.payload["job"]] = StratumJob.from_wire(record.payload)
            elif isinstance(record, ShareRecord):
                assert record.sequence == len(digests)
                digests.append(sha256d(record.header(jobs[record.job])))
        return digests


@asynccontextmanager
async def fleet(rig: OpenRig, processes: int = PROCESSES) -> AsyncIterator[Fleet]:
    async with rig() as r:
        running = Fleet(r, processes)
        try:
            running.port = await running.stratum.start("127.0.0.1", 0)
            yield running
        finally:
            pids = running.stratum.pids
            for miner in running.miners:
                await miner.close()
            await running.stratum.stop()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def until(is_so: Callable[[], Any]) -> None:
    """Wait for a state of the pool; the test's time limit is the only one."""
    while not is_so():
        await asyncio.sleep(0.01)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_no_two_miners_of_any_processes_have_the_same_extranonce(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            await f.one_each()
            for _ in range(10):
                await f.connect()
            assert len({miner.extranonce1 for miner in f.miners}) == len(f.miners)
            assert {f.process_of(miner) for miner in f.miners} == {0, 1}

    run(work)


def test_shares_of_all_processes_are_in_one_log_and_acknowledged_when_they_are_on_disk(
    rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            miners = await f.one_each()
            is_free = threading.Event()
            sync = os.fdatasync
            monkeypatch.setattr(os, "fdatasync", lambda file: (is_free.wait(), sync(file)))
            try:
                shares = [[miner.solve(BLOCK_TARGET) for _ in range(20)] for miner in miners]
                for miner, mined in zip(miners, shares, strict=True):
                    miner.submit(*mined)
                await until(lambda: f.rig.log.next_sequence == 40)
                for miner in miners:
                    await miner.call("mining.ping")
                    assert miner.accepted == []
            finally:
                is_free.set()
            for miner, mined in zip(miners, shares, strict=True):
                await miner.answered()
                assert miner.accepted == [share.digest for share in mined]
            in_log = f.shares()
            for mined in shares:
                digests = {share.digest for share in mined}
                assert [digest for digest in in_log if digest in digests] == [share.digest for share in mined]
            assert len(in_log) == 40

    run(work)


def test_a_block_found_in_a_process_reaches_node_and_log_even_if_its_share_is_stale(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            first, second = await f.one_each()
            late = second.solve(BLOCK_TARGET, is_block=True)
            first.submit(first.solve(BLOCK_TARGET, is_block=True))
            await first.answered()
            await f.pool.block_keeper.settle()
            assert (await f.rig.node.tip()).height == 1
            assert (await f.rig.node.tip()).hash == first.accepted[0]
            await f.pool.refresh()
            await second.until(lambda: second.works[-1].clean and len(second.works) > 1)
            second.submit(late)
            await second.answered()
            assert second.refused == [(late.digest, 21)]
            await f.pool.block_keeper.settle()
            assert [block.hash for block in f.pool.blocks] == [first.accepted[0], late.digest]
            assert await f.rig.node.confirmations(late.digest) == 0, "the node knows it, beside the best chain"
            await f.rig.log.flush()
            written = [
                record.payload["block"]
                for _, record in replay(f.rig.log.folder)
                if isinstance(record, LongRecord) and record.kind == KIND_BLOCK
            ]
            assert written == [digest[::-1].hex() for digest in (first.accepted[0], late.digest)]

    run(work)


def test_new_jobs_and_clean_jobs_reach_the_miners_of_all_processes(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            miners = await f.one_each()
            await f.pool.set_commitment(Commitment(1, b"\x01" * 32, b"\x52"))
            for miner in miners:
                await miner.until(lambda works=miner.works: len(works) == 2)
                assert not miner.works[-1].clean
            miners[0].submit(miners[0].solve(BLOCK_TARGET, is_block=True))
            await miners[0].answered()
            await f.pool.block_keeper.settle()
            await f.pool.refresh()
            for miner in miners:
                await miner.until(lambda works=miner.works: len(works) == 3)
                assert miner.works[-1].clean
                await miner.mine(3, BLOCK_TARGET)
                assert not miner.refused
            assert len(f.shares()) == 7

    run(work)


def test_a_killed_process_comes_back_its_miners_go_on_and_the_others_notice_nothing(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            victim, other = await f.one_each()
            for miner in (victim, other):
                await miner.mine(5, BLOCK_TARGET)
                miner.submit(*[miner.solve(BLOCK_TARGET) for _ in range(50)])
            pids = f.stratum.pids
            await victim.until(lambda: len(victim.accepted) > 5)
            os.kill(pids[0], signal.SIGKILL)
            await victim.gone()
            await until(lambda: f.stratum.pids[0] != pids[0])
            await other.mine(5, BLOCK_TARGET)
            assert len(other.accepted) == 60
            assert f.stratum.pids[1] == pids[1]
            back = await f.connect(session=victim.session)
            while f.process_of(back) != 0:
                with suppress(ConnectionError):  # the process listens a moment before it has told the pool so
                    back = await f.connect(session=victim.session)
            await back.mine(5, BLOCK_TARGET)
            in_log = f.shares()
            assert len(in_log) == len(set(in_log))
            assert {*victim.accepted, *other.accepted, *back.accepted} <= set(in_log)
            assert not other.refused + back.refused

    run(work)


def test_a_process_that_hangs_is_ended_and_another_takes_its_place(
    rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "SILENCE_SECONDS", 6.0)

    async def work() -> None:
        async with fleet(rig) as f:
            victim, other = await f.one_each()
            pids = f.stratum.pids
            os.kill(pids[0], signal.SIGSTOP)
            await victim.gone()
            await until(lambda: f.stratum.pids[0] != pids[0])
            await other.mine(5, BLOCK_TARGET)
            assert len(other.accepted) == 5
            assert f.stratum.pids[1] == pids[1]

    run(work)


def test_a_duplicate_across_the_restart_of_a_process_is_refused(
    rig: OpenRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Extranonces begin at random, so that this cannot happen by chance; here they begin at the same place.
    (tmp_path / "sitecustomize.py").write_text("import secrets\nsecrets.randbelow = lambda _: 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def work() -> None:
        async with fleet(rig, processes=1) as f:
            miner = await f.connect()
            shares = await miner.mine(3, BLOCK_TARGET)
            (pid,) = f.stratum.pids
            os.kill(pid, signal.SIGKILL)
            await miner.gone()
            await until(lambda: f.stratum.pids != [pid])
            again = None
            while again is None:
                with suppress(OSError):
                    again = await f.connect()
            assert again.extranonce1 == miner.extranonce1
            again.submit(*[share._replace(params=(USER, again.works[-1].id, *share.params[2:])) for share in shares])
            await again.answered()
            assert again.refused == [(share.digest, 22) for share in shares]
            assert len(f.shares()) == 3

    run(work)


def test_counters_of_all_processes_add_up_and_those_of_a_killed_one_stay(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            miners = await f.one_each()
            for miner in miners:
                shares = await miner.mine(4, BLOCK_TARGET)
                miner.submit(*shares[:2], shares[0]._replace(params=(USER, "fffff", *shares[0].params[2:])))
                await miner.answered()
            expected = {
                "connections": len(f.miners),
                "opened": len(f.miners),
                "accepted": 8,
                "refused_21": 2,
                "refused_22": 4,
            }
            await until(lambda: expected.items() <= f.stratum.values().items())
            (worker,) = f.pool.workers.values()
            await until(lambda: (worker.accepted, worker.refused) == (8, 6))
            before = f.stratum.values()
            gone = sum(f.process_of(miner) == 0 for miner in f.miners)
            pid = f.stratum.pids[0]
            os.kill(pid, signal.SIGKILL)
            while f.stratum.pids[0] == pid:
                now = f.stratum.values()
                assert {name: now[name] for name in before if name != "connections"} == {
                    name: count for name, count in before.items() if name != "connections"
                }
                assert now["connections"] in (before["connections"], before["connections"] - gone)
                await asyncio.sleep(0)

    run(work)


def test_what_is_under_way_at_the_stop_is_answered_and_no_process_and_no_port_stay(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            miners = await f.one_each()
            for miner in miners:
                miner.submit(*[miner.solve(BLOCK_TARGET) for _ in range(20)])
            await until(lambda: f.rig.log.next_sequence == 40)
            pids = f.stratum.pids
            await f.stratum.stop()
            for miner in miners:
                await miner.gone()
                assert len(miner.accepted) == 20
                assert "client.reconnect" in miner.told
            assert len(f.shares()) == 40
            assert f.stratum.values()["accepted"] == 40
            for pid in pids:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
            with pytest.raises(ConnectionRefusedError):
                await f.connect()

    run(work)


def test_when_the_disk_fails_shares_of_all_processes_are_refused(rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: int) -> None:
        raise OSError(28, "No space left on device")

    async def work() -> None:
        async with fleet(rig) as f:
            miners = await f.one_each()
            for miner in miners:
                await miner.mine(2, BLOCK_TARGET)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fail)
                for _ in range(2):
                    for miner in miners:
                        await miner.mine(3, BLOCK_TARGET)
            answers.extend((len(miner.accepted), [code for _, code in miner.refused]) for miner in miners)

    answers: list[tuple[int, list[int]]] = []
    with pytest.raises(LedgerError, match="No space left"):  # which the log says again when it is closed
        run(work)
    assert answers == [(2, [20] * 6)] * PROCESSES


def test_a_share_that_the_pool_does_not_take_is_told_apart_from_those_before_it(
    rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with fleet(rig, processes=1) as f:
            miner = await f.connect()
            good, bad, last = (miner.solve(BLOCK_TARGET) for _ in range(3))
            f.pool.judge.see(*f.pool.judge.seen_on_tip()[:1], [bad.digest])  # the pool alone knows it
            is_free = threading.Event()
            sync = os.fdatasync
            monkeypatch.setattr(os, "fdatasync", lambda file: (is_free.wait(), sync(file)))
            try:
                miner.submit(good)
                await until(lambda: f.rig.log.next_sequence == 1)
                miner.submit(bad)
                await miner.call("mining.ping")
                miner.submit(last)
                await until(lambda: f.rig.log.next_sequence == 2)
            finally:
                is_free.set()
            await miner.answered()
            assert miner.accepted == f.shares() == [good.digest, last.digest]
            assert miner.refused == [(bad.digest, 20)]

    run(work)


def test_no_share_of_a_group_that_is_refused_is_in_the_log(rig: OpenRig) -> None:
    async def work() -> None:
        async with fleet(rig, processes=1) as f:
            miner = await f.connect()
            good, bad = miner.solve(BLOCK_TARGET), miner.solve(BLOCK_TARGET)
            f.pool.judge.see(*f.pool.judge.seen_on_tip()[:1], [bad.digest])
            miner.submit(good, bad)
            await miner.answered()
            await f.rig.log.flush()
            assert f.shares() == miner.accepted
            assert (bad.digest, 20) in miner.refused

    run(work)


def test_a_job_that_comes_while_a_process_is_started_reaches_it_too(
    rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with fleet(rig) as f:
            loop = asyncio.get_running_loop()
            create = loop.create_unix_connection

            async def create_slowly(*arguments: Any, **options: Any) -> Any:
                await f.pool.set_commitment(Commitment(1, b"\x01" * 32, b"\x52"))
                return await create(*arguments, **options)

            monkeypatch.setattr(loop, "create_unix_connection", create_slowly)
            miners = await f.one_each()
            pid = f.stratum.pids[0]
            os.kill(pid, signal.SIGKILL)
            await miners[0].gone()
            await until(lambda: f.stratum.pids[0] != pid)
            await miners[1].until(lambda: len(miners[1].works) == 2)
            while True:
                miner = await f.connect()
                assert miner.works[-1].id == miners[1].works[-1].id
                if f.process_of(miner) == 0:
                    return

    run(work)


def test_a_process_whose_pool_has_gone_before_the_first_job_ends(tmp_path: Path) -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair()
        child = start_process(theirs)
        try:
            ended = asyncio.create_task(asyncio.to_thread(child.wait))
            pipe = Pipe(lambda *_: None, lambda: None)
            await asyncio.get_running_loop().create_unix_connection(lambda: pipe, sock=ours)
            pipe.send_value(wire.SETUP, setup())
            pipe.send(wire.DRAIN, b"")
            assert await ended == 0
            pipe.close()
        finally:
            stop_child(child)

    run(work)


def test_a_share_that_comes_when_the_pool_is_gone_is_refused_like_one_that_cannot_be_written() -> None:
    desk = RemoteDesk(setup(), Pipe(lambda *_: None, lambda: None))
    with pytest.raises(LedgerError):
        desk._number_of(Worker(Payee(bytes(21)), "rig"))
    assert not desk._workers


def test_what_a_process_is_told_survives_the_pipe() -> None:
    value = setup()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=wire.Setup) == value


def setup() -> wire.Setup:
    return wire.Setup("regtest", 0, 8, encode_settings(SETTINGS), "127.0.0.1", 0, 0, 1, bytes(32), [], [])


def start_process(descriptor: socket.socket) -> Any:
    command = [sys.executable, "-m", "pool_oracle.stratum.process", str(descriptor.fileno())]
    child = start_child(command, descriptors=[descriptor.fileno()])
    descriptor.close()
    return child

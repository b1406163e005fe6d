"""Several stratum processes for one pool: they share the port (SO_REUSEPORT), the pool keeps log, window and blocks.

Each process has extranonce1 values of its own, so no two of them can ever see the same header; the pool checks that
all the same. A process that ends is started again; its miners reconnect and take up their sessions.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import structlog

from pool_oracle.errors import ConfigError, LedgerError, SetupError
from pool_oracle.judge import JobTerms, LiveJob, Submission, Worker
from pool_oracle.pool import Pool
from pool_oracle.processes import start_child, stop_child
from pool_oracle.stratum import pipe as wire
from pool_oracle.stratum.pipe import SHARE_ROW, Pipe
from pool_oracle.stratum.settings import StratumSettings, encode_settings
from pool_oracle.units import Payee

START_SECONDS = 30.0
RESTART_SECONDS = 1.0
SILENCE_SECONDS = 30.0
"""A process that has said nothing for so long hangs: it tells its counters every two seconds."""

log = structlog.get_logger("stratum")


@dataclass(slots=True)
class _Member:
    """A process as the pool sees it."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: Pipe
    gone: asyncio.Event
    ready: asyncio.Future[int]
    workers: dict[int, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    heard: float = field(default_factory=time.monotonic)


class StratumFleet:
    """The pool's side of `count` stratum processes."""

    def __init__(self, pool: Pool, settings: StratumSettings, count: int, stale_grace: float) -> None:
        """Nothing is started yet."""
        self._pool = pool
        self._settings = settings
        self._count = count
        self._grace = stale_grace
        self._members: dict[int, _Member] = {}
        self._past: Counter[str] = Counter()
        self._keepers: list[asyncio.Task[None]] = []
        self._reserved: socket.socket | None = None
        self._host, self._port = "", 0

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [member.process.pid for member in self._members.values()]

    async def start(self, host: str, port: int) -> int:
        """Start all processes; returns the port. Raises ConfigError if it is taken, SetupError if one does not come."""
        self._host, self._port = host, self._reserve(host, port)
        self._pool.on_job.append(self._spread)
        for number in range(self._count):
            await self._start_member(number)
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
        self._keepers.append(asyncio.create_task(self._listen_for_silence()))
        log.info("stratum listens", address=f"{host}:{self._port}", processes=self._count)
        return self._port

    def _reserve(self, host: str, port: int) -> int:
        """Bind the port without listening, so that it is known and stays ours while processes come and go."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._reserved = socket.socket(family, socket.SOCK_STREAM)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._reserved.bind((host, port))
        except OSError as error:
            raise ConfigError(f"stratum cannot listen on {host}:{port}: {error.strerror or error}") from None
        return int(self._reserved.getsockname()[1])

    async def _start_member(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        command = [sys.executable, "-m", "pool_oracle.stratum.process", str(descriptor)]
        process = start_child(command, descriptors=[descriptor], keep_errors=True)
        theirs.close()
        gone = asyncio.Event()
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        pipe = Pipe(lambda kind, body: self._on_frame(number, kind, body), gone.set)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: pipe, sock=ours)
        except BaseException:
            stop_child(process)
            raise
        self._members[number] = _Member(number, process, pipe, gone, ready)  # from here on it can be sent jobs
        tip, seen = self._pool.judge.seen_on_tip()
        pipe.send_value(
            wire.SETUP,
            wire.Setup(
                network=self._pool.network.name,
                stale_grace=self._grace,
                extranonce2_size=self._pool.extranonce2_size,
                settings=encode_settings(self._settings),
                host=self._host,
                port=self._port,
                process=number,
                processes=self._count,
                tip=tip,
                seen=seen,
                only_payees=list(self._pool.only_payees),
            ),
        )
        if self._pool.judge.job is not None:
            pipe.send_value(wire.JOB, _frame(self._pool.judge.job, clean=True))
        ended = asyncio.create_task(gone.wait())
        await asyncio.wait((ready, ended), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not ready.done():
            await asyncio.to_thread(stop_child, process)
            raise SetupError("a stratum process did not start; its own error stands above")
        ready.result()

    async def _keep(self, number: int) -> None:
        """For ever: start a process again when it has ended."""
        while True:
            member = self._members[number]
            await member.gone.wait()
            self._past.update(member.counters)
            member.counters = {}
            status = await asyncio.to_thread(member.process.wait)
            log.error("a stratum process ended; it is started again", process=number, status=status)
            await asyncio.sleep(RESTART_SECONDS)
            try:
                await self._start_member(number)
            except (SetupError, ConfigError, wire.PipeClosed, OSError) as error:
                log.error("stratum process", problem=str(error))

    async def _listen_for_silence(self) -> None:
        """For ever: end a process that hangs; `_keep` starts it again."""
        pause = SILENCE_SECONDS / 4
        while True:
            due = time.monotonic() + pause
            await asyncio.sleep(pause)
            now = time.monotonic()
            if now - due > pause:
                continue  # this process stood still, and what the others said is not read yet
            for member in self._members.values():
                if not member.gone.is_set() and now - member.heard > SILENCE_SECONDS:
                    log.error("a stratum process hangs; it is ended", process=member.number)
                    member.heard = now
                    member.process.kill()

    def _on_frame(self, number: int, kind: int, body: memoryview) -> None:
        member = self._members[number]
        member.heard = time.monotonic()
        if kind == wire.SHARES:
            self._take_shares(member, body)
        elif kind == wire.BLOCK:
            self._take_block(member, msgspec.msgpack.decode(body, type=wire.BlockFrame))
        elif kind == wire.WORKER:
            frame = msgspec.msgpack.decode(body, type=wire.WorkerFrame)
            member.workers[frame.number] = self._pool.worker(Payee(frame.payee), frame.name)
        elif kind == wire.COUNTS:
            counts = msgspec.msgpack.decode(body, type=wire.Counts)
            member.counters = counts.counters
            for worker, refused in counts.refused.items():
                self._pool.workers[member.workers[worker]].refused += refused
        elif kind == wire.LISTENING and not member.ready.done():
            member.ready.set_result(int.from_bytes(body, "little"))
        elif kind == wire.FAILED and not member.ready.done():
            member.ready.set_exception(ConfigError(bytes(body).decode()))

    def _take_shares(self, member: _Member, body: memoryview) -> None:
        """Append a group of judged shares, all or none of it; answer when it is on disk."""
        group = member.groups
        member.groups += 1
        try:
            done = self._append_group(member, body)
        except LedgerError as error:
            self._answer(member, group, str(error))
        else:
            done.add_done_callback(lambda future: self._answer(member, group, _problem_of(future)))

    def _append_group(self, member: _Member, body: memoryview) -> asyncio.Future[None]:
        """Append every share of a group; the future is done when the last, and with it all, is on disk.

        Raises LedgerError before the first is appended if the pool cannot take one of them.
        """
        pool, workers = self._pool, member.workers
        shares = []
        terms: JobTerms | None = None
        for number, local, ntime, nonce, version, bits, sizes, first, second, digest in SHARE_ROW.iter_unpack(body):
            if terms is None or terms.bits != bits or terms.job.number != number:
                job = pool.judge.find(number)
                if job is None:
                    raise LedgerError(f"a share for job {number}, which is gone")
                terms = job.terms(bits)
            if digest in terms.job.seen:
                raise LedgerError(f"stratum process {member.number} sent a share that was accepted before")
            share = terms, workers[local], first[: sizes >> 4], second[: sizes & 15], ntime, nonce, version
            shares.append((share, digest))
        if not shares:
            raise LedgerError(f"stratum process {member.number} sent an empty group")
        for share, digest in shares:
            done = pool.accept(*share)
            share[0].job.seen.add(digest)
            pool.workers[share[1]].accepted += 1
        return done

    def _answer(self, member: _Member, group: int, problem: str | None) -> None:
        if problem is not None:
            log.error("shares not accepted", process=member.number, problem=problem)
        if not member.gone.is_set():
            member.pipe.send_value(wire.STORED, wire.Stored(group, problem))

    def _take_block(self, member: _Member, frame: wire.BlockFrame) -> None:
        job = self._pool.judge.find(frame.job)
        if job is None:
            log.error("a block for a job that is gone", job=frame.job)
            return
        number = member.workers[frame.worker]
        stats = self._pool.workers[number]
        self._pool.take_block(
            Submission(
                job.terms(frame.share_bits),
                Worker(stats.payee, stats.name, number),
                frame.extranonce1,
                frame.extranonce2,
                frame.ntime,
                frame.nonce,
                frame.version,
                job.merkle_root(frame.extranonce1, frame.extranonce2),
            )
        )

    def _spread(self, job: LiveJob, clean: bool) -> None:
        frame = msgspec.msgpack.encode(_frame(job, clean=clean))
        for member in self._members.values():
            if not member.gone.is_set():
                member.pipe.send(wire.JOB, frame)

    def values(self) -> dict[str, int]:
        """The counters of all processes together; those of processes that have ended are in it."""
        total = Counter(self._past)
        for member in self._members.values():
            total.update(member.counters)
        alive = [member for member in self._members.values() if not member.gone.is_set()]
        total["connections"] = sum(member.counters.get("connections", 0) for member in alive)
        return dict(total)

    async def stop(self) -> None:
        """Let every process send its miners away and end; what they sent before is stored and answered."""
        for keeper in self._keepers:
            keeper.cancel()
        if self._spread in self._pool.on_job:
            self._pool.on_job.remove(self._spread)
        for member in self._members.values():
            if not member.gone.is_set():
                member.pipe.send(wire.DRAIN, b"")
        waits = [asyncio.create_task(member.gone.wait()) for member in self._members.values()]
        if waits:
            await asyncio.wait(waits, timeout=START_SECONDS)
        for wait in waits:
            wait.cancel()
        for member in self._members.values():
            await asyncio.to_thread(stop_child, member.process)
            member.pipe.close()
        if self._reserved is not None:
            self._reserved.close()


def _frame(job: LiveJob, *, clean: bool) -> wire.JobFrame:
    stratum = job.stratum
    return wire.JobFrame(
        number=job.number,
        version=stratum.version,
        prev_hash=stratum.prev_hash,
        coinb1=stratum.coinb1,
        coinb2=stratum.coinb2,
        branch=list(stratum.branch),
        nbits=stratum.nbits,
        network_target=job.network_target.to_bytes(32, "big"),
        mintime=job.mintime,
        curtime=job.curtime,
        height=job.height,
        clean=clean,
    )


def _problem_of(future: asyncio.Future[None]) -> str | None:
    """Why a group is not on disk; None when it is."""
    if future.cancelled():
        return "the pool is stopping"
    error = future.exception()
    return None if error is None else str(error)

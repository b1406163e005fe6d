"""A process that serves miners and judges their shares; the pool stays the only one that writes and pays.

python -m pool_oracle.stratum.process DESCRIPTOR    (started by `fleet.py`, at the other end of a socket pair)
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog
import uvloop

from pool_oracle.errors import LedgerError, PoolOracleError
from pool_oracle.judge import Judge, LiveJob, Submission, Worker
from pool_oracle.logs import configure_logs
from pool_oracle.networks import network_named
from pool_oracle.processes import tune_for_serving
from pool_oracle.stratum import pipe as wire
from pool_oracle.stratum.desk import Extranonces
from pool_oracle.stratum.pipe import Pipe
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.settings import decode_settings
from pool_oracle.units import Payee
from pool_oracle.work.share import StratumJob

COUNT_SECONDS = 2.0

log = structlog.get_logger("stratum")


class RemoteDesk:
    """The pool behind the pipe. See Desk."""

    def __init__(self, setup: wire.Setup, pipe: Pipe) -> None:
        """Knows no job yet."""
        self.network = network_named(setup.network)
        self.extranonce2_size = setup.extranonce2_size
        self.only_payees = tuple(Payee(payee) for payee in setup.only_payees)
        self.judge = Judge(self.network, setup.stale_grace, self._on_block)
        self.judge.see(setup.tip, setup.seen)
        self.refused: Counter[int] = Counter()
        self._pipe = pipe
        self._workers: dict[tuple[Payee, str], int] = {}
        self._listeners: list[Callable[[LiveJob, bool], None]] = []
        self._rows: list[bytes] = []
        self._group: asyncio.Future[None] | None = None
        self._groups = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def _number_of(self, worker: Worker) -> int:
        """The number of a worker, this process's own; the pool is told of a new one."""
        if worker.number < 0:
            key = worker.payee, worker.name
            number = self._workers.get(key, len(self._workers))
            if number == len(self._workers):
                self._pipe.send_value(wire.WORKER, wire.WorkerFrame(number, *key))
                self._workers[key] = number
            worker.number = number
        return worker.number

    def refuse(self, worker: Worker) -> None:
        """See Desk."""
        number = self._workers.get((worker.payee, worker.name))
        if number is not None:
            self.refused[number] += 1

    def on_job(self, listener: Callable[[LiveJob, bool], None]) -> None:
        """See Desk."""
        self._listeners.append(listener)

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        """See Desk. Shares of one turn of the event loop make a group."""
        try:
            digest = self.judge.judge(submission)
        except PoolOracleError:
            self.refuse(submission.worker)
            raise
        terms, worker, extranonce1, extranonce2, ntime, nonce, version, _, _ = submission
        sizes = len(extranonce1) << 4 | len(extranonce2)
        self._rows.append(
            wire.SHARE_ROW.pack(
                terms.job.number,
                worker.number if worker.number >= 0 else self._number_of(worker),
                ntime,
                nonce,
                version,
                terms.bits,
                sizes,
                extranonce1,
                extranonce2,
                digest,
            )
        )
        if self._group is None:
            loop = asyncio.get_running_loop()
            self._group = loop.create_future()
            loop.call_soon(self._send_group)
        return self._group

    def _send_group(self) -> None:
        rows, self._rows = self._rows, []
        group, self._group = self._group, None
        if group is None:
            return
        self._waiting[self._groups] = group
        self._groups += 1
        try:
            self._pipe.send(wire.SHARES, b"".join(rows))
        except wire.PipeClosed:
            self.fail("the pool is gone")

    def stored(self, number: int, problem: str | None) -> None:
        """A group is on disk, or never will be."""
        group = self._waiting.pop(number)
        if group.done():
            return
        if problem is None:
            group.set_result(None)
        else:
            group.set_exception(LedgerError(problem))
            group.exception()  # seen here, so that an unwatched group does not warn

    def fail(self, problem: str) -> None:
        """No group will ever be stored any more."""
        for number in list(self._waiting):
            self.stored(number, problem)

    def _on_block(self, submission: Submission, _header: bytes, _block_hash: bytes) -> None:
        terms, worker, extranonce1, extranonce2, ntime, nonce, version, _, _ = submission
        number = self._number_of(worker)
        frame = wire.BlockFrame(terms.job.number, number, extranonce1, extranonce2, ntime, nonce, version, terms.bits)
        self._pipe.send_value(wire.BLOCK, frame)

    def add_job(self, frame: wire.JobFrame) -> None:
        """Take up a job and hand it to the miners."""
        stratum = StratumJob(
            frame.version, frame.prev_hash, frame.coinb1, frame.coinb2, tuple(frame.branch), frame.nbits
        )
        target = int.from_bytes(frame.network_target, "big")
        self.judge.add_job(frame.number, stratum, target, frame.mintime, frame.curtime, frame.height)
        job = self.judge.job
        if job is not None:
            for listener in self._listeners:
                listener(job, frame.clean)


class StratumProcess:
    """The process: a pipe, a desk, a server."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._first_job = asyncio.Event()
        self._desk: RemoteDesk | None = None
        self._server: StratumServer | None = None
        self._setup: wire.Setup | None = None
        self._pipe = Pipe(self._on_frame, self._end)

    async def run(self, descriptor: int) -> None:
        """Serve until the pool says so, or is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        connection = socket.socket(fileno=descriptor)
        await loop.create_unix_connection(lambda: self._pipe, sock=connection)
        counting = asyncio.create_task(self._count())
        try:
            await self._first_job.wait()
            if not self._over.is_set():
                await self._listen()
            await self._over.wait()
        finally:
            counting.cancel()
            if self._server is not None:
                await self._server.stop()
                with contextlib.suppress(wire.PipeClosed):
                    self._send_counts()
            self._pipe.close()

    def _end(self) -> None:
        self._over.set()
        self._first_job.set()  # which will not come any more

    async def _listen(self) -> None:
        setup, desk = self._setup, self._desk
        assert setup is not None  # noqa: S101 - a job comes after the setup
        assert desk is not None  # noqa: S101
        extranonces = Extranonces(setup.process, setup.processes)
        try:
            self._server = StratumServer(desk, decode_settings(setup.settings), extranonces)
            port = await self._server.start(setup.host, setup.port, shared=True)
        except PoolOracleError as error:
            self._pipe.send(wire.FAILED, str(error).encode())
            self._over.set()
            return
        self._pipe.send(wire.LISTENING, port.to_bytes(2, "little"))

    def _on_frame(self, kind: int, body: memoryview) -> None:
        if kind == wire.SETUP:
            self._setup = msgspec.msgpack.decode(body, type=wire.Setup)
            self._desk = RemoteDesk(self._setup, self._pipe)
        elif kind == wire.DRAIN:
            self._end()
        elif self._desk is not None and kind == wire.JOB:
            self._desk.add_job(msgspec.msgpack.decode(body, type=wire.JobFrame))
            self._first_job.set()
        elif self._desk is not None and kind == wire.STORED:
            stored = msgspec.msgpack.decode(body, type=wire.Stored)
            self._desk.stored(stored.group, stored.problem)

    async def _count(self) -> None:
        """Tell the pool what the metrics want to know."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self._send_counts()

    def _send_counts(self) -> None:
        if self._server is not None and self._desk is not None:
            refused, self._desk.refused = dict(self._desk.refused), Counter()
            self._pipe.send_value(wire.COUNTS, wire.Counts(self._server.values(), refused))


def main() -> None:
    """Serve at the descriptor that was inherited."""
    configure_logs(sys.stderr)
    tune_for_serving()
    uvloop.run(StratumProcess().run(int(sys.argv[1])))


if __name__ == "__main__":
    main()

"""Where sessions hand things in: the pool, in this process or behind a pipe."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Protocol

from pool_oracle.judge import Judge, LiveJob, Submission, Worker
from pool_oracle.networks import Network
from pool_oracle.pool import EXTRANONCE1_SIZE, Pool
from pool_oracle.units import Payee


class Desk(Protocol):
    """What sessions need of the pool."""

    network: Network
    judge: Judge
    extranonce2_size: int
    only_payees: tuple[Payee, ...]
    """Whom miners may work for; empty where everybody may."""

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        """Judge a share; the future is done when it is on disk. Raises ShareRefused, LedgerError.

        A worker is registered with its first share that counts.
        """

    def refuse(self, worker: Worker) -> None:
        """Count a share that was refused before it could be judged."""

    def on_job(self, listener: Callable[[LiveJob, bool], None]) -> None:
        """Call `listener(job, clean)` for each new job."""


class Extranonces:
    """Who has which extranonce1: no two connections the same, no two processes any of the same first byte."""

    def __init__(self, process: int = 0, processes: int = 1) -> None:
        """For process number `process` of `processes`, at most 256."""
        self._first = 256 * process // processes
        self._count = (256 * (process + 1) // processes - self._first) << 8 * (EXTRANONCE1_SIZE - 1)
        self._next = secrets.randbelow(self._count)
        self._used: set[bytes] = set()

    def take(self, wanted: bytes | None = None) -> bytes:
        """An extranonce1 that nobody has; `wanted` where it is free and of this process."""
        if wanted is not None and wanted not in self._used and self._is_ours(wanted):
            self._used.add(wanted)
            return wanted
        while True:
            self._next = (self._next + 1) % self._count
            number = (self._first << 8 * (EXTRANONCE1_SIZE - 1)) + self._next
            value = number.to_bytes(EXTRANONCE1_SIZE, "big")
            if value not in self._used:
                self._used.add(value)
                return value

    def _is_ours(self, value: bytes) -> bool:
        number = int.from_bytes(value, "big") - (self._first << 8 * (EXTRANONCE1_SIZE - 1))
        return len(value) == EXTRANONCE1_SIZE and 0 <= number < self._count

    def release(self, value: bytes) -> None:
        """Nobody has it any more."""
        self._used.discard(value)


class LocalDesk:
    """The pool in this process."""

    def __init__(self, pool: Pool) -> None:
        """Hand everything to `pool`."""
        self._pool = pool
        self.network = pool.network
        self.judge = pool.judge
        self.extranonce2_size = pool.extranonce2_size
        self.only_payees = pool.only_payees
        self.submit = pool.submit
        self.refuse = pool.refuse

    def on_job(self, listener: Callable[[LiveJob, bool], None]) -> None:
        """See Desk."""
        self._pool.on_job.append(listener)

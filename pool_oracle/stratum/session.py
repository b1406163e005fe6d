"""A miner's session: its workers, its target, its jobs, its shares and what is said about them.

The hot path is `data_received` (connection.py), `_submit`, `Judge.judge`. An accepted share is told to the miner only
when the group of shares that it is in is on disk; one callback a group and connection does that.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import UNSET

from pool_oracle.errors import InputError, LedgerError, PayeeError, ShareRefused, TargetError
from pool_oracle.judge import LiveJob, Submission, Worker
from pool_oracle.stratum.connection import Connection
from pool_oracle.stratum.given import MAX_CHANGES, GivenJobs
from pool_oracle.stratum.limits import COST_OF_MALFORMED, COSTS, InvalidShares, cost_of, why_overdue
from pool_oracle.stratum.messages import (
    Request,
    accepted,
    decode_request,
    notification,
    notify_line,
    parse_request,
    refusal,
    reply,
    short_id,
)
from pool_oracle.stratum.requests import HANDLERS, VERSION_QUESTION, printable
from pool_oracle.wire import hex_bytes, uint32_hex
from pool_oracle.work.targets import difficulty_to_target, nbits_to_target

if TYPE_CHECKING:
    from fractions import Fraction

    from pool_oracle.stratum.server import StratumServer

log = structlog.get_logger("stratum")

COST_OF_SUBMIT = COSTS["mining.submit"]
_SUBMIT_FORM = "mining.submit takes worker, job, extranonce2, ntime, nonce and perhaps version bits"
_BELOW_FLOOR = (
    "This miner is slow for the smallest share difficulty of this pool: its shares will be rare, but every one counts."
)
_TWO, _THREE = struct.Struct(">II"), struct.Struct(">III")


class Session(Connection):
    """A connection that speaks stratum. The transport calls it; it calls the server's desk."""

    __slots__ = (
        "_acks",
        "_bad_lines",
        "_batch",
        "_invalid",
        "_is_mining",
        "_is_told",
        "_root",
        "_root_extranonce2",
        "_root_job",
        "desk",
        "extranonce1",
        "given",
        "is_subscribed",
        "session_id",
        "takes_extranonce",
        "vardiff",
        "version_mask",
        "workers",
    )

    def __init__(self, server: StratumServer) -> None:
        """A connection that `server` has accepted."""
        now = time.monotonic_ns()
        super().__init__(server, now)
        self.desk = server.desk
        self.workers: dict[str, Worker] = {}  # by user name
        self.given = GivenJobs([])
        self.vardiff = server.new_target(now)
        self.version_mask = 0
        self.takes_extranonce = False
        self.is_subscribed = False
        self.extranonce1 = b""
        self.session_id = ""
        self._is_mining = False  # whether it was given a job
        self._is_told = False  # that it is below the pool's floor
        self._bad_lines = 0
        self._root = b""
        self._root_job: LiveJob | None = None
        self._root_extranonce2 = ""
        self._batch: asyncio.Future[None] | None = None
        self._acks: list[Any] = []
        self._invalid: InvalidShares | None = None  # until the first share is refused

    def _arrived(self) -> None:
        self._server.opened(self, self._transport)

    def _ended(self) -> None:
        self._server.closed(self)

    # Lines

    def _answer_lines(self, lines: list[bytes], most: int, now: int) -> tuple[int, int]:
        """See Connection."""
        cost = answered = 0
        for line in lines:
            answered += 1
            try:
                request = decode_request(line)
                if request.method == "mining.submit":
                    cost += COST_OF_SUBMIT
                    self._submit(request.id, request.params, now)
                else:
                    cost += cost_of(request.method, len(line))
                    self._answer(request)
            except ShareRefused as error:
                self._refuse(request, error, now)
            except Exception as error:
                cost += COST_OF_MALFORMED
                self._explain(line, error, now)
            if cost >= most or not self._is_open:
                break
        return answered, cost

    def _answer(self, request: Request) -> None:
        """Do what is asked. A request without an id is not answered (JSON-RPC 1.0): BFGMiner would mistake it."""
        method = request.method
        if not method:
            self._take_answer(request)
            return
        handler = HANDLERS.get(method)
        if handler is None:
            raise ShareRefused(20, f"method {method[:40]!r} is not offered here")
        result = handler(self, request.params if isinstance(request.params, list) else [])
        if request.id is not None:
            self.send(reply(short_id(request.id), result))
        if self.has_jobs and not self._is_mining:
            self._send_first_job()

    def _take_answer(self, request: Request) -> None:
        """What the miner answers to a question of ours; there is one question."""
        if request.result is UNSET:
            raise InputError("not a stratum request: it has no method")
        if request.id == VERSION_QUESTION and isinstance(request.result, str):
            self.agent = printable(request.result)

    # Refusals

    def _refuse(self, request: Request, error: ShareRefused, now: int) -> None:
        """Tell the miner, count it, and see whether it is a flood."""
        self._send_refusal(request, error.code, error.reason)
        if request.method == "mining.submit":
            self._server.counters.refuse(error)
            if self._invalid is None:
                self._invalid = InvalidShares(self._server.limits)
            flood = self._invalid.add(error.code, now)
            if flood is not None:
                self.misbehaved(flood, now)

    def _explain(self, line: bytes, error: Exception, now: int) -> None:
        """Answer a line that is wrong in form, or that the pool could not handle.

        No error passes through here while a variable names it: each would hold the other, and with it the connection,
        until the garbage collector comes by.
        """
        if not line.strip():
            return
        try:
            request = parse_request(line)
        except InputError as problem:
            self._refuse_request(Request(), str(problem), now)
            return
        if isinstance(error, PayeeError):
            log.info("worker refused", peer=self.peer, agent=self.agent, why=str(error))
            self._send_refusal(request, 24, str(error))
        elif isinstance(error, LedgerError):
            log.error("share not accepted", problem=str(error))
            self._send_refusal(request, 20, "the pool cannot write its share log; try again later")
        elif isinstance(error, InputError):
            self._refuse_request(request, str(error), now)
        else:
            raise error

    def _refuse_request(self, request: Request, reason: str, now: int) -> None:
        """Refuse a wrong request; whoever sends too many that have not even a method is cut off."""
        self._send_refusal(request, 20, reason)
        self._bad_lines += not request.method
        if self._bad_lines >= self._server.limits.max_malformed_lines:
            self.misbehaved(f"{self._bad_lines} lines that are no stratum", now)

    def _send_refusal(self, request: Request, code: int, reason: str) -> None:
        """A share, or what is no request at all, is refused even where it has no id to answer to."""
        if request.id is not None or request.method in ("", "mining.submit"):
            self.send(refusal(short_id(request.id), code, reason))

    # What requests change

    def subscribe(self, wanted: str | None) -> None:
        """Get an extranonce1, that of session `wanted` where it can be had; a second time nothing changes."""
        if self.is_subscribed:
            return
        self.session_id = secrets.token_hex(8)
        self.extranonce1 = self._server.subscribed(self, wanted)
        self.is_subscribed = True
        if self.given.bits is not None:
            self.vardiff.suggest(time.monotonic_ns(), nbits_to_target(self.given.bits))

    def add_worker(self, user: str, worker: Worker) -> bool:
        """Shares of user name `user` are `worker`'s from now on; False if they were before. Raises ShareRefused."""
        if user in self.workers:
            return False
        most = self._server.limits.max_workers_per_connection
        if len(self.workers) >= most:
            raise ShareRefused(24, f"this connection has {most} workers already; open another one")
        self.workers[user] = worker
        return True

    def suggest(self, target: int) -> None:
        """The miner wants to start at this target. Raises TargetError."""
        if self.vardiff.suggest(time.monotonic_ns(), target):
            self._change_target()

    def set_minimum(self, target: int) -> None:
        """The miner wants no easier target than this. Raises TargetError."""
        if self.vardiff.set_minimum(time.monotonic_ns(), target):
            self._change_target()

    def target_of(self, difficulty: Fraction) -> int:
        """The target of a share difficulty that a miner names."""
        try:
            return difficulty_to_target(difficulty, self.desk.network.difficulty_1_target)
        except TargetError:
            return 1  # harder than anything: the network's own target bounds it

    # Shares

    def _submit(self, request_id: Any, params: Any, now: int) -> None:
        desk, given = self.desk, self.given
        try:
            if len(params) == 5:
                user, job_id, extranonce2, ntime_hex, nonce_hex = params
                ntime, nonce = _TWO.unpack(bytes.fromhex(ntime_hex + nonce_hex))
                bits = 0
                is_formed = len(nonce_hex) == 8
            else:
                user, job_id, extranonce2, ntime_hex, nonce_hex, bits_hex = params
                ntime, nonce, bits = _THREE.unpack(bytes.fromhex(ntime_hex + nonce_hex + bits_hex))
                is_formed = len(nonce_hex) == len(bits_hex) == 8
            extranonce = bytes.fromhex(extranonce2)
            terms = given.terms if job_id == given.job_id else given.find(desk.judge, job_id)
            worker = self.workers.get(user)
        except (TypeError, ValueError, struct.error):
            is_formed, terms, worker = False, None, None
        if not is_formed or worker is None or terms is None or len(extranonce) != desk.extranonce2_size:
            self._submit(request_id, self._mended(params), now)
            return
        job = terms.job
        if job is not self._root_job or extranonce2 != self._root_extranonce2:
            self._root = job.merkle_root(self.extranonce1, extranonce)
            self._root_job, self._root_extranonce2 = job, extranonce2
        mask = self.version_mask
        version = job.stratum.version
        if len(params) == 6:
            version = version & ~mask | bits
        done = desk.submit(
            Submission(
                terms,
                worker,
                self.extranonce1,
                extranonce,
                ntime,
                nonce,
                version,
                self._root,
                not bits & ~mask,
            )
        )
        if done is self._batch:
            self._acks.append(request_id)
        else:
            self._batch, self._acks = done, [request_id]
            self._server.answer_later(done, self, self._acks)
        if self._invalid is not None:
            self._invalid.add(None, now)
        if self.vardiff.on_share(now, terms.bits):
            self._change_target()

    def _mended(self, params: Any) -> list[Any]:
        """A submission with the zeros that NerdMiner leaves out in front of its nonce. Raises ShareRefused."""
        is_list = isinstance(params, list) and len(params) in (5, 6)
        if not is_list or not isinstance(params[4], str) or not 0 < len(params[4]) < 8:
            raise self._problem(params)
        return [*params[:4], params[4].zfill(8), *params[5:]]

    def _problem(self, params: Any) -> ShareRefused:
        """Why a submission was not even judged."""
        if not self.is_subscribed:
            return ShareRefused(25, "not subscribed: send mining.subscribe first")
        if not isinstance(params, list) or len(params) not in (5, 6) or not all(isinstance(p, str) for p in params):
            return ShareRefused(20, _SUBMIT_FORM)
        user, job_id, extranonce2 = params[:3]
        worker = self.workers.get(user)
        if worker is None:
            return ShareRefused(24, f"worker {user[:80]!r} is not authorized on this connection")
        self.desk.refuse(worker)
        try:
            hex_bytes(extranonce2, "extranonce2", size=self.desk.extranonce2_size)
            for field, text in zip(("ntime", "nonce", "version bits"), params[3:], strict=False):
                uint32_hex(text, field)
        except InputError as error:
            return ShareRefused(20, str(error))
        return ShareRefused(21, f"job {job_id[:16]!r} is not known here (any more)")

    @property
    def waiting_for(self) -> asyncio.Future[None] | None:
        """The group of shares that it waits for, while it is on its way to the disk."""
        return None if self._batch is None or self._batch.done() else self._batch

    def acknowledge(self, request_ids: list[Any], problem: str | None) -> None:
        """The shares' group is on disk, or `problem` says why it is not."""
        if problem is None:
            self._server.counters.accepted += len(request_ids)
            self.send(b"".join([accepted(i) for i in request_ids]))
        else:
            self.send(b"".join([refusal(short_id(i), 20, problem) for i in request_ids]))

    # Jobs

    @property
    def has_jobs(self) -> bool:
        """Whether this connection gets jobs: it has subscribed, and somebody on it is authorized."""
        return self.is_subscribed and bool(self.workers)

    def _send_first_job(self) -> None:
        job = self.desk.judge.job
        if self.version_mask:
            self.send(notification("mining.set_version_mask", [f"{self.version_mask:08x}"]))
        if job is not None:
            self.send_job(job, b"", clean=True)

    def send_job(self, job: LiveJob, line: bytes, *, clean: bool) -> None:
        """Give the miner a job; its shares will be judged by the target in force now. `line` is its notification."""
        if not self.has_jobs:
            return
        if clean:
            self.given.forget_all_but(MAX_CHANGES)
            self.vardiff.set_network_target(time.monotonic_ns(), job.network_target)
        if not self._is_mining:
            self._is_mining = True
            self.vardiff.restart(time.monotonic_ns())
            if not self._give_again(job, clean=True):
                self.given.forget_all_but(0)
                self._give_again(job, clean=True)
            return
        bits = self.vardiff.bits
        if self.given.give(job, bits):
            self.vardiff.restart(time.monotonic_ns())
            line = self._server.difficulty_line(bits) + line
        self.send(line)

    def _give_again(self, job: LiveJob, *, clean: bool) -> bool:
        """Give a job under another id than before, at the target in force; False if no id is left."""
        bits = self.vardiff.bits
        place = self.given.give_again(job, bits)
        if place is None:
            return False
        self.send(self._server.difficulty_line(bits) + notify_line(place, job, clean=clean))
        return True

    def _change_target(self) -> None:
        """A new target: tell the miner, and give it the present job again under another id, to which it applies.

        Where it was given again too often, the next job brings the new target.
        """
        job = self.desk.judge.job
        if job is not None and self._is_mining and self._give_again(job, clean=False):
            self._server.counters.retargets += 1

    def sweep(self, now: int) -> None:
        """Now and then: a miner that sends nothing gets easier jobs, or is let go."""
        overdue = why_overdue(
            self._server.limits,
            opened=self.opened,
            last_line=self.last_line,
            is_authorized=bool(self.workers),
            now=now,
        )
        if overdue is not None:
            self.hang_up(overdue)
        elif self.has_jobs:
            if self.vardiff.on_idle(now):
                self._change_target()
            if self.vardiff.is_below_floor and not self._is_told:
                self._is_told = True
                self.tell(_BELOW_FLOOR)

    @property
    def can_move(self) -> bool:
        """Whether the miner can take another extranonce1, and the present job once more."""
        job = self.desk.judge.job
        return self.takes_extranonce and (job is None or self.given.can_give_again(job))

    def move(self, extranonce1: bytes) -> None:
        """Take another extranonce1; the old one goes to somebody else, and work on it is stale from now on."""
        self.extranonce1 = extranonce1
        self._root_job = None
        self.send(notification("mining.set_extranonce", [extranonce1.hex(), self.desk.extranonce2_size]))
        job = self.desk.judge.job
        if job is not None and self._is_mining and self._give_again(job, clean=True):
            self.given.forget_all_but(1)

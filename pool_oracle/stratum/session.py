"""One miner's connection: what it has said, at which targets it was given jobs, and how it is answered.

The hot path is `data_received`, `_submit`, `Judge.judge`. An accepted share is told to the miner only when the group of
shares that it is in is on disk; one callback a group and connection does that.

A share is judged by the target that was in force when its job was given: a job that is given again at another target
has another id on the wire (the job's number and one digit that counts), so no change of target ever refuses work that
was begun before it.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import structlog
from msgspec import UNSET

from pool_oracle.errors import InputError, LedgerError, PayeeError, ShareRefused, TargetError
from pool_oracle.judge import JobTerms, LiveJob, Submission
from pool_oracle.payout.payee import format_payee, is_maybe_unlinkable
from pool_oracle.stratum.limits import COST_OF_MALFORMED, COSTS, Budget, InvalidShares, cost_of, why_overdue
from pool_oracle.stratum.messages import (
    REPEATS,
    VERSION_MASK,
    Request,
    accepted,
    decode_request,
    notification,
    notify_line,
    parse_difficulty,
    parse_request,
    question,
    refusal,
    reply,
    short_id,
)
from pool_oracle.stratum.proxy import parse_proxy_header
from pool_oracle.stratum.users import parse_password, parse_user
from pool_oracle.units import Payee
from pool_oracle.wire import hex_bytes, uint32_hex
from pool_oracle.work.targets import check_target, difficulty_to_target, nbits_to_target, target_to_nbits

if TYPE_CHECKING:
    from pool_oracle.stratum.server import StratumServer

log = structlog.get_logger("stratum")

MAX_CHANGES = 32
COST_OF_SUBMIT = COSTS["mining.submit"]
_VERSION_QUESTION = 1
_SUBMIT_FORM = "mining.submit takes worker, job, extranonce2, ntime, nonce and perhaps version bits"
_NESTED_NOTE = "This P2SH address can claim only if it is a nested single-key (P2SH-P2WPKH) address of your wallet."
_BELOW_FLOOR = (
    "This miner is slow for the smallest share difficulty of this pool: its shares will be rare, but every one counts."
)
_TWO, _THREE = struct.Struct(">II"), struct.Struct(">III")


class _Worker:
    """A user name of this connection. `number` is the pool's; the pool learns of a worker by its first share."""

    __slots__ = ("name", "number", "payee")

    def __init__(self, payee: Payee, name: str) -> None:
        self.payee = payee
        self.name = name
        self.number = -1


class Session(asyncio.Protocol):
    """A connection. The transport calls it; it calls the server's desk."""

    __slots__ = (
        "_acks",
        "_bad_lines",
        "_batch",
        "_budget",
        "_invalid",
        "_is_announced",
        "_is_mining",
        "_is_open",
        "_is_told",
        "_job_id",
        "_pause",
        "_rest",
        "_root",
        "_root_extranonce2",
        "_root_job",
        "_server",
        "_takes_extranonce",
        "_terms",
        "_transport",
        "_version_mask",
        "_workers",
        "address",
        "agent",
        "changes",
        "extranonce1",
        "is_subscribed",
        "last_line",
        "opened",
        "peer",
        "session_id",
        "vardiff",
    )

    def __init__(self, server: StratumServer) -> None:
        """A connection that `server` has accepted."""
        now = time.monotonic_ns()
        self._server = server
        self._is_open = True
        self._is_told = False  # that it is below the pool's floor
        self._is_announced = False  # whether a PROXY header must come first
        self._rest = b""
        self._pause: asyncio.TimerHandle | None = None
        self._bad_lines = 0
        self._workers: dict[str, _Worker] = {}
        self.changes: list[tuple[int, int]] = []  # (job's place, share bits in force from there on)
        self._is_mining = False  # whether it was given a job
        self._job_id = ""
        self._terms: JobTerms | None = None  # of _job_id, the last one used
        self._root = b""
        self._root_job: LiveJob | None = None
        self._root_extranonce2 = ""
        self._batch: asyncio.Future[None] | None = None
        self._acks: list[Any] = []
        self._version_mask = 0
        self._takes_extranonce = False
        self._budget = Budget(server.limits, now)
        self._invalid: InvalidShares | None = None  # until the first share is refused
        self.vardiff = server.new_target(now)
        self.is_subscribed = False
        self.agent = ""
        self.extranonce1 = b""
        self.session_id = ""
        self.opened = self.last_line = now
        self.address = self.peer = "?"

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport, and ask the server whether this address is welcome."""
        self._transport = cast(asyncio.Transport, transport)  # a TCP server hands out nothing else
        host, port = (transport.get_extra_info("peername") or ("?", 0))[:2]
        self.address, self.peer = host, f"{host}:{port}"
        self._is_announced = self._server.is_proxy(host)
        if self._is_announced:
            self._server.announced.add(self)
        else:
            self._server.opened(self, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the server."""
        self._is_open = False
        if self._pause is not None:
            self._pause.cancel()  # or the loop would hold this session until then
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        """Answer each whole line."""
        now = time.monotonic_ns()
        most = self._server.limits.max_line_bytes
        if self._is_announced:
            rest = self._read_announcement(self._rest + data)
            if rest is None:
                return
            data = rest
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > most or (len(data) > most and max(map(len, lines), default=0) > most):
            self.hang_up(f"a line is longer than {most} bytes")
        elif lines:
            self.last_line = now
            wait = self._budget.spend(self._answer_lines(lines, now), now)
            if wait and self._is_open:
                self._rest_for(wait)

    def _answer_lines(self, lines: list[bytes], now: int) -> int:
        """Answer each line, until the connection is cut; returns what they cost."""
        cost = 0
        for line in lines:
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
            if not self._is_open:
                break
        return cost

    def _read_announcement(self, data: bytes) -> bytes | None:
        """Learn from a PROXY header who is behind the proxy; returns what follows it, None while it is not whole."""
        self._rest = b""
        try:
            header = parse_proxy_header(data)
        except InputError as error:
            self.hang_up(f"from a proxy (stratum.proxies), but: {error}")
            return None
        if header is None:
            self._rest = data
            return None
        self._is_announced = False
        self._server.announced.discard(self)
        if header.source is not None:
            host, port = header.source
            self.address, self.peer = host, f"{host}:{port}"
        self._server.opened(self, self._transport)
        return data[header.size :] if self._is_open else None

    def _rest_for(self, wait: int) -> None:
        """Read nothing for `wait` nanoseconds: this connection has overdrawn its budget."""
        self._server.counters.pauses += 1
        self._transport.pause_reading()
        self._pause = asyncio.get_running_loop().call_later(wait / 1e9, self._read_on)

    def _read_on(self) -> None:
        self._pause = None
        if self._is_open and not self._server.is_stopping:
            self._transport.resume_reading()

    def read_no_more(self) -> None:
        """What comes from now on stays unread."""
        self._transport.pause_reading()

    def send(self, data: bytes) -> None:
        """Send a line, unless the miner has stopped reading."""
        if not self._is_open:
            return
        if self._transport.get_write_buffer_size() > self._server.limits.max_write_buffer_bytes:
            self.hang_up("the miner does not read what it is sent")
            return
        self._transport.write(data)

    def tell(self, text: str) -> None:
        """A line for the miner's screen or log."""
        self.send(notification("client.show_message", [text]))

    def close(self) -> None:
        """Close the connection after what is buffered was sent."""
        if self._is_open:
            self._is_open = False
            self._transport.close()

    def hang_up(self, why: str) -> None:
        """Cut the connection now; `why` is for the operator."""
        if self._is_open:
            self._server.counters.hang_ups += 1
            log.warning("connection closed", peer=self.peer, agent=self.agent, why=why)
            self.cut()

    def cut(self) -> None:
        """End the connection now, whatever is buffered."""
        self._is_open = False
        self._transport.abort()

    # Errors

    def turn_away(self) -> None:
        """Close a connection that was not let in."""
        self.close()

    @property
    def waiting_for(self) -> asyncio.Future[None] | None:
        """The group of shares that it waits for, while it is on its way to the disk."""
        return None if self._batch is None or self._batch.done() else self._batch

    def misbehaved(self, why: str, now: int) -> None:
        """Cut the connection and tell the gate, which may ban its address."""
        self._server.counters.bans += 1
        self.hang_up(self._server.gate.strike(self.address, why, now))

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

    # Requests

    def _answer(self, request: Request) -> None:
        """Do what is asked. A request without an id is not answered (JSON-RPC 1.0): BFGMiner would mistake it."""
        method = request.method
        if not method:
            self._take_answer(request)
            return
        handler = self._handlers.get(method)
        if handler is None:
            raise ShareRefused(20, f"method {method[:40]!r} is not offered here")
        params = request.params if isinstance(request.params, list) else []
        result = handler(self, params)
        if request.id is not None:
            self.send(reply(short_id(request.id), result))
        if self.has_jobs and not self._is_mining:
            self._send_first_job()

    def _take_answer(self, request: Request) -> None:
        """What the miner answers to a question of ours; there is one question."""
        if request.result is UNSET:
            raise InputError("not a stratum request: it has no method")
        if request.id == _VERSION_QUESTION and isinstance(request.result, str):
            self.agent = _printable(request.result)

    def _subscribe(self, params: list[Any]) -> list[Any]:
        """The extranonce1 of this connection, the one from before for a miner that names its session."""
        if params and isinstance(params[0], str):
            self.agent = _printable(params[0])
        if not self.is_subscribed:
            wanted = params[1] if len(params) > 1 and isinstance(params[1], str) else None
            self.session_id = secrets.token_hex(8)
            self.extranonce1 = self._server.subscribed(self, wanted)
            self.is_subscribed = True
            if self.changes:
                self.vardiff.suggest(time.monotonic_ns(), nbits_to_target(self.changes[-1][1]))
        subscriptions = [["mining.set_difficulty", self.session_id], ["mining.notify", self.session_id]]
        return [subscriptions, self.extranonce1.hex(), self._server.desk.extranonce2_size]

    def _authorize(self, params: list[Any]) -> bool:
        user = params[0] if params else None
        payee, name = parse_user(user, self._server.desk.network)
        assert isinstance(user, str)  # noqa: S101 - parse_user refuses anything else
        most = self._server.limits.max_workers_per_connection
        if user not in self._workers and len(self._workers) >= most:
            raise ShareRefused(24, f"this connection has {most} workers already; open another one")
        known = self._workers.get(user)
        if known is None:
            self._workers[user] = _Worker(payee, name)
            log.info("worker authorized", peer=self.peer, agent=self.agent, payee=format_payee(payee), worker=name)
        options = parse_password(params[1] if len(params) > 1 else None)
        if options.minimum is not None:
            self._change_if(self.vardiff.set_minimum(time.monotonic_ns(), self._target(options.minimum)))
        if options.start is not None:
            self._suggest(options.start)
        if options.ignored:
            self.tell(f"No share difficulty above zero in the password: {', '.join(options.ignored)[:80]}")
        if known is None and is_maybe_unlinkable(payee):
            self.tell(_NESTED_NOTE)
        if not self.agent and len(self._workers) == 1:
            self.send(question(_VERSION_QUESTION, "client.get_version"))
        return True

    def _configure(self, params: list[Any]) -> dict[str, Any]:
        """BIP-310: which extensions are on."""
        wanted = params[0] if params and isinstance(params[0], list) else []
        options = params[1] if len(params) > 1 and isinstance(params[1], dict) else {}
        answer: dict[str, Any] = {}
        for extension in wanted[:20]:
            if extension == "version-rolling":
                answer.update(self._configure_rolling(options))
            elif extension == "minimum-difficulty":
                answer[extension] = self._configure_minimum(options)
            elif extension == "subscribe-extranonce":
                self._takes_extranonce = answer[extension] = True
            elif extension == "info":
                self.agent = self.agent or _printable(str(options.get("info.sw-version", "")))
                answer[extension] = True
            elif isinstance(extension, str):
                answer[extension[:40]] = False
        return answer

    def _configure_minimum(self, options: dict[str, Any]) -> bool:
        """Whether no share will be judged by an easier target than the miner wants."""
        minimum = parse_difficulty(options.get("minimum-difficulty.value"))
        if minimum is None:
            return False
        target = self._target(minimum)
        self._change_if(self.vardiff.set_minimum(time.monotonic_ns(), target))
        return self.vardiff.bits <= target_to_nbits(target)

    def _configure_rolling(self, options: dict[str, Any]) -> dict[str, Any]:
        asked = options.get("version-rolling.mask", f"{VERSION_MASK:08x}")
        mask = VERSION_MASK & uint32_hex(asked, "version-rolling.mask")
        least = options.get("version-rolling.min-bit-count", 0)
        if isinstance(least, int) and mask.bit_count() < least:
            return {"version-rolling": f"only {mask.bit_count()} bits of the mask can be rolled here, not {least}"}
        self._version_mask = mask
        return {"version-rolling": True, "version-rolling.mask": f"{mask:08x}"}

    def _subscribe_extranonce(self, _params: list[Any]) -> bool:
        self._takes_extranonce = True
        return True

    def _suggest_difficulty(self, params: list[Any]) -> bool:
        difficulty = parse_difficulty(params[0] if params else None)
        if difficulty is None:
            raise InputError("mining.suggest_difficulty takes a positive number")
        self._suggest(difficulty)
        return True

    def _suggest_target(self, params: list[Any]) -> bool:
        target = int.from_bytes(hex_bytes(params[0] if params else None, "target", size=32), "big")
        self._change_if(self.vardiff.suggest(time.monotonic_ns(), check_target(target, "target")))
        return True

    def _suggest(self, difficulty: Any) -> None:
        self._change_if(self.vardiff.suggest(time.monotonic_ns(), self._target(difficulty)))

    def _target(self, difficulty: Any) -> int:
        try:
            return difficulty_to_target(difficulty, self._server.desk.network.difficulty_1_target)
        except TargetError:
            return 1  # harder than anything: the network's own target bounds it

    def _get_transactions(self, _params: list[Any]) -> None:
        raise ShareRefused(20, "transactions are not handed out here; audit a job by its coinbase and merkle branch")

    # Shares

    def _submit(self, request_id: Any, params: Any, now: int) -> None:
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
            terms = self._terms if job_id == self._job_id else self._find_terms(job_id)
            worker = self._workers.get(user)
        except (TypeError, ValueError, struct.error):
            is_formed, terms, worker = False, None, None
        if not is_formed or worker is None or terms is None or len(extranonce) != self._server.desk.extranonce2_size:
            self._submit(request_id, self._mended(params), now)
            return
        if worker.number < 0:
            worker.number = self._server.desk.worker(worker.payee, worker.name)
        job = terms.job
        if job is not self._root_job or extranonce2 != self._root_extranonce2:
            self._root = job.merkle_root(self.extranonce1, extranonce)
            self._root_job, self._root_extranonce2 = job, extranonce2
        mask = self._version_mask
        version = job.stratum.version
        if len(params) == 6:
            version = version & ~mask | bits
        done = self._server.desk.submit(
            Submission(
                terms,
                worker.number,
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
        worker = self._workers.get(user)
        if worker is None:
            return ShareRefused(24, f"worker {user[:80]!r} is not authorized on this connection")
        if worker.number >= 0:
            self._server.desk.refuse(worker.number)
        try:
            hex_bytes(extranonce2, "extranonce2", size=self._server.desk.extranonce2_size)
            for field, text in zip(("ntime", "nonce", "version bits"), params[3:], strict=False):
                uint32_hex(text, field)
        except InputError as error:
            return ShareRefused(20, str(error))
        return ShareRefused(21, f"job {job_id[:16]!r} is not known here (any more)")

    def _find_terms(self, job_id: str) -> JobTerms | None:
        """The job of an id and the target that was in force when this connection got it."""
        place = int(job_id, 16)
        job = self._server.desk.judge.find(place // REPEATS)
        if job is None:
            return None
        for since, bits in reversed(self.changes):
            if since <= place:
                self._job_id, self._terms = job_id, job.terms(bits)
                return self._terms
        return None

    def acknowledge(self, request_ids: list[Any], problem: str | None) -> None:
        """The shares' group is on disk, or `problem` says why it is not."""
        if problem is None:
            self._server.counters.accepted += len(request_ids)
            self.send(b"".join([accepted(i) for i in request_ids]))
        else:
            self.send(b"".join([refusal(short_id(i), 20, problem) for i in request_ids]))

    # Jobs

    def _send_first_job(self) -> None:
        job = self._server.desk.judge.job
        if self._version_mask:
            self.send(notification("mining.set_version_mask", [f"{self._version_mask:08x}"]))
        if job is not None:
            self.send_job(job, b"", clean=True)

    @property
    def has_jobs(self) -> bool:
        """Whether this connection gets jobs: it has subscribed, and somebody on it is authorized."""
        return self.is_subscribed and bool(self._workers)

    def send_job(self, job: LiveJob, line: bytes, *, clean: bool) -> None:
        """Give the miner a job; its shares will be judged by the target in force now. `line` is its notification."""
        if not self.has_jobs:
            return
        if clean:
            del self.changes[:-MAX_CHANGES]
            self.vardiff.set_network_target(time.monotonic_ns(), job.network_target)
        if not self._is_mining:
            self._is_mining = True
            self.vardiff.restart(time.monotonic_ns())
            if not self._give_again(job, clean=True):
                self.changes.clear()
                self._give_again(job, clean=True)
            return
        bits = self.vardiff.bits
        if self.changes[-1][1] != bits:
            self.changes.append((job.number * REPEATS, bits))
            self.vardiff.restart(time.monotonic_ns())
            line = self._server.difficulty_line(bits) + line
        self.send(line)

    def _give_again(self, job: LiveJob, *, clean: bool) -> bool:
        """Give a job under an id that this session has not had for it, at the target in force; False if none is left.

        A session that was taken up has had the job's first id already, for all that is known.
        """
        place = job.number * REPEATS
        if self.changes:
            place = max(place, self.changes[-1][0]) + 1
        if place // REPEATS != job.number:
            return False
        bits = self.vardiff.bits
        self.changes.append((place, bits))
        self.send(self._server.difficulty_line(bits) + notify_line(place, job, clean=clean))
        return True

    def _change_if(self, is_changed: bool) -> None:
        if is_changed:
            self._change_target()

    def _change_target(self) -> None:
        """A new target: tell the miner, and give it the present job again under another id, to which it applies.

        Where it was given again too often, the next job brings the new target.
        """
        job = self._server.desk.judge.job
        if job is not None and self._is_mining and self._give_again(job, clean=False):
            self._server.counters.retargets += 1

    def sweep(self, now: int) -> None:
        """Now and then: a miner that sends nothing gets easier jobs, or is let go."""
        overdue = why_overdue(
            self._server.limits,
            opened=self.opened,
            last_line=self.last_line,
            is_authorized=bool(self._workers),
            now=now,
        )
        if overdue is not None:
            self.hang_up(overdue)
        elif self.has_jobs:
            self._change_if(self.vardiff.on_idle(now))
            if self.vardiff.is_below_floor and not self._is_told:
                self._is_told = True
                self.tell(_BELOW_FLOOR)

    @property
    def can_move(self) -> bool:
        """Whether the miner can take another extranonce1, and the present job once more."""
        job = self._server.desk.judge.job
        is_last = job is not None and bool(self.changes) and self.changes[-1][0] >= (job.number + 1) * REPEATS - 1
        return self._takes_extranonce and not is_last

    def move(self, extranonce1: bytes) -> None:
        """Take another extranonce1; the old one goes to somebody else, and work on it is stale from now on."""
        self.extranonce1 = extranonce1
        self._root_job = None
        self.send(notification("mining.set_extranonce", [extranonce1.hex(), self._server.desk.extranonce2_size]))
        job = self._server.desk.judge.job
        if job is not None and self._is_mining and self._give_again(job, clean=True):
            del self.changes[:-1]
            self._job_id = ""

    _handlers: ClassVar[dict[str, Callable[[Session, list[Any]], Any]]] = {
        "mining.subscribe": _subscribe,
        "mining.authorize": _authorize,
        "mining.configure": _configure,
        "mining.extranonce.subscribe": _subscribe_extranonce,
        "mining.suggest_difficulty": _suggest_difficulty,
        "mining.suggest_target": _suggest_target,
        "mining.get_transactions": _get_transactions,
        "mining.ping": lambda _session, _params: "pong",
    }


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80]

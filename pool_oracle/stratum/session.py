"""One miner's connection: what it has said, which targets it was given, and how its requests are answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, cast

import structlog

from pool_oracle.errors import InputError, LedgerError, PayeeError, ShareRefused
from pool_oracle.payout.payee import format_payee, is_maybe_unlinkable
from pool_oracle.pool import EXTRANONCE2_SIZE, Pool, Submission
from pool_oracle.stratum.messages import (
    MAX_LINE,
    VERSION_MASK,
    Request,
    notification,
    parse_request,
    parse_user,
    refusal,
    reply,
)
from pool_oracle.wire import hex_bytes, uint32_hex
from pool_oracle.work.share import prevhash_to_stratum
from pool_oracle.work.targets import nbits_to_target, target_to_difficulty
from pool_oracle.work.template import Job

MAX_WRITE_BUFFER = 1 << 20
MAX_BAD_LINES = 5

log = structlog.get_logger("stratum")


class Session(asyncio.Protocol):
    """A connection. The transport calls it; it calls the pool."""

    def __init__(self, pool: Pool, share_bits: int, on_close: Callable[[Session], None]) -> None:
        """`share_bits` is the share target, in compact form, of the jobs this connection gets."""
        self._pool = pool
        self._share_bits = share_bits
        self._on_close = on_close
        self._buffer = bytearray()
        self._bad_lines = 0
        self._workers: dict[str, int] = {}
        self._job_bits: dict[str, int] = {}
        self._version_mask = 0
        self._is_subscribed = False
        self.extranonce1 = pool.new_extranonce1()
        self.peer = "?"
        self._handlers: dict[str, Callable[[list[Any]], Any]] = {
            "mining.subscribe": self._subscribe,
            "mining.authorize": self._authorize,
            "mining.configure": self._configure,
            "mining.extranonce.subscribe": lambda _params: True,
            "mining.suggest_difficulty": lambda _params: True,
            "mining.suggest_target": lambda _params: True,
            "mining.ping": lambda _params: "pong",
        }

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)  # a TCP server hands out nothing else
        self.peer = "{}:{}".format(*transport.get_extra_info("peername", ("?", 0))[:2])

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the server."""
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        """Answer each whole line."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            if line:
                self._answer_line(line)
            if self._transport.is_closing():
                return
        if len(self._buffer) > MAX_LINE:
            self._hang_up(f"a line is longer than {MAX_LINE} bytes")

    def send(self, data: bytes) -> None:
        """Send a line, unless the miner has stopped reading."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MAX_WRITE_BUFFER:
            self._hang_up("the miner does not read what it is sent")
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection after what is buffered was sent."""
        self._transport.close()

    def _hang_up(self, why: str) -> None:
        log.warning("connection closed", peer=self.peer, why=why)
        self._transport.abort()

    # Requests

    def _answer_line(self, line: bytes) -> None:
        try:
            request = parse_request(line)
        except InputError as error:
            self._bad_lines += 1
            self.send(refusal(None, 20, str(error)))
            if self._bad_lines >= MAX_BAD_LINES:
                self._hang_up("too many lines that are no stratum")
            return
        try:
            self._answer(request)
        except ShareRefused as error:
            self.send(refusal(request.id, error.code, error.reason))
        except PayeeError as error:
            log.info("worker refused", peer=self.peer, why=str(error))
            self.send(refusal(request.id, 24, str(error)))
        except InputError as error:
            self.send(refusal(request.id, 20, str(error)))
        except LedgerError as error:
            log.error("share not accepted", problem=str(error))
            self.send(refusal(request.id, 20, "the pool cannot write its share log; try again later"))

    def _answer(self, request: Request) -> None:
        params = request.params if isinstance(request.params, list) else []
        if request.method == "mining.submit":
            self._submit(request.id, params)
            return
        handler = self._handlers.get(request.method)
        if handler is None:
            raise ShareRefused(20, f"method {request.method[:40]!r} is not offered here")
        self.send(reply(request.id, handler(params)))
        if self._is_subscribed and self._workers and not self._job_bits:
            self._send_first_job()

    def _subscribe(self, _params: list[Any]) -> list[Any]:
        self._is_subscribed = True
        name = self.extranonce1.hex()
        subscriptions = [["mining.set_difficulty", name], ["mining.notify", name]]
        return [subscriptions, name, EXTRANONCE2_SIZE]

    def _authorize(self, params: list[Any]) -> bool:
        user = params[0] if params else None
        payee, name = parse_user(user, self._pool.network)
        assert isinstance(user, str)  # noqa: S101 - parse_user refuses anything else
        self._workers[user] = self._pool.worker(payee, name)
        log.info("worker authorized", peer=self.peer, payee=format_payee(payee), worker=name)
        if is_maybe_unlinkable(payee):
            text = "This P2SH address can claim only if it is a nested single-key (P2SH-P2WPKH) address of your wallet."
            self.send(notification("client.show_message", [text]))
        return True

    def _configure(self, params: list[Any]) -> dict[str, Any]:
        """BIP-310: which extensions are on."""
        wanted = params[0] if params and isinstance(params[0], list) else []
        options = params[1] if len(params) > 1 and isinstance(params[1], dict) else {}
        answer: dict[str, Any] = {}
        for extension in wanted:
            if extension == "version-rolling":
                asked = options.get("version-rolling.mask", f"{VERSION_MASK:08x}")
                self._version_mask = VERSION_MASK & uint32_hex(asked, "version-rolling.mask")
                answer["version-rolling"] = True
                answer["version-rolling.mask"] = f"{self._version_mask:08x}"
            elif isinstance(extension, str):
                answer[extension] = False
        return answer

    def _submit(self, request_id: Any, params: list[Any]) -> None:
        if not self._is_subscribed:
            raise ShareRefused(25, "not subscribed: send mining.subscribe first")
        if len(params) not in (5, 6) or not all(isinstance(p, str) for p in params):
            raise ShareRefused(
                20, "mining.submit takes worker, job, extranonce2, ntime, nonce and perhaps version bits"
            )
        user, job_id, extranonce2, ntime, nonce = params[:5]
        worker = self._workers.get(user)
        if worker is None:
            raise ShareRefused(24, f"worker {user[:80]!r} is not authorized on this connection")
        share_bits = self._job_bits.get(job_id)
        if share_bits is None:
            raise ShareRefused(21, f"job {job_id[:16]!r} was not given to this connection")
        bits = params[5] if len(params) == 6 else None
        submission = Submission(
            job_id=job_id,
            worker=worker,
            extranonce1=self.extranonce1,
            extranonce2=hex_bytes(extranonce2, "extranonce2", size=EXTRANONCE2_SIZE),
            ntime=uint32_hex(ntime, "ntime"),
            nonce=uint32_hex(nonce, "nonce"),
            version_bits=uint32_hex(bits, "version bits") if bits is not None else None,
            version_mask=self._version_mask,
            share_bits=share_bits,
        )
        done = self._pool.submit(submission)
        done.add_done_callback(lambda future: self._acknowledge(request_id, future))

    def _acknowledge(self, request_id: Any, done: asyncio.Future[None]) -> None:
        """The share's group is on disk, or the disk failed."""
        if done.cancelled() or done.exception() is not None:
            self.send(refusal(request_id, 20, "the pool could not write its share log; this share is not accepted"))
        else:
            self.send(reply(request_id, True))

    # Jobs

    def _send_first_job(self) -> None:
        # A hair above the target's own difficulty, so that rounding on the miner's side never makes a share too easy.
        difficulty = target_to_difficulty(nbits_to_target(self._share_bits), self._pool.network.difficulty_1_target)
        self.send(notification("mining.set_difficulty", [math.nextafter(difficulty, math.inf)]))
        if self._version_mask:
            self.send(notification("mining.set_version_mask", [f"{self._version_mask:08x}"]))
        if self._pool.job is not None:
            self.send_job(self._pool.job, notify_line(self._pool.job, clean=True), clean=True)

    def send_job(self, job: Job, line: bytes, *, clean: bool) -> None:
        """Give the miner a job; its shares will be judged by the target in force now."""
        if not (self._is_subscribed and self._workers):
            return
        if clean:
            self._job_bits = dict(list(self._job_bits.items())[-1:])
        self._job_bits[job.wire_id] = self._share_bits
        self.send(line)


def notify_line(job: Job, *, clean: bool) -> bytes:
    """The `mining.notify` of a job."""
    stratum = job.stratum
    return notification(
        "mining.notify",
        [
            job.wire_id,
            prevhash_to_stratum(stratum.prev_hash),
            stratum.coinb1.hex(),
            stratum.coinb2.hex(),
            [node.hex() for node in stratum.branch],
            f"{stratum.version:08x}",
            f"{stratum.nbits:08x}",
            f"{job.template.curtime:08x}",
            clean,
        ],
    )

"""The listening socket and all sessions: takes connections, spreads jobs, sweeps, shuts down in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from pool_oracle.errors import ConfigError, InputError, ShareRefused
from pool_oracle.judge import LiveJob
from pool_oracle.stratum.connection import Connection
from pool_oracle.stratum.desk import Desk, Extranonces
from pool_oracle.stratum.fixed import FixedTarget
from pool_oracle.stratum.given import GivenJobs
from pool_oracle.stratum.limits import SECOND, AddressSet, Gate
from pool_oracle.stratum.messages import REPEATS, notification, notify_line
from pool_oracle.stratum.session import Session
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.stratum.vardiff import Vardiff, VardiffSettings
from pool_oracle.work.targets import difficulty_to_target, nbits_to_target, target_to_difficulty, target_to_nbits

SWEEP_SECONDS = 5
LAST_WORDS_SECONDS = 0.25
"""How long miners that were sent away are still listened to: what they sent before they knew is on its way."""
DRAIN_SECONDS = 3.0
BACKLOG = 4096
KEEPALIVE_SECONDS = 60

log = structlog.get_logger("stratum")


@dataclass(slots=True)
class Counters:
    """What has happened since the start, for metrics: plain numbers, because shares are many."""

    opened: int = 0
    turned_away: int = 0
    hang_ups: int = 0
    bans: int = 0
    pauses: int = 0
    retargets: int = 0
    accepted: int = 0
    refused: Counter[int] = field(default_factory=Counter)

    def values(self, connections: int) -> dict[str, int]:
        """All of them by name, refused shares by their code."""
        numbers = {
            name: getattr(self, name) for name in ("opened", "turned_away", "hang_ups", "bans", "pauses", "retargets")
        }
        refused = {f"refused_{code}": count for code, count in self.refused.items()}
        return {"connections": connections, "accepted": self.accepted, **numbers, **refused}

    def refuse(self, error: ShareRefused) -> None:
        """Count a refused share by its code."""
        self.refused[error.code] += 1


class StratumServer:
    """Serves miners of one pool."""

    def __init__(self, desk: Desk, settings: StratumSettings, extranonces: Extranonces | None = None) -> None:
        """Raises ConfigError for a share difficulty below the network's floor."""
        network = desk.network
        floor = settings.min_share_difficulty or network.min_share_difficulty
        for difficulty in (settings.share_difficulty, floor):
            if difficulty < network.min_share_difficulty:
                raise ConfigError(
                    f"share difficulty {difficulty} is below the floor of {network.name}, "
                    f"{network.min_share_difficulty}"
                )
        self.desk = desk
        self.settings = settings
        self.limits = settings.limits
        self.gate = Gate(settings.limits)
        self._proxies = AddressSet(settings.proxies)
        self.counters = Counters()
        self.extranonces = extranonces or Extranonces()
        difficulty_1 = network.difficulty_1_target
        start = difficulty_to_target(settings.share_difficulty, difficulty_1)
        self._start_bits = target_to_nbits(start)
        self._vardiff = None
        if settings.shares_per_minute:
            self._vardiff = VardiffSettings(
                floor_target=difficulty_to_target(floor, difficulty_1),
                start_target=start,
                shares_per_minute=settings.shares_per_minute,
            )
        self.sessions: set[Session] = set()
        self.announced: set[Connection] = set()
        """Connections from proxies that have not said yet for whom they are."""
        self._group: asyncio.Future[None] | None = None
        self._answers: list[tuple[Session, list[Any]]] = []
        self._turned_away_told = 0
        self._by_session_id: dict[str, Session] = {}
        self._past: dict[str, tuple[bytes, list[tuple[int, int]]]] = {}
        self._server: asyncio.Server | None = None
        self.is_stopping = False
        self._all_gone = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        self._difficulty_lines: dict[int, bytes] = {}

    def values(self) -> dict[str, int]:
        """The counters by name, for metrics."""
        return self.counters.values(len(self.sessions))

    # Start and stop

    async def start(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listen; returns the port, which the system chooses where `port` is 0.

        `shared` lets other processes listen on the same port. Raises ConfigError if it is taken, or for TLS files that
        cannot be used.
        """
        loop = asyncio.get_running_loop()
        tls = self._tls()
        try:
            self._server = await loop.create_server(
                lambda: Session(self),
                host,
                port,
                backlog=BACKLOG,
                reuse_port=shared or None,
                ssl=tls,
                ssl_handshake_timeout=self.limits.tls_handshake_seconds if tls else None,
            )
        except OSError as error:
            raise ConfigError(f"stratum cannot listen on {host}:{port}: {error.strerror or error}") from None
        self.desk.on_job(self._spread)
        self._sweeper = asyncio.create_task(self._sweep())
        bound = int(self._server.sockets[0].getsockname()[1])
        log.info("stratum listens", address=f"{host}:{bound}", tls=tls is not None)
        return bound

    def _tls(self) -> ssl.SSLContext | None:
        if self.settings.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.settings.certificate, self.settings.private_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"TLS: {self.settings.certificate} or its key cannot be used: {error}") from None
        return context

    async def stop(self) -> None:
        """Take no more connections, send miners elsewhere, answer what they have sent, and close."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.is_stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.announced):
            connection.close()
        told = time.monotonic_ns()
        line = notification("client.reconnect", [])
        for session in list(self.sessions):
            session.send(line)
        await self._until_all_are_gone(LAST_WORDS_SECONDS)
        for session in self.sessions:
            session.listen_no_more()
        waiting = {batch for session in self.sessions if (batch := session.waiting_for) is not None}
        if waiting:
            await asyncio.wait(waiting, timeout=DRAIN_SECONDS)
        for session in list(self.sessions):
            session.finish(told)
        await self._until_all_are_gone(DRAIN_SECONDS)
        for session in list(self.sessions):
            session.cut()

    async def _until_all_are_gone(self, seconds: float) -> None:
        """Wait until no connection is left, or for so long."""
        if self.sessions:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_gone.wait()

    # Connections

    def new_target(self, now: int) -> Vardiff | FixedTarget:
        """The share target of a new connection."""
        job = self.desk.judge.job
        if self._vardiff is None:
            return FixedTarget(self._start_bits)
        return Vardiff(self._vardiff, job.network_target if job is not None else 1, now)

    def is_proxy(self, address: str) -> bool:
        """Whether connections from `address` begin with a PROXY header; one that has ended already has no address."""
        try:
            return bool(self.settings.proxies) and address in self._proxies
        except InputError:
            return False

    def opened(self, session: Session, transport: asyncio.Transport) -> None:
        """A connection is there: let it in, or close it at once."""
        if self.is_stopping:
            session.close()
            return
        try:
            objection = self.gate.admit(session.address, time.monotonic_ns())
        except InputError as error:
            objection = str(error)
        if objection is not None:
            self._turn_away(session, objection)
            return
        self.counters.opened += 1
        self.sessions.add(session)
        _watch(transport)

    def _turn_away(self, session: Session, why: str) -> None:
        """Close a connection that is not let in. The log gets one line a second: whoever is banned tries often."""
        self.counters.turned_away += 1
        session.close()
        second = int(time.monotonic())
        if second != self._turned_away_told:
            self._turned_away_told = second
            log.info("connection turned away", peer=session.peer, why=why, so_far=self.counters.turned_away)

    def closed(self, session: Session) -> None:
        """A connection has ended."""
        if session in self.sessions:
            self.sessions.remove(session)
            self.gate.release(session.address)
            if not self.sessions:
                self._all_gone.set()
        if self._by_session_id.get(session.session_id) is session:
            del self._by_session_id[session.session_id]
        if session.extranonce1:
            self.extranonces.release(session.extranonce1)

    def subscribed(self, session: Session, wanted: str | None) -> bytes:
        """The extranonce1 of a connection that subscribes; that of session `wanted` if it can be had again.

        Then its jobs are known here too, and shares for them are taken. A session's id is known to its miner alone, so
        it may take its extranonce1 back from a connection of its own that is half dead: that one is moved, if it can
        be, or cut.
        """
        value, changes = self._past.pop(wanted or "", (None, []))
        before = self._by_session_id.pop(wanted or "", None)
        if before is not None:
            value, changes = before.extranonce1, before.given.changes.copy()
            if before.can_move:
                before.move(self.extranonces.take())
            else:
                before.hang_up("its miner has connected again")
                before.extranonce1 = b""
            self.extranonces.release(value)
        taken = self.extranonces.take(value)
        if taken == value:
            session.given = GivenJobs(changes)
        self._by_session_id[session.session_id] = session
        self._remember(session, taken)
        return taken

    def _remember(self, session: Session, extranonce1: bytes) -> None:
        """So that a miner that was cut off can go on where it was; the latest of them, as many as may be connected."""
        self._past[session.session_id] = extranonce1, session.given.changes
        if len(self._past) > self.limits.max_connections:
            del self._past[next(iter(self._past))]

    def answer_later(self, group: asyncio.Future[None], session: Session, request_ids: list[Any]) -> None:
        """Answer a session's shares when their group is on disk; `request_ids` may grow until then."""
        if group is not self._group:
            self._group, self._answers = group, []
            group.add_done_callback(partial(self._answer, self._answers))
        self._answers.append((session, request_ids))

    def _answer(self, answers: list[tuple[Session, list[Any]]], group: asyncio.Future[None]) -> None:
        problem = None
        if group.cancelled() or group.exception() is not None:
            problem = "the pool could not write its share log; this share is not accepted"
        for session, request_ids in answers:
            session.acknowledge(request_ids, problem)

    # Jobs

    def difficulty_line(self, bits: int) -> bytes:
        """The `mining.set_difficulty` of a share target."""
        line = self._difficulty_lines.get(bits)
        if line is None:
            if len(self._difficulty_lines) > 4096:
                self._difficulty_lines.clear()
            # A hair above the target's own, so that rounding on the miner's side never makes a share too easy.
            difficulty = target_to_difficulty(nbits_to_target(bits), self.desk.network.difficulty_1_target)
            line = notification("mining.set_difficulty", [math.nextafter(difficulty, math.inf)])
            self._difficulty_lines[bits] = line
        return line

    def _spread(self, job: LiveJob, clean: bool) -> None:
        line = notify_line(job.number * REPEATS, job, clean=clean)
        for session in list(self.sessions):
            session.send_job(job, line, clean=clean)

    async def _sweep(self) -> None:
        """For ever: look after connections that say nothing."""
        due = time.monotonic_ns() + SWEEP_SECONDS * SECOND
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic_ns()
            is_late, due = now > due + SWEEP_SECONDS * SECOND, now + SWEEP_SECONDS * SECOND
            if is_late:
                continue  # the pool stood still; what miners sent meanwhile has not been read yet
            patience = self.limits.proxy_header_seconds
            for connection in [c for c in self.announced if now - c.opened > patience * SECOND]:
                connection.hang_up(f"from a proxy (stratum.proxies), but no PROXY header came within {patience} s")
            for number, session in enumerate(list(self.sessions)):
                session.sweep(now)
                if number % 1000 == 999:
                    await asyncio.sleep(0)  # ten thousand connections must not hold up shares


def _watch(transport: asyncio.Transport) -> None:
    """Let the kernel find out about peers that are gone without a word; send small lines at once."""
    connection = transport.get_extra_info("socket")
    if connection is None:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000 * KEEPALIVE_SECONDS)

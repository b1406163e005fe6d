"""The transport of one miner: bytes to lines and back, what they may cost, and how a connection ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import structlog

from pool_oracle.errors import InputError
from pool_oracle.stratum.limits import Budget
from pool_oracle.stratum.messages import notification
from pool_oracle.stratum.proxy import parse_proxy_header

if TYPE_CHECKING:
    from pool_oracle.stratum.server import StratumServer

log = structlog.get_logger("stratum")


class Connection(asyncio.Protocol):
    """A miner's connection, without what its lines mean: a subclass knows that, and is told of arrival and end.

    `address` and `peer` are the miner's own, also where it comes through a proxy; times are monotonic nanoseconds.
    """

    __slots__ = (
        "_budget",
        "_is_announced",
        "_is_deaf",
        "_is_open",
        "_pause",
        "_rest",
        "_server",
        "_transport",
        "_unread",
        "address",
        "agent",
        "last_line",
        "opened",
        "peer",
    )

    def __init__(self, server: StratumServer, now: int) -> None:
        """A connection that `server` has accepted."""
        self._server = server
        self._is_open = True
        self._is_announced = False  # whether a PROXY header must come first
        self._is_deaf = False
        self._rest = b""
        self._unread: list[bytes] = []  # whole lines that wait for the budget
        self._pause: asyncio.TimerHandle | None = None
        self._budget = Budget(server.limits, now)
        self.agent = ""
        self.opened = self.last_line = now
        self.address = self.peer = "?"

    def _answer_lines(self, lines: list[bytes], most: int, now: int) -> tuple[int, int]:
        """Answer lines until they have cost `most` or the connection is cut; returns how many, and what they cost."""
        raise NotImplementedError

    def _arrived(self) -> None:
        """It is known whose connection this is; the transport is there."""
        raise NotImplementedError

    def _ended(self) -> None:
        """The connection is no more."""
        raise NotImplementedError

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport, and ask the server whether this address is welcome."""
        self._transport = cast(asyncio.Transport, transport)  # a TCP server hands out nothing else
        host, port = (transport.get_extra_info("peername") or ("?", 0))[:2]
        self.address, self.peer = host, f"{host}:{port}"
        self._is_announced = self._server.is_proxy(host)
        if self._is_announced:
            self._server.announced.add(self)
        else:
            self._arrived()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is under way."""
        self._is_open = False
        if self._pause is not None:
            self._pause.cancel()  # or the loop would hold this connection until then
        self._server.announced.discard(self)
        self._ended()

    def data_received(self, data: bytes) -> None:
        """Answer each whole line."""
        now = time.monotonic_ns()
        if self._is_deaf:
            self.last_line = now
            return
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
            self._answer_within_budget(lines, now)

    # Reading

    def _answer_within_budget(self, lines: list[bytes], now: int) -> None:
        """Answer lines; what the budget does not cover waits, and nothing more is read until it does."""
        if self._unread:
            self._unread += lines  # a transport may deliver once more after it was paused
            return
        answered, cost = self._answer_lines(lines, self._budget.left(now), now)
        wait = self._budget.spend(cost, now)
        if not self._is_open:
            return
        self._unread = lines[answered:]
        if wait or self._unread:
            self._rest_for(wait)

    def _rest_for(self, wait: int) -> None:
        """Read nothing for `wait` nanoseconds: this connection has overdrawn its budget."""
        self._server.counters.pauses += 1
        self._transport.pause_reading()
        self._pause = asyncio.get_running_loop().call_later(wait / 1e9, self._read_on)

    def _read_on(self) -> None:
        self._pause = None
        if not self._is_open or self._server.is_stopping:
            return
        lines, self._unread = self._unread, []
        if lines:
            self._answer_within_budget(lines, time.monotonic_ns())
        if self._is_open and self._pause is None:
            self._transport.resume_reading()

    def listen_no_more(self) -> None:
        """What comes from now on is read and thrown away: what stayed unread would make the kernel reset the end."""
        self._is_deaf = True
        self._unread = []
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._transport.resume_reading()

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
        self._arrived()
        return data[header.size :] if self._is_open else None

    # Writing

    def send(self, data: bytes) -> None:
        """Send lines, unless the miner has stopped reading."""
        if not self._is_open:
            return
        if self._transport.get_write_buffer_size() > self._server.limits.max_write_buffer_bytes:
            self.hang_up("the miner does not read what it is sent")
            return
        self._transport.write(data)

    def tell(self, text: str) -> None:
        """A line for the miner's screen or log."""
        self.send(notification("client.show_message", [text]))

    # The end

    def close(self) -> None:
        """Close the connection after what is buffered was sent."""
        if self._is_open:
            self._is_open = False
            self._transport.close()

    def finish(self, since: int) -> None:
        """Close the connection; a miner that has sent something after `since` first gets to read all that it was sent.

        A reset would take that from it, answers to its shares among it: so it is the miner that closes, on our end of
        file. TLS has no such half close.
        """
        if self._is_open and self.last_line > since and self._transport.can_write_eof():
            self._is_open = False
            self._transport.write_eof()
        else:
            self.close()

    def hang_up(self, why: str) -> None:
        """Cut the connection now; `why` is for the operator."""
        if self._is_open:
            self._server.counters.hang_ups += 1
            log.warning("connection closed", peer=self.peer, agent=self.agent, why=why)
            self.cut()

    def misbehaved(self, why: str, now: int) -> None:
        """Cut the connection and tell the gate, which may ban its address."""
        self._server.counters.bans += 1
        self.hang_up(self._server.gate.strike(self.address, why, now))

    def cut(self) -> None:
        """End the connection now, whatever is buffered."""
        self._is_open = False
        self._transport.abort()

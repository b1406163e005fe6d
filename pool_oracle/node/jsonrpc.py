"""Calls to a node by JSON-RPC over HTTP, as Bitcoin Core and its descendants speak it.

A node is not trusted to answer: every call has a time limit, every reply a size limit, and everything that is no proper
answer is a NodeError that says what came instead.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from pool_oracle.errors import NodeError, NodeRefused

CALL_SECONDS = 20.0
MAX_REPLY_BYTES = 16 << 20
"""A template of 4 MB of transactions is 8 MB of hex and 3 MB of names around it; nothing honest is longer."""

ALLOWED_AUTH_TRIES = 2

CANCEL_SECONDS = 0.1
"""How long a call that nobody waits for goes on: httpx loses a connection that is given up while it is made."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in: by the cookie file that the node writes at each start, or by a user and a file with a password.

    Without either, the node must not ask.
    """

    cookie_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def read(self) -> tuple[str, str] | None:
        """User and password, fresh from the file. Raises NodeError when it cannot be read."""
        if self.cookie_file is not None:
            user, colon, password = _text(self.cookie_file, "is the node running?").partition(":")
            if not colon:
                raise NodeError(f"{self.cookie_file} is no cookie file: it must hold user:password")
            return user, password
        if self.user is not None and self.password_file is not None:
            return self.user, _text(self.password_file, "it must hold the node's RPC password")
        return None


def _text(path: Path, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not text'}); {hint}") from None


class JsonRpc:
    """One node's JSON-RPC. Each call opens a connection or takes one that is open."""

    def __init__(self, name: str, url: str, login: Login) -> None:
        """`name` is what errors call the node."""
        self.name = name
        self._url = url
        self._login = login
        self._auth: tuple[str, str] | None = None
        self._next_id = 0
        self._exchanges: set[asyncio.Task[Any]] = set()
        # No proxy, no redirect: credentials go to the configured host and nowhere else. Each call has its own limit.
        self._http = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(None))

    async def call(self, method: str, *params: Any, seconds: float | None = CALL_SECONDS) -> Any:
        """The result of a call, within `seconds` unless they are None.

        Raises NodeRefused with the node's own error, NodeError for everything else.
        """
        exchange = asyncio.create_task(self._exchange(method, params, seconds))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanged)
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(CANCEL_SECONDS, exchange.cancel)
            raise

    def _exchanged(self, exchange: asyncio.Task[Any]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # seen, if nobody waits for it any more

    async def _exchange(self, method: str, params: tuple[Any, ...], seconds: float | None) -> Any:
        self._next_id += 1
        request = {"jsonrpc": "1.0", "id": self._next_id, "method": method, "params": params}
        try:
            async with asyncio.timeout(seconds):
                status, body = await self._post(msgspec.json.encode(request))
        except TimeoutError:
            raise NodeError(f"{self.name}: {method} was not answered within {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise NodeError(f"{self.name}: {method} failed: {_reason(error)}") from None
        return self._result(method, status, body)

    async def _post(self, content: bytes) -> tuple[int, bytes]:
        """Status and body; logs in again once when the node has a new cookie."""
        status, body = 0, b""
        for _ in range(ALLOWED_AUTH_TRIES):
            if self._auth is None:
                self._auth = self._read_login()
            status, body = await self._post_once(content)
            if status != httpx.codes.UNAUTHORIZED:
                break
            self._auth = None
        return status, body

    def _read_login(self) -> tuple[str, str] | None:
        try:
            return self._login.read()
        except NodeError as error:
            raise NodeError(f"{self.name}: {error}") from None

    async def _post_once(self, content: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        auth = None if self._auth is None else httpx.BasicAuth(*self._auth)
        async with self._http.stream("POST", self._url, content=content, headers=headers, auth=auth) as response:
            body = bytearray()
            async for piece in response.aiter_raw():  # a compressed reply could be any size; no node sends one
                body += piece
                if len(body) > MAX_REPLY_BYTES:
                    raise NodeError(f"{self.name}: the reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
            return response.status_code, bytes(body)

    def _result(self, method: str, status: int, body: bytes) -> Any:
        where = f"{self.name}: {method}"
        if status == httpx.codes.UNAUTHORIZED:
            raise NodeError(f"{where}: user or password is wrong (HTTP 401)")
        if status == httpx.codes.FORBIDDEN:
            raise NodeError(f"{where}: the node does not let this host in (HTTP 403; its setting rpcallowip)")
        try:
            reply = msgspec.json.decode(body)
        except (ValueError, RecursionError):  # msgspec's own errors, and texts that are not UTF-8
            start = body[:60].decode("utf-8", "replace")
            raise NodeError(f"{where}: the reply is not JSON (HTTP {status}): {start!r}") from None
        if not isinstance(reply, dict) or ("result" not in reply and "error" not in reply):
            raise NodeError(f"{where}: the reply is no JSON-RPC answer (HTTP {status})")
        error = reply.get("error")
        if error is None:
            return reply.get("result")
        code = error.get("code") if isinstance(error, dict) else None
        text = error.get("message") if isinstance(error, dict) else error
        raise NodeRefused(f"{where}: {one_line(text)}", code if isinstance(code, int) else 0)

    async def close(self) -> None:
        """Close the connections."""
        if self._exchanges:
            _, late = await asyncio.wait(self._exchanges, timeout=CANCEL_SECONDS)
            for exchange in late:
                exchange.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._http.aclose()


def one_line(value: Any) -> str:
    """What a node said, fit for a log: short, without line breaks or control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value)[:300])


def _reason(error: httpx.HTTPError) -> str:
    """What an HTTP error means; some have no text of their own."""
    if isinstance(error, httpx.ConnectError):
        return "no connection; is the node running, and is the port right?"
    return one_line(error) or type(error).__name__

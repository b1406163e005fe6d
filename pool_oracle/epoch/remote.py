"""HTTP to a server that bundles are sent to: credentials from files, limits in time and size, and tries that end.

A server is not trusted to answer: what it gives is hashed as it comes and never held, except for a short beginning.
What may pass by itself (no connection, an answer cut short, 408, 425, 429, 5xx) is tried again; everything else is a
PublishError at once. Errors name the host, the file, and what would help; never an address's path or a credential.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import stamina

from pool_oracle.errors import PublishError

CHUNK = 1 << 18
HEAD_SIZE = 1 << 16
"""How much of an answer is kept: more than any answer that is not a file has."""

_OK = frozenset({200})
_PASSING = frozenset({408, 425, 429})
_HELP = {
    400: "the server does not understand the request; is the url right?",
    401: "user, password or token is wrong",
    403: "the server does not let this user in",
    404: "the server has no such place; is the url right?",
    405: "the server does not take this kind of request; is the url right?",
    409: "the folder is not there, and cannot be made",
    411: "the server wants another way of sending files",
    413: "the file is too long for the server; raise its limit (nginx: client_max_body_size)",
    507: "the server's disk is full",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in: by a file with a bearer token, by a user and a file with a password, or not at all."""

    token_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """The header of one request, fresh from the file. Raises PublishError when it cannot be read."""
        if self.token_file is not None:
            return {"Authorization": f"Bearer {_secret(self.token_file, 'token')}"}
        if self.user is not None and self.password_file is not None:
            password = _secret(self.password_file, "password")
            request = next(httpx.BasicAuth(self.user, password).auth_flow(httpx.Request("GET", "http://localhost")))
            return {"Authorization": request.headers["Authorization"]}
        return {}


def _secret(path: Path, what: str) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII text"
        raise PublishError(f"{path} cannot be read ({reason}); it must hold the {what} alone") from None
    if not text.isprintable() or not text:
        raise PublishError(f"{path} must hold the {what} alone, on one line")
    return text


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, and how often it is asked."""

    attempts: int = 5
    wait_seconds: float = 0.5
    max_wait_seconds: float = 10.0
    connect_seconds: float = 10.0
    silence_seconds: float = 60.0
    """Without a byte in either direction."""
    bytes_per_second: int = 32 << 10
    """Slower than that, with a minute to begin, is too slow."""
    start_seconds: float = 60.0

    def seconds_for(self, size: int) -> float:
        """The time that a request of `size` bytes may take in all."""
        return self.start_seconds + size / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: `size` bytes, the same each time that `open` is called. `headers` say what they are."""

    size: int
    open: Callable[[], AsyncIterator[bytes]]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: its status, the length that was announced, length and SHA-256 of what was read, and how it begins."""

    status: int
    announced: int | None
    length: int
    sha256: bytes
    head: bytes


class _MayPass(PublishError):
    """Raised when another try may go better."""


def file_body(path: Path, size: int) -> Body:
    """A file, read while it is sent."""

    async def read() -> AsyncIterator[bytes]:
        with await asyncio.to_thread(path.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk

    return Body(size, read)


def bytes_body(data: bytes) -> Body:
    """A few bytes."""

    async def read() -> AsyncIterator[bytes]:
        yield data

    return Body(len(data), read)


def form_body(name: str, body: Body) -> Body:
    """A body as the one file of a form (RFC 7578)."""
    boundary = secrets.token_hex(16)
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    before = f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    after = f"\r\n--{boundary}--\r\n".encode()

    async def read() -> AsyncIterator[bytes]:
        yield before
        async for piece in body.open():
            yield piece
        yield after

    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return Body(len(before) + body.size + len(after), read, headers)


class Remote:
    """One server."""

    def __init__(self, kind: str, url: str, credentials: Credentials, patience: Patience) -> None:
        """`url` is what all addresses begin with; the name that errors use is made of `kind` and its host."""
        parts = urlsplit(url)
        self.name = f"{kind} {parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._patience = patience
        limits = httpx.Timeout(patience.silence_seconds, connect=patience.connect_seconds)
        # No proxy, no redirect: credentials go to the configured host and nowhere else.
        self._http = httpx.AsyncClient(trust_env=False, timeout=limits)

    async def request(
        self,
        method: str,
        place: str,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
        limit: int = HEAD_SIZE,
        fine: Collection[int] = _OK,
    ) -> Answer:
        """One request, tried again while that may help; `what` is what errors call it.

        At most `limit` bytes and a chunk of the answer are read. Raises PublishError for a status that is not `fine`.
        """
        patience = self._patience
        tries = stamina.retry_context(
            on=_MayPass,
            attempts=patience.attempts,
            timeout=None,
            wait_initial=patience.wait_seconds,
            wait_max=patience.max_wait_seconds,
        )
        async for attempt in tries:
            with attempt:
                answer = await self._try(method, place, what, params, body, limit)
                self._judge(answer, what, fine)
                return answer
        raise AssertionError("the last try raises")  # pragma: no cover

    async def _try(
        self, method: str, place: str, what: str, params: Mapping[str, str] | None, body: Body | None, limit: int
    ) -> Answer:
        seconds = self._patience.seconds_for(limit + (body.size if body else 0))
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(method, place, params, body, limit)
        except TimeoutError:
            raise _MayPass(f"{self.name}: {what}: not done within {seconds:.0f} s; the server is too slow") from None
        except httpx.HTTPError as error:
            raise _MayPass(f"{self.name}: {what}: {_reason(error)}") from None
        except OSError as error:  # of the file that is sent
            raise PublishError(f"{self.name}: {what}: cannot be read: {error.strerror}") from None

    async def _exchange(
        self, method: str, place: str, params: Mapping[str, str] | None, body: Body | None, limit: int
    ) -> Answer:
        headers = {"Accept-Encoding": "identity", **self._credentials.headers()}
        if body is not None:
            headers |= {"Content-Length": str(body.size), **body.headers}
        address = f"{self._url}/{place}"
        content = body.open() if body else None
        async with self._http.stream(method, address, params=params, content=content, headers=headers) as response:
            digest, length, head = hashlib.sha256(), 0, b""
            async for piece in response.aiter_raw(CHUNK):
                digest.update(piece)
                length += len(piece)
                if len(head) < HEAD_SIZE:
                    head = (head + piece)[:HEAD_SIZE]
                if length > limit:
                    break
            announced = response.headers.get("Content-Length", "")
            return Answer(
                response.status_code, int(announced) if announced.isdecimal() else None, length, digest.digest(), head
            )

    def _judge(self, answer: Answer, what: str, fine: Collection[int]) -> None:
        """Raise PublishError for a status that is not fine, _MayPass where another try may go better."""
        status = answer.status
        if status in fine:
            return
        said = one_line(answer.head.decode("utf-8", "replace"))
        help_ = _HELP.get(status) or ("the server fails" if status >= 500 else "see the server's own log")
        text = f"{self.name}: {what}: {help_} (HTTP {status}{': ' + said if said else ''})"
        raise _MayPass(text) if status >= 500 or status in _PASSING else PublishError(text)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def one_line(text: str) -> str:
    """What a server said, fit for a log: short, without line breaks or control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[:300]).split())


def _reason(error: httpx.HTTPError) -> str:
    """What an HTTP error means; some have no text of their own."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time; is a firewall in between?"
    if isinstance(error, httpx.ConnectError) and "certificate" in str(error).lower():
        return f"its certificate is not accepted ({one_line(str(error))})"
    if isinstance(error, httpx.ConnectError):
        return "no connection; is the server running, and are host and port right?"
    if isinstance(error, httpx.TimeoutException):
        return "the server fell silent"
    if isinstance(error, httpx.RemoteProtocolError):
        return f"the answer was cut short ({one_line(str(error))})"
    return f"the connection broke ({one_line(str(error)) or type(error).__name__})"

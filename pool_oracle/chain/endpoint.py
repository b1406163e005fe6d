"""One node of an EVM chain over JSON-RPC: an answer, or why there is none.

Messages and log lines name its host, never the whole URL: that may hold a provider's key.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import requests
import structlog
from web3.types import RPCError, RPCResponse

from pool_oracle.chain.client import host_of
from pool_oracle.chain.refusals import refusal

MAX_REPLY_BYTES = 64 << 20
ASIDE_SECONDS = (1, 5, 15, 60)
"""For how long a node is left aside after its first, second, ... failure in a row."""

_BUSY = (-32005, 429)
"""JSON-RPC codes by which a node says that it has too much to do (EIP-1474: limit exceeded)."""

log = structlog.get_logger("rpc")


class NodeFailed(Exception):
    """A node did not answer a call, or not by JSON-RPC."""


class Endpoint:
    """One node, and what is known of it."""

    def __init__(self, url: str, timeout: float) -> None:
        self.host = host_of(url)
        self.head: int | None = None
        self.is_lagging = False
        self.wrong_chain: int | None = None
        self.is_checked = False
        self._url = url
        self._timeout = timeout
        self._session = requests.Session()
        self._failures = 0
        self._aside_until = 0.0

    @property
    def is_aside(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._aside_until

    def ask(self, method: str, params: Any) -> RPCResponse:
        """The node's answer, be it a result or an error. Raises NodeFailed, and then leaves the node aside."""
        try:
            answer = self._post(method, params)
        except NodeFailed as failure:
            self._leave_aside(str(failure))
            raise
        if self._failures:
            log.info("chain node answers again", node=self.host)
        self._failures = 0
        self._aside_until = 0.0
        return answer

    def result(self, method: str, *params: Any) -> Any:
        """A call's result. Raises NodeFailed also where the node answers with an error."""
        answer = self.ask(method, list(params))
        if "error" in answer:
            raise NodeFailed(str(refusal(method, answer["error"])))
        return answer["result"]

    def _leave_aside(self, reason: str) -> None:
        if not self._failures:
            log.warning("chain node fails", node=self.host, problem=reason)
        self._aside_until = time.monotonic() + ASIDE_SECONDS[min(self._failures, len(ASIDE_SECONDS) - 1)]
        self._failures += 1
        self.is_checked = False  # it may come back as another one

    def _post(self, method: str, params: Any) -> RPCResponse:
        request = msgspec.json.encode(
            {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params or [])}, enc_hook=_encode
        )
        try:
            with self._session.post(
                self._url,
                data=request,
                headers={"Content-Type": "application/json"},
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            ) as reply:
                status, body = reply.status_code, self._body(reply)
        except requests.Timeout:
            raise NodeFailed(f"no answer within {self._timeout:g} s") from None
        except requests.ConnectionError:
            raise NodeFailed("no connection; is it running, and is the URL right?") from None
        except requests.RequestException as error:
            raise NodeFailed(f"{type(error).__name__}") from None
        return _read_answer(status, body)

    def _body(self, reply: requests.Response) -> bytes:
        """The whole reply, within the time and the size that a reply may have."""
        body = bytearray()
        deadline = time.monotonic() + self._timeout
        for piece in reply.iter_content(1 << 16):
            body += piece
            if len(body) > MAX_REPLY_BYTES:
                raise NodeFailed(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise NodeFailed(f"no whole answer within {self._timeout:g} s")
        return bytes(body)


def _read_answer(status: int, body: bytes) -> RPCResponse:
    """A JSON-RPC answer, which may come with any HTTP status. Raises NodeFailed for what is none."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        answer = None
    told = answer.get("error") if isinstance(answer, dict) else None
    if status == 429 or (isinstance(told, dict) and told.get("code") in _BUSY):
        raise NodeFailed(f"too many requests (HTTP {status})")
    if status >= 500:
        raise NodeFailed(f"HTTP {status}")
    if told is not None:
        return RPCResponse(jsonrpc="2.0", id=1, error=_told(told))
    if not isinstance(answer, dict) or "result" not in answer:
        raise NodeFailed(f"the reply is no JSON-RPC answer (HTTP {status})")
    return RPCResponse(jsonrpc="2.0", id=1, result=answer["result"])


def _told(error: Any) -> RPCError:
    """An error as web3 wants it: with a number and a text, whatever the node has sent."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    told = RPCError(code=code if isinstance(code, int) else -32603, message=str(fields.get("message") or "no reason"))
    if "data" in fields:
        told["data"] = fields["data"]
    return told


def _encode(value: Any) -> Any:
    """web3 hands bytes over as they are."""
    if isinstance(value, bytes | bytearray):
        return f"0x{bytes(value).hex()}"
    raise NotImplementedError(f"{type(value).__name__} in a JSON-RPC call")

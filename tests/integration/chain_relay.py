"""A relay in front of a chain's node that spoils answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

Call = dict[str, Any]
Forward = Callable[[Call], Any]
Reply = dict[str, Any] | bytes | int
"""A JSON-RPC answer, a body as it is, or an HTTP status."""
Rule = Callable[[Call, Forward], Reply]

ANY = "*"


class ChainRelay:
    """Stands before a node; `rules` say for each method, or for ANY, what is answered in place of its answer."""

    def __init__(self, node: str) -> None:
        self.rules: dict[str, Rule] = {}
        self.calls: list[Call] = []
        self._node = node
        self._session = requests.Session()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                relay.answer(self)

            def log_message(self, *_: Any) -> None:
                """Tests are silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        call: Call = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.calls.append(call)
        rule = self.rules.get(call["method"]) or self.rules.get(ANY)
        try:
            reply = rule(call, self.forward) if rule else {"result": self.forward(call)}
        except NodeSays as error:
            reply = {"error": error.args[0]}
        status, body = 200, b""
        if isinstance(reply, int):
            status = reply
        elif isinstance(reply, bytes):
            body = reply
        else:
            body = json.dumps({"jsonrpc": "2.0", "id": call["id"], **reply}).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except ConnectionError:
            handler.close_connection = True

    def forward(self, call: Call) -> Any:
        """What the node answers. Raises NodeSays for its errors, which rules let through."""
        answer = self._session.post(self._node, json=call, timeout=20).json()
        if "error" in answer:
            raise NodeSays(answer["error"])
        return answer["result"]

    def asked(self, method: str) -> int:
        """How often a method was called."""
        return sum(call["method"] == method for call in self.calls)

    def __enter__(self) -> ChainRelay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._session.close()


class NodeSays(Exception):
    """The node's error."""


def says(value: Any) -> Rule:
    """Always this result."""
    return lambda _call, _forward: {"result": value}


def fails(status: int) -> Rule:
    """Always this HTTP status."""
    return lambda _call, _forward: status


def refuses(code: int, message: str) -> Rule:
    """Always this error."""
    return lambda _call, _forward: {"error": {"code": code, "message": message}}


def utters(body: bytes) -> Rule:
    """Always these bytes."""
    return lambda _call, _forward: body


def hangs(seconds: float) -> Rule:
    """The right answer, late."""

    def rule(call: Call, forward: Forward) -> Reply:
        time.sleep(seconds)
        return {"result": forward(call)}

    return rule


def times(count: int, rule: Rule) -> Rule:
    """The rule for the first calls, the truth from then on."""
    left = [count]

    def counted(call: Call, forward: Forward) -> Reply:
        if left[0] > 0:
            left[0] -= 1
            return rule(call, forward)
        return {"result": forward(call)}

    return counted


def lags(blocks: int) -> Rule:
    """A node that has not seen the last blocks yet."""

    def rule(call: Call, forward: Forward) -> Reply:
        head = max(0, int(forward({**call, "method": "eth_blockNumber", "params": []}), 16) - blocks)
        method, params = call["method"], [hex(head) if p == "latest" else p for p in call["params"]]
        if method == "eth_blockNumber":
            return {"result": hex(head)}
        if method == "eth_getBlockByNumber" and int(params[0], 16) > head:
            return {"result": None}
        result = forward({**call, "params": params})
        if method in ("eth_getTransactionReceipt", "eth_getTransactionByHash") and result is not None:
            number = result["blockNumber"]
            if number is None or int(number, 16) > head:
                return {"result": None}
        return {"result": result}

    return rule

"""A connection to a pool as a miner has it, which mines nothing: it looks at jobs."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from pool_oracle.errors import InputError, SetupError

CONNECT_SECONDS = 20
MAX_LINE = 1 << 20
DEFAULT_PORT = 3333
AGENT = "pool_oracle-audit/1"


class JobReader:
    """Subscribes, signs in, and yields what the pool hands out. `extranonce1` is the connection's own."""

    def __init__(self, url: str, user: str) -> None:
        """`url` is stratum+tcp://HOST:PORT, or stratum+ssl://. Raises InputError, SetupError."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError:
            host = None
        if parts.scheme not in ("stratum+tcp", "stratum+ssl", "stratum+tls") or not host:
            raise InputError(f"a pool's address is stratum+tcp://HOST:PORT or stratum+ssl://HOST:PORT, not {url!r}")
        self._where = f"{host}:{port}"
        self.extranonce1 = b""
        self.extranonce2_size = 0
        try:
            self._socket = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
            if parts.scheme != "stratum+tcp":
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
        except OSError as error:
            raise SetupError(f"the pool at {self._where} cannot be reached: {error}") from None
        self._lines = self._read_lines()
        try:
            self._sign_in(user)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> JobReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def _sign_in(self, user: str) -> None:
        self._waiting: list[list[Any]] = []
        self._send(1, "mining.subscribe", [AGENT])
        answer = self._answer(1)
        try:
            self.extranonce1, self.extranonce2_size = bytes.fromhex(answer[1]), int(answer[2])
        except (TypeError, ValueError, IndexError, KeyError):
            raise SetupError(f"the pool at {self._where} answers mining.subscribe with {str(answer)[:100]}") from None
        self._send(2, "mining.authorize", [user, "x"])
        self._answer(2)

    def _send(self, number: int, method: str, params: list[Any]) -> None:
        self._socket.sendall(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")

    def _answer(self, number: int) -> Any:
        for message in self._lines:
            if message.get("method") == "mining.notify":
                self._waiting.append(list(message.get("params") or []))
            elif message.get("id") == number and "method" not in message:
                if message.get("error"):
                    raise SetupError(f"the pool at {self._where} refuses: {str(message['error'])[:200]}")
                return message.get("result")
        raise SetupError(f"the pool at {self._where} has closed the connection")

    def jobs(self, *, wait: float | None) -> Iterator[list[Any]]:
        """The parameters of each `mining.notify`; ends with the connection. Raises SetupError after `wait` seconds."""
        self._socket.settimeout(wait)
        yield from self._waiting
        for message in self._lines:
            params = message.get("params") or []
            if message.get("method") == "mining.set_extranonce" and len(params) == 2:
                self.extranonce1, self.extranonce2_size = bytes.fromhex(params[0]), int(params[1])
            elif message.get("method") == "mining.notify":
                yield list(params)

    def _read_lines(self) -> Iterator[dict[str, Any]]:
        rest = b""
        while True:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise SetupError(f"the pool at {self._where} has sent no job in time") from None
            except OSError as error:
                raise SetupError(f"the connection to {self._where} broke: {error}") from None
            if not data or len(rest) > MAX_LINE:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    raise SetupError(f"the pool at {self._where} sends what is not JSON") from None
                if isinstance(message, dict):
                    yield message

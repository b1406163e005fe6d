"""Stratum V1's messages: one JSON object a line. Parsing is strict in form and lenient in what miners really send."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec

from pool_oracle.errors import InputError, PayeeError
from pool_oracle.networks import Network
from pool_oracle.payout.payee import parse_address
from pool_oracle.units import Payee

MAX_LINE = 16_384
MAX_USER_LENGTH = 256
MAX_WORKER_NAME = 63
VERSION_MASK = 0x1FFFE000
"""The version bits that miners may roll. Source: BIP-320."""


class Request(msgspec.Struct):
    """A miner's request or notification. `params` is nearly always a list."""

    method: str
    id: Any = None
    params: Any = msgspec.field(default_factory=list)


_request_decoder = msgspec.json.Decoder(Request)
_encode = msgspec.json.encode


def parse_request(line: bytes) -> Request:
    """The request of one line. Raises InputError saying what is wrong with it."""
    try:
        return _request_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not a stratum request: {error}") from None


def reply(request_id: Any, result: Any) -> bytes:
    """The line that answers a request."""
    return _encode({"id": request_id, "result": result, "error": None}) + b"\n"


def refusal(request_id: Any, code: int, reason: str) -> bytes:
    """The line that refuses a request, with the code and text that miners show in their log."""
    return _encode({"id": request_id, "result": None, "error": [code, reason, None]}) + b"\n"


def notification(method: str, params: list[Any]) -> bytes:
    """A line that asks for no answer."""
    return _encode({"id": None, "method": method, "params": params}) + b"\n"


def parse_user(text: Any, network: Network) -> tuple[Payee, str]:
    """(payee, worker name) of `ADDRESS[.worker]`. Raises PayeeError with a text for the miner's log.

    Percent-encoding and spaces around, which some firmware adds, are taken off.
    """
    if not isinstance(text, str) or len(text) > MAX_USER_LENGTH:
        raise PayeeError(f"the user name must be ADDRESS[.worker], at most {MAX_USER_LENGTH} characters")
    address, _, name = unquote(text).strip().partition(".")
    name = "".join(c for c in name.strip() if c.isprintable())[:MAX_WORKER_NAME]
    return parse_address(address, network), name

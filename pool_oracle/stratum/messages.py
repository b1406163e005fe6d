"""Stratum V1's messages: one JSON object a line. Parsing is strict in form and lenient in what miners really send."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec

from pool_oracle.errors import InputError
from pool_oracle.judge import LiveJob
from pool_oracle.work.share import prevhash_to_stratum

MAX_DIFFICULTY = 1 << 224
MAX_ID = 128
"""Characters of a request's id, as JSON, that are sent back."""

REPEATS = 16
"""How often a job can be given to a connection again: its id on the wire is its number and one more hex digit."""

VERSION_MASK = 0x1FFFE000
"""The version bits that miners may roll. Source: BIP-320."""


class Request(msgspec.Struct, gc=False):
    """A miner's request or notification; without a method it is an answer to a question of ours.

    `params` is nearly always a list.
    """

    method: str = ""
    id: Any = None
    params: Any = ()
    result: Any = msgspec.UNSET


decode_request = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.encode


def parse_request(line: bytes) -> Request:
    """The request of one line. Raises InputError saying what is wrong with it."""
    try:
        return decode_request(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not a stratum request: {error}") from None


def accepted(request_id: Any) -> bytes:
    """The line that tells a miner that its share is accepted."""
    if type(request_id) is int:
        return b'{"id":%d,"result":true,"error":null}\n' % request_id
    return reply(short_id(request_id), True)


def reply(request_id: Any, result: Any) -> bytes:
    """The line that answers a request."""
    return _encode({"id": request_id, "result": result, "error": None}) + b"\n"


def refusal(request_id: Any, code: int, reason: str) -> bytes:
    """The line that refuses a request, with the code and text that miners show in their log."""
    return _encode({"id": request_id, "result": None, "error": [code, reason, None]}) + b"\n"


def notification(method: str, params: list[Any]) -> bytes:
    """A line that asks for no answer."""
    return _encode({"id": None, "method": method, "params": params}) + b"\n"


def question(request_id: Any, method: str) -> bytes:
    """A line that asks the miner for an answer."""
    return _encode({"id": request_id, "method": method, "params": []}) + b"\n"


def short_id(request_id: Any) -> Any:
    """A request's id as it is sent back: what it was, unless somebody makes it large or nests it."""
    if isinstance(request_id, int | float) or (isinstance(request_id, str) and len(request_id) <= MAX_ID):
        return request_id
    return None


def parse_difficulty(value: Any) -> Fraction | None:
    """A share difficulty that a miner names, exact; None for what is no number above zero or absurdly large."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_DIFFICULTY:
        return None
    return Fraction(value)


def notify_line(place: int, job: LiveJob, *, clean: bool) -> bytes:
    """The `mining.notify` of a job under the id of `place`.

    Each time that it is given again its ntime is one second later, since BFGMiner, ESP-Miner and cpuminer begin every
    job at extranonce2 zero: without that they would do the same work twice, and find the same shares.
    """
    stratum = job.stratum
    return notification(
        "mining.notify",
        [
            f"{place:x}",
            prevhash_to_stratum(stratum.prev_hash),
            stratum.coinb1.hex(),
            stratum.coinb2.hex(),
            [node.hex() for node in stratum.branch],
            f"{stratum.version:08x}",
            f"{stratum.nbits:08x}",
            f"{job.curtime + place % REPEATS:08x}",
            clean,
        ],
    )

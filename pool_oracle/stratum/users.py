"""What miners sign in with: a user name `ADDRESS[.worker]`, and options in a password that nobody checks.

Money follows the address, so it is read strictly, and a refusal says what is wrong with it; everything around it is
read as leniently as firmware writes it. What firmware does to user names: DATUM Gateway, doc/usernames.md.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from pool_oracle.errors import PayeeError
from pool_oracle.networks import Network
from pool_oracle.payout.payee import parse_address
from pool_oracle.units import Payee

MAX_USER_LENGTH = 256
MAX_WORKER_NAME = 63
MAX_PASSWORD_LENGTH = 256
TRIMMED_LENGTH = 63
"""Characters of a user name that some firmware keeps (a C buffer of 64). No address that is paid is longer than 44."""

_NO_ADDRESS = re.compile("[^0-9A-Za-z]")
_SEPARATORS = frozenset(string.punctuation + " \t") - {"%"}
_PADDING = " \t\r\n\0"
_CUT_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\Z")
_OPTION = re.compile(r"(?:^|[,;\s])(d|diff|md)\s*=\s*([^,;\s]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?(e[+-]?[0-9]{1,2})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PasswordOptions:
    """Share difficulties that a miner wishes for, None where it said nothing; the pool's own bounds still hold.

    `start`: d= or diff=, the first share difficulty of the connection. `minimum`: md=, below which vardiff should not
    go. `ignored`: what looked like one of them and was no number above zero, for a note to the miner.
    """

    start: Fraction | None = None
    minimum: Fraction | None = None
    ignored: tuple[str, ...] = ()


def parse_user(text: Any, network: Network) -> tuple[Payee, str]:
    """(payee, worker name) of `ADDRESS[.worker]`. Raises PayeeError with a text for the miner's log.

    Percent-encoding is taken off once, spaces around and all from a NUL on are left out. An address holds only ASCII
    letters and digits, so it ends at the first other character: a dot, or what firmware makes of it ("/", "_", "+").
    The name is what is printable of the rest, at most 63 characters; cutting it there does no harm.
    """
    if not isinstance(text, str) or len(text) > MAX_USER_LENGTH:
        raise PayeeError(f"the user name must be ADDRESS[.worker], at most {MAX_USER_LENGTH} characters")
    is_trimmed = len(text) == TRIMMED_LENGTH
    plain = unquote(_CUT_ESCAPE.sub("", text) if is_trimmed else text).strip(_PADDING).partition("\0")[0]
    address = _NO_ADDRESS.split(plain, maxsplit=1)[0]
    rest = plain[len(address) :]
    if address.startswith("0X"):
        address = f"0x{address[2:]}"
    try:
        payee = parse_address(address, network)
    except PayeeError as error:
        hint = _wrong_length(address, network, is_trimmed=is_trimmed and not rest)
        raise PayeeError(f"{error}{hint}") from None
    if rest and rest[0] not in _SEPARATORS:
        raise PayeeError(f"{address!r} is followed by {rest[0]!r}; the user name must be ADDRESS[.worker]")
    name = "".join(character for character in rest[1:] if character.isprintable())
    return payee, name.strip()[:MAX_WORKER_NAME].rstrip()


def parse_password(text: Any) -> PasswordOptions:
    """The options in a password: `d=1024`, `diff=1024`, `md=512`, separated by commas, semicolons or spaces.

    Never an error: miners send "x", "123" or nothing, and no miner is to be locked out by its password. Numbers are
    exact decimals of bounded length, with an exponent of at most two digits; where one is given twice, the last holds.
    """
    if not isinstance(text, str):
        return PasswordOptions()
    wishes: dict[str, Fraction] = {}
    ignored = []
    for option, number in _OPTION.findall(unquote(text[:MAX_PASSWORD_LENGTH])):
        value = Fraction(number) if _NUMBER.fullmatch(number) else Fraction(0)
        if value:
            wishes["md" if option.lower() == "md" else "d"] = value
        else:
            ignored.append(f"{option}={number}")
    return PasswordOptions(wishes.get("d"), wishes.get("md"), tuple(ignored))


def _wrong_length(address: str, network: Network, *, is_trimmed: bool) -> str:
    """The end of a refusal where the address begins like one of the network and has another length, else nothing."""
    key, script = len(network.hrp) + 40, len(network.hrp) + 60
    kinds = {"0x": (42,), f"{network.hrp}1q": (key, script), f"{network.hrp}1p": (script,)}
    lengths = next((lengths for start, lengths in kinds.items() if address.lower().startswith(start)), ())
    if not lengths or len(address) in lengths:
        return ""
    why = f": the miner's firmware trims user names at {TRIMMED_LENGTH}" if is_trimmed else ""
    return f" ({len(address)} characters instead of {' or '.join(map(str, lengths))}{why})"

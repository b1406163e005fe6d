"""Reading values that came from outside, with errors that say which field was wrong and how."""

from __future__ import annotations

import string
from typing import Any

from pool_oracle.errors import InputError

_HEX = frozenset(string.hexdigits)


def hex_bytes(
    text: Any, field: str, *, size: int | None = None, error: type[InputError] = InputError, prefixed: bool = False
) -> bytes:
    """The bytes of a hex text; with `prefixed` it must begin with 0x. Raises `error` naming `field`."""
    if not isinstance(text, str):
        raise error(f"{field} must be a hex string, not {_kind(text)}")
    if not prefixed:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        # fromhex takes white space and we do not; that shows in the length.
        if 2 * len(data) == len(text) and size in (None, len(data)):
            return data
    digits = text
    if prefixed:
        if not text.startswith("0x"):
            raise error(f"{field} must begin with 0x: {_short(text)}")
        digits = text[2:]
    if not _HEX.issuperset(digits):
        raise error(f"{field} must be hex digits: {_short(text)}")
    if len(digits) % 2:
        raise error(f"{field} has an odd number of hex digits: {_short(text)}")
    if size is not None and len(digits) != 2 * size:
        raise error(f"{field} must be {size} bytes ({2 * size} hex digits), not {len(digits)} digits")
    return bytes.fromhex(digits)


def uint32_hex(text: Any, field: str, *, error: type[InputError] = InputError) -> int:
    """The number of exactly eight hex digits. Raises `error` naming `field`."""
    return int.from_bytes(hex_bytes(text, field, size=4, error=error), "big")


def integer(value: Any, field: str, *, error: type[InputError] = InputError) -> int:
    """An integer given as a JSON number or as a decimal string. Raises `error` naming `field`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.lstrip("-").isdigit() and len(value) <= 100:
        try:
            return int(value)
        except ValueError:
            pass
    raise error(f"{field} must be an integer or a decimal string, not {_short(value)}")


def member(value: Any, field: str, *, error: type[InputError] = InputError) -> Any:
    """The member `field` of a JSON object. Raises `error` when it is missing or `value` is no object."""
    if not isinstance(value, dict):
        raise error(f"expected a JSON object with {field!r}, not {_kind(value)}")
    if field not in value:
        raise error(f"field {field!r} is missing")
    return value[field]


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    """The value for a message: at most 80 characters, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

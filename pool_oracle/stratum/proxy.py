"""The PROXY protocol: a load balancer's first bytes, which say for whom it opened the connection. Versions 1 and 2.

Source: HAProxy's proxy-protocol.txt, sections 2.1 and 2.2. Whoever may send this header chooses its own address, so
it is read only where it is configured, only from the balancer's addresses, and there it must come: a connection
without one is refused. Nothing may be sent or believed before the header is whole.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from pool_oracle.errors import InputError

MAX_V1_SIZE = 107
"""Bytes of the longest line of version 1, with its CRLF."""
MAX_V2_SIZE = 4096
"""Bytes of the longest header of version 2 read here. Addresses and the usual extras stay below 600."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_PREFIX = struct.Struct(">12sBBH")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_SIZES = {0: 0, 1: 12, 2: 36, 3: 216}
"""Bytes of both addresses and ports by family: unspecified, IPv4, IPv6, UNIX."""
_LAST_TRANSPORT = 2
_TLV_CRC32C = 0x03


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header of `size` bytes, after which the miner's own begin.

    `source` is the miner's address and port. None: the balancer speaks for itself (a health check) or does not know;
    then the connection's own address holds.
    """

    size: int
    source: tuple[str, int] | None


def parse_proxy_header(data: bytes | bytearray) -> ProxyHeader | None:
    """The header that `data`, all bytes received so far, begins with; None while it is not whole.

    Raises InputError as soon as the bytes cannot become a header; the connection is then to be aborted.
    """
    head = bytes(data[: _PREFIX.size])
    if _V2.startswith(head[: len(_V2)]):
        return _parse_v2(head, data) if len(head) == _PREFIX.size else None
    if _V1.startswith(head[: len(_V1)]):
        return _parse_v1(bytes(data[:MAX_V1_SIZE]))
    raise InputError(f"no PROXY header: the connection begins with {head!r}; is it a balancer's?")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data.partition(b"\r\n")
    if b"\n" in line or b"\r" in line[: None if end else -1]:
        raise InputError("a PROXY line ends with CRLF, not with one of the two")
    if not end:
        if len(data) < MAX_V1_SIZE:
            return None
        raise InputError(f"a PROXY line has at most {MAX_V1_SIZE} bytes")
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(len(line) + 2, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise InputError(f"a PROXY line is TCP4 or TCP6, two addresses and two ports, or UNKNOWN; not {line!r}")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    source, _ = (_v1_address(word, kind) for word in words[2:4])
    port, _ = (_v1_port(word) for word in words[4:6])
    return ProxyHeader(len(line) + 2, (source, port))


def _v1_address(word: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        address = kind(word.decode("ascii"))
    except (AddressValueError, UnicodeDecodeError):
        address = None
    if address is None or b"%" in word:
        raise InputError(f"{word!r} in a PROXY line is no address of its family")
    return str(address)


def _v1_port(word: bytes) -> int:
    if not _PORT.fullmatch(word) or int(word) >= 1 << 16:
        raise InputError(f"{word!r} in a PROXY line is no port: 0 to 65535 without leading zeros")
    return int(word)


def _parse_v2(head: bytes, data: bytes | bytearray) -> ProxyHeader | None:
    _, command, kind, length = _PREFIX.unpack(head)
    size = _PREFIX.size + length
    if command not in (_LOCAL, _PROXY):
        raise InputError(f"a PROXY header has version and command 0x20 or 0x21, not {command:#04x}")
    if size > MAX_V2_SIZE:
        raise InputError(f"a PROXY header of {size} bytes is longer than {MAX_V2_SIZE}")
    if command == _PROXY:
        _check_kind(kind, length)
    if len(data) < size:
        return None
    return ProxyHeader(size, _v2_source(bytes(data[:size]), kind) if command == _PROXY else None)


def _check_kind(kind: int, length: int) -> None:
    """The high half of `kind` is the address family, the low one the transport."""
    family, transport = kind >> 4, kind & 15
    if family not in _ADDRESS_SIZES or transport > _LAST_TRANSPORT:
        raise InputError(f"a PROXY header has address family and transport {kind:#04x}, which do not exist")
    if length < _ADDRESS_SIZES[family]:
        raise InputError(f"a PROXY header has {length} bytes of addresses; its family has {_ADDRESS_SIZES[family]}")


def _v2_source(header: bytes, kind: int) -> tuple[str, int] | None:
    start = _PREFIX.size
    if kind >> 4:
        _check_tlvs(header, start + _ADDRESS_SIZES[kind >> 4])
    if kind == _TCP4:
        return str(IPv4Address(header[start : start + 4])), _port_at(header, start + 8)
    if kind == _TCP6:
        return str(IPv6Address(header[start : start + 16])), _port_at(header, start + 32)
    return None


def _port_at(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 2], "big")


def _check_tlvs(header: bytes, offset: int) -> None:
    """Walk the extras: each fits, and a checksum is right. Their contents are nothing to a pool."""
    while offset < len(header):
        start = offset + 3
        end = start + int.from_bytes(header[offset + 1 : start], "big")
        if end > len(header):
            raise InputError(f"extra {header[offset]:#04x} of a PROXY header reaches beyond its end")
        if header[offset] == _TLV_CRC32C:
            zeroed = header[:start] + bytes(end - start) + header[end:]
            if header[start:end] != _crc32c(zeroed).to_bytes(4, "big"):
                raise InputError("the checksum of a PROXY header is wrong")
        offset = end


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). Source: RFC 4960, appendix B; RFC 3720, B.4 has test vectors."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_OF_BYTE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc32c_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC32C_OF_BYTE = tuple(_crc32c_of_byte(value) for value in range(256))

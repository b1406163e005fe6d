"""The PROXY protocol: headers as HAProxy, AWS and others send them, and what is none."""

from __future__ import annotations

import pytest

from pool_oracle.errors import InputError
from pool_oracle.stratum.proxy import MAX_V1_SIZE, MAX_V2_SIZE, ProxyHeader, _crc32c, parse_proxy_header

SIGNATURE = "0d0a0d0a000d0a515549540a"
REQUEST = b'{"id":1,"method":"mining.subscribe","params":[]}\n'
AWS = SIGNATURE + (
    "21110054ac1f0771ac1f0a1fc8f20050"
    "030004e8d6892d"
    "ea001701767063652d30386432626631356661633530303163390400240000000000000000"
    "00000000000000000000000000000000000000000000000000000000"
)
"""What an AWS network load balancer sends: a checksum, its endpoint's name, padding."""


def v2(command_and_kind: str, body: str) -> bytes:
    """A header of version 2 with the right length."""
    return bytes.fromhex(f"{SIGNATURE}{command_and_kind}{len(body) // 2:04x}{body}")


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", ("192.168.0.1", 56324)),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
        (b"PROXY TCP6 2001:DB8::1 ::1 0 3333\r\n", ("2001:db8::1", 0)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ("::ffff:c000:201", 1)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", None),
        (b"PROXY UNKNOWN whatever stands here\r\n", None),
    ],
)
def test_a_line_of_version_1_names_the_miner(line: bytes, source: tuple[str, int] | None) -> None:
    assert len(line) <= MAX_V1_SIZE
    assert parse_proxy_header(line) == ProxyHeader(len(line), source)
    assert parse_proxy_header(bytearray(line + REQUEST)) == ProxyHeader(len(line), source)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n", "ends with CRLF"),
        (b"PROXY TCP4 192.168.0.1\r192.168.0.11 56324 443\r\n", "ends with CRLF"),
        (b"PROXY UNKNOWN \n\r\n", "ends with CRLF"),
        (b"PROXY UNKNOWN\r\r\n", "ends with CRLF"),
        (b"PROXY UNKNOWN " + b"x" * 93, "at most 107 bytes"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "at most 107 bytes"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", "two addresses and two ports"),
        (b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "two addresses and two ports"),
        (b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", "is TCP4 or TCP6"),
        (b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n", "is TCP4 or TCP6"),
        (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "is TCP4 or TCP6"),
        (b"PROXY \r\n", "is TCP4 or TCP6"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "b'::1' in a PROXY line is no address of its family"),
        (b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", "no address of its family"),
        (b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", "no address of its family"),
        (b"PROXY TCP4 1.2.3.4 5.6.7 1 2\r\n", "b'5.6.7' in a PROXY line is no address"),
        (b"PROXY TCP4 1.2.3.\xb2 5.6.7.8 1 2\r\n", "no address of its family"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "no address of its family"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", "b'65536' in a PROXY line is no port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 02\r\n", "b'02' in a PROXY line is no port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", "no port"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8  2\r\n", "no port"),
    ],
)
def test_a_line_of_version_1_that_is_not_exactly_as_it_must_be_is_refused(line: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_proxy_header(line + REQUEST)


@pytest.mark.parametrize(
    ("header", "source"),
    [
        (v2("2111", "ac130001ac130003a6520050"), ("172.19.0.1", 42578)),
        (v2("2111", "7f0000017f000001d6ec22b3" "20001f0700000000" "210007544c5376312e33"
                    "22000d6c69676874686f7573652d3939"), ("127.0.0.1", 55020)),
        (v2("2111", "0a0000040a000005842022b8" "20000b0100000000210003312e32"), ("10.0.0.4", 33824)),
        (bytes.fromhex(AWS), ("172.31.7.113", 51442)),
        (v2("2121", "20010db8" + "00" * 11 + "01" + "00" * 15 + "01" + "dc040d05"), ("2001:db8::1", 56324)),
        (v2("2000", ""), None),
        (v2("20ff", "0102"), None),
        (v2("2011", "ac130001ac130003a6520050"), None),
        (v2("2100", ""), None),
        (v2("2100", "00112233"), None),
        (v2("2112", "ac130001ac130003a6520050"), None),
        (v2("2131", "2f" * 216), None),
    ],
    ids=["haproxy", "haproxy TLS", "jetty TLS", "aws", "ipv6", "local", "local odd", "local address", "unspecified",
         "unspecified extras", "udp", "unix"],
)  # fmt: skip
def test_a_header_of_version_2_names_the_miner_or_nobody(header: bytes, source: tuple[str, int] | None) -> None:
    assert parse_proxy_header(header) == ProxyHeader(len(header), source)
    assert parse_proxy_header(bytearray(header + REQUEST)) == ProxyHeader(len(header), source)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (v2("1111", "ac130001ac130003a6520050"), "0x20 or 0x21, not 0x11"),
        (v2("2211", "ac130001ac130003a6520050"), "0x20 or 0x21, not 0x22"),
        (v2("2141", "00" * 300), "0x41, which do not exist"),
        (v2("2113", "ac130001ac130003a6520050"), "0x13, which do not exist"),
        (v2("2111", "ac130001ac130003a652"), "10 bytes of addresses; its family has 12"),
        (v2("2121", "00" * 35), "35 bytes of addresses; its family has 36"),
        (v2("2131", "00" * 215), "its family has 216"),
        (v2("2111", "00" * (MAX_V2_SIZE - 15)), f"of {MAX_V2_SIZE + 1} bytes is longer than {MAX_V2_SIZE}"),
        (v2("2000", "00" * 0xFFFF), "longer than"),
        (v2("2111", "ac130001ac130003a6520050" "0400"), "extra 0x04 of a PROXY header reaches beyond its end"),
        (v2("2111", "ac130001ac130003a6520050" "04000100" "ea0001"), "extra 0xea of a PROXY header"),
        (v2("2111", "ac130001ac130003a6520050" "03000400000000"), "checksum of a PROXY header is wrong"),
        (v2("2111", "ac130001ac130003a6520050" "0300020000"), "checksum of a PROXY header is wrong"),
    ],
)  # fmt: skip
def test_a_header_of_version_2_that_is_malformed_is_refused(header: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_proxy_header(header)


def test_a_checked_header_with_any_other_bit_is_refused() -> None:
    header = bytearray.fromhex(AWS)
    checksum_kind = 16 + 12
    for bit in range(8 * 16, 8 * len(header)):
        if bit // 8 != checksum_kind:
            header[bit // 8] ^= 1 << bit % 8
            with pytest.raises(InputError):
                parse_proxy_header(header)
            header[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    "data",
    [
        REQUEST,
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\r\n{",
        b"\r\n\r\n\x00\r\nQUIT\r",
        b"PROXY\r\n",
        b"proxy ",
    ],
)
def test_a_connection_without_a_header_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    with pytest.raises(InputError, match=r"no PROXY header: .* is it a balancer's"):
        parse_proxy_header(data)


@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b"P", b"PROXY TCP4 1.2.3.4", b"PROXY UNKNOWN\r", bytes.fromhex(AWS)[:-1]]
)
def test_more_bytes_are_awaited_while_a_header_may_come(data: bytes) -> None:
    assert parse_proxy_header(data) is None


def test_the_checksum_is_crc32c() -> None:
    assert _crc32c(bytes(32)) == 0x8A9136AA
    assert _crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _crc32c(bytes(range(32))) == 0x46DD794E
    assert _crc32c(b"123456789") == 0xE3069283

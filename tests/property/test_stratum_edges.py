"""What comes over the wire before any share does, and what an attacker can make of the limits: nothing that grows."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pool_oracle.errors import InputError, PayeeError
from pool_oracle.networks import NETWORKS
from pool_oracle.payout.payee import address_of
from pool_oracle.stratum.limits import SECOND, AddressSet, Bucket, Gate, InvalidShares, LimitSettings
from pool_oracle.stratum.proxy import MAX_V1_SIZE, MAX_V2_SIZE, ProxyHeader, _crc32c, parse_proxy_header
from pool_oracle.stratum.users import MAX_USER_LENGTH, MAX_WORKER_NAME, parse_password, parse_user

networks = st.sampled_from(list(NETWORKS.values()))
payees = st.builds(
    lambda kind, digest: bytes((kind,)) + digest, st.integers(0, 2), st.binary(min_size=20, max_size=20).filter(any)
)
anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text()))
worker_names = st.text(max_size=MAX_WORKER_NAME).map(lambda text: "".join(filter(str.isprintable, text)).strip())


# User names and passwords


@given(payees, networks, worker_names, st.sampled_from("./_+-:~ "), st.sampled_from(["", " ", "\0", " \r\n", "\0\0"]))
@settings(max_examples=300)
def test_a_user_name_survives_separators_and_padding(payee, network, name, separator, padding):
    assume("%" not in name)
    text = f"{padding.strip(chr(0))}{address_of(payee, network)}{separator}{name}{padding}"
    assert parse_user(text, network) == (payee, name)


@given(payees, networks, worker_names)
@settings(max_examples=300)
def test_a_user_name_survives_percent_encoding(payee, network, name):
    text = quote(f"{address_of(payee, network)}.{name}", safe="")
    assume(len(text) <= MAX_USER_LENGTH)
    assert parse_user(text, network) == (payee, name)


@given(payees, networks, st.text("abc-0", min_size=30, max_size=40), st.integers(0, 80))
@settings(max_examples=300)
def test_a_user_name_cut_anywhere_is_the_same_payee_or_refused(payee, network, name, length):
    address = address_of(payee, network)
    cut = f"{address}.{name}"[:length]
    if length >= len(address):
        assert parse_user(cut, network) == (payee, cut[len(address) + 1 :])
    else:
        with pytest.raises(PayeeError):
            parse_user(cut, network)


@given(payees.filter(lambda payee: payee[0] != 0), networks, st.data())
@settings(max_examples=300)
def test_an_address_with_one_character_changed_pays_nobody_else(payee, network, data):
    address = address_of(payee, network)
    place = data.draw(st.integers(0, len(address) - 1))
    with suppress(PayeeError):
        found, _ = parse_user(f"{address[:place]}{data.draw(st.characters())}{address[place + 1 :]}.rig", network)
        assert found == payee


@given(st.one_of(anything, st.text(max_size=300)), networks)
@settings(max_examples=400)
def test_anything_is_a_payee_with_a_printable_worker_or_refused_in_one_line(value, network):
    problem = ""
    try:
        payee, name = parse_user(value, network)
    except PayeeError as error:
        problem = str(error)
    else:
        assert len(payee) == 21
        assert name.isprintable()
        assert len(name) <= MAX_WORKER_NAME
    assert "\n" not in problem


@given(st.one_of(anything, st.text("d=mf,; \t.0123456789eE+-%x", max_size=60)))
@settings(max_examples=600)
def test_any_password_is_understood_or_ignored(value):
    options = parse_password(value)
    for wish in (options.start, options.minimum):
        assert wish is None or (wish > 0 and max(wish.numerator, wish.denominator).bit_length() < 512)
    assert sum(map(len, options.ignored)) <= 512


@given(
    st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1), st.integers(-99, 99), st.sampled_from(["d", "DIFF", "md"])
)
@settings(max_examples=300)
def test_a_decimal_is_read_exactly(whole, decimals, exponent, key):
    value = (whole + Fraction(decimals, 10**18)) * Fraction(10) ** exponent
    options = parse_password(f"x;{key}={whole}.{decimals:018d}e{exponent},y")
    assert (options.minimum if key == "md" else options.start) == (value or None)


# The PROXY protocol

ports = st.integers(0, 0xFFFF)
addresses = st.one_of(
    st.tuples(*[st.integers(0, 2**32 - 1).map(IPv4Address)] * 2),
    st.tuples(*[st.integers(0, 2**128 - 1).map(IPv6Address)] * 2),
)
extras = st.lists(st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=40)), max_size=4)


def v2_header(ends: tuple, source_port: int, port: int, tlvs: list[tuple[int, bytes]], checked: bool) -> bytes:
    """A header of version 2; `checked`: with a checksum as its first extra."""
    source, destination = ends
    body = source.packed + destination.packed + source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    place = 16 + len(body) + 3
    for kind, value in ([(3, bytes(4))] if checked else []) + tlvs:
        body += bytes((kind,)) + len(value).to_bytes(2, "big") + value
    family = 0x11 if source.version == 4 else 0x21
    header = b"\r\n\r\n\0\r\nQUIT\n\x21" + bytes((family,)) + len(body).to_bytes(2, "big") + body
    return header[:place] + _crc32c(header).to_bytes(4, "big") + header[place + 4 :] if checked else header


def v1_header(ends: tuple, source_port: int, port: int) -> bytes:
    family = "TCP4" if ends[0].version == 4 else "TCP6"
    return f"PROXY {family} {ends[0]} {ends[1]} {source_port} {port}\r\n".encode()


headers = st.one_of(
    st.builds(v1_header, addresses, ports, ports), st.builds(v2_header, addresses, ports, ports, extras, st.booleans())
)


@st.composite
def nearly_headers(draw):
    """A header with some of its bytes changed, left out or doubled."""
    data = bytearray(draw(headers) + draw(st.binary(max_size=20)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


def outcome(data: bytes) -> ProxyHeader | str | None:
    """What the parser makes of it; every refusal is the same."""
    try:
        return parse_proxy_header(data)
    except InputError:
        return "refused"


@given(addresses, ports, ports, extras, st.booleans(), st.binary(max_size=50))
@settings(max_examples=300)
def test_a_header_is_read_and_what_follows_is_left(ends, source_port, port, tlvs, checked, rest):
    for header in (v1_header(ends, source_port, port), v2_header(ends, source_port, port, tlvs, checked)):
        found = parse_proxy_header(header + rest)
        assert found == ProxyHeader(len(header), (str(ends[0]), source_port))


@given(st.one_of(st.binary(max_size=200), nearly_headers()))
@settings(max_examples=600)
def test_bytes_one_by_one_are_read_like_all_at_once(data):
    parts = (outcome(data[:length]) for length in range(len(data) + 1))
    assert next((part for part in parts if part is not None), None) == outcome(data)


@given(st.one_of(st.binary(max_size=200), nearly_headers()), st.binary(min_size=1, max_size=8))
@settings(max_examples=200)
def test_no_sender_keeps_the_parser_waiting_for_more_than_the_longest_header(data, rest):
    found = outcome(data + rest * MAX_V2_SIZE)
    assert found is not None
    if isinstance(found, ProxyHeader):
        assert 0 < found.size <= (MAX_V1_SIZE if data.startswith(b"P") else MAX_V2_SIZE)


# Limits


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_an_address_or_refused(text):
    gate = Gate(LimitSettings())
    for use in (
        lambda: text in AddressSet(["10.0.0.0/8"]),
        lambda: gate.admit(text, 0),
        lambda: gate.strike(text, "", 0),
    ):
        with suppress(InputError):
            use()


@given(
    st.integers(1, 1000),
    st.integers(0, 100),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 60)), max_size=40),
)
@settings(max_examples=300)
def test_a_bucket_is_the_token_bucket_of_the_textbook(unit, burst, steps):
    now, tokens = 0, Fraction(burst)
    bucket = Bucket(unit, burst, now)
    for pause, cost in steps:
        now += pause
        tokens = min(Fraction(burst), tokens + Fraction(pause, unit)) - cost
        assert bucket.spend(cost, now) == bucket.wait_ns(now) == max(0, -tokens * unit)


series = st.tuples(st.sampled_from([None, 20, 21, 22, 23]), st.integers(1, 40), st.integers(0, 4))


@given(st.integers(50, 60), st.lists(series, max_size=20))
@settings(max_examples=200)
def test_the_meter_of_invalid_shares_counts_the_last_ones(window, runs):
    meter = InvalidShares(LimitSettings(share_window=window))
    weights: list[int] = []
    now, since = 0, None
    for code, pause in ((code, pause) for code, count, pause in runs for _ in range(count)):
        now += pause * SECOND
        weights.append({None: 0, 21: 1}.get(code, 4))
        is_above = len(weights) >= window and 2 * sum(weights[-window:]) > 4 * window
        since = (now if since is None else since) if is_above else None
        assert (meter.add(code, now) is not None) == (since is not None and now - since >= 10 * SECOND)


@given(st.lists(st.sampled_from([None, 21]), max_size=300))
@settings(max_examples=100)
def test_a_miner_that_is_only_late_is_never_told_off(codes):
    meter = InvalidShares(LimitSettings())
    assert [meter.add(code, number * 60 * SECOND) for number, code in enumerate(codes)] == [None] * len(codes)


SMALL = LimitSettings(
    max_connections=6,
    max_connections_per_address=3,
    openings_per_minute_per_address=20,
    max_remembered_addresses=4,
    exempt_networks=("10.0.0.0/8",),
)
visitors = st.one_of(
    st.sampled_from(
        ["203.0.113.1", "203.0.113.2", "::ffff:203.0.113.1", "127.0.0.1", "10.1.1.1", "2001:db8::1", "2001:db8::2"]
    ),
    st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
)
acts = st.tuples(st.sampled_from(["admit", "admit", "release", "strike"]), visitors, st.integers(0, 400 * SECOND))


@given(st.lists(acts, max_size=120))
@settings(max_examples=300)
def test_whatever_comes_the_gate_keeps_count_and_stays_small(steps):
    gate, now, admitted = Gate(SMALL), 0, []
    for act, address, pause in steps:
        now += pause
        if act == "admit":
            refusal = gate.admit(address, now)
            assert refusal is None or (refusal and "\n" not in refusal)
            if refusal is None:
                admitted.append(address)
        elif act == "release" and admitted:
            gate.release(admitted.pop(len(address) % len(admitted)))
        elif act == "strike":
            said = gate.strike(address, "noise", now)
            assert said.endswith(": noise")
            if "is banned" in said:
                assert gate.admit(address, now) is not None
        assert gate.connections == len(admitted) <= SMALL.max_connections
        assert len(gate._present) <= SMALL.max_connections
        assert len(gate._past) <= SMALL.max_remembered_addresses
        assert not gate._present.keys() & gate._past.keys()
        counted = [address for address in admitted if not gate._origin(address)[1]]
        assert sum(visitor.open for visitor in gate._present.values()) == len(counted)
        assert all(0 < visitor.open <= SMALL.max_connections_per_address for visitor in gate._present.values())

"""Payees and addresses on every network, with bitcoinlib as the second opinion."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.errors import PayeeError
from pool_oracle.networks import NETWORKS
from pool_oracle.payout.addresses import decode_base58check, decode_segwit, encode_base58check, encode_segwit
from pool_oracle.payout.payee import address_of, check_payee, format_payee, parse_address, parse_payee

digests = st.binary(min_size=20, max_size=20).filter(any)
kinds = st.sampled_from([0, 1, 2])
payees = st.builds(lambda kind, digest: bytes((kind,)) + digest, kinds, digests)
networks = st.sampled_from(list(NETWORKS.values()))
odd_texts = st.one_of(
    st.text(max_size=100),
    st.text("0123456789abcdefABCDEF", max_size=44).map(lambda text: f"0x{text}"),
    st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l", max_size=60).map(lambda text: f"bc1{text}"),
    st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=60),
)


@given(payees)
@settings(max_examples=200)
def test_a_payee_survives_the_way_to_text_and_back(payee):
    assert parse_payee(format_payee(payee)) == payee == check_payee(payee)


@given(payees, networks)
@settings(max_examples=300)
def test_a_payee_survives_the_way_to_its_address_and_back(payee, network):
    address = address_of(payee, network)
    assert parse_address(address, network) == payee
    assert parse_payee(address, network) == payee
    if payee[0] == 1:
        assert parse_address(address.upper(), network) == payee


@given(digests, networks, networks)
@settings(max_examples=200)
def test_an_address_is_accepted_only_where_its_prefix_is_in_use(digest, network, other):
    cases = [
        (encode_segwit(network.hrp, 0, digest), network.hrp == other.hrp, 1),
        (encode_base58check(network.p2pkh[0], digest), network.p2pkh[0] in other.p2pkh, 1),
        (encode_base58check(network.p2sh[0], digest), network.p2sh[0] in other.p2sh, 2),
    ]
    for address, accepted, kind in cases:
        if accepted:
            assert parse_address(address, other) == bytes((kind,)) + digest
        else:
            with pytest.raises(PayeeError):
                parse_address(address, other)


@given(odd_texts, st.one_of(st.none(), networks))
@settings(max_examples=400)
def test_any_text_is_a_payee_or_refused_in_one_line(text, network):
    problem = ""
    try:
        payee = parse_payee(text, network)
    except PayeeError as error:
        problem = str(error)
    else:
        assert check_payee(payee) == payee
    assert "\n" not in problem


@given(payees, networks, st.data())
@settings(max_examples=300)
def test_an_address_with_one_character_changed_names_nobody_else(payee, network, data):
    address = address_of(payee, network)
    place = data.draw(st.integers(0, len(address) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    changed = address[:place] + character + address[place + 1 :]
    try:
        found = parse_address(changed, network)
    except PayeeError:
        return
    # All that may change is the case of an EVM address without letters that could tell, or nothing at all.
    assert found == payee or (payee[0] == 0 and changed[2:] in (changed[2:].lower(), changed[2:].upper()))


@given(st.integers(0, 255), st.binary(min_size=20, max_size=20))
@settings(max_examples=300)
def test_base58_is_bitcoinlibs_too(bitcoinlib_encoding, version, digest):
    address = encode_base58check(version, digest)
    assert decode_base58check(address) == (version, digest)
    # As hex, since it takes bytes that happen to be hex digits for hex.
    assert bitcoinlib_encoding.pubkeyhash_to_addr_base58(digest.hex(), prefix=f"{version:02x}") == address
    assert bitcoinlib_encoding.addr_base58_to_pubkeyhash(address) == digest


@given(networks, st.binary(min_size=20, max_size=20))
@settings(max_examples=300)
def test_bech32_is_bitcoinlibs_too(bitcoinlib_encoding, network, digest):
    address = encode_segwit(network.hrp, 0, digest)
    assert decode_segwit(address, network.hrp) == (0, digest)
    assert bitcoinlib_encoding.pubkeyhash_to_addr_bech32(digest.hex(), prefix=network.hrp, witver=0) == address
    assert bitcoinlib_encoding.addr_bech32_to_pubkeyhash(address, prefix=network.hrp) == digest


@given(networks, st.integers(0, 16), st.binary(min_size=2, max_size=40))
@settings(max_examples=300)
def test_any_witness_program_survives_the_way_to_its_address_and_back(network, version, program):
    assert decode_segwit(encode_segwit(network.hrp, version, program), network.hrp) == (version, program)

"""Payees and addresses, against payee.json."""

from __future__ import annotations

import random

import pytest

from pool_oracle.errors import InputError, PayeeError
from pool_oracle.networks import NETWORKS, network_named
from pool_oracle.payout.addresses import MAX_ADDRESS_LENGTH, encode_base58check, encode_segwit
from pool_oracle.payout.payee import (
    address_of,
    check_payee,
    checksum_address,
    format_payee,
    is_maybe_unlinkable,
    parse_address,
    parse_payee,
    payee_of_account,
    payee_of_key,
)

REASONS = {
    "evm: EIP-55 checksum": "EIP-55",
    "evm: form": "40 hex digits",
    "base58: character": "is not base58",
    "base58: checksum": "the base58 checksum is wrong",
    "base58: length": "an address holds 21",
    "bech32: checksum": "the bech32 checksum is wrong",
    "bech32: mixed case": "does not mix upper and lower case",
    "bech32: character": "is not bech32",
    "wrong network": "is an address of",
    "wrong network or version byte": "version byte",
}


@pytest.mark.cases("payee", "keys")
def test_a_key_has_the_payees_and_addresses_of_the_vectors(case, unhex):
    compressed, uncompressed = unhex(case["publicKey"]), unhex(case["publicKeyUncompressed"])
    assert format_payee(payee_of_account(unhex(case["evmAddress"]))) == case["payeeEvm"]
    assert format_payee(payee_of_key(compressed)) == case["payeeKey"]
    assert format_payee(payee_of_key(uncompressed)) == case["payeeKeyUncompressed"]
    assert format_payee(payee_of_key(compressed, nested=True)) == case["payeeNested"]
    for name, addresses in case["addresses"].items():
        network = network_named(name)
        assert address_of(payee_of_key(compressed), network) == addresses["p2wpkh"]
        assert encode_base58check(network.p2pkh[0], payee_of_key(compressed)[1:]) == addresses["p2pkh"]
        assert encode_base58check(network.p2pkh[0], payee_of_key(uncompressed)[1:]) == addresses["p2pkhUncompressed"]


@pytest.mark.cases("payee", "valid")
def test_an_address_names_its_payee(case):
    assert format_payee(parse_address(case["address"], network_named(case["network"]))) == case["payee"]


@pytest.mark.cases("payee", "valid")
def test_an_address_needs_no_network_where_any_will_do(case):
    assert format_payee(parse_payee(case["address"])) == case["payee"]


@pytest.mark.cases("payee", "valid")
def test_the_address_of_a_payee_names_it_again(case):
    network = network_named(case["network"])
    payee = parse_payee(case["payee"])
    assert parse_address(address_of(payee, network), network) == payee


@pytest.mark.cases("payee", "invalid")
def test_a_refused_address_is_refused_with_its_reason(case):
    with pytest.raises(PayeeError) as caught:
        parse_address(case["address"], network_named(case["network"]))
    text = str(caught.value)
    assert "\n" not in text
    if case["address"] == "":
        assert "empty" in text
    elif case["reason"] in REASONS:
        assert REASONS[case["reason"]] in text


def test_taproot_is_refused_with_words_that_say_so(vectors):
    taproot = next(case for case in vectors("payee")["invalid"] if "P2TR" in case["name"])
    with pytest.raises(PayeeError, match="Taproot"):
        parse_address(taproot["address"], network_named(taproot["network"]))


def test_the_zero_address_is_refused_in_every_form():
    for text in ("0x" + "00" * 20, "0x" + "00" * 21):
        with pytest.raises(PayeeError, match="zero address"):
            parse_payee(text, NETWORKS["main"])


@pytest.mark.cases("payee", "same_payee")
def test_one_key_is_one_payee_however_its_address_is_written(case):
    network = network_named(case["network"])
    assert {format_payee(parse_address(address, network)) for address in case["addresses"]} == {case["payee"]}


def test_payees_ascend_as_bytes(vectors, unhex):
    order = vectors("payee")["order"]
    payees = [unhex(text) for text in order["unsorted"]]
    random.Random(1).shuffle(payees)
    assert [f"0x{payee.hex()}" for payee in sorted(payees)] == order["sorted"]


def test_an_address_of_another_network_is_told_which():
    with pytest.raises(PayeeError, match="is an address of litecoin; this is main"):
        parse_address(encode_segwit("ltc", 0, b"\x01" * 20), NETWORKS["main"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_version_byte_of_a_network_is_accepted(name):
    network = NETWORKS[name]
    for version in network.p2pkh:
        assert parse_address(encode_base58check(version, b"\x07" * 20), network) == b"\x01" + b"\x07" * 20
    for version in network.p2sh:
        assert parse_address(encode_base58check(version, b"\x07" * 20), network) == b"\x02" + b"\x07" * 20


@pytest.mark.parametrize("version", range(1, 17))
@pytest.mark.parametrize("size", [2, 20, 32, 40])
def test_no_witness_version_above_0_is_paid(version, size):
    with pytest.raises(PayeeError):
        parse_address(encode_segwit("bc", version, b"\x07" * size), NETWORKS["main"])


@pytest.mark.parametrize("size", [2, 19, 21, 32, 40])
def test_no_witness_program_but_one_of_20_bytes_is_paid(size):
    with pytest.raises(PayeeError):
        parse_address(encode_segwit("bc", 0, b"\x07" * size), NETWORKS["main"])


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1" * 30,
        "bc1",
        "bc1q",
        "bc1" + "q" * 6,
        "BC1",
        "0x",
        "0X" + "11" * 20,
        "0x" + "11" * 20 + "\n",
        " 0x" + "11" * 20,
        "x" * (MAX_ADDRESS_LENGTH + 1),
        "1LGacEjQ7jJHoghMEiHUZzp18uvqFdxFd\uff18",
        "\x00",
        "\ud800",
        "bc1q6dw2a7qrdqm75dkjmcxvd2tt23d6wxlkagtlat\u0661",
    ],
)
def test_odd_texts_are_refused_in_one_line(text):
    for network in [None, *NETWORKS.values()]:
        with pytest.raises(PayeeError) as caught:
            parse_payee(text, network)
        assert str(caught.value).isprintable()


def test_every_single_wrong_character_of_an_address_is_noticed(vectors):
    key = vectors("payee")["keys"][0]
    network = network_named("main")
    for form in ("p2pkh", "p2wpkh"):
        address = key["addresses"]["main"][form]
        for place in range(len(address)):
            for other in "2q9zA":
                wrong = address[:place] + other + address[place + 1 :]
                if wrong == address:
                    continue
                with pytest.raises(PayeeError):
                    parse_address(wrong, network)


@pytest.mark.parametrize(
    "address",
    [
        # BIP-173's own examples: more than four bits of padding, padding that is not zero.
        "bc1zw508d6qejxtdg4y5r3zarvaryvqyzf3du",
        "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3pjxtptv",
    ],
)
def test_padding_that_is_too_long_or_not_zero_is_refused(address):
    with pytest.raises(PayeeError):
        parse_payee(address)


def bech32(hrp, digits):
    """Five-bit digits with their checksum, after BIP-173's reference: whatever they stand for."""
    residue = 1
    expanded = [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
    for value in [*expanded, *digits, 0, 0, 0, 0, 0, 0]:
        top = residue >> 25
        residue = (residue & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            residue ^= generator if top >> i & 1 else 0
    checksum = [(residue ^ 1) >> 5 * (5 - i) & 31 for i in range(6)]
    return f"{hrp}1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[digit] for digit in [*digits, *checksum])


def test_a_digit_more_than_twenty_bytes_need_makes_no_second_address_of_a_payee():
    digits = [0, *range(32)]
    assert parse_address(bech32("bc", digits), NETWORKS["main"])[0] == 1
    for more in range(32):
        with pytest.raises(PayeeError, match="padding"):
            parse_address(bech32("bc", [*digits, more]), NETWORKS["main"])


@pytest.mark.parametrize(
    ("name", "key", "script"),
    [
        ("main", "bc1q", "3"),
        ("test", "tb1q", "2"),
        ("signet", "tb1q", "2"),
        ("regtest", "bcrt1q", "2"),
        ("litecoin", "ltc1q", "M"),
        ("litecoin-test", "tltc1q", "Q"),
        ("litecoin-regtest", "rltc1q", "Q"),
    ],
)
def test_addresses_begin_as_the_wallets_of_their_network_write_them(name, key, script):
    for byte in (b"\x00", b"\x77", b"\xff"):
        assert address_of(b"\x01" + byte * 20, NETWORKS[name]).startswith(key)
        assert address_of(b"\x02" + byte * 20, NETWORKS[name]).startswith(script)


def test_hex_of_a_payee_is_read_in_either_case():
    text = "0x01" + "ab" * 20
    assert parse_payee(text) == parse_payee("0x01" + "AB" * 20) == bytes.fromhex(text[2:])


@pytest.mark.parametrize(("payee", "word"), [(b"", "21 bytes"), (bytes(20), "21"), (b"\x03" + bytes(20), "kind 0x03")])
def test_bytes_that_are_no_payee_are_refused(payee, word):
    with pytest.raises(PayeeError, match=word):
        check_payee(payee)


def test_an_account_of_another_length_is_refused():
    with pytest.raises(PayeeError, match="20 bytes, not 19"):
        payee_of_account(b"\x01" * 19)


@pytest.mark.parametrize(
    "address",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
    ],
)
def test_the_examples_of_eip_55_hold(address):
    assert checksum_address(bytes.fromhex(address[2:])) == address


def test_only_a_p2sh_payee_may_be_unlinkable():
    assert [is_maybe_unlinkable(bytes((kind,)) + b"\x01" * 20) for kind in (0, 1, 2)] == [False, False, True]


@pytest.mark.parametrize("name", ["", "mainnet", None, 5, [], {}])
def test_an_unknown_network_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match="main, test, signet, regtest"):
        network_named(name)

"""User names and passwords as people and firmware write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pool_oracle.errors import PayeeError
from pool_oracle.networks import NETWORKS
from pool_oracle.payout.addresses import encode_base58check, encode_segwit
from pool_oracle.payout.payee import checksum_address
from pool_oracle.stratum.users import PasswordOptions, parse_password, parse_user

MAIN, REGTEST = NETWORKS["main"], NETWORKS["regtest"]
DIGEST = bytes(range(1, 21))
ACCOUNT = checksum_address(DIGEST)
KEY = encode_segwit("bc", 0, DIGEST)
OLD_KEY = encode_base58check(0x00, DIGEST)
NESTED = encode_base58check(0x05, DIGEST)
TAPROOT = encode_segwit("bc", 1, bytes(32))
PAYEE_OF = {ACCOUNT: b"\x00", KEY: b"\x01", OLD_KEY: b"\x01", NESTED: b"\x02"}


@pytest.mark.parametrize("address", PAYEE_OF)
def test_every_kind_of_address_is_a_payee_with_and_without_a_worker(address: str) -> None:
    payee = PAYEE_OF[address] + DIGEST
    assert parse_user(address, MAIN) == (payee, "")
    assert parse_user(f"{address}.", MAIN) == (payee, "")
    assert parse_user(f"{address}.rig1", MAIN) == (payee, "rig1")
    assert parse_user(f"{address}.farm.rack 3.rig-1_a", MAIN) == (payee, "farm.rack 3.rig-1_a")


@pytest.mark.parametrize("separator", ["/", "_", "+", "-", ":", "~", " ", "%2E", "%2e", "%2F", "%20"])
def test_an_address_ends_at_whatever_firmware_makes_of_the_dot(separator: str) -> None:
    for address, kind in PAYEE_OF.items():
        assert parse_user(f"{address}{separator}rig1", MAIN) == (kind + DIGEST, "rig1")


@pytest.mark.parametrize(
    "text",
    [f" {KEY}.rig1 ", f"\t{KEY}.rig1\r\n", f"{KEY}.rig1\0", f"{KEY}.rig1\0\x7fleftover", f"\0{KEY}.rig1",
     f"%20{KEY}%2Erig1%20", f"{KEY}. rig1", f"{KEY}.rig1%00", f"{KEY.upper()}.rig1"],
)  # fmt: skip
def test_what_firmware_puts_around_a_name_is_left_out(text: str) -> None:
    assert parse_user(text, MAIN) == (b"\x01" + DIGEST, "rig1")


def test_an_address_in_upper_case_is_read_where_its_case_says_nothing() -> None:
    assert parse_user(KEY.upper(), MAIN)[0] == b"\x01" + DIGEST
    assert parse_user("0X" + DIGEST.hex().upper() + ".a", MAIN) == (b"\x00" + DIGEST, "a")
    with pytest.raises(PayeeError, match="does not mix upper and lower case"):
        parse_user(KEY[:20] + KEY[20:].upper(), MAIN)
    with pytest.raises(PayeeError, match="wrong EIP-55 checksum"):
        parse_user(ACCOUNT.swapcase().replace("0X", "0x"), MAIN)


def test_percent_encoding_is_taken_off_once() -> None:
    assert parse_user(f"{KEY}.50%25", MAIN)[1] == "50%"
    assert parse_user(f"{KEY}.a%2541", MAIN)[1] == "a%41"
    assert parse_user(f"{KEY}.100%", MAIN)[1] == "100%"
    with pytest.raises(PayeeError, match="is followed by '%'"):
        parse_user(f"{KEY}%252Erig1", MAIN)


def test_a_worker_name_is_printable_and_at_most_63_characters() -> None:
    assert parse_user(f"{KEY}.a\x07b\u202ec\ud800d\n", MAIN)[1] == "abcd"
    assert parse_user(f"{KEY}.Schürfer 7 ⛏", MAIN)[1] == "Schürfer 7 ⛏"
    assert parse_user(f"{KEY}.{'x' * 100}", MAIN)[1] == "x" * 63
    assert parse_user(f"{KEY}.{'x' * 62} y", MAIN)[1] == "x" * 62


def test_a_worker_name_that_firmware_trims_is_fine() -> None:
    trimmed = f"{KEY}.a-very-long-name-of-a-worker"[:63]
    assert parse_user(trimmed, MAIN) == (b"\x01" + DIGEST, "a-very-long-name-of-")
    for left in ("%", "%2"):
        whole = f"{KEY}.{'x' * 40}"[: 63 - len(left)] + left
        assert parse_user(whole, MAIN)[1] == "x" * (20 - len(left))


def test_an_address_that_firmware_trims_is_refused_saying_so() -> None:
    taproot = encode_segwit("bcrt", 1, bytes(32))
    assert len(taproot) == 64
    with pytest.raises(
        PayeeError, match=r"\(63 characters instead of 64: the miner's firmware trims user names at 63\)$"
    ):
        parse_user(taproot[:63], REGTEST)
    with pytest.raises(PayeeError, match=r"trims user names at 63"):
        parse_user((" " * 30 + KEY)[:63], MAIN)
    with pytest.raises(PayeeError, match=r"41 characters instead of 42 or 62\)$"):
        parse_user(f"{KEY[:-1]}.{'x' * 30}"[:63], MAIN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ACCOUNT[:-1], r"\(41 characters instead of 42\)$"),
        (f"{ACCOUNT[:-4]}.rig1", r"\(38 characters instead of 42\)$"),
        (f"{ACCOUNT}0", r"\(43 characters instead of 42\)$"),
        (KEY[:-1], r"\(41 characters instead of 42 or 62\)$"),
        (f"{KEY[:-5].upper()}.rig1", r"\(37 characters instead of 42 or 62\)$"),
        (TAPROOT[:-2], r"\(60 characters instead of 62\)$"),
    ],
)
def test_an_address_that_is_too_short_or_too_long_is_refused_with_both_lengths(text: str, reason: str) -> None:
    with pytest.raises(PayeeError, match=reason):
        parse_user(text, MAIN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the address is empty"),
        (" \0", "the address is empty"),
        (".rig1", "the address is empty"),
        ("worker1", "no address"),
        (KEY[:-1] + "q", "checksum is wrong; copy it again from the wallet$"),
        (f"{OLD_KEY}x", "checksum is wrong; copy it again from the wallet$"),
        (f"{ACCOUNT[:-1]}g", "0x and 40 hex digits$"),
        (DIGEST.hex(), "no address"),
        (TAPROOT, "Taproot address, which version 1 cannot pay; use a bc1q... or 0x... one$"),
        (f" {TAPROOT}", "Taproot"),
        (encode_segwit("tb", 0, DIGEST), "address of test; this is main$"),
        ("0x" + "0" * 40, "the zero address"),
        (f"{KEY}ü", "is followed by 'ü'; the user name must be ADDRESS"),
        (f"{KEY}\x01rig1", "is followed by '.x01'"),
        (ACCOUNT.replace("0x", "0х"), "no address"),  # noqa: RUF001 - the second one is Cyrillic
        (f"{KEY}.{'x' * 300}", "at most 256 characters"),
        (None, "must be ADDRESS"),
        (7, "must be ADDRESS"),
        (["x"], "must be ADDRESS"),
    ],
)
def test_what_names_no_payee_is_refused_with_a_reason_for_the_miners_log(text: object, reason: str) -> None:
    with pytest.raises(PayeeError, match=reason):
        parse_user(text, MAIN)


# Passwords


@pytest.mark.parametrize(
    ("text", "start", "minimum"),
    [
        ("d=1024", 1024, None),
        ("x,d=64", 64, None),
        ("diff=0.5", Fraction(1, 2), None),
        ("MD=512;D=2048", 2048, 512),
        ("md=0.001 d=1e6", 10**6, Fraction(1, 1000)),
        ("x; d = 16 , md = 8", 16, 8),
        ("d=1.5E+3", 1500, None),
        ("d=25e-2", Fraction(1, 4), None),
        ("d=5.", 5, None),
        ("d=1,d=2", 2, None),
        ("d%3D512%2Cmd=4", 512, 4),
        (f"d={'9' * 18}", 10**18 - 1, None),
    ],
)
def test_options_are_read_as_exact_numbers(text: str, start: object, minimum: object) -> None:
    assert parse_password(text) == PasswordOptions(start, minimum)


@pytest.mark.parametrize(
    "text", ["x", "", "123", "password", "id=7", "worker.d=5", "ad=5", "d", "d:5", None, 123, ["d=5"]]
)
def test_a_password_without_options_says_nothing(text: object) -> None:
    assert parse_password(text) == PasswordOptions()


@pytest.mark.parametrize(
    "number",
    [
        "",
        "0",
        "0.0",
        "-1",
        "abc",
        "1e999999999",
        "1e100",
        "9" * 19,
        "0." + "1" * 19,
        "nan",
        "inf",
        "1/2",
        "0x10",
        "٣",
        "1_000",
    ],
)
def test_a_number_that_is_nonsense_is_ignored_and_named(number: str) -> None:
    assert parse_password(f"md={number},d=8") == PasswordOptions(Fraction(8), None, (f"md={number}",))


def test_only_the_beginning_of_a_long_password_is_read() -> None:
    assert parse_password("d=1," + "x" * 10**6 + ",d=2") == PasswordOptions(Fraction(1))

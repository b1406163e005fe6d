"""The two encodings of Bitcoin addresses, read strictly, since a wrong one would send somebody's money elsewhere.

Base58check as in Bitcoin's base58.cpp; bech32 as in BIP-173 (version 0) and BIP-350 (above). bitcoinlib gives a second
opinion in the tests.
"""

from __future__ import annotations

from pool_oracle.errors import PayeeError
from pool_oracle.hashes import sha256d
from pool_oracle.networks import NETWORKS, Network

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUE = {character: value for value, character in enumerate(_BASE58)}
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_VALUE = {character: value for value, character in enumerate(_BECH32)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32_CONST = 1
_BECH32M_CONST = 0x2BC830A3
MAX_ADDRESS_LENGTH = 90
_WITNESS_PROGRAMS = ((0, 20), (0, 32), (1, 32))
"""Version and length of P2WPKH, P2WSH and P2TR. Money to any other program is nobody's, or that of whoever comes."""


def script_of_address(text: str, network: Network) -> bytes:
    """The output script of an address of `network`: P2PKH, P2SH, P2WPKH, P2WSH or P2TR.

    Raises PayeeError for a wrong checksum or length, another network, or a witness program without rules. Source: the
    script templates of BIP-13, BIP-141 and BIP-341.
    """
    if not 0 < len(text) <= MAX_ADDRESS_LENGTH or not text.isascii():
        raise PayeeError(f"{text[:24]!r} is no address: {len(text)} characters, or some not ASCII")
    prefix = text.lower().rpartition("1")[0]
    owners = [other.name for other in NETWORKS.values() if other.hrp == prefix]
    if prefix == network.hrp:
        return _witness_script(text, *decode_segwit(text, prefix))
    if owners:
        raise PayeeError(f"{text!r} is an address of {' or '.join(owners)}; this is {network.name}")
    version, digest = decode_base58check(text)
    if version in network.p2pkh:
        return b"\x76\xa9\x14" + digest + b"\x88\xac"
    if version in network.p2sh:
        return b"\xa9\x14" + digest + b"\x87"
    raise PayeeError(f"{text!r} has version byte {version:#04x}, which is no address of {network.name}")


def decode_base58check(text: str) -> tuple[int, bytes]:
    """The version byte and the 20-byte hash. Raises PayeeError naming the character, the length or the checksum."""
    number = 0
    for position, character in enumerate(text):
        if character not in _BASE58_VALUE:
            raise PayeeError(f"{text!r} is no address: {character!r} at position {position + 1} is not base58")
        number = number * 58 + _BASE58_VALUE[character]
    zeros = len(text) - len(text.lstrip("1"))
    data = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    payload, checksum = data[:-4], data[-4:]
    if sha256d(payload)[:4] != checksum:
        raise PayeeError(f"{text!r} is no address: the base58 checksum is wrong; copy it again from the wallet")
    if len(payload) != 21:
        raise PayeeError(f"{text!r} holds {len(payload)} bytes; an address holds 21")
    return payload[0], payload[1:]


def encode_base58check(version: int, digest: bytes) -> str:
    """The address of a version byte and a 20-byte hash."""
    payload = bytes((version,)) + digest
    data = payload + sha256d(payload)[:4]
    number = int.from_bytes(data, "big")
    characters = []
    while number:
        number, digit = divmod(number, 58)
        characters.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\x00"))
    return "1" * zeros + "".join(reversed(characters))


def decode_segwit(text: str, hrp: str) -> tuple[int, bytes]:
    """The witness version and program of an address that begins with `hrp` + '1'. Raises PayeeError."""
    if text not in (text.lower(), text.upper()):
        raise PayeeError(f"{text!r} is no address: bech32 does not mix upper and lower case")
    data = text.lower()[len(hrp) + 1 :]
    for position, character in enumerate(data):
        if character not in _BECH32_VALUE:
            place = len(hrp) + 2 + position
            raise PayeeError(f"{text!r} is no address: {character!r} at position {place} is not bech32")
    values = [_BECH32_VALUE[character] for character in data]
    residue = _polymod([*_expand(hrp), *values])
    if len(values) < 7 or residue != (_BECH32M_CONST if values[0] else _BECH32_CONST):
        raise PayeeError(f"{text!r} is no address: the bech32 checksum is wrong; copy it again from the wallet")
    return values[0], _to_bytes(values[1:-6], text)


def encode_segwit(hrp: str, version: int, program: bytes) -> str:
    """The address of a witness program: bech32 for version 0, bech32m above."""
    number = int.from_bytes(program, "big")
    bits = 8 * len(program)
    padding = -bits % 5
    number <<= padding
    digits = [version, *(number >> shift & 31 for shift in range(bits + padding - 5, -1, -5))]
    constant = _BECH32M_CONST if version else _BECH32_CONST
    residue = _polymod([*_expand(hrp), *digits, 0, 0, 0, 0, 0, 0]) ^ constant
    digits += [residue >> 5 * (5 - i) & 31 for i in range(6)]
    return f"{hrp}1" + "".join(_BECH32[digit] for digit in digits)


def _witness_script(text: str, version: int, program: bytes) -> bytes:
    if (version, len(program)) not in _WITNESS_PROGRAMS:
        raise PayeeError(
            f"{text!r} has witness version {version} and {len(program)} bytes; "
            "only P2WPKH, P2WSH and P2TR keep what is paid to them"
        )
    return bytes((0x50 + version if version else 0, len(program))) + program


def _expand(hrp: str) -> list[int]:
    return [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]


def _polymod(values: list[int]) -> int:
    residue = 1
    for value in values:
        top = residue >> 25
        residue = (residue & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATOR):
            if top >> i & 1:
                residue ^= generator
    return residue


def _to_bytes(digits: list[int], text: str) -> bytes:
    number = 0
    for digit in digits:
        number = number << 5 | digit
    spare = 5 * len(digits) % 8
    if spare > 4 or number & (1 << spare) - 1:
        raise PayeeError(f"{text!r} is no address: its padding is not zero")
    return (number >> spare).to_bytes(5 * len(digits) // 8, "big")

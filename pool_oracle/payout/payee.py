"""Payees: 21 bytes, kind and id, that name whoever is paid (protocol.md)."""

from __future__ import annotations

import string

from pool_oracle.errors import PayeeError
from pool_oracle.hashes import hash160, keccak256
from pool_oracle.networks import NETWORKS, Network
from pool_oracle.payout.addresses import (
    MAX_ADDRESS_LENGTH,
    decode_base58check,
    decode_segwit,
    encode_base58check,
    encode_segwit,
)
from pool_oracle.units import Payee

PAYEE_SIZE = 21

KIND_ACCOUNT = 0x00
KIND_KEY = 0x01
KIND_NESTED_KEY = 0x02

_KINDS = {KIND_ACCOUNT: "EVM account", KIND_KEY: "Bitcoin key", KIND_NESTED_KEY: "Bitcoin key, nested"}
_HEX = frozenset(string.hexdigits)


def payee_of_account(address: bytes) -> Payee:
    """The payee of a 20-byte EVM address. Raises PayeeError for the zero address, from which nobody could claim."""
    if len(address) != 20:
        raise PayeeError(f"an EVM address has 20 bytes, not {len(address)}")
    if not any(address):
        raise PayeeError("the zero address is nobody's: money sent there is lost; give an address of yours")
    return Payee(bytes((KIND_ACCOUNT,)) + address)


def payee_of_key(public_key: bytes, *, nested: bool = False) -> Payee:
    """The payee of a serialized public key: its P2PKH and P2WPKH addresses, or with `nested` its P2SH-P2WPKH one."""
    key_hash = hash160(public_key)
    if nested:
        return Payee(bytes((KIND_NESTED_KEY,)) + hash160(b"\x00\x14" + key_hash))
    return Payee(bytes((KIND_KEY,)) + key_hash)


def check_payee(payee: bytes) -> Payee:
    """The payee itself. Raises PayeeError unless it has 21 bytes, a known kind, and is not the zero account."""
    if len(payee) != PAYEE_SIZE:
        raise PayeeError(f"a payee has {PAYEE_SIZE} bytes, not {len(payee)}")
    if payee[0] not in _KINDS:
        raise PayeeError(f"payee 0x{payee.hex()} has kind {payee[0]:#04x}; kinds are 0x00, 0x01 and 0x02")
    if payee[0] == KIND_ACCOUNT:
        return payee_of_account(payee[1:])
    return Payee(payee)


def parse_address(text: str, network: Network) -> Payee:
    """The payee of an address of `network`: 0x..., bech32 or base58.

    Raises PayeeError, whose text a miner's log can show, for anything else: wrong checksum, another network, Taproot
    and other witness programs, the zero address.
    """
    if not text:
        raise PayeeError("the address is empty; use 0x..., bech32 or base58 of your wallet")
    if len(text) > MAX_ADDRESS_LENGTH or not text.isascii():
        raise PayeeError(f"{text[:24]!r}... is no address: {len(text)} characters, or some not ASCII")
    if text.startswith("0x"):
        return payee_of_account(_parse_evm(text))
    prefix, separator, _ = text.lower().rpartition("1")
    if separator and prefix in _BECH32_PREFIXES:
        if prefix != network.hrp:
            raise PayeeError(f"{text!r} is an address of {_BECH32_PREFIXES[prefix]}; this is {network.name}")
        return _from_witness(text, *decode_segwit(text, prefix))
    version, digest = decode_base58check(text)
    if version in network.p2pkh:
        return Payee(bytes((KIND_KEY,)) + digest)
    if version in network.p2sh:
        return Payee(bytes((KIND_NESTED_KEY,)) + digest)
    raise PayeeError(f"{text!r} has version byte {version:#04x}, which is no address of {network.name}")


def parse_payee(text: str, network: Network | None = None) -> Payee:
    """A payee given as 0x and 42 hex digits, or as an address of `network` (of any network where it is None)."""
    if text.startswith("0x") and len(text) == 2 + 2 * PAYEE_SIZE:
        if not _HEX.issuperset(text[2:]):
            raise PayeeError(f"{text!r} is no payee: 0x and {2 * PAYEE_SIZE} hex digits")
        return check_payee(bytes.fromhex(text[2:]))
    if network is not None:
        return parse_address(text, network)
    named = [candidate for candidate in NETWORKS.values() if text.lower().startswith(f"{candidate.hrp}1")]
    refusal = None
    for candidate in named or NETWORKS.values():
        try:
            return parse_address(text, candidate)
        except PayeeError as error:
            refusal = refusal or error
    raise PayeeError(f"{refusal}")


def format_payee(payee: Payee) -> str:
    """0x and 42 hex digits."""
    return f"0x{payee.hex()}"


def address_of(payee: Payee, network: Network) -> str:
    """An address that names the payee on `network`: EIP-55 hex, P2WPKH, or P2SH."""
    kind, digest = payee[0], payee[1:]
    if kind == KIND_ACCOUNT:
        return checksum_address(digest)
    if kind == KIND_KEY:
        return encode_segwit(network.hrp, 0, digest)
    return encode_base58check(network.p2sh[0], digest)


def checksum_address(address: bytes) -> str:
    """The mixed-case form of an EVM address. Source: EIP-55."""
    digits = address.hex()
    mask = keccak256(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(m, 16) >= 8 else d for d, m in zip(digits, mask, strict=False))


def is_unchecked_account(text: str) -> bool:
    """Whether a text is 20 bytes of hex without the upper and lower case that EIP-55 checks."""
    digits = text[2:]
    is_account = text.startswith("0x") and len(digits) == 40 and _HEX.issuperset(digits)
    return is_account and digits in (digits.lower(), digits.upper())


def is_maybe_unlinkable(payee: Payee) -> bool:
    """Whether the payee came from a P2SH address, which may hide a script that can never link a recipient."""
    return payee[0] == KIND_NESTED_KEY


_BECH32_PREFIXES: dict[str, str] = {}
for _network in NETWORKS.values():
    _BECH32_PREFIXES.setdefault(_network.hrp, _network.name)


def _parse_evm(text: str) -> bytes:
    digits = text[2:]
    if len(digits) != 40 or not _HEX.issuperset(digits):
        raise PayeeError(f"{text!r} is no EVM address: 0x and 40 hex digits")
    address = bytes.fromhex(digits)
    if digits not in (digits.lower(), digits.upper()) and checksum_address(address) != text:
        raise PayeeError(f"{text!r} has a wrong EIP-55 checksum (its upper and lower case); copy it again")
    return address


def _from_witness(text: str, version: int, program: bytes) -> Payee:
    if version == 1:
        raise PayeeError(f"{text!r} is a Taproot address, which version 1 cannot pay; use a bc1q... or 0x... one")
    if version != 0 or len(program) != 20:
        raise PayeeError(f"{text!r} is a script's address, not a key's; use a P2WPKH (bc1q..., 42 characters) one")
    return Payee(bytes((KIND_KEY,)) + program)

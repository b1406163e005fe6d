"""Signed messages of Bitcoin wallets, and the message that links a Bitcoin payee to a recipient. Source: BIP-137.

`BitcoinKeys.sol` and `Distributor.linkMessage` compute the same; tests hold them together.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from pool_oracle.errors import SignatureError
from pool_oracle.hashes import sha256d
from pool_oracle.payout.payee import KIND_KEY, KIND_NESTED_KEY, payee_of_key
from pool_oracle.units import Payee

FIRST_HEADER, FIRST_COMPRESSED, FIRST_NESTED, FIRST_NATIVE_SEGWIT, LAST_HEADER = 27, 31, 35, 39, 42
_PREFIX = b"\x18Bitcoin Signed Message:\n"


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A signature with the public key that it recovers to, as `linkBitcoinKey` takes them."""

    header: int
    r: int
    s: int
    x: int
    y: int

    @property
    def recovery_id(self) -> int:
        """0 or 1; an EVM recovers no others."""
        return (self.header - FIRST_HEADER) & 3


def message_digest(message: bytes) -> bytes:
    """SHA256d of the length-prefixed magic, the message's compact size, and the message."""
    size = len(message)
    if size < 0xFD:
        length = bytes((size,))
    elif size <= 0xFFFF:
        length = b"\xfd" + size.to_bytes(2, "little")
    else:
        length = b"\xfe" + size.to_bytes(4, "little")
    return sha256d(_PREFIX + length + message)


def decode_signature(text: str) -> bytes:
    """The 65 bytes of a signature as wallets show it (base64). Raises SignatureError."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("the signature is not base64; paste it as the wallet shows it") from None
    if len(raw) != 65:
        raise SignatureError(f"a signature has 65 bytes, not {len(raw)}")
    return raw


def recover(message: bytes, signature: bytes) -> SignedMessage:
    """The signature with its public key. Raises SignatureError: length, header, recovery id 2 or 3, no such key."""
    if len(signature) != 65:
        raise SignatureError(f"a signature has 65 bytes, not {len(signature)}")
    header = signature[0]
    if not FIRST_HEADER <= header <= LAST_HEADER:
        raise SignatureError(f"the signature's header is {header}; BIP-137 has {FIRST_HEADER} to {LAST_HEADER}")
    recovery_id = (header - FIRST_HEADER) & 3
    if recovery_id > 1:
        raise SignatureError(f"recovery id {recovery_id} cannot be recovered on an EVM; sign again for another")
    r, s = int.from_bytes(signature[1:33], "big"), int.from_bytes(signature[33:], "big")
    try:
        public_key = Signature(vrs=(recovery_id, r, s)).recover_public_key_from_msg_hash(message_digest(message))
    except (BadSignature, ValidationError, ValueError):
        raise SignatureError("no public key could have made this signature") from None
    point = public_key.to_bytes()
    return SignedMessage(header, r, s, int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big"))


def check_signer(payee: Payee, signed: SignedMessage) -> None:
    """Check that the key, in the form that the header names, is the payee's. Raises SignatureError.

    A nested payee takes any header of a compressed key, since wallets differ in the one they write.
    """
    point = signed.x.to_bytes(32, "big") + signed.y.to_bytes(32, "big")
    compressed = bytes((2 + (signed.y & 1),)) + point[:32]
    if signed.header < FIRST_COMPRESSED:
        matches = payee == payee_of_key(b"\x04" + point)
    elif payee[0] == KIND_NESTED_KEY:
        matches = payee == payee_of_key(compressed, nested=True)
    else:
        nested_header = FIRST_NESTED <= signed.header < FIRST_NATIVE_SEGWIT
        matches = not nested_header and payee[0] == KIND_KEY and payee == payee_of_key(compressed)
    if not matches:
        raise SignatureError(f"the key that signed is not payee 0x{payee.hex()}'s, or the header names another form")


def link_message(recipient: bytes, chain_id: int, distributor: bytes, nonce: int, deadline: int) -> str:
    """The text that the owner of a Bitcoin key signs to name a recipient."""
    return (
        f"pool_oracle: pay my mining rewards to 0x{recipient.hex()}, chain {chain_id}, "
        f"distributor 0x{distributor.hex()}, nonce {nonce}, deadline {deadline}"
    )

"""Linking a Bitcoin payee to a recipient on the EVM chain, by a message that the payee's wallet signs (BIP-137)."""

from __future__ import annotations

from dataclasses import dataclass

from web3 import Web3

from pool_oracle.chain.calls import Request
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.claims.sending import call_of
from pool_oracle.errors import ChainError, InputError, SignatureError
from pool_oracle.networks import NETWORKS, Network
from pool_oracle.payout.addresses import encode_base58check
from pool_oracle.payout.bip137 import (
    FIRST_COMPRESSED,
    SignedMessage,
    check_signer,
    decode_signature,
    link_message,
    recover,
)
from pool_oracle.payout.payee import KIND_ACCOUNT, KIND_KEY, address_of, format_payee, payee_of_key
from pool_oracle.units import Payee

MAX_DEADLINE = 1 << 40
LINK_DAYS = 30
"""For how long a signed message can be used, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Link:
    """A wish: from now on the money of `payee` goes to `recipient`. `message` is what has to be signed for it."""

    payee: Payee
    recipient: str
    deadline: int
    message: str
    present: str | None
    """Where its money goes until then; None where nobody knows."""


def prepare_link(distributor: DistributorClient, payee: Payee, recipient: str, deadline: int) -> Link:
    """The message to sign. Raises InputError for a payee or recipient that cannot be linked, ChainError."""
    if payee[0] == KIND_ACCOUNT:
        raise InputError(
            f"{format_payee(payee)} is an EVM account, which is paid without a link; to be paid elsewhere it calls "
            "setRecipient of the distributor itself"
        )
    address = Web3.to_checksum_address(recipient)
    if address == distributor.address:
        raise InputError("the recipient is the distributor itself; give an account of yours")
    now = distributor.chain.time()
    if deadline > MAX_DEADLINE:
        raise InputError(f"the deadline must be Unix seconds, {MAX_DEADLINE} at the most, not {deadline}")
    if deadline <= now:
        raise InputError(f"the deadline {deadline} has passed: the chain's time is {now} (Unix seconds)")
    nonce = distributor.nonce_of(payee)
    chain_id = distributor.chain.chain_id
    message = link_message(bytes.fromhex(address[2:]), chain_id, distributor.address_bytes, nonce, deadline)
    if message != distributor.link_message(payee, address, deadline):
        raise ChainError(f"the contract at {distributor.address} wants another text signed than this version knows")
    return Link(payee, address, deadline, message, distributor.recipient_of(payee))


def read_signature(link: Link, text: str) -> SignedMessage:
    """A signature of the link's message, as a wallet shows it, checked as the contract will.

    Raises SignatureError: not base64 or 65 bytes, no such header, another key, another message.
    """
    signed = recover(link.message.encode(), decode_signature("".join(text.split())))
    try:
        check_signer(link.payee, signed)
    except SignatureError:
        raise SignatureError(
            f"the signature is not that of payee {format_payee(link.payee)} over this message: it was made by another "
            f"key, or over another text. Sign exactly: {link.message}"
            f"{_form_hint(link.payee, signed)}"
        ) from None
    return signed


def _form_hint(payee: Payee, signed: SignedMessage) -> str:
    """What to do where the key is right and its form is not."""
    point = signed.x.to_bytes(32, "big") + signed.y.to_bytes(32, "big")
    compressed = bytes((2 + (signed.y & 1),)) + point[:32]
    forms = (payee_of_key(compressed), payee_of_key(compressed, nested=True), payee_of_key(b"\x04" + point))
    if payee not in forms:
        return ""
    kind = "uncompressed" if signed.header < FIRST_COMPRESSED else "another address type"
    return f" (the key is right, but the signature says {kind}; sign with the very address that you mine with)"


def link_call(distributor: DistributorClient, link: Link, signed: SignedMessage) -> Request:
    """The transaction that links; anybody may send it."""
    signature = (
        signed.header,
        signed.r.to_bytes(32, "big"),
        signed.s.to_bytes(32, "big"),
        signed.x,
        signed.y,
    )
    return call_of(distributor.contract, "linkBitcoinKey", link.payee, link.recipient, link.deadline, signature)


def how_to_sign(link: Link, network: Network | None) -> list[str]:
    """Lines that say how wallets sign the message."""
    known = network or NETWORKS["main"]
    address = address_of(link.payee, known)
    lines = ["Sign this text with the key of your mining address, every letter as it stands:", "", link.message, ""]
    if network is None:
        lines.append(f"(addresses below are written as on {known.name}; --network names another)")
    lines += [
        f"Electrum:      Tools, Sign/verify message; address {address}",
        f"Sparrow:       Tools, Sign/Verify Message; address {address}; format Standard (Electrum)",
    ]
    if link.payee[0] == KIND_KEY:
        legacy = encode_base58check(known.p2pkh[0], link.payee[1:])
        lines.append(f'Bitcoin Core:  signmessage "{legacy}" "..." (the same key as a legacy address, in that wallet)')
    return lines

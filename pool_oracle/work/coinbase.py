"""The coinbase of a job: what it pays, what it commits to, and where the miner's extranonces go.

Exactly two pushes in scriptSig: the height (BIP-34), then tag + extranonces, at most 75 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pool_oracle.errors import JobError
from pool_oracle.hashes import sha256d
from pool_oracle.units import Satoshi
from pool_oracle.work.serialize import compact_size, push_height
from pool_oracle.work.transaction import NULL_OUTPOINT, Transaction, TxOutput, parse_transaction

WITNESS_COMMITMENT_TAG = b"\x6a\x24\xaa\x21\xa9\xed"
WITNESS_RESERVED_VALUE = bytes(32)
MAX_COINBASE_SCRIPT = 100
MAX_TAG_PUSH = 75


@dataclass(frozen=True, slots=True)
class CoinbaseParts:
    """The coinbase without witness data, cut where the extranonces stand."""

    coinb1: bytes
    coinb2: bytes


def build_coinbase(
    height: int,
    tag: bytes,
    extranonce_size: int,
    outputs: Sequence[TxOutput],
    coinbase_value: Satoshi,
) -> CoinbaseParts:
    """The two parts around `extranonce_size` bytes of extranonce1 + extranonce2.

    Raises JobError if the outputs do not pay exactly `coinbase_value`, or if scriptSig would be too long.
    """
    paid = sum(output.value for output in outputs)
    if paid != coinbase_value:
        raise JobError(f"the coinbase pays {paid} satoshi, and the template's value is {coinbase_value}")
    payload = len(tag) + extranonce_size
    if payload > MAX_TAG_PUSH:
        raise JobError(f"tag and extranonces are {payload} bytes; one push holds {MAX_TAG_PUSH}")
    height_push = push_height(height)
    script_size = len(height_push) + 1 + payload
    head = [
        (2).to_bytes(4, "little"),
        compact_size(1),
        NULL_OUTPOINT,
        compact_size(script_size),
        height_push,
        bytes((payload,)),
        tag,
    ]
    tail = [(0xFFFFFFFF).to_bytes(4, "little"), compact_size(len(outputs))]
    tail += [output.serialize() for output in outputs]
    tail.append((0).to_bytes(4, "little"))
    return CoinbaseParts(b"".join(head), b"".join(tail))


def check_extranonce_place(coinb1: bytes, extranonce_size: int) -> None:
    """Check that the extranonces stand inside scriptSig, so that no choice of them changes what the coinbase pays.

    `coinb1` must hold everything up to scriptSig's length (one byte). Raises JobError.
    """
    head = 4 + 1 + len(NULL_OUTPOINT)
    if len(coinb1) <= head or coinb1[4:head] != b"\x01" + NULL_OUTPOINT:
        raise JobError("coinb1 does not begin a coinbase: version, one input that spends nothing, its script")
    script_end = head + 1 + coinb1[head]
    if coinb1[head] > MAX_COINBASE_SCRIPT or len(coinb1) + extranonce_size > script_end:
        raise JobError("the extranonces do not stand inside the coinbase's scriptSig")


def with_witness(coinbase: bytes) -> bytes:
    """The coinbase as it stands in a block: with the witness reserved value that BIP-141 wants."""
    tx = parse_transaction(coinbase)
    return Transaction(
        tx.version, tx.inputs, tx.outputs, tx.locktime, witnesses=((WITNESS_RESERVED_VALUE,),)
    ).serialize()


def witness_commitment_script(witness_root: bytes) -> bytes:
    """The output script of BIP-141's commitment to the merkle root of all wtxids (the coinbase's being zero)."""
    return WITNESS_COMMITMENT_TAG + sha256d(witness_root + WITNESS_RESERVED_VALUE)

"""Regtest coins and transactions that spend them, and blocks that hold these.

Six kinds of lock, three of them with signatures; three have witnesses, so that the witness commitment is one. Source of
the signature hashes: BIP-143 for witness programs; CTransactionSignatureSerializer of Bitcoin Core for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from coincurve import PrivateKey

from pool_oracle.hashes import hash160, sha256, sha256d
from pool_oracle.node.embedded import solve
from pool_oracle.units import Satoshi
from pool_oracle.work.coinbase import witness_commitment_script
from pool_oracle.work.merkle import merkle_root
from pool_oracle.work.scripts import OP_TRUE, p2sh, p2wsh
from pool_oracle.work.serialize import compact_size, push
from pool_oracle.work.share import pack_header
from pool_oracle.work.template import Job, Template, assemble_block, make_job
from pool_oracle.work.transaction import Transaction, TxInput, TxOutput

KEY = PrivateKey(sha256(b"whoever reads this"))
PUBLIC_KEY = KEY.public_key.format()
P2PKH = b"\x76\xa9" + push(hash160(PUBLIC_KEY)) + b"\x88\xac"
P2WPKH = b"\x00" + push(hash160(PUBLIC_KEY))

SIGHASH_ALL = 1
FINAL = 0xFFFFFFFF


class Lock(Enum):
    """An output script that `spend` knows how to unlock."""

    TRUE = OP_TRUE
    P2SH_TRUE = p2sh(hash160(OP_TRUE))
    P2PKH = P2PKH
    P2WSH_TRUE = p2wsh(sha256(OP_TRUE))
    P2WPKH = P2WPKH
    NESTED_P2WPKH = p2sh(hash160(P2WPKH))


@dataclass(frozen=True, slots=True)
class Coin:
    """An output that can be spent."""

    outpoint: bytes
    value: int
    lock: Lock


def spend(coins: Sequence[Coin], locks: Sequence[Lock], *, fee: int = 0, locktime: int = 0) -> Transaction:
    """A signed transaction of all `coins` to `locks`, in equal parts."""
    part, rest = divmod(sum(coin.value for coin in coins) - fee, len(locks))
    outputs = tuple(TxOutput(Satoshi(part + rest * (i == 0)), lock.value) for i, lock in enumerate(locks))
    sequence = FINAL - (locktime > 0)
    return sign(
        Transaction(2, tuple(TxInput(coin.outpoint, b"", sequence) for coin in coins), outputs, locktime), coins
    )


def sign(tx: Transaction, coins: Sequence[Coin]) -> Transaction:
    """The transaction with whatever unlocks the coins that its inputs spend, in their order."""
    unlocked = [_unlock(tx, index, coin) for index, coin in enumerate(coins)]
    inputs = tuple(replace(tx_in, script=script) for tx_in, (script, _) in zip(tx.inputs, unlocked, strict=True))
    witnesses = tuple(witness for _, witness in unlocked)
    return replace(tx, inputs=inputs, witnesses=witnesses if any(witnesses) else ())


def _unlock(tx: Transaction, index: int, coin: Coin) -> tuple[bytes, tuple[bytes, ...]]:
    """(scriptSig, witness) of an input."""
    match coin.lock:
        case Lock.TRUE:
            return b"", ()
        case Lock.P2SH_TRUE:
            return push(OP_TRUE), ()
        case Lock.P2PKH:
            return push(_signature(_legacy_digest(tx, index))) + push(PUBLIC_KEY), ()
        case Lock.P2WSH_TRUE:
            return b"", (OP_TRUE,)
        case Lock.P2WPKH:
            return b"", (_signature(_witness_digest(tx, index, coin.value)), PUBLIC_KEY)
        case Lock.NESTED_P2WPKH:
            return push(P2WPKH), (_signature(_witness_digest(tx, index, coin.value)), PUBLIC_KEY)


def _signature(digest: bytes) -> bytes:
    return KEY.sign(digest, hasher=None) + bytes((SIGHASH_ALL,))


def _legacy_digest(tx: Transaction, index: int) -> bytes:
    inputs = tuple(replace(tx_in, script=P2PKH if i == index else b"") for i, tx_in in enumerate(tx.inputs))
    return sha256d(replace(tx, inputs=inputs).serialize() + SIGHASH_ALL.to_bytes(4, "little"))


def _witness_digest(tx: Transaction, index: int, value: int) -> bytes:
    this = tx.inputs[index]
    return sha256d(
        b"".join(
            [
                tx.version.to_bytes(4, "little"),
                sha256d(b"".join(tx_in.outpoint for tx_in in tx.inputs)),
                sha256d(b"".join(tx_in.sequence.to_bytes(4, "little") for tx_in in tx.inputs)),
                this.outpoint + compact_size(len(P2PKH)) + P2PKH,
                value.to_bytes(8, "little") + this.sequence.to_bytes(4, "little"),
                sha256d(b"".join(output.serialize() for output in tx.outputs)),
                tx.locktime.to_bytes(4, "little") + SIGHASH_ALL.to_bytes(4, "little"),
            ]
        )
    )


def coins_of(tx: Transaction) -> list[Coin]:
    """The outputs of a transaction that can be spent."""
    known = {lock.value: lock for lock in Lock}
    txid = tx.txid
    return [
        Coin(txid + index.to_bytes(4, "little"), output.value, known[output.script])
        for index, output in enumerate(tx.outputs)
        if output.script in known
    ]


def filled(template: Template, transactions: Sequence[Transaction], fees: int = 0) -> Template:
    """The template with these transactions, their fees, and the witness commitment that a node would compute."""
    raw = tuple(tx.serialize() for tx in transactions)
    wtxids = [bytes(32), *(sha256d(data) for data in raw)]
    return replace(
        template,
        txids=tuple(tx.txid for tx in transactions),
        transactions=raw,
        coinbase_value=Satoshi(template.coinbase_value + fees),
        witness_commitment=witness_commitment_script(merkle_root(wtxids)),
    )


def job_of(template: Template, *, reward: Lock = Lock.TRUE, tag: bytes = b"/test/", extranonce_size: int = 2) -> Job:
    """A job that pays to `reward`."""
    return make_job(
        1,
        template,
        reward_script=reward.value,
        commitment_script=b"\x6a",
        commitment=b"",
        epoch=0,
        tag=tag,
        extranonce_size=extranonce_size,
    )


def solved(
    job: Job, *, extranonces: tuple[bytes, bytes] = (b"\x01", b"\x02"), version: int | None = None, ntime: int = 0
) -> bytes:
    """The block of a job, mined; version and time are the template's unless given."""
    template = job.template
    root = job.stratum.merkle_root(*extranonces)
    header = pack_header(
        template.version if version is None else version,
        template.prev_hash,
        root,
        ntime or template.curtime,
        template.nbits,
        0,
    )
    return assemble_block(solve(header, template.network_target), job.stratum.coinbase(*extranonces), template)


def assembled(template: Template) -> bytes:
    """A block of the template, with everything else left as it comes."""
    return solved(job_of(template))

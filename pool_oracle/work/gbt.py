"""What a node answers to `getblocktemplate`, read strictly (BIP-22, BIP-23, BIP-9, BIP-141, BIP-325, LIP-3).

A template that is not understood in full is refused: a block that breaks a rule the pool does not know pays nobody.
"""

from __future__ import annotations

from typing import Any

from pool_oracle.errors import JobError, TargetError
from pool_oracle.networks import Network
from pool_oracle.units import SATOSHI_PER_COIN, Satoshi
from pool_oracle.wire import hex_bytes, integer, member
from pool_oracle.work.coinbase import WITNESS_COMMITMENT_TAG
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.template import Template

UNDERSTOOD_RULES = frozenset({"segwit", "signet", "mweb", "csv", "taproot"})
"""Rules that may be marked "!": without understanding one of these, a block must not be made (BIP-9)."""

TRIVIAL_CHALLENGE = b"\x51"
"""The signet challenge OP_TRUE: the one whose solution is empty and may be left out (BIP-325)."""

MAX_VALUE = 84_000_000 * SATOSHI_PER_COIN
"""More than any coinbase of these networks may ever pay: all of Litecoin's money."""

MAX_TRANSACTIONS = 100_000


KnownTransactions = dict[str, tuple[bytes, bytes]]
"""Transactions of the template before, by the hash that covers their witness: txid and raw bytes."""


def template_from_gbt(reply: Any, network: Network, known: KnownTransactions | None = None) -> Template:
    """The template of a node's reply. Raises JobError naming the field that is missing, wrong or not understood.

    Templates of one tip have nearly all transactions in common; with `known`, which is brought up to date, they share
    their bytes, and only new ones are decoded.
    """
    try:
        return _template(reply, network, {} if known is None else known)
    except (JobError, TargetError) as error:
        raise JobError(f"the template cannot be mined: {error}") from None


def _template(reply: Any, network: Network, known: KnownTransactions) -> Template:
    rules = _rules(reply)
    _check_challenge(reply, network)
    version = _number(reply, "version", 0, 0xFFFFFFFF)
    required = _number(reply, "vbrequired", 0, 0xFFFFFFFF) if "vbrequired" in reply else 0
    if required & ~version:
        raise JobError(f"vbrequired {required:08x} has bits that version {version:08x} lacks")
    nbits = int.from_bytes(hex_bytes(member(reply, "bits", error=JobError), "bits", size=4, error=JobError), "big")
    _check_target(reply, nbits)
    mintime = _number(reply, "mintime", 0, 0xFFFFFFFF) if "mintime" in reply else 0
    curtime = _number(reply, "curtime", 0, 0xFFFFFFFF)
    if curtime < mintime:
        raise JobError(f"curtime {curtime} is before mintime {mintime}")
    transactions = member(reply, "transactions", error=JobError)
    if not isinstance(transactions, list) or len(transactions) > MAX_TRANSACTIONS:
        raise JobError(f"transactions must be a list of at most {MAX_TRANSACTIONS}")
    txids, raw = _transactions(transactions, known)
    previous = member(reply, "previousblockhash", error=JobError)
    return Template(
        height=_number(reply, "height", 1, 0x7FFFFFFF),
        version=version,
        prev_hash=hex_bytes(previous, "previousblockhash", size=32, error=JobError)[::-1],
        nbits=nbits,
        curtime=curtime,
        mintime=mintime,
        coinbase_value=Satoshi(_number(reply, "coinbasevalue", 1, MAX_VALUE)),
        txids=txids,
        transactions=raw,
        witness_commitment=_witness_commitment(reply, rules),
        coinbase_aux=_coinbase_aux(reply),
        extension=_extension(reply, rules),
    )


def _number(reply: dict[str, Any], field: str, low: int, high: int) -> int:
    """An integer member within its range."""
    value = integer(member(reply, field, error=JobError), field, error=JobError)
    if not low <= value <= high:
        found = value if value.bit_length() <= 256 else f"a number of {value.bit_length()} bits"
        raise JobError(f"{field} must be {low} to {high}, not {found}")
    return value


def _rules(reply: Any) -> set[str]:
    """The names of the rules in force. Raises JobError for one that must be understood and is not."""
    if not isinstance(reply, dict):
        raise JobError("the reply is no JSON object")
    rules = reply.get("rules", [])
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise JobError("rules must be a list of strings")
    for rule in rules:
        if rule.startswith("!") and rule[1:] not in UNDERSTOOD_RULES:
            raise JobError(f"the node demands rule {rule[:40]!r}, which this version of the pool does not know")
    return {rule.removeprefix("!") for rule in rules}


def _check_challenge(reply: dict[str, Any], network: Network) -> None:
    """A signet's blocks are signed by its keepers, and the signature covers the coinbase: no miner can roll it."""
    challenge = reply.get("signet_challenge")
    if challenge is None:
        return
    if "signet" not in network.rules:
        raise JobError(f"it has a signet_challenge, and the pool mines {network.name}")
    if hex_bytes(challenge, "signet_challenge", error=JobError) != TRIVIAL_CHALLENGE:
        raise JobError(
            "this signet's blocks need its keepers' signature; only a challenge of OP_TRUE (51) can be mined"
        )


def _check_target(reply: dict[str, Any], nbits: int) -> None:
    target = nbits_to_target(nbits)
    if "target" in reply:
        stated = int.from_bytes(hex_bytes(reply["target"], "target", size=32, error=JobError), "big")
        if stated != target:
            raise JobError(f"target {stated:064x} is not that of bits {nbits:08x}")


def _transactions(entries: list[Any], known: KnownTransactions) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """(txids in internal order, raw transactions)."""
    present: KnownTransactions = {}
    pairs = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise JobError(f"transactions[{number}] must be an object")
        # The hash, not the txid: the same transaction may come again with another witness.
        key = entry.get("hash")
        pair = known.get(key) if isinstance(key, str) else None
        if pair is None:
            pair = _transaction(entry, f"transactions[{number}]")
        if isinstance(key, str):
            present[key] = pair
        pairs.append(pair)
    known.clear()
    known.update(present)
    return tuple(txid for txid, _ in pairs), tuple(raw for _, raw in pairs)


def _transaction(entry: dict[str, Any], name: str) -> tuple[bytes, bytes]:
    """(txid in internal order, raw transaction)."""
    txid = entry.get("txid", entry.get("hash"))  # nodes from before segwit have `hash` alone
    digest = hex_bytes(txid, f"{name}.txid", size=32, error=JobError)[::-1]
    data = hex_bytes(entry.get("data"), f"{name}.data", error=JobError)
    if not data:
        raise JobError(f"{name}.data is empty")
    return digest, data


def _witness_commitment(reply: dict[str, Any], rules: set[str]) -> bytes:
    """The output script that the node computed; empty before segwit."""
    script = reply.get("default_witness_commitment")
    if script is None:
        if "segwit" in rules:
            raise JobError("field 'default_witness_commitment' is missing")
        return b""
    commitment = hex_bytes(script, "default_witness_commitment", error=JobError)
    if len(commitment) < len(WITNESS_COMMITMENT_TAG) + 32 or not commitment.startswith(WITNESS_COMMITMENT_TAG):
        raise JobError("default_witness_commitment is not an output as BIP-141 wants it")
    return commitment


def _coinbase_aux(reply: dict[str, Any]) -> bytes:
    """Bytes that the node wants in scriptSig, whatever their names."""
    aux = reply.get("coinbaseaux", {})
    if not isinstance(aux, dict):
        raise JobError("coinbaseaux must be an object of hex strings")
    return b"".join(hex_bytes(value, f"coinbaseaux.{name}", error=JobError) for name, value in aux.items())


def _extension(reply: dict[str, Any], rules: set[str]) -> bytes:
    """Litecoin's extension block: a byte that says it is there, and the node's own bytes (LIP-3)."""
    mweb = reply.get("mweb")
    if mweb is None:
        if "mweb" in rules:
            raise JobError("field 'mweb' is missing, and its rule is in force")
        return b""
    extension = hex_bytes(mweb, "mweb", error=JobError)
    if not extension:
        raise JobError("mweb is empty")
    return b"\x01" + extension

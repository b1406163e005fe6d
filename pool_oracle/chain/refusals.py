"""What a node means by the error it answers with: every client has its own words for the same few things.

Sources of the words: geth core/txpool/errors.go and core/error.go, Erigon, Nethermind AcceptTxResult, Besu
TransactionInvalidReason, reth, anvil, rskj TransactionPoolImpl and its TxValidator steps.
"""

from __future__ import annotations

from typing import Any

from web3.exceptions import ContractLogicError

from pool_oracle.chain.client import name_revert
from pool_oracle.errors import (
    AlreadyKnown,
    ChainRefused,
    InsufficientFunds,
    NonceTooLow,
    TransactionReverted,
    Underpriced,
)

REVERTED_CODE = 3
"""The code of "execution reverted" (https://github.com/ethereum/execution-apis)."""

_REVERTED = ("revert", "vm exception", "invalid opcode")
_SIGNS: tuple[tuple[type[ChainRefused], tuple[str, ...]], ...] = (
    (
        AlreadyKnown,
        (
            "already known",
            "already imported",
            "alreadyknown",
            "already_exists",
            "known transaction",
            "same hash already exists",
            "same hash was already",
            "already in mempool",
        ),
    ),
    (NonceTooLow, ("nonce too low", "oldnonce", "nonce_too_low", "nonce is too low", "nonce below", "stale nonce")),
    (
        Underpriced,
        (
            "underpriced",
            "not enough to bump",
            "replacementnotallowed",
            "could not replace",
            "replacement fee too low",
            "feetoolow",
            "less than block base fee",
            "below block base fee",
            "lower than block's minimum",
            "gas price below",
            "gas price too low",
            "gas price supplied is too low",
            "same nonce in the queue",
        ),
    ),
    (
        InsufficientFunds,
        (
            "insufficient funds",
            "insufficientfunds",
            "insufficient balance",
            "upfront cost exceeds",
            "upfront_cost_exceeds",
            "sender account doesn't exist",
            "insufficient_funds",
        ),
    ),
)


def refusal(method: str, error: Any) -> ChainRefused | TransactionReverted:
    """The error of our tree for the `error` member of a JSON-RPC answer to `method`."""
    details = error if isinstance(error, dict) else {"message": str(error)}
    message = str(details.get("message") or "no reason given")
    text = message.lower()
    for kind, signs in _SIGNS:
        if any(sign in text for sign in signs):
            return kind(f"{method}: {_one_line(message)}")
    if details.get("code") == REVERTED_CODE or any(sign in text for sign in _REVERTED):
        revert = ContractLogicError(_one_line(message), data=_revert_data(details.get("data")))
        return TransactionReverted(method, name_revert(revert))
    return ChainRefused(f"{method}: {_one_line(message)}")


def _revert_data(data: Any) -> str:
    """What the contract returned, as 0x and hex digits, wherever a node puts it; empty where it does not say."""
    while isinstance(data, dict):
        data = data.get("data") or data.get("result") or data.get("originalError")
    if not isinstance(data, str):
        return ""
    return data[data.find("0x") :] if "0x" in data else ""


def _one_line(text: str) -> str:
    """A node's words, fit for a log line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]

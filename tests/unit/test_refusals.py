"""What nodes mean by their errors."""

from __future__ import annotations

from typing import Any

import pytest

from pool_oracle.chain.refusals import refusal
from pool_oracle.errors import (
    AlreadyKnown,
    ChainRefused,
    InsufficientFunds,
    NonceTooLow,
    TransactionReverted,
    Underpriced,
)
from pool_oracle.hashes import keccak256

WORDS: dict[str, type[Exception]] = {
    # geth
    "already known": AlreadyKnown,
    "nonce too low: next nonce 5, tx nonce 4": NonceTooLow,
    "replacement transaction underpriced": Underpriced,
    "transaction underpriced: gas tip cap 1, minimum needed 25": Underpriced,
    "max fee per gas less than block base fee: address 0x0, maxFeePerGas: 1, baseFee: 7": Underpriced,
    "insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1": InsufficientFunds,
    "intrinsic gas too low: gas 1, minimum needed 21000": ChainRefused,
    "txpool is full": ChainRefused,
    # Erigon
    "INTERNAL_ERROR: could not replace existing tx": Underpriced,
    "INSUFFICIENT_FUNDS": InsufficientFunds,
    # Nethermind
    "AlreadyKnown": AlreadyKnown,
    "OldNonce, Current nonce: 5, nonce of rejected tx: 4": NonceTooLow,
    "FeeTooLow, MaxFeePerGas too low": Underpriced,
    "ReplacementNotAllowed": Underpriced,
    "InsufficientFunds, Balance is 0 less than sending value": InsufficientFunds,
    # Besu
    "Known transaction": AlreadyKnown,
    "Nonce too low": NonceTooLow,
    "Replacement transaction underpriced": Underpriced,
    "Gas price below configured minimum gas price": Underpriced,
    "Upfront cost exceeds account balance": InsufficientFunds,
    # anvil
    "transaction already imported": AlreadyKnown,
    "nonce too low": NonceTooLow,
    "max fee per gas less than block base fee": Underpriced,
    "Insufficient funds for gas * price + value": InsufficientFunds,
    # OpenEthereum
    "Transaction with the same hash was already imported.": AlreadyKnown,
    "Transaction gas price supplied is too low. There is another with same nonce in the queue.": Underpriced,
    # rskj
    "pending transaction with same hash already exists": AlreadyKnown,
    "transaction nonce too low": NonceTooLow,
    "transaction nonce too high": ChainRefused,
    "gas price not enough to bump transaction": Underpriced,
    "transaction's gas price lower than block's minimum": Underpriced,
    "insufficient funds to pay for pending and new transaction": InsufficientFunds,
    "the sender account doesn't exist": InsufficientFunds,
}


@pytest.mark.parametrize("words", WORDS)
def test_every_client_is_understood(words: str) -> None:
    found = refusal("eth_sendRawTransaction", {"code": -32000, "message": words})
    assert type(found) is WORDS[words]
    assert str(found) == f"eth_sendRawTransaction: {words}"


ZERO_ROOT = f"0x{(keccak256(b'ZeroRootSum(bytes32)')[:4] + bytes(32)).hex()}"


@pytest.mark.parametrize(
    "error",
    [
        {"code": 3, "message": "execution reverted", "data": ZERO_ROOT},
        {"code": -32015, "message": "VM execution error.", "data": f"Reverted {ZERO_ROOT}"} | {"code": 3},
        {"code": -32000, "message": "execution reverted", "data": {"data": ZERO_ROOT}},
        {"code": -32603, "message": "VM Exception: reverted", "data": {"originalError": {"data": ZERO_ROOT}}},
    ],
)
def test_a_revert_is_named_wherever_the_node_puts_its_data(error: dict[str, Any]) -> None:
    found = refusal("eth_call", error)
    assert isinstance(found, TransactionReverted)
    assert found.error == f"ZeroRootSum(0x{bytes(32).hex()})"


def test_a_revert_without_data_keeps_the_nodes_words() -> None:
    found = refusal("eth_call", {"code": 3, "message": "execution reverted: no"})
    assert str(found) == "eth_call reverted: execution reverted: no"


@pytest.mark.parametrize("error", [None, "busy", [], {}, {"message": None}, {"message": 7, "code": "x"}])
def test_an_error_of_any_shape_is_an_error_of_one_line(error: Any) -> None:
    assert isinstance(refusal("eth_call", error), ChainRefused)
    assert str(refusal("x", {"message": "a\nb\x1b[31m"})) == "x: a b [31m"
    assert len(str(refusal("x", {"message": "a" * 10_000}))) < 400

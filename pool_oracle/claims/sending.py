"""Transactions of miners and strangers: estimated, then signed here, or written down for a wallet elsewhere.

What one process sends for long, it sends through an outbox (`chain.outbox`); this is for a user who sits and waits.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from web3 import Web3
from web3.contract import Contract
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception
from web3.types import TxParams, TxReceipt

from pool_oracle.chain.calls import Request, transaction_fields
from pool_oracle.chain.client import GAS_MARGIN_PERCENT, Chain, name_revert
from pool_oracle.chain.fees import FeeSettings, suggest_fees
from pool_oracle.chain.keys import Signer, signer_from_key_file, signer_from_keystore
from pool_oracle.errors import ChainError, InputError, TransactionReverted
from pool_oracle.hashes import keccak256

RECEIPT_TIMEOUT_SECONDS = 180
POLL_SECONDS = 0.2
ANYBODY = "0x0000000000000000000000000000000000000001"
"""Who an estimate is made for where no account is named. Calls that anybody may make cost everybody the same."""


def call_of(contract: Contract, function: str, *arguments: Any, value: int = 0) -> Request:
    """A call of a contract's function."""
    data = contract.encode_abi(function, args=list(arguments))
    return Request(function, str(contract.address), str(data), value)


def open_signer(key_file: Path | None, keystore: Path | None, password_file: Path | None) -> Signer | None:
    """The signer that the user named; None where there is none. Raises InputError, SetupError."""
    if key_file is not None and keystore is not None:
        raise InputError("--key-file or --keystore, not both")
    if (keystore is None) != (password_file is None):
        raise InputError("--keystore and --password-file belong together")
    if key_file is not None:
        return signer_from_key_file(key_file)
    if keystore is not None and password_file is not None:
        return signer_from_keystore(keystore, password_file)
    return None


def gas_price(chain: Chain) -> int:
    """What a gas costs now, in wei. Raises ChainError."""
    try:
        return int(chain.web3.eth.gas_price)
    except (Web3Exception, ValueError) as error:
        raise ChainError(f"the gas price was not answered by the chain node: {error}") from None


def estimate_gas(chain: Chain, call: Request, sender: str | None) -> int:
    """The gas that a call takes now. Raises TransactionReverted with the contract's error, ChainError."""
    params: TxParams = {
        "from": Web3.to_checksum_address(sender or ANYBODY),
        "to": Web3.to_checksum_address(call.to),
        "data": call.data,  # type: ignore[typeddict-item] # hex text, as web3 takes it
        "value": Web3.to_wei(call.value, "wei"),
    }
    try:
        return int(chain.web3.eth.estimate_gas(params))
    except ContractLogicError as error:
        raise TransactionReverted(call.what, name_revert(error)) from None
    except (Web3Exception, ValueError) as error:
        raise ChainError(f"{call.what} cannot be estimated: {_one_line(error)}") from None


def with_margin(gas: int) -> int:
    """The gas limit of a transaction that takes `gas` now."""
    return gas + gas * GAS_MARGIN_PERCENT // 100


def unsigned(chain: Chain, calls: list[tuple[Request, int]], sender: str | None) -> list[dict[str, Any]]:
    """Calls and their gas as transactions for a wallet elsewhere; with nonces where the account is known."""
    nonce = None if sender is None else chain.web3.eth.get_transaction_count(Web3.to_checksum_address(sender))
    transactions: list[dict[str, Any]] = []
    for place, (call, gas) in enumerate(calls):
        transaction: dict[str, Any] = {
            "to": call.to,
            "data": call.data,
            "value": int(call.value),
            "chainId": chain.chain_id,
            "gas": with_margin(gas),
        }
        if nonce is not None:
            transaction["nonce"] = nonce + place
        transactions.append(transaction)
    return transactions


class Wallet:
    """An account that sends one transaction after the other."""

    def __init__(self, chain: Chain, signer: Signer) -> None:
        """`signer` pays the gas."""
        self.chain = chain
        self._signer = signer

    @property
    def address(self) -> str:
        """The account's address."""
        return self._signer.address

    def send(self, call: Request) -> TxReceipt:
        """Estimate, sign, send, wait. Raises TransactionReverted, FeesTooHigh, SigningFailed, ChainError."""
        gas = estimate_gas(self.chain, call, self.address)
        eth = self.chain.web3.eth
        nonce = int(eth.get_transaction_count(Web3.to_checksum_address(self.address), "pending"))
        fees = suggest_fees(_Asking(self.chain), FeeSettings())
        raw = self._signer.sign(transaction_fields(self.chain.chain_id, call, nonce, with_margin(gas), fees))
        transaction = f"0x{keccak256(raw).hex()}"
        try:
            eth.send_raw_transaction(raw)
        except (Web3Exception, ValueError) as error:
            raise ChainError(f"{call.what} could not be sent by {self.address}: {_one_line(error)}") from None
        except ChainError as error:  # whether the node has it nobody knows
            raise ChainError(f"{error}; look up transaction {transaction} before you try again") from None
        return self._wait(transaction, call.what)

    def _wait(self, transaction: str, what: str) -> TxReceipt:
        eth = self.chain.web3.eth
        deadline = time.monotonic() + RECEIPT_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                receipt = eth.get_transaction_receipt(transaction)  # type: ignore[arg-type] # hex text, as web3 takes it
            except TransactionNotFound:
                time.sleep(POLL_SECONDS)
                continue
            if receipt["status"] != 1:
                raise TransactionReverted(what, f"transaction {transaction} failed when it was mined")
            return receipt
        raise ChainError(f"{what}: transaction {transaction} is not mined yet; look it up before you try again")


class _Asking:
    """A chain as the fees' history wants it."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    @property
    def chain_id(self) -> int:
        return self._chain.chain_id

    def ask(self, method: str, *params: Any) -> Any:
        return self._chain.rpc(method, *params)

    def ask_number(self, method: str, *params: Any) -> int:
        return int(str(self.ask(method, *params)), 16)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

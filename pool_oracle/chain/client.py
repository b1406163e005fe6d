"""An EVM chain: contracts by their ABI, errors by their name, transactions one after another.

web3's calls block; `Sender` and the contract classes are called from worker threads by the asynchronous rooms.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from eth_abi.abi import decode as abi_decode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from requests.exceptions import RequestException
from web3 import HTTPProvider, Web3
from web3.contract.contract import Contract, ContractConstructor, ContractFunction
from web3.exceptions import ContractLogicError, TimeExhausted, Web3Exception
from web3.types import RPCEndpoint, RPCResponse, TxParams, TxReceipt

from pool_oracle.errors import AlreadyDone, ChainError, ChainRefused, SetupError, TransactionReverted
from pool_oracle.hashes import keccak256

RECEIPT_TIMEOUT_SECONDS = 60
GAS_MARGIN_PERCENT = 20


@lru_cache
def load_abi(name: str) -> list[dict[str, Any]]:
    """The ABI that the package ships for contract `name`."""
    text = (files("pool_oracle.chain.abi") / f"{name}.json").read_text(encoding="utf-8")
    abi: list[dict[str, Any]] = json.loads(text)
    return abi


@lru_cache
def _error_signatures() -> dict[bytes, tuple[str, tuple[str, ...]]]:
    """Selector of every custom error of our contracts: its name and argument types."""
    signatures = {}
    for file in files("pool_oracle.chain.abi").iterdir():
        if not file.name.endswith(".json"):
            continue
        for entry in json.loads(file.read_text(encoding="utf-8")):
            if entry["type"] == "error":
                types = tuple(item["type"] for item in entry["inputs"])
                selector = keccak256(f"{entry['name']}({','.join(types)})".encode())[:4]
                signatures[selector] = (entry["name"], types)
    return signatures


def name_revert(error: ContractLogicError) -> str:
    """The custom error with its arguments, or the reason that the node gave."""
    data = error.data
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        raw = bytes.fromhex(data[2:])
        known = _error_signatures().get(raw[:4])
        if known is not None:
            name, types = known
            values = abi_decode(types, raw[4:]) if types else ()
            return f"{name}({', '.join(f'0x{v.hex()}' if isinstance(v, bytes) else str(v) for v in values)})"
    return str(error.message or error)


def host_of(url: str) -> str:
    """Scheme, host and port of a node's URL: its path or user part may hold a provider's key, which nobody may see."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


class _Provider(HTTPProvider):
    """Speaks to the node; what goes wrong on the way there or back is a ChainError, whoever asked."""

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        try:
            return super().make_request(method, params)
        except (RequestException, ValueError) as error:
            node = host_of(str(self.endpoint_uri))
            raise ChainError(f"the chain node at {node} does not answer: {_reason(error)}") from None


class Chain:
    """A connection to one node of an EVM chain."""

    def __init__(self, url: str, *, timeout: float = 20) -> None:
        """Does not connect yet; `chain_id` is the first to do so."""
        self.url = url
        self.web3 = Web3(_Provider(url, request_kwargs={"timeout": timeout}))
        self._chain_id: int | None = None

    @property
    def chain_id(self) -> int:
        """The chain's id. Raises ChainError if the node does not answer."""
        if self._chain_id is None:
            self._chain_id = int(self.web3.eth.chain_id)
        return self._chain_id

    def contract(self, name: str, address: str) -> Contract:
        """The contract `name` at `address`. Raises ChainError if there is no code."""
        checked = Web3.to_checksum_address(address)
        if not self.web3.eth.get_code(checked):
            raise ChainError(f"there is no contract {name} at {checked} on chain {self.chain_id}")
        return self.precompiled(name, address)

    def precompiled(self, name: str, address: str) -> Contract:
        """What a chain's own node answers for at `address`: it need not have code."""
        return self.web3.eth.contract(address=Web3.to_checksum_address(address), abi=load_abi(name))

    def balance(self, address: str) -> int:
        """The balance of an account in wei."""
        return int(self.web3.eth.get_balance(Web3.to_checksum_address(address)))

    def time(self) -> int:
        """The last block's Unix time."""
        return int(self.web3.eth.get_block("latest")["timestamp"])

    def rpc(self, method: str, *params: Any) -> Any:
        """Any JSON-RPC method. Raises ChainRefused with the node's words, ChainError where it does not answer."""
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        if "error" in answer:
            raise ChainRefused(f"{method}: {answer['error']}")
        return answer["result"]


class Sending(Protocol):
    """Calls contracts as one account: at once (`Sender`), or by way of an outbox or a proposal (`sending.py`)."""

    @property
    def chain(self) -> Chain:
        """Where it sends to."""

    @property
    def address(self) -> str:
        """The account's address."""

    def send(
        self,
        call: ContractFunction | ContractConstructor,
        *,
        value: int = 0,
        intent: str | None = None,
        done: Callable[[], bool] | None = None,
    ) -> TxReceipt:
        """Have a call mined. `intent` names it for good; `done` tells whether it still has to be.

        Raises TransactionReverted with the contract's error, AlreadyDone, NotSent, ChainError for everything else.
        """


class Sender:
    """Signs and sends transactions of one account, one at a time; each is tried as a call first."""

    def __init__(self, chain: Chain, account: LocalAccount) -> None:
        """`account` pays the gas."""
        self.chain = chain
        self.account = account
        self._one_at_a_time = threading.Lock()

    @property
    def address(self) -> str:
        """The account's address."""
        return str(self.account.address)

    def send(
        self,
        call: ContractFunction | ContractConstructor,
        *,
        value: int = 0,
        intent: str | None = None,
        done: Callable[[], bool] | None = None,
    ) -> TxReceipt:
        """Send a transaction and wait for its receipt; nothing of it is remembered.

        Raises TransactionReverted with the contract's error, AlreadyDone, ChainError for everything else.
        """
        what = getattr(call, "fn_name", "deployment")
        if done is not None and done():
            raise AlreadyDone(f"{intent or what} was done already")
        with self._one_at_a_time:
            try:
                return self._send(call, value, what)
            except ContractLogicError as error:
                raise TransactionReverted(what, name_revert(error)) from None
            except (Web3Exception, ValueError) as error:
                raise ChainError(f"{what} could not be sent by {self.address}: {_reason(error)}") from None

    def _send(self, call: ContractFunction | ContractConstructor, value: int, what: str) -> TxReceipt:
        eth = self.chain.web3.eth
        address = self.account.address
        # The gas estimate runs the call, so a revert shows before anything is sent.
        params: TxParams = {"from": address, "value": Web3.to_wei(value, "wei")}
        gas = call.estimate_gas(params)
        params |= {
            "chainId": self.chain.chain_id,
            "nonce": eth.get_transaction_count(address, "pending"),
            "gas": gas + gas * GAS_MARGIN_PERCENT // 100,
        }
        signed = self.account.sign_transaction(call.build_transaction(params))  # type: ignore[arg-type]
        tx_hash = eth.send_raw_transaction(signed.raw_transaction)
        try:
            receipt = eth.wait_for_transaction_receipt(tx_hash, timeout=RECEIPT_TIMEOUT_SECONDS, poll_latency=0.05)
        except TimeExhausted:
            raise ChainError(f"{what}: transaction {tx_hash.to_0x_hex()} is not mined after a minute") from None
        if receipt["status"] != 1:
            raise TransactionReverted(what, f"transaction {tx_hash.to_0x_hex()} failed when it was mined")
        return receipt


def account_from_key_file(path: Path) -> LocalAccount:
    """The account of a file with a raw private key (0x hex). Raises SetupError; the key never appears in a message."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SetupError(f"the key file {path} cannot be read: {error.strerror}") from None
    try:
        account: LocalAccount = Account.from_key(text)
    except Exception:
        raise SetupError(f"the key file {path} does not hold a private key (0x and 64 hex digits)") from None
    return account


def _reason(error: BaseException) -> str:
    """One line: the innermost cause of a failed connection says more than what urllib3 wraps around it."""
    text = str(error) or type(error).__name__
    inner = re.search(r"\[Errno \d+\] ([^'\")]+)", text)
    return inner.group(1) if inner else text.splitlines()[0][:200]

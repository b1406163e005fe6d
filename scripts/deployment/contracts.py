"""One contract after another: planned, sent by brownie's account, waited for, and compared with the build.

The code comes from build/artifacts. brownie compiles the same sources to the same instructions, but with other paths in
the metadata hash at their end, and its input is not the one whose hash is published.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlp
from brownie.exceptions import VirtualMachineError
from web3 import Web3
from web3.exceptions import ContractLogicError, TimeExhausted, TransactionNotFound, Web3Exception

from pool_oracle.chain.client import GAS_MARGIN_PERCENT, Chain, name_revert
from pool_oracle.chain.deploy import load_artifact
from pool_oracle.errors import ChainError, SetupError, TransactionReverted
from pool_oracle.hashes import keccak256
from pool_oracle.payout.payee import checksum_address
from pool_oracle.units import Wei, format_wei

GAS_PRICE_MARGIN_PERCENT = 25
MINING_TIMEOUT_SECONDS = 600
POLL_SECONDS = 0.5

_IMMUTABLE = re.compile(rb"\x7f\x00{32}")
"""PUSH32 of zeros: where the compiler leaves room for an immutable."""


@dataclass(frozen=True, slots=True)
class Build:
    """What `make contracts` made: the compiler's input, and artifacts by name."""

    root: Path
    source: bytes
    compiler: dict[str, str]

    def artifact(self, name: str) -> dict[str, Any]:
        """A compiled contract of this build. Raises SetupError."""
        artifact = load_artifact(self.root, name)
        if artifact["compiler"]["inputHash"] != self.compiler["input_hash"]:
            raise SetupError(f"build/artifacts/{name}.json is of another build than its neighbours; 'make contracts'")
        return artifact


@dataclass(frozen=True, slots=True)
class Creation:
    """A contract with its arguments: `code` is what the transaction carries, `arguments` its end."""

    contract: str
    code: bytes
    arguments: bytes
    named: dict[str, Any]

    def entry(self, deployer: str, nonce: int, address: str, block: int) -> dict[str, Any]:
        """As the record has it while the contract is planned."""
        return {
            "contract": self.contract,
            "address": address,
            "constructor_arguments": self.named,
            "encoded_arguments": f"0x{self.arguments.hex()}",
            "deployer": deployer,
            "nonce": nonce,
            "since_block": block,
        }


def load_build(root: Path) -> Build:
    """The build, checked to be of one piece. Raises SetupError before 'make contracts'."""
    artifact = load_artifact(root, "NativeDistributor")
    try:
        source = (root / "build" / "solc-input.json").read_bytes()
    except OSError:
        raise SetupError("build/solc-input.json is missing; run 'make contracts'") from None
    compiler = {"version": artifact["compiler"]["version"], "input_hash": artifact["compiler"]["inputHash"]}
    if hashlib.sha256(source).hexdigest() != compiler["input_hash"]:
        raise SetupError("build/solc-input.json is not what build/artifacts were made from; run 'make contracts'")
    return Build(root, source, compiler)


def creation(build: Build, contract: str, *arguments: Any) -> Creation:
    """The creation of a contract with the constructor's arguments as web3 takes them."""
    artifact = build.artifact(contract)
    factory = Web3().eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    code = bytes.fromhex(factory.constructor(*arguments).data_in_transaction[2:])
    inputs = next(entry["inputs"] for entry in artifact["abi"] if entry["type"] == "constructor")
    named = {item["name"].rstrip("_"): _plain(item, value) for item, value in zip(inputs, arguments, strict=True)}
    return Creation(contract, code, code[len(artifact["bytecode"]) // 2 - 1 :], named)


def _plain(item: dict[str, Any], value: Any) -> Any:
    """An argument for JSON: structs by name, bytes as hex, what may pass 2^53 as a decimal string."""
    if item["type"] == "tuple":
        parts = zip(item["components"], value, strict=True)
        return {component["name"]: _plain(component, part) for component, part in parts}
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return str(value) if item["type"] == "uint256" else value


def next_place(chain: Chain, deployer: str) -> tuple[int, str]:
    """The deployer's next nonce, and the address of the contract that it creates with it."""
    nonce = chain.web3.eth.get_transaction_count(Web3.to_checksum_address(deployer), "pending")
    return nonce, checksum_address(keccak256(rlp.encode([bytes.fromhex(deployer[2:]), nonce]))[12:])


def send(chain: Chain, account: Any, plan: Creation, nonce: int) -> str:
    """Send a creation; returns the transaction's hash.

    Raises TransactionReverted with the constructor's error before anything is sent, ChainError for everything else.
    """
    eth = chain.web3.eth
    try:
        gas = eth.estimate_gas({"from": account.address, "data": plan.code})
    except ContractLogicError as error:
        raise TransactionReverted(f"the constructor of {plan.contract}", name_revert(error)) from None
    except (Web3Exception, ValueError) as error:
        raise ChainError(f"{plan.contract} cannot be deployed: {_line(error)}") from None
    gas += gas * GAS_MARGIN_PERCENT // 100
    # A plain gas price is what every chain takes; Rootstock does not know the fees of EIP-1559.
    price = eth.gas_price * (100 + GAS_PRICE_MARGIN_PERCENT) // 100
    balance = chain.balance(account.address)
    if balance < gas * price:
        raise ChainError(
            f"the deployer {account.address} holds {format_wei(Wei(balance), 'coins')} on chain {chain.chain_id}, and "
            f"{plan.contract} may cost {format_wei(Wei(gas * price), 'coins')}; send it some"
        )
    try:
        receipt = account.transfer(
            data=f"0x{plan.code.hex()}",
            gas_limit=gas,
            gas_price=price,
            nonce=nonce,
            required_confs=0,
            allow_revert=True,
            silent=True,
        )
    except (Web3Exception, VirtualMachineError, ValueError, OSError) as error:
        raise ChainError(f"{plan.contract} could not be sent by {account.address}: {_line(error)}") from None
    return str(receipt.txid)


def wait_mined(chain: Chain, transaction: str) -> int:
    """The block of a transaction that was sent. Raises ChainError, TransactionReverted."""
    try:
        receipt = chain.web3.eth.wait_for_transaction_receipt(
            transaction, timeout=MINING_TIMEOUT_SECONDS, poll_latency=POLL_SECONDS
        )
    except TimeExhausted:
        raise ChainError(
            f"transaction {transaction} is not mined after {MINING_TIMEOUT_SECONDS} s; run again to go on waiting"
        ) from None
    if receipt["status"] != 1:
        raise TransactionReverted("the deployment", f"transaction {transaction} failed when it was mined")
    return int(receipt["blockNumber"])


def has_landed(chain: Chain, entry: dict[str, Any]) -> bool:
    """Whether a planned contract is on the chain. Waits while the node still has its transaction to mine."""
    eth, deployer = chain.web3.eth, entry["deployer"]
    deadline = time.monotonic() + MINING_TIMEOUT_SECONDS
    while not eth.get_code(entry["address"]):
        is_used = eth.get_transaction_count(deployer) > entry["nonce"]
        if is_used or eth.get_transaction_count(deployer, "pending") <= entry["nonce"]:
            return bool(eth.get_code(entry["address"]))
        if time.monotonic() > deadline:
            raise ChainError(
                f"transaction {entry['nonce']} of {deployer} is still not mined; run again to go on waiting"
            )
        time.sleep(POLL_SECONDS)
    return True


def find_creation(chain: Chain, entry: dict[str, Any]) -> tuple[str, int]:
    """(transaction, block) of a contract that landed while nobody looked. Raises ChainError."""
    eth = chain.web3.eth
    for number in range(entry["since_block"], eth.block_number + 1):
        for transaction in eth.get_block(number, full_transactions=True)["transactions"]:
            if (transaction["from"], transaction["nonce"]) == (entry["deployer"], entry["nonce"]):  # type: ignore[call-overload]
                return transaction["hash"].to_0x_hex(), number  # type: ignore[call-overload]
    raise ChainError(f"the transaction that made {entry['address']} is in no block since {entry['since_block']}")


def verify(chain: Chain, build: Build, entry: dict[str, Any], code: bytes) -> None:
    """Raise ChainError unless the chain has exactly this contract: its code, made with these arguments."""
    eth, address, name = chain.web3.eth, entry["address"], entry["contract"]
    found = bytes(eth.get_code(address))
    if not found:
        raise ChainError(
            f"chain {chain.chain_id} has no {name} at {address}: is it another chain of that id, or was it reset? "
            "Name another 'output' folder to deploy anew"
        )
    if not is_same_code(bytes.fromhex(build.artifact(name)["deployedBytecode"][2:]), found):
        raise ChainError(
            f"the code at {address} is not that of {name} in build/; go back to the sources it was made of"
        )
    try:
        sent = eth.get_transaction(entry["transaction"])
    except TransactionNotFound:
        raise ChainError(f"the node does not know transaction {entry['transaction']}, which made {name}") from None
    if bytes(sent["input"]) != code:
        raise ChainError(f"transaction {entry['transaction']} made {name} with other arguments than the settings give")


def is_same_code(compiled: bytes, found: bytes) -> bool:
    """Whether code on a chain is the compiled code, whatever its immutables."""
    if len(found) != len(compiled):
        return False
    masked = bytearray(found)
    for place in _IMMUTABLE.finditer(compiled):
        masked[place.start() + 1 : place.end()] = bytes(32)
    return bytes(masked) == compiled


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]

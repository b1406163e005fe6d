"""Deployment to a local chain, for the demo and for tests. Live networks are deployed to by scripts/deploy.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlp
from web3 import Web3

from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.flyover import BRIDGE_ADDRESS
from pool_oracle.errors import SetupError
from pool_oracle.hashes import keccak256
from pool_oracle.units import SATOSHI_PER_COIN, WEI_PER_SATOSHI

BRIDGE_SUPPLY_COINS = 21_000_000


@dataclass(frozen=True, slots=True)
class DistributorSettings:
    """The constructor's arguments, in the order of the contract's struct."""

    operator: str
    fee_recipient: str
    fee_bps: int
    fee_cap_bps: int
    activation_delay: int
    min_payout: int
    genesis_root: bytes
    genesis_manifest_hash: bytes

    def as_tuple(self) -> tuple[Any, ...]:
        """As web3 takes a struct."""
        return (
            self.operator,
            self.fee_recipient,
            self.fee_bps,
            self.fee_cap_bps,
            self.activation_delay,
            self.min_payout,
            self.genesis_root,
            self.genesis_manifest_hash,
        )


def load_artifact(root: Path, name: str) -> dict[str, Any]:
    """A compiled contract of the checkout. Raises SetupError before the first build."""
    path = root / "build" / "artifacts" / f"{name}.json"
    try:
        artifact: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise SetupError(f"{path} is missing; run 'make contracts'") from None
    return artifact


def next_contract_address(chain: Chain, deployer: str) -> bytes:
    """The address that the account's next deployment will have. Source: yellow paper, section 7 (CREATE)."""
    nonce = chain.web3.eth.get_transaction_count(Web3.to_checksum_address(deployer))
    encoded: bytes = rlp.encode([bytes.fromhex(deployer[2:]), nonce])
    return keccak256(encoded)[12:]


def deploy(sender: Sender, artifact: dict[str, Any], *arguments: Any) -> str:
    """Deploy a contract; returns its address."""
    factory = sender.chain.web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    return str(sender.send(factory.constructor(*arguments))["contractAddress"])


def place_dev_bridge(
    chain: Chain, sender: Sender, root: Path, powpeg_redeem_script: bytes, *, nested: bool, anchor: bytes, height: int
) -> None:
    """Put DevBridge where Rootstock's bridge stands, with money, knowing Bitcoin up to block `anchor` at `height`."""
    artifact = load_artifact(root, "DevBridge")
    chain.rpc("anvil_setCode", BRIDGE_ADDRESS, artifact["deployedBytecode"])
    supply = BRIDGE_SUPPLY_COINS * SATOSHI_PER_COIN * WEI_PER_SATOSHI
    chain.rpc("anvil_setBalance", BRIDGE_ADDRESS, hex(supply))
    bridge = chain.web3.eth.contract(address=Web3.to_checksum_address(BRIDGE_ADDRESS), abi=artifact["abi"])
    sender.send(bridge.functions.setUp(powpeg_redeem_script, nested, anchor, height))

"""Registering a block's reward by somebody who has nothing but what is public.

From the block itself, the published manifests and the contracts follows everything: which epoch's commitment the
coinbase carries, which output pays the route, and what the distributor has to get for it. Amounts of the mined network
are satoshis, those of the EVM chain wei.
"""

from __future__ import annotations

import asyncio
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool_oracle.chain.calls import Request
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.flyover import CONFIRMATIONS, FlyoverRouteClient, Registration
from pool_oracle.claims.proofs import BundleProofs, PublishedEpoch
from pool_oracle.claims.sending import call_of
from pool_oracle.errors import ChainError, InputError, JobError, NodeError, ProofError
from pool_oracle.ledger.disk import open_regular
from pool_oracle.node.jsonrpc import JsonRpc, Login
from pool_oracle.payout.commitment import find_commitment
from pool_oracle.units import WEI_PER_SATOSHI, Satoshi, Wei
from pool_oracle.work.block import Block, parse_block
from pool_oracle.work.serialize import push_height
from pool_oracle.work.share import display
from pool_oracle.work.spv import CoinbaseProof, prove_coinbase

MAX_BLOCK_BYTES = 8 << 20
MAX_HEIGHT_DIGITS = 9
_HEX = frozenset(string.hexdigits)


@dataclass(frozen=True, slots=True)
class BlockReward:
    """A block of the pool: its coinbase with the proof of it, and the epoch that it commits to."""

    block: Block
    proof: CoinbaseProof
    epoch: PublishedEpoch

    @property
    def name(self) -> str:
        """For people."""
        return f"block {display(self.block.hash)} at height {self.proof.height}"

    def paid_to(self, script: bytes) -> Satoshi:
        """What the coinbase pays to an output script."""
        return Satoshi(sum(output.value for output in self.block.coinbase.outputs if output.script == script))

    def owed_by(self, script: bytes) -> Wei:
        """What has to come of it: all of the coinbase, where an older script of the route was paid."""
        everything = Satoshi(sum(output.value for output in self.block.coinbase.outputs))
        return Wei((self.paid_to(script) or everything) * WEI_PER_SATOSHI)


def read_block(reference: str, node: str | None, login: Login) -> Block:
    """A block named by height or hash, from a node, or by the file that holds its bytes (or their hex).

    Raises InputError, JobError for bytes that are no block, NodeError.
    """
    is_hash = len(reference) == 64 and _HEX.issuperset(reference)
    is_height = reference.isascii() and reference.isdigit() and len(reference) <= MAX_HEIGHT_DIGITS
    if is_height or is_hash:
        if node is None:
            raise InputError(
                f"block {reference} is read from a Bitcoin node: give --node URL, or a file with the block"
            )
        return asyncio.run(_fetch_block(reference.lower(), is_hash, node, login))
    return parse_block(_read_block_file(Path(reference)))


async def _fetch_block(reference: str, is_hash: bool, node: str, login: Login) -> Block:
    if not node.startswith(("http://", "https://")):
        raise InputError(f"--node must be http://HOST:PORT, not {node!r}")
    name = node.rpartition("@")[2].rpartition("://")[2].rstrip("/")
    rpc = JsonRpc(name, node, login)
    try:
        wanted = reference if is_hash else str(await rpc.call("getblockhash", int(reference)))
        text = await rpc.call("getblock", wanted, 0)
        header: Any = await rpc.call("getblockheader", wanted)
    finally:
        await rpc.close()
    try:
        block = parse_block(bytes.fromhex(text))
    except (TypeError, ValueError, JobError) as error:
        raise NodeError(f"{name}: getblock: no block came: {error}") from None
    if display(block.hash) != wanted:
        raise NodeError(f"{name}: getblock: another block came than {wanted}")
    depth = header.get("confirmations") if isinstance(header, dict) else None
    if not isinstance(depth, int) or depth < 1:
        raise InputError(f"block {wanted} is not in the best chain of {name}: its reward does not exist")
    return block


def _read_block_file(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(2 * MAX_BLOCK_BYTES + 2)
    except OSError as error:
        raise InputError(f"{path} is no height, no hash, and no file that can be read: {error.strerror}") from None
    stripped = data.strip()
    if stripped and set(stripped) <= set(string.hexdigits.encode()) and len(stripped) % 2 == 0:
        return bytes.fromhex(stripped.decode())
    return data


def find_reward(block: Block, epochs: BundleProofs) -> BlockReward:
    """What a block has to do with the pool. Raises InputError where it is none of its blocks, JobError."""
    proof = prove_coinbase(block, height_of(block), ())
    found = find_commitment(output.script for output in block.coinbase.outputs)
    if found is None:
        raise InputError(
            f"block {display(block.hash)} has no commitment in its coinbase, or several: it is no block of this pool"
        )
    epoch = epochs.epoch_of(found[1])
    if epoch is None:
        raise InputError(
            f"block {display(block.hash)} commits to 0x{found[1].hex()}, which is none of the {len(epochs.epochs)} "
            "published epochs; is it another pool's, or are bundles missing?"
        )
    return BlockReward(block, proof, epoch)


def height_of(block: Block) -> int:
    """The height that a coinbase begins with (BIP-34). Raises JobError."""
    script = block.coinbase.inputs[0].script
    first = script[0] if script else 0xFF
    height = int.from_bytes(script[1 : 1 + first], "little") if first <= 5 else -1
    if 0x51 <= first <= 0x60:
        height = first - 0x50
    if height < 0 or not script.startswith(push_height(height)):
        raise JobError("the coinbase does not begin with the push of a height (BIP-34)")
    return height


class FlyoverRegistration:
    """A reward on its way through the flyover route."""

    def __init__(self, route: FlyoverRouteClient, reward: BlockReward) -> None:
        """Raises ChainError."""
        self.route = route
        self.reward = reward
        self._script = route.reward_script(reward.epoch.commitment)

    @property
    def expected(self) -> Wei:
        """What the distributor has to get. Raises InputError where the coinbase does not pay the route."""
        paid = self.reward.paid_to(self._script)
        if not paid:
            raise InputError(
                f"{self.reward.name} pays nothing to the deposit address of its commitment (script "
                f"0x{self._script.hex()}); is it the right route, or has the PowPeg changed since the job was made?"
            )
        return Wei(paid * WEI_PER_SATOSHI)

    def done(self) -> Registration | None:
        """The registration, if anybody has made it. Raises ChainError."""
        return self.route.registrations().get(self.reward.proof.txid)

    def require_depth(self) -> None:
        """Raises ChainError where the bridge does not know enough blocks above it yet."""
        height = self.reward.proof.height
        depth = max(0, self.route.bridge_height() - height + 1)
        if depth < CONFIRMATIONS:
            raise ChainError(
                f"{self.reward.name} has {depth} confirmations at the bridge, which wants {CONFIRMATIONS}; try again "
                f"in {CONFIRMATIONS - depth} blocks"
            )

    def call(self) -> Request:
        """The transaction that registers."""
        proof, epoch = self.reward.proof, self.reward.epoch
        arguments = (proof.coinbase, proof.height, proof.partial_tree(), epoch.root, epoch.manifest_hash)
        return call_of(self.route.contract, "register", *arguments)

    def check(self, registration: Registration) -> None:
        """Raise the alarm, as ProofError, where another amount came than the coinbase paid."""
        expected = self.reward.owed_by(self._script)
        if registration.amount != expected:
            raise ProofError(
                f"ALARM: {self.reward.name} paid {expected} wei to the route, and payout {registration.payout_id} "
                f"has {registration.amount} wei (transaction {registration.transaction})"
            )


@dataclass(frozen=True, slots=True)
class Deposit:
    """A reward that was paid to a deposit address, whose holder owes it to the distributor."""

    reward: BlockReward
    paid: Satoshi
    funded: Wei
    """What was funded with this root so far, whoever paid it."""

    @property
    def expected(self) -> Wei:
        """What the distributor has to get for this block."""
        return Wei(self.paid * WEI_PER_SATOSHI)

    def call(self, distributor: DistributorClient) -> Request:
        """The transaction that funds the distributor with the block's own root."""
        epoch = self.reward.epoch
        return call_of(distributor.contract, "fund", epoch.root, epoch.manifest_hash, value=self.expected)


def find_deposit(distributor: DistributorClient, reward: BlockReward, script: bytes) -> Deposit:
    """What the holder of a deposit address owes for a block. Raises InputError where that is nothing, ChainError."""
    paid = reward.paid_to(script)
    if not paid:
        raise InputError(f"{reward.name} pays nothing to the deposit address (script 0x{script.hex()})")
    payouts, _ = distributor.events().all()
    funded = sum(payout.amount + payout.fee for payout in payouts if payout.root == reward.epoch.root)
    return Deposit(reward, paid, Wei(funded))


def unattributed(distributor: DistributorClient) -> Wei:
    """What has arrived and is no payout yet. Raises ChainError."""
    return Wei(distributor.chain.balance(distributor.address) - distributor.total_accounted())

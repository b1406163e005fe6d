"""From a found block to a payout: wait until it is deep enough, then register its coinbase through the route."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from pool_oracle.chain.client import Sending
from pool_oracle.chain.flyover import CONFIRMATIONS, FlyoverRouteClient, Registration
from pool_oracle.claims.matching import coinbase_value
from pool_oracle.epoch.keeper import EpochKeeper
from pool_oracle.errors import ChainError, JobError, NodeError
from pool_oracle.hashes import sha256d
from pool_oracle.logbook import FoundBlock
from pool_oracle.node.source import NodeSource
from pool_oracle.pool import Pool
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import display
from pool_oracle.work.spv import prove_coinbase

HEADERS_PER_TRANSACTION = 50

log = structlog.get_logger("rewards")


@dataclass(frozen=True, slots=True)
class Reward:
    """A block's reward that reached the distributor."""

    block: FoundBlock
    registration: Registration


class RewardKeeper:
    """Follows found blocks and registers each once it has the bridge's confirmations."""

    def __init__(
        self, pool: Pool, keeper: EpochKeeper, node: NodeSource, route: FlyoverRouteClient, sender: Sending
    ) -> None:
        """`sender` pays the gas; anyone could."""
        self._pool = pool
        self._keeper = keeper
        self._node = node
        self._route = route
        self._sender = sender
        self.rewards: dict[bytes, Reward] = {}

    async def register_due(self) -> list[Reward]:
        """Register every block that is in the best chain, deep enough for the bridge, and not registered yet.

        Returns the rewards that are new here; one that a stranger registered meanwhile is among them.
        """
        bridge_height = await asyncio.to_thread(self._route.bridge_height)
        due = [
            block
            for block in self._pool.blocks
            if block.hash not in self.rewards and block.is_alive and block.height + CONFIRMATIONS - 1 <= bridge_height
        ]
        if not due:
            return []
        known = await asyncio.to_thread(self._route.registrations)
        done = []
        for block in due:
            try:
                registration = known.get(sha256d(block.coinbase)) or await self._register(block)
            except (ChainError, NodeError, JobError) as error:
                # One reward that cannot be registered must not keep the others waiting.
                log.error("reward not registered", height=block.height, hash=display(block.hash), problem=str(error))
                continue
            if registration is not None:
                reward = self.rewards[block.hash] = Reward(block, registration)
                _raise_alarm(reward)
                done.append(reward)
        return done

    async def _register(self, found: FoundBlock) -> Registration | None:
        """Register one block; None when it is not in the best chain."""
        block = parse_block(await self._node.block(found.height))
        if block.hash != found.hash:
            return None
        proof = prove_coinbase(block, found.height, ())
        epoch = self._keeper.epochs[found.epoch]
        registration = await asyncio.to_thread(
            self._route.register,
            self._sender,
            proof.coinbase,
            proof.height,
            proof.partial_tree(),
            epoch.root,
            epoch.manifest_hash,
        )
        log.info("reward registered", height=found.height, payout=registration.payout_id, amount=registration.amount)
        return registration

    async def run(self, seconds: float) -> None:
        """For ever: register what is due, every `seconds`."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.register_due()
            except (ChainError, NodeError) as error:
                log.error("rewards", problem=str(error))


def _raise_alarm(reward: Reward) -> None:
    """Tell the operator where another amount arrived than the coinbase paid."""
    block, registration = reward.block, reward.registration
    expected = coinbase_value(block.coinbase)
    if registration.amount != expected:
        log.error(
            "ALARM: a reward came with another amount than its coinbase paid",
            height=block.height,
            hash=display(block.hash),
            payout=registration.payout_id,
            paid=expected,
            came=registration.amount,
        )


class HeaderRelay:
    """Feeds Bitcoin headers to a bridge that has nobody else to do it: the development bridge of a local chain."""

    def __init__(self, node: NodeSource, route: FlyoverRouteClient, sender: Sending) -> None:
        """`sender` pays the gas."""
        self._node = node
        self._route = route
        self._sender = sender

    async def relay(self) -> int:
        """Give the bridge every header that it lacks; returns its height afterwards."""
        height = await asyncio.to_thread(self._route.bridge_height)
        tip = await self._node.tip()
        while height < tip.height:
            upto = min(height + HEADERS_PER_TRANSACTION, tip.height)
            headers = [await self._node.header(h) for h in range(height + 1, upto + 1)]
            await asyncio.to_thread(self._route.relay_headers, self._sender, headers)
            height = upto
        return height

    async def run(self, seconds: float) -> None:
        """For ever: relay every `seconds`."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.relay()
            except (ChainError, NodeError) as error:
                log.error("header relay", problem=str(error))

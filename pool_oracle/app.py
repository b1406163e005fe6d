"""The one place where the pool's objects are wired together, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from pool_oracle.api.lookups import Lookups
from pool_oracle.api.metrics import PoolCollector
from pool_oracle.api.server import ApiServer
from pool_oracle.api.views import Views
from pool_oracle.chain.client import Sending
from pool_oracle.chain.deposit import DepositRoute
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.flyover import FlyoverRouteClient
from pool_oracle.chain.outbox import Outbox
from pool_oracle.chain.sending import DrySender
from pool_oracle.chain.treasury import Treasury, require_reserve
from pool_oracle.config import Config
from pool_oracle.epoch.keeper import EpochKeeper, Identity
from pool_oracle.epoch.publishing import open_publishing
from pool_oracle.epoch.rewards import HeaderRelay, Reward, RewardKeeper
from pool_oracle.errors import ChainError, ConfigError
from pool_oracle.indexing import Indexing
from pool_oracle.ledger.bundle import bundle_folders
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.node.opening import open_node
from pool_oracle.opening import open_chain, open_outbox, open_sender
from pool_oracle.pool import COINBASE_TAG, Pool
from pool_oracle.stratum.desk import LocalDesk
from pool_oracle.stratum.fleet import StratumFleet
from pool_oracle.stratum.server import StratumServer
from pool_oracle.units import format_coins

REWARD_SECONDS = 2
TREASURY_SECONDS = 600
TEND_SECONDS = 5

log = structlog.get_logger("app")


class PoolApp:
    """A whole pool in one event loop. Between `start` and `stop` its parts are there to be looked at."""

    def __init__(self, config: Config, *, register_rewards: bool = True, is_dry: bool = False) -> None:
        """Without `register_rewards` nobody relays headers or registers rewards: somebody else does.

        `is_dry`: nothing is sent to the chain, and no key is needed; the log shows what would be.
        """
        self.config = config
        self._is_dry = is_dry
        self._register_rewards = register_rewards
        self._tasks: list[asyncio.Task[Any]] = []
        self._cleanup = contextlib.AsyncExitStack()
        self.failure: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start everything. Raises what the parts raise, after stopping what had started."""
        self.failure = asyncio.get_running_loop().create_future()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        self.chain = open_chain(config)
        self.distributor = await asyncio.to_thread(DistributorClient, self.chain, config.chain.distributor)
        self.outbox = None if self._is_dry else await asyncio.to_thread(open_outbox, config, self.chain)
        if self.outbox is not None:
            self._cleanup.push_async_callback(asyncio.to_thread, self.outbox.close)
        self.operator: Sending
        if self._is_dry:
            self.operator = DrySender(self.chain, await asyncio.to_thread(self.distributor.operator))
        else:
            self.operator = open_sender(config, self.chain, self.outbox)
        self.route = await self._open_route()
        self.node = open_node(config.network, config.nodes, config.data / "node")
        self._cleanup.push_async_callback(self.node.close)
        self.log = ShareLog(config.data / "shares")
        self._cleanup.push_async_callback(self.log.close)
        bundles = config.bundles
        self.pool = Pool(
            config.network,
            self.node,
            self.log,
            rules=config.log_rules,
            tag=COINBASE_TAG,
            blocks_folder=config.data / "blocks",
            stale_grace=config.policy.stale_grace_seconds,
            extranonce2_size=config.stratum.extranonce2_size,
            published=len(bundle_folders(bundles)) - 1,
        )
        identity = Identity(
            pool=config.pool.name,
            network=config.pool.network,
            chain_id=self.chain.chain_id,
            distributor=self.distributor.address_bytes,
            route=self.route.name,
            policy=config.manifest_policy,
        )
        publishing = open_publishing(config.publishers)
        self._cleanup.push_async_callback(publishing.close)
        self.keeper = EpochKeeper(
            self.pool,
            self.log,
            bundles,
            identity,
            self.distributor,
            self.route,
            self.operator,
            publishing=publishing,
            is_lazy=config.policy.commit == "found",
        )
        await self.keeper.start(config.genesis_payee)
        if config.needs_treasury:
            await asyncio.to_thread(self._require_reserve)
            self._spawn(self._watch_treasury())
        self.indexing = Indexing(
            config.index_url,
            self.log.folder,
            config.log_rules,
            lambda: self.log.next_sequence,
            self.distributor.events(),
        )
        self._cleanup.push_async_callback(self.indexing.stop)
        self.indexing.start()
        await self._serve(self._open_rewards())
        if self.outbox is not None:
            self._spawn(self._tend(self.outbox))
        self._spawn(self.pool.follow_node())
        self._spawn(self.pool.settle_accounts())
        self._spawn(self.pool.block_keeper.follow())
        self._spawn(self.keeper.run(config.closing))
        self._spawn(self.keeper.retry())
        self._cleanup.push_async_callback(self._end_tasks)

    def _require_reserve(self) -> None:
        """Refuse to promise miners what the treasury does not hold. Raises ConfigError, ChainError."""
        config = self.config
        treasury = Treasury(self.chain, config.chain.distributor, config.policy.treasury)
        owed = self.keeper.owed()
        _, height = self.pool.tip
        policy, coin = config.policy, config.network.coin
        scheme = self.pool.scheme
        reserve = require_reserve(policy.scheme, scheme, policy.ruin_odds, height + 1, treasury, owed, coin)
        log.info("treasury covers the reserve", reserve=format_coins(reserve.amount, coin))

    async def _watch_treasury(self) -> None:
        """For ever: say so when the treasury no longer holds the reserve. The pool goes on: miners have its word."""
        while True:
            await asyncio.sleep(TREASURY_SECONDS)
            try:
                await asyncio.to_thread(self._require_reserve)
            except (ConfigError, ChainError) as error:
                log.error("treasury", problem=str(error))

    async def _open_route(self) -> FlyoverRouteClient | DepositRoute:
        """Where rewards go, by the configuration."""
        chain = self.config.chain
        if chain.route == DepositRoute.name:
            return DepositRoute(self.config.deposit_script)
        return await asyncio.to_thread(
            lambda: FlyoverRouteClient(self.chain, chain.flyover_route, nested=chain.nested_deposits)
        )

    def _open_rewards(self) -> dict[bytes, Reward]:
        """Start what brings rewards to the distributor; returns those that arrive, by block hash.

        A deposit is brought by whoever holds its address.
        """
        if not isinstance(self.route, FlyoverRouteClient):
            return {}
        self.rewards = RewardKeeper(self.pool, self.keeper, self.node, self.route, self.operator)
        self.header_relay = HeaderRelay(self.node, self.route, self.operator)
        if self._register_rewards:
            self._spawn(self.rewards.run(REWARD_SECONDS))
            if self.config.chain.relay_headers:
                self._spawn(self.header_relay.run(REWARD_SECONDS))
        return self.rewards.rewards

    async def _serve(self, rewards: dict[bytes, Reward]) -> None:
        settings, section = self.config.stratum_settings, self.config.stratum
        self.stratum: StratumServer | StratumFleet
        if section.workers:
            self.stratum = StratumFleet(self.pool, settings, section.workers, self.config.policy.stale_grace_seconds)
        else:
            self.stratum = StratumServer(LocalDesk(self.pool), settings)
        self._cleanup.push_async_callback(self.stratum.stop)
        self.stratum_port = await self.stratum.start(section.host, section.port)
        views = Views(self.config.pool.name, self.pool, self.keeper, rewards, self.distributor)
        collector = PoolCollector(
            self.pool, self.stratum.values, lambda: self.indexing.state, lambda: self.keeper.waiting
        )
        api = ApiServer(views, collector, Lookups(self.indexing, self.config.network))
        self.api_port = await api.start(self.config.api.host, self.config.api.port)
        self._cleanup.push_async_callback(api.stop)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        """A task that never should end has ended: tell whoever waits in `failure`."""
        if task.cancelled() or self.failure is None or self.failure.done():
            return
        error = task.exception()
        if error is not None:
            self.failure.set_exception(error)

    async def _tend(self, outbox: Outbox) -> None:
        """For ever: look after what was sent until it is final."""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            try:
                await asyncio.to_thread(outbox.tend)
            except ChainError as error:
                log.error("transactions", problem=str(error))

    async def _end_tasks(self) -> None:
        if self.outbox is not None:
            self.outbox.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.block_keeper.close()

    async def stop(self) -> None:
        """Stop everything, in reverse; the share log is flushed and the chain written."""
        await self._cleanup.aclose()
        if self.failure is not None and not self.failure.done():
            self.failure.cancel()

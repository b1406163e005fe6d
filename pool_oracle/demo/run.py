"""One run of the demo, step by step.

It passes only if the auditor passes and every satoshi registered is paid, kept as fee, or rounding dust.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pool_oracle.app import PoolApp
from pool_oracle.audit.bundles import BundleAudit
from pool_oracle.audit.chain import audit_chain
from pool_oracle.bitcoin_wallet import BitcoinWallet
from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.client import Chain
from pool_oracle.chain.distributor import Payout
from pool_oracle.chain.flyover import BRIDGE_ADDRESS, CONFIRMATIONS, FlyoverRouteClient
from pool_oracle.chain.keys import LocalSigner
from pool_oracle.claims.claiming import plan_claim, send_claims, survey_claims
from pool_oracle.claims.linking import link_call, prepare_link, read_signature
from pool_oracle.claims.proofs import PoolProofs
from pool_oracle.claims.sending import Wallet
from pool_oracle.demo.report import DemoReport, Row
from pool_oracle.demo.scenario import (
    GENESIS,
    HOST,
    MINING_TIMEOUT_SECONDS,
    STARTING_BALANCE,
    STRANGER,
    WANTED_BLOCKS,
    DemoMiner,
    demo_accounts,
    demo_miners,
    deploy_demo,
    network_block,
)
from pool_oracle.epoch.rewards import Reward
from pool_oracle.errors import PoolOracleError
from pool_oracle.ledger.bundle import read_leaves
from pool_oracle.logbook import FoundBlock
from pool_oracle.payout.payee import format_payee, payee_of_account
from pool_oracle.payout.sumtree import divide
from pool_oracle.processes import start_child, stop_child
from pool_oracle.units import WEI_PER_SATOSHI, Payee, Wei
from pool_oracle.work.transaction import parse_transaction

LINK_SECONDS = 3600

T = TypeVar("T")


class Demo:
    """One run: `prepare` in the main thread before the event loop, then `run`; then `stop` and `close` in any case."""

    def __init__(self, folder: Path, console: Console, scheme: str) -> None:
        """`folder` takes all data of the run; `scheme` is one of `DEMO_SCHEMES`."""
        self._folder = folder
        self._console = console
        self._scheme = scheme
        self._accounts = demo_accounts()
        self._anvil: Anvil | None = None
        self._miners: list[DemoMiner] = []
        self._began = time.monotonic()
        self._last_height = 0
        self.report = DemoReport()

    # Start and stop

    def prepare(self) -> None:
        """Start anvil and deploy the contracts. Raises SetupError, ChainError."""
        root = find_project_root()
        self._anvil = Anvil(root)
        chain = Chain(self._anvil.url)
        self._say(f"anvil runs: chain {chain.chain_id}, {self._anvil.url}")
        config = deploy_demo(root, self._folder, chain, self._accounts, self._scheme)
        self._say(f"NativeDistributor at {config.chain.distributor}")
        self._say(f"FlyoverRoute at {config.chain.flyover_route}, DevBridge at {BRIDGE_ADDRESS}")
        self._app = PoolApp(config)

    async def run(self) -> DemoReport:
        """All steps, in order. What does not hold is noted in the report; errors of the parts are raised."""
        await self._app.start()
        self._say(f"pool runs: stratum on {HOST}:{self._app.stratum_port}, page on {self.page}")
        self._start_miners()
        await self._guarded(self._mine())
        await self._guarded(self._pass_blocks())
        await self._guarded(self._await_rewards())
        payouts = await asyncio.to_thread(self._app.distributor.payouts)
        rewards = [r for r in self._app.rewards.rewards.values() if r.registration.payout_id < len(payouts)]
        claims = await self._guarded(self._claim(payouts))
        await self._app.keeper.close()
        await self._audit()
        await self._settle(payouts, rewards, claims)
        self.report.seconds = round(time.monotonic() - self._began, 1)
        return self.report

    @property
    def page(self) -> str:
        """The address of the pool's page."""
        return f"http://{HOST}:{self._app.api_port}/"

    async def wait(self) -> None:
        """Keep everything running until somebody cancels, or a part fails."""
        if self._app.failure is not None:
            await self._app.failure

    async def stop(self) -> None:
        """End miners and pool."""
        for miner in self._miners:
            for process in miner.processes:
                stop_child(process)
        await self._app.stop()

    def close(self) -> None:
        """End anvil; the last thing of a run, also of one that failed early."""
        if self._anvil is not None:
            self._anvil.stop()

    # Mining

    def _start_miners(self) -> None:
        self._miners = demo_miners(self._accounts, self._scheme)
        for miner in self._miners:
            for number, rate in enumerate(miner.hash_rates):
                machine = f"{miner.address}.{miner.name}{number or ''}"
                arguments = [HOST, str(self._app.stratum_port), machine, str(rate)]
                child = start_child([sys.executable, "-m", "pool_oracle.simulated_miner", *arguments])
                miner.processes.append(child)
        rates = ", ".join(f"{m.name} {' + '.join(str(r // 1000) for r in m.hash_rates)} kH/s" for m in self._miners)
        self._say(f"scheme {self._scheme}; five machines hash: {rates}")

    async def _mine(self) -> None:
        """Until enough blocks were found in jobs that carry an epoch of the miners' own shares."""
        app = self._app
        with self._progress("blocks found", WANTED_BLOCKS) as advance:
            async with asyncio.timeout(MINING_TIMEOUT_SECONDS):
                while len(self._wanted_blocks()) < WANTED_BLOCKS or not self._everybody_has_a_leaf():
                    advance(min(WANTED_BLOCKS, len(self._wanted_blocks())))
                    await asyncio.sleep(0.1)
            advance(WANTED_BLOCKS)
        accepted = sum(worker.accepted for worker in app.pool.workers.values())
        blocks = ", ".join(f"{block.height} (epoch {block.epoch})" for block in self._wanted_blocks())
        self._say(f"{accepted} shares accepted, {len(app.keeper.epochs)} epochs committed, blocks found at {blocks}")

    def _wanted_blocks(self) -> list[FoundBlock]:
        return [block for block in self._app.pool.blocks if block.epoch > 0 and block.was_accepted]

    def _everybody_has_a_leaf(self) -> bool:
        """Whether every miner is paid by at least one of the blocks."""
        epochs = {block.epoch for block in self._wanted_blocks()}
        leaves = {payee for n in epochs for payee, _ in read_leaves(self._app.keeper.epochs[n].folder)}
        return all(miner.payee in leaves for miner in self._miners)

    async def _pass_blocks(self) -> None:
        """The rest of the network finds the blocks that the bridge waits for."""
        node = self._app.node
        self._last_height = max(block.height for block in self._wanted_blocks())
        with self._progress("blocks pass", CONFIRMATIONS) as advance:
            while True:
                tip = await node.tip()
                passed = tip.height - self._last_height + 1
                advance(min(passed, CONFIRMATIONS))
                if passed >= CONFIRMATIONS:
                    break
                await node.submit(network_block(await node.template()))
        self._say(f"{CONFIRMATIONS} confirmations on block {self._last_height}")

    async def _await_rewards(self) -> None:
        """The pool relays headers and registers rewards by itself; wait for the blocks that are deep enough."""
        rewards = self._app.rewards.rewards
        due = [b for b in self._app.pool.blocks if b.height <= self._last_height and b.is_alive]
        with self._progress("rewards registered", len(due)) as advance:
            async with asyncio.timeout(MINING_TIMEOUT_SECONDS):
                while waiting := [b for b in due if b.hash not in rewards and b.is_alive]:
                    advance(len(due) - len(waiting))
                    await asyncio.sleep(0.1)
            advance(len(due))
        self._say(f"{len(rewards)} rewards registered through the flyover route")

    # Claims

    async def _claim(self, payouts: list[Payout]) -> dict[Payee, list[str]]:
        """Everybody claims everything, with proofs from the pool's API; returns transactions by payee.

        Also the genesis payee, for whom a stranger claims, where a block was found before the first epoch closed.
        """
        chain = self._app.chain
        stranger = Wallet(chain, LocalSigner(self._accounts[STRANGER]))
        transactions: dict[Payee, list[str]] = {}
        for miner in self._miners:
            wallet = stranger if miner.wallet else Wallet(chain, LocalSigner(miner.account))
            if miner.wallet is not None:
                await asyncio.to_thread(self._link, miner, miner.wallet, stranger)
            transactions[miner.payee] = await asyncio.to_thread(self._claim_all, miner.payee, payouts, wallet)
            how = "linked its key by BIP-137, a stranger claimed for it" if miner.wallet else "claimed from its own key"
            self._say(f"{miner.name} {how}")
        transactions[self._genesis] = await asyncio.to_thread(self._claim_all, self._genesis, payouts, stranger)
        return transactions

    @property
    def _genesis(self) -> Payee:
        return payee_of_account(bytes.fromhex(self._accounts[GENESIS].address[2:]))

    def _link(self, miner: DemoMiner, wallet: BitcoinWallet, stranger: Wallet) -> None:
        """As `pool-oracle link` does it."""
        distributor = self._app.distributor
        link = prepare_link(distributor, miner.payee, str(miner.account.address), int(time.time()) + LINK_SECONDS)
        stranger.send(link_call(distributor, link, read_signature(link, wallet.sign_message(link.message))))

    def _claim_all(self, payee: Payee, payouts: list[Payout], wallet: Wallet) -> list[str]:
        """As `pool-oracle claim` does it: everything that `payee` has a leaf for, with proofs from the pool's API."""
        distributor = self._app.distributor
        with contextlib.closing(PoolProofs(self.page)) as source:
            survey = survey_claims(distributor, source, payee, _no_progress, [payout.id for payout in payouts])
        if not survey.claimable:
            return []
        plan = plan_claim(distributor, survey, wallet.address)
        return [receipt.transaction for receipt in send_claims(distributor, plan, wallet, lambda _: None)]

    # The end

    async def _audit(self) -> None:
        """The auditor's verdict on everything published, and on the contract."""
        total = sum(
            (epoch.manifest.closing_share or 0) - (epoch.manifest.first_share or 0) + 1
            for epoch in self._app.keeper.epochs[1:]
        )
        with self._progress("shares audited", total) as advance:
            checked = 0

            def progress(count: int) -> None:
                nonlocal checked
                checked += count
                advance(checked)

            route = self._app.route
            assert isinstance(route, FlyoverRouteClient)  # noqa: S101 - the demo's configuration says so
            terms = await asyncio.to_thread(route.terms)
            audit = BundleAudit(self._folder / "pool" / "bundles", terms=terms, progress=progress)
            report = await asyncio.to_thread(audit.run)
            await asyncio.to_thread(audit_chain, audit, self._app.distributor)
        self.report.audit = "PASS" if report.passed else "FAIL"
        self.report.failures += [f"audit: {finding}" for finding in report.findings if not report.passed]
        self._say(f"auditor: {self.report.audit}, {len(report.epochs)} epochs, {report.shares} headers hashed again")

    async def _settle(self, payouts: list[Payout], rewards: list[Reward], claims: dict[Payee, list[str]]) -> None:
        """The table, and the conservation check."""
        app, report = self._app, self.report
        paid = await asyncio.to_thread(app.distributor.claimed_amounts)
        last = app.keeper.epochs[-1]
        weights = dict(read_leaves(last.folder))
        named = [(miner.name, miner.address, miner.payee) for miner in self._miners]
        if self._genesis in paid:
            named.append(("genesis payee", str(self._accounts[GENESIS].address), self._genesis))
        for name, address, payee in named:
            weight = weights.get(payee, 0)
            hundredths = weight * 10_000 // int(last.manifest.total)
            row = Row(
                name=name,
                address=address,
                payee=format_payee(payee),
                shares=sum(worker.accepted for worker in app.pool.workers.values() if worker.payee == payee),
                weight=str(weight),
                percent=f"{hundredths // 100}.{hundredths % 100:02d}",
                paid=str(paid.get(payee, 0)),
                claim_transactions=claims[payee],
            )
            report.rows.append(row)
            self._check(int(row.paid) > 0 and bool(row.claim_transactions), f"{name} was paid")
        for miner in self._miners:
            if miner.wallet is not None:
                balance = await asyncio.to_thread(app.chain.balance, str(miner.account.address))
                holds = balance == STARTING_BALANCE + paid.get(miner.payee, 0)
                self._check(holds, f"{miner.name}'s recipient holds what it was paid")
        report.fee = str(await asyncio.to_thread(app.distributor.fees_taken))
        report.epochs, report.blocks = len(app.keeper.epochs), len(rewards)
        report.shares = sum(row.shares for row in report.rows)
        self._conserve(payouts, rewards, paid)

    def _conserve(self, payouts: list[Payout], rewards: list[Reward], paid: dict[Payee, Wei]) -> None:
        """Paid + fee + dust = registered, and the dust of each payout is less than its number of leaves."""
        report = self.report
        self._check(len(payouts) == len(rewards), "every reward is one payout")
        coinbases = [parse_transaction(reward.block.coinbase) for reward in rewards]
        registered = sum(output.value for coinbase in coinbases for output in coinbase.outputs) * WEI_PER_SATOSHI
        total_paid, total_dust = sum(paid.values()), 0
        for payout in payouts:
            epoch = self._app.keeper.epoch_of_root(payout.root)
            self._check(epoch is not None, f"payout {payout.id} has the root of a published epoch")
            leaves = read_leaves(epoch.folder) if epoch else []
            total = sum(weight for _, weight in leaves)
            dust = payout.amount - sum(divide(payout.amount, weight, total) for _, weight in leaves)
            self._check(0 <= dust < len(leaves), f"dust of payout {payout.id} is less than its {len(leaves)} leaves")
            total_dust += dust
        report.registered, report.paid, report.dust = str(registered), str(total_paid), str(total_dust)
        self._check(total_paid + int(report.fee) + total_dust == registered, "paid + fee + dust = rewards registered")

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self.report.failures.append(f"does not hold: {what}")

    # Showing and watching

    def _say(self, text: str) -> None:
        line = f"[dim]{time.monotonic() - self._began:5.1f} s[/dim]  {text}"
        self._console.print(line, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("         {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """A step, given up when a part of the pool fails meanwhile, a miner ends, or nothing happens for too long."""
        step = asyncio.ensure_future(work)
        try:
            while not step.done():
                await asyncio.wait([step], timeout=0.2)
                if self._app.failure is not None and self._app.failure.done():
                    self._app.failure.result()
                dead = [m.name for m in self._miners if any(p.poll() is not None for p in m.processes)]
                if dead and not step.done():
                    raise PoolOracleError(f"{', '.join(dead)} ended before the demo did")
            return step.result()
        except TimeoutError:
            raise PoolOracleError(
                f"nothing happened for {MINING_TIMEOUT_SECONDS} seconds; is the machine busy?"
            ) from None
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


@contextlib.contextmanager
def _no_progress(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    """A claim of a few payouts shows none."""
    yield lambda _: None

"""The demo: a whole pool on this machine, from the first share to the last claimed wei, on real parts.

Bitcoin Core's validation judges every block, anvil runs the contracts, five miners in processes of their own hash for
real. It passes only if the auditor passes and every satoshi registered is paid, kept as fee, or rounding dust.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pool_oracle.app import PoolApp
from pool_oracle.audit.bundles import AuditReport, BundleAudit
from pool_oracle.audit.chain import audit_chain
from pool_oracle.bitcoin_wallet import BitcoinWallet
from pool_oracle.chain.anvil import TEST_MNEMONIC, Anvil, find_project_root
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.deploy import (
    DistributorSettings,
    deploy,
    load_artifact,
    next_contract_address,
    place_dev_bridge,
)
from pool_oracle.chain.distributor import Payout
from pool_oracle.chain.flyover import BRIDGE_ADDRESS, CONFIRMATIONS
from pool_oracle.config import ApiSection, ChainSection, Config, PolicySection, PoolSection, StratumSection
from pool_oracle.epoch.keeper import Identity, genesis_manifest
from pool_oracle.errors import PoolOracleError
from pool_oracle.hashes import hash160
from pool_oracle.ledger.bundle import read_leaves
from pool_oracle.networks import network_named
from pool_oracle.node.embedded import REGTEST_GENESIS_HASH, solve
from pool_oracle.payout.bip137 import check_signer, decode_signature, recover
from pool_oracle.payout.payee import format_payee, payee_of_account
from pool_oracle.payout.sumtree import SumProof
from pool_oracle.processes import start_child, stop_child
from pool_oracle.units import WEI_PER_COIN, WEI_PER_SATOSHI, Payee, Wei, format_wei
from pool_oracle.work.scripts import OP_TRUE
from pool_oracle.work.share import pack_header
from pool_oracle.work.template import Template, assemble_block, make_job
from pool_oracle.work.transaction import parse_transaction

HOST = "127.0.0.1"
EMULATED_TARGET = 1 << 236
"""About a million hashes a block."""
SHARE_DIFFICULTY = "65535/68719476736"
"""Target 2^244: about 4,096 hashes a share and 256 shares a block."""
EPOCH_SECONDS = 3
WINDOW = 2
FEE_BPS = 100
WANTED_BLOCKS = 2
MINING_TIMEOUT_SECONDS = 300

OPERATOR, FEE_RECIPIENT, STRANGER, GENESIS, NETWORK_MINER = 0, 1, 2, 3, 4
"""Places of accounts in anvil's test mnemonic; the miners' begin at FIRST_MINER."""
FIRST_MINER = 10

# Test keys that anybody knows, for a PowPeg of two of three, and two refund addresses that nobody's operator holds.
POWPEG_KEYS = (
    "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
    "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
)
POWPEG_REDEEM_SCRIPT = b"\x52" + b"".join(b"\x21" + bytes.fromhex(key) for key in POWPEG_KEYS) + b"\x53\xae"
USER_REFUND = b"\x6f" + hash160(b"pool_oracle demo: refund to nobody, user")
PROVIDER_REFUND = b"\x6f" + hash160(b"pool_oracle demo: refund to nobody, provider")


@dataclass(slots=True)
class DemoMiner:
    """A simulated miner. `wallet` is its Bitcoin key, `account` its EVM account or the one it wants to be paid to."""

    name: str
    hashes_per_second: int
    account: LocalAccount
    wallet: BitcoinWallet | None
    payee: Payee
    address: str
    process: subprocess.Popen[bytes] | None = None


@dataclass(slots=True)
class Row:
    """A line of the final table. Amounts in wei, as decimal strings in JSON."""

    name: str
    address: str
    payee: str
    shares: int
    weight: str
    percent: str
    paid: str
    claim_transactions: list[str]


@dataclass(slots=True)
class DemoReport:
    """How the demo ended. Amounts are wei as decimal strings."""

    rows: list[Row] = field(default_factory=list)
    epochs: int = 0
    shares: int = 0
    blocks: int = 0
    registered: str = "0"
    paid: str = "0"
    fee: str = "0"
    dust: str = "0"
    audit: str = ""
    seconds: float = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that the demo promises held."""
        return not self.failures


def demo_accounts(count: int = 20) -> list[LocalAccount]:
    """The accounts that anvil makes and funds."""
    Account.enable_unaudited_hdwallet_features()
    return [Account.from_mnemonic(TEST_MNEMONIC, account_path=f"m/44'/60'/0'/0/{i}") for i in range(count)]


class Demo:
    """One run. `prepare` in the main thread before the event loop, then `run`, then `stop` whatever happened."""

    def __init__(self, folder: Path, console: Console) -> None:
        """`folder` takes all data of the run."""
        self._folder = folder
        self._console = console
        self._network = network_named("regtest")
        self._accounts = demo_accounts()
        self._anvil: Anvil | None = None
        self._app: PoolApp | None = None
        self.miners: list[DemoMiner] = []
        self.report = DemoReport()
        self._began = time.monotonic()

    # Steps

    def prepare(self) -> None:
        """Start anvil, deploy the contracts, write the pool's configuration. Raises SetupError, ChainError."""
        root = find_project_root()
        self._anvil = Anvil(root)
        chain = Chain(self._anvil.url)
        operator = Sender(chain, self._accounts[OPERATOR])
        self._say(f"anvil runs (chain {chain.chain_id}, {self._anvil.url})")
        place_dev_bridge(
            chain, operator, root, POWPEG_REDEEM_SCRIPT, nested=True, anchor=REGTEST_GENESIS_HASH, height=0
        )
        key_file = self._folder / "operator.key"
        key_file.touch(mode=0o600)
        key_file.write_text(f"0x{bytes(self._accounts[OPERATOR].key).hex()}")
        distributor, route = self._deploy(root, chain, operator)
        self._config = self._configuration(self._anvil.url, distributor, route, key_file)
        self._say(
            f"contracts deployed: NativeDistributor {distributor}, FlyoverRoute {route}, DevBridge {BRIDGE_ADDRESS}"
        )

    def _configuration(self, rpc: str, distributor: str, route: str, key_file: Path) -> Config:
        return Config(
            pool=PoolSection(
                name="pool_oracle demo",
                network=self._network.name,
                data=str(self._folder / "pool"),
                emulated_network_target=f"0x{EMULATED_TARGET:064x}",
            ),
            stratum=StratumSection(share_difficulty=SHARE_DIFFICULTY, host=HOST, port=0),
            policy=PolicySection(
                genesis_payee=str(self._accounts[GENESIS].address),
                window=WINDOW,
                fee_bps=FEE_BPS,
                epoch_seconds=EPOCH_SECONDS,
            ),
            chain=ChainSection(
                rpc=rpc,
                distributor=distributor,
                flyover_route=route,
                operator_key_file=str(key_file),
                relay_headers=True,
            ),
            api=ApiSection(host=HOST, port=0),
        )

    def _deploy(self, root: Path, chain: Chain, operator: Sender) -> tuple[str, str]:
        """Deploy the distributor with epoch 0's root, whose manifest names the distributor's coming address."""
        address = next_contract_address(chain, operator.address)
        config = self._configuration("", "", "", Path())
        identity = Identity(
            config.pool.name, self._network.name, chain.chain_id, address, "flyover", config.manifest_policy
        )
        manifest, tree = genesis_manifest(identity, config.genesis_payee)
        settings = DistributorSettings(
            operator=operator.address,
            fee_recipient=str(self._accounts[FEE_RECIPIENT].address),
            fee_bps=FEE_BPS,
            fee_cap_bps=2 * FEE_BPS,
            activation_delay=0,
            min_payout=0,
            genesis_root=tree.root,
            genesis_manifest_hash=manifest.hash(),
        )
        distributor = deploy(operator, load_artifact(root, "NativeDistributor"), settings.as_tuple())
        route = deploy(
            operator, load_artifact(root, "FlyoverRoute"), BRIDGE_ADDRESS, distributor, USER_REFUND, PROVIDER_REFUND
        )
        return distributor, route

    async def run(self) -> DemoReport:
        """All steps, in order. What does not hold is noted in the report; errors of the parts are raised."""
        self._app = PoolApp(self._config)
        await self._app.start()
        self._say(f"pool runs: stratum on {HOST}:{self._app.stratum_port}, page on {self.page}")
        self._start_miners()
        await self._guarded(self._mine())
        await self._guarded(self._pass_blocks())
        await self._guarded(self._await_rewards())
        payouts = await asyncio.to_thread(self._app.distributor.payouts)
        claims = await self._guarded(self._claim(payouts))
        await self._app.keeper.close()
        await self._audit()
        await self._settle(payouts, claims)
        self.report.seconds = round(time.monotonic() - self._began, 1)
        return self.report

    @property
    def page(self) -> str:
        """The address of the pool's page."""
        return f"http://{HOST}:{self._app.api_port}/" if self._app else ""

    async def wait(self) -> None:
        """Keep everything running until somebody cancels, or a part fails."""
        if self._app is not None and self._app.failure is not None:
            await self._app.failure

    async def stop(self) -> None:
        """End miners, pool and anvil."""
        for miner in self.miners:
            if miner.process is not None:
                stop_child(miner.process)
        if self._app is not None:
            await self._app.stop()

    def close(self) -> None:
        """End anvil; the last thing of a run, also of one that failed early."""
        if self._anvil is not None:
            self._anvil.stop()

    # Mining

    def _start_miners(self) -> None:
        rates = (160_000, 80_000, 48_000, 32_000, 16_000)
        for i, rate in enumerate(rates):
            account = self._accounts[FIRST_MINER + i]
            wallet = None
            if i < 3:
                payee, address = payee_of_account(bytes.fromhex(account.address[2:])), str(account.address)
            else:
                wallet = BitcoinWallet(hash160(f"demo miner {i}".encode()).rjust(32, b"\x01"), nested=i == 4)
                payee, address = wallet.payee, wallet.address(self._network)
            self.miners.append(DemoMiner(f"miner{i + 1}", rate, account, wallet, payee, address))
        assert self._app is not None  # noqa: S101 - run() starts it first
        for miner in self.miners:
            user = f"{miner.address}.{miner.name}"
            arguments = [HOST, str(self._app.stratum_port), user, str(miner.hashes_per_second)]
            miner.process = start_child([sys.executable, "-m", "pool_oracle.simulated_miner", *arguments])
        self._say("five miners hash: " + ", ".join(f"{m.name} {m.hashes_per_second // 1000} kH/s" for m in self.miners))

    async def _mine(self) -> None:
        """Until enough blocks were found in jobs that carry an epoch of the miners' own shares."""
        app = self._the_app
        with self._progress("blocks found", WANTED_BLOCKS) as advance:
            async with asyncio.timeout(MINING_TIMEOUT_SECONDS):
                while len(self._wanted_blocks()) < WANTED_BLOCKS or not self._everybody_has_a_leaf():
                    advance(min(WANTED_BLOCKS, len(self._wanted_blocks())))
                    await asyncio.sleep(0.1)
            advance(WANTED_BLOCKS)
        accepted = sum(worker.accepted for worker in app.pool.workers.values())
        blocks = ", ".join(f"{block.height} (epoch {block.epoch})" for block in self._wanted_blocks())
        self._say(f"{accepted} shares accepted, {len(app.keeper.epochs)} epochs committed, blocks found at {blocks}")

    def _wanted_blocks(self) -> list[Any]:
        return [block for block in self._the_app.pool.blocks if block.epoch > 0 and block.state == "accepted"]

    def _everybody_has_a_leaf(self) -> bool:
        """Whether every miner is paid by at least one of the blocks."""
        epochs = {block.epoch for block in self._wanted_blocks()}
        leaves = {payee for n in epochs for payee, _ in read_leaves(self._the_app.keeper.epochs[n].folder)}
        return all(miner.payee in leaves for miner in self.miners)

    async def _pass_blocks(self) -> None:
        """The rest of the network finds the blocks that the bridge waits for."""
        node = self._the_app.node
        self._last_height = max(block.height for block in self._wanted_blocks())
        with self._progress("blocks pass", CONFIRMATIONS) as advance:
            while True:
                tip = await node.tip()
                passed = tip.height - self._last_height + 1
                advance(min(passed, CONFIRMATIONS))
                if passed >= CONFIRMATIONS:
                    break
                await node.submit(network_block(await node.template()))
                await asyncio.sleep(0)
        self._say(f"{CONFIRMATIONS} confirmations on block {self._last_height}")

    async def _await_rewards(self) -> None:
        """The pool relays headers and registers rewards by itself; wait for the blocks that are deep enough."""
        app = self._the_app
        due = [b for b in app.pool.blocks if b.height <= self._last_height and not b.state.startswith("rejected")]
        with self._progress("rewards registered", len(due)) as advance:
            async with asyncio.timeout(MINING_TIMEOUT_SECONDS):
                while waiting := [b for b in due if b.hash not in app.rewards.rewards and b.state != "orphaned"]:
                    advance(len(due) - len(waiting))
                    await asyncio.sleep(0.1)
            advance(len(due))
        self._say(f"{len(app.rewards.rewards)} rewards registered through the flyover route")

    # Claims

    async def _claim(self, payouts: list[Payout]) -> dict[Payee, list[str]]:
        """Everybody claims everything, with proofs from the pool's API; returns transactions by payee."""
        stranger = Sender(self._the_app.chain, self._accounts[STRANGER])
        transactions: dict[Payee, list[str]] = {}
        for miner in self.miners:
            sender = stranger if miner.wallet else Sender(self._the_app.chain, miner.account)
            if miner.wallet is not None:
                await asyncio.to_thread(self._link, miner, miner.wallet, stranger)
            transactions[miner.payee] = await self._claim_all(miner.payee, payouts, sender)
            how = "linked by BIP-137, claimed by a stranger" if miner.wallet else "claimed by itself"
            self._say(f"{miner.name} {how}")
        genesis = payee_of_account(bytes.fromhex(self._accounts[GENESIS].address[2:]))
        transactions[genesis] = await self._claim_all(genesis, payouts, stranger)
        return transactions

    def _link(self, miner: DemoMiner, wallet: BitcoinWallet, stranger: Sender) -> None:
        distributor = self._the_app.distributor
        deadline = int(time.time()) + 3600
        message = distributor.link_message(miner.payee, str(miner.account.address), deadline)
        signed = recover(message.encode(), decode_signature(wallet.sign_message(message)))
        check_signer(miner.payee, signed)
        distributor.link_bitcoin_key(stranger, miner.payee, str(miner.account.address), deadline, signed)

    async def _claim_all(self, payee: Payee, payouts: list[Payout], sender: Sender) -> list[str]:
        """Claim every payout that has a leaf for `payee`, in one transaction."""
        claims: list[tuple[int, SumProof]] = []
        async with httpx.AsyncClient(base_url=self.page) as client:
            for payout in payouts:
                answer = await client.get(f"/api/v1/proof/{payout.id}/{format_payee(payee)}")
                if answer.status_code == httpx.codes.NOT_FOUND:
                    continue
                value = answer.raise_for_status().json()
                siblings = tuple(bytes.fromhex(word[2:]) for word in value["proof"])
                claims.append((payout.id, SumProof(payee, int(value["weight"]), value["index"], siblings)))
        if not claims:
            return []
        receipt = await asyncio.to_thread(self._the_app.distributor.claim, sender, payee, claims)
        return [receipt["transactionHash"].to_0x_hex()]

    # The end

    async def _audit(self) -> None:
        """The auditor's verdict on everything published, and on the contract."""
        app = self._the_app
        bundles = self._folder / "pool" / "bundles"
        total = sum(_manifest_shares(e.manifest.first_share, e.manifest.closing_share) for e in app.keeper.epochs)
        with self._progress("shares audited", total) as advance:
            done = 0

            def progress(count: int) -> None:
                nonlocal done
                done += count
                advance(done)

            terms = await asyncio.to_thread(app.route.terms)
            audit = BundleAudit(bundles, terms=terms, progress=progress)
            report: AuditReport = await asyncio.to_thread(audit.run)
            await asyncio.to_thread(audit_chain, audit, app.distributor)
            advance(total)
        self.report.audit = "PASS" if report.passed else "FAIL"
        self.report.failures += [
            f"audit: {f.what}: expected {f.expected}, found {f.found} ({f.where})" for f in report.findings
        ]
        self._say(f"auditor: {self.report.audit}, {len(report.epochs)} epochs, {report.shares} headers hashed again")

    async def _settle(self, payouts: list[Payout], claims: dict[Payee, list[str]]) -> None:
        """The table, and the conservation check."""
        app, report = self._the_app, self.report
        paid = await asyncio.to_thread(app.distributor.claimed_amounts)
        report.fee = str(await asyncio.to_thread(app.distributor.fees_taken))
        registered = sum(self._coinbase_value(reward) for reward in app.rewards.rewards.values())
        self._check(len(payouts) == len(app.rewards.rewards), "every reward is one payout")
        last = app.keeper.epochs[-1]
        weights = dict(read_leaves(last.folder))
        for miner in self.miners:
            shares = sum(w.accepted for w in app.pool.workers.values() if w.payee == miner.payee)
            weight = weights.get(miner.payee, 0)
            percent = f"{weight * 10000 // int(last.manifest.total) / 100:.2f}"
            amount = paid.get(miner.payee, Wei(0))
            row = Row(
                miner.name,
                miner.address,
                format_payee(miner.payee),
                shares,
                str(weight),
                percent,
                str(amount),
                claims[miner.payee],
            )
            report.rows.append(row)
            self._check(amount > 0 and bool(claims[miner.payee]), f"{miner.name} was paid")
            if miner.wallet is not None:
                balance = await asyncio.to_thread(app.chain.balance, str(miner.account.address))
                self._check(balance == STARTING_BALANCE + amount, f"{miner.name}'s recipient holds what it was paid")
        self._conserve(payouts, paid, registered)
        report.epochs = len(app.keeper.epochs)
        report.shares = sum(row.shares for row in report.rows)
        report.blocks = len(app.rewards.rewards)

    def _conserve(self, payouts: list[Payout], paid: dict[Payee, Wei], registered: int) -> None:
        """Paid + fee + dust = registered, and the dust of each payout is less than its number of leaves."""
        report = self.report
        total_paid = sum(paid.values())
        dust = 0
        for payout in payouts:
            epoch = self._the_app.keeper.epoch_of_root(payout.root)
            self._check(epoch is not None, f"payout {payout.id} has the root of a published epoch")
            if epoch is None:
                continue
            leaves = read_leaves(epoch.folder)
            total = sum(weight for _, weight in leaves)
            rest = payout.amount - sum(payout.amount * weight // total for _, weight in leaves)
            self._check(0 <= rest < len(leaves), f"dust of payout {payout.id} is less than its {len(leaves)} leaves")
            dust += rest
        report.registered, report.paid, report.dust = str(registered), str(total_paid), str(dust)
        self._check(total_paid + int(report.fee) + dust == registered, "paid + fee + dust = rewards registered")

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self.report.failures.append(f"does not hold: {what}")

    def _coinbase_value(self, reward: Any) -> int:
        """What a registered block's coinbase paid, in wei."""
        outputs = parse_transaction(reward.block.coinbase).outputs
        return sum(output.value for output in outputs) * WEI_PER_SATOSHI

    # Showing

    @property
    def _the_app(self) -> PoolApp:
        assert self._app is not None  # noqa: S101 - run() starts it first
        return self._app

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/dim]  {text}", highlight=False)

    @contextlib.contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("         {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    async def _guarded(self, work: Any) -> Any:
        """A step; ends with the error of a part of the pool that fails meanwhile, or of a miner that ends."""
        step = asyncio.ensure_future(work)
        failure = self._the_app.failure
        while not step.done():
            await asyncio.wait(
                [step, *([failure] if failure else [])], timeout=0.5, return_when=asyncio.FIRST_COMPLETED
            )
            dead = [m.name for m in self.miners if m.process is not None and m.process.poll() is not None]
            if not step.done() and (dead or (failure is not None and failure.done())):
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
                if failure is not None and failure.done():
                    failure.result()
                raise PoolOracleError(f"{', '.join(dead)} ended before the demo did")
        return step.result()


STARTING_BALANCE = 10_000 * WEI_PER_COIN
"""What anvil gives each test account."""


def network_block(template: Template) -> bytes:
    """A block of somebody else: same rules, no commitment of ours, anybody may spend it."""
    job = make_job(
        0,
        template,
        reward_script=OP_TRUE,
        commitment_script=b"\x6a",
        commitment=b"",
        epoch=0,
        tag=b"/another miner/",
        extranonce_size=1,
    )
    coinbase = job.stratum.coinbase(b"", b"\x00")
    root = job.stratum.merkle_root(b"", b"\x00")
    header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 0)
    return assemble_block(solve(header, template.network_target), coinbase, template)


def _manifest_shares(first: int | None, closing: int | None) -> int:
    return 0 if first is None or closing is None else closing - first + 1


def show_report(report: DemoReport, console: Console) -> None:
    """The table and the sums, for people."""
    table = Table(title="What every miner got", title_justify="left")
    for heading in ("payee", "shares", "weight", "window %", "paid", "claim transaction"):
        table.add_column(
            heading, justify="left" if heading in ("payee", "claim transaction") else "right", overflow="fold"
        )
    for row in report.rows:
        transactions = ", ".join(row.claim_transactions)
        paid = format_wei(Wei(int(row.paid)))
        table.add_row(row.address, str(row.shares), row.weight, row.percent, paid, transactions)
    console.print(table)
    sums = " + ".join(f"{name} {format_wei(Wei(int(getattr(report, name))), '')}".rstrip() for name in ("paid", "fee"))
    console.print(
        f"{sums} + dust {report.dust} wei = registered {format_wei(Wei(int(report.registered)))} "
        f"({report.blocks} rewards)",
        highlight=False,
    )
    for failure in report.failures:
        console.print(f"[red]FAILED[/red] {failure}", highlight=False)
    verdict = "[green]PASS[/green]" if report.passed else "[red]FAIL[/red]"
    console.print(f"{verdict} in {report.seconds} s: {report.epochs} epochs, auditor {report.audit}", highlight=False)


def report_to_json(report: DemoReport) -> dict[str, Any]:
    """The report as a JSON value."""
    return {"passed": report.passed} | asdict(report)

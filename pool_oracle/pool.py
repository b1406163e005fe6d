"""The pool: templates to jobs, submissions to accepted shares in the log, found blocks to the node.

It speaks no wire protocol; `stratum/` does. Everything here runs in one event loop, so the order of shares in the log
is the order of their acceptance, and no lock is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from pool_oracle.blocks import BlockKeeper
from pool_oracle.errors import ConfigError, InputError, JobError, LedgerError, NodeError, ShareRefused
from pool_oracle.fees import FeeKeeper
from pool_oracle.judge import JobTerms, Judge, LiveJob, Submission, Worker
from pool_oracle.ledger.accounts import AccountedLog
from pool_oracle.ledger.checkpoint import Checkpoint, Checkpoints
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, now_micros
from pool_oracle.logbook import (
    EpochClose,
    FoundBlock,
    WorkerStats,
    close_payload,
    job_payload,
)
from pool_oracle.networks import Network
from pool_oracle.node.source import NodeSource
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.schemes import Scheme
from pool_oracle.restoring import restore_state
from pool_oracle.units import Payee
from pool_oracle.work.firmware import firmware_warning
from pool_oracle.work.records import ShareRecord
from pool_oracle.work.share import display
from pool_oracle.work.template import Job, Template, assemble_block, make_job

COINBASE_TAG = b"/pool_oracle/"
EXTRANONCE1_SIZE = 4
EXTRANONCE2_SIZES = range(4, 9)
"""How many bytes of extranonce2 a pool may leave to miners: a rental proxy needs four."""
JOB_SECONDS = 75
"""How old a job may get before miners are given a new one: a little more than a node waits to tell of higher fees."""

NODE_RETRY_SECONDS = 1.0

SETTLE_SECONDS = 0.1
SETTLE_SHARES = 10_000
"""Shares that leave the window in one go: some milliseconds. More than can come in the time between."""

log = structlog.get_logger("pool")


@dataclass(frozen=True, slots=True)
class Commitment:
    """What jobs carry: an epoch, its commitment, and the script that its rewards are paid to."""

    epoch: int
    commitment: bytes
    reward_script: bytes


class Pool:
    """Jobs, shares and blocks of one network, under one policy."""

    def __init__(
        self,
        network: Network,
        node: NodeSource,
        share_log: ShareLog,
        *,
        rules: Rules,
        tag: bytes,
        blocks_folder: Path,
        stale_grace: float = 0,
        extranonce2_size: int = 8,
        published: int = 0,
    ) -> None:
        """Replay the log and be ready; the first `set_commitment` makes the first job.

        Raises CorruptLog, and ConfigError where the log goes by other `rules` than these and cannot change to them.
        New terms hold from the next close on. `published` is the last epoch whose weights nobody asks for again;
        `blocks_folder` keeps found blocks until they are mature; `stale_grace` is for how many seconds after a new tip
        shares of the one before are accepted.
        """
        self.network = network
        self.extranonce2_size = extranonce2_size
        self._node = node
        self._log = share_log
        self._tag = tag
        self._emulated_target = rules.emulated_target
        self._checkpoints = Checkpoints(share_log.folder)
        self._checkpoint: Checkpoint | None = None
        self._state = state = restore_state(share_log, rules, published=published, checkpoints=self._checkpoints)
        self.accounts = state.accounts
        self._book = AccountedLog(share_log, state.accounts)
        self._next_rules: Rules | None = None
        self._take_rules(rules)
        self.block_keeper = BlockKeeper(node, self._book, blocks_folder, state.blocks)
        self.closes = state.closes
        self._weights = state.weights
        self._fees = None
        if state.accounts.scheme.needs_fees:
            self._fees = FeeKeeper(node, self._book, state.tips, rules.halving_interval)
        self._workers = state.workers
        self.workers: dict[int, WorkerStats] = {}
        self._next_worker = 0  # not their count: numbers that left no record are not known after a restart
        for (payee, name), number in state.workers.items():
            self._register(number, payee, name)
        self._jobs: dict[int, Job] = {}
        self.judge = Judge(network, stale_grace, self._take_block, state.seen)
        self._template: Template | None = None
        self._commitment: Commitment | None = None
        self._warned_size = 0
        self.job: Job | None = None
        self.on_job: list[Callable[[LiveJob, bool], None]] = []

    @property
    def blocks(self) -> list[FoundBlock]:
        """Every block that was found, oldest first."""
        return self.block_keeper.blocks

    def _take_rules(self, rules: Rules) -> None:
        """Go on by these rules: at once where nothing was accounted since a close, else from the next close on."""
        present = self.accounts.rules
        if rules == present:
            return
        if not present.can_become(rules):
            raise ConfigError(
                f"this share log is accounted by {present}, and the configuration wants {rules}; only the window, "
                "the fee and a SOLO pool's payee can change. Another scheme needs a data folder and a distributor of "
                "its own"
            )
        if self.accounts.may_change:
            self._book.change(rules)
        else:
            self._next_rules = rules
        when = "at the next close" if self._next_rules else "now"
        log.info("the policy changes", when=when, before=str(present), then=str(rules))

    @property
    def only_payees(self) -> tuple[Payee, ...]:
        """Whom miners here may work for, now or from the next close on; empty where everybody may."""
        rules = (self.accounts.rules, self._next_rules)
        return tuple(r.payee for r in rules if r is not None and r.payee is not None)

    @property
    def scheme(self) -> Scheme:
        """How shares become weights, as of now."""
        return self.accounts.scheme

    # Jobs

    async def set_commitment(self, commitment: Commitment) -> None:
        """Jobs from now on carry this epoch's commitment and pay its script. Miners get a new job, not a clean one.

        The first one asks the node for a template; later ones need no node. Raises NodeError, JobError.
        """
        self._commitment = commitment
        if self._template is None:
            await self.refresh()
        else:
            self._publish(self._make_job(self._template), clean=False)

    async def refresh(self) -> None:
        """Fetch a template now and make a job of it; a clean one where the tip has changed."""
        await self._use_template(await self._node.template())

    async def _use_template(self, template: Template) -> None:
        """Make a job of a template, once its shares can be priced. Raises NodeError, JobError."""
        if self._fees is not None:
            await self._fees.follow(template)
        self._take_template(template)

    def _take_template(self, template: Template) -> None:
        job = self._make_job(template)  # first, because it may fail, and then everything stays as it is
        clean = self._template is None or template.prev_hash != self._template.prev_hash
        if clean:
            self.block_keeper.look_soon()
        self._template = template
        self._publish(job, clean)

    def _make_job(self, template: Template) -> Job:
        """The next job for a template. Raises JobError."""
        if self._commitment is None:
            raise JobError("no epoch is committed yet, so there is nothing a job could carry")
        commitment = self._commitment
        job = make_job(
            self._state.next_job,
            template,
            reward_script=commitment.reward_script,
            commitment_script=commitment_script(commitment.commitment),
            commitment=commitment.commitment,
            epoch=commitment.epoch,
            tag=self._tag,
            extranonce_size=EXTRANONCE1_SIZE + self.extranonce2_size,
            network_target=self._emulated_target,  # type: ignore[arg-type]
        )
        self._warn_of_size(job)
        return job

    def _publish(self, job: Job, clean: bool) -> None:
        """Make a job the present one: known to shares, defined in the log, sent to miners."""
        self._state.next_job += 1
        self._jobs[job.number] = job
        self._state.note_tip(job.stratum.prev_hash, self._log.segment)
        self._log.define_job(job.number, job_payload(job, EXTRANONCE1_SIZE + self.extranonce2_size))
        template = job.template
        forgotten = self.judge.add_job(
            job.number, job.stratum, job.network_target, template.mintime, template.curtime, template.height
        )
        for gone in forgotten:
            self._log.forget_job(gone)
            del self._jobs[gone]
        self.job = job
        live = self.judge.job
        assert live is not None  # noqa: S101 - it was added a few lines above
        for listener in self.on_job:
            listener(live, clean)

    def _warn_of_size(self, job: Job) -> None:
        """Tell the operator once about a coinbase that some firmware cannot hash."""
        size = len(job.stratum.coinb1) + EXTRANONCE1_SIZE + self.extranonce2_size + len(job.stratum.coinb2)
        warning = firmware_warning(size)
        if warning is not None and size > self._warned_size:
            self._warned_size = size
            log.warning("large coinbase", warning=warning)

    async def follow_node(self) -> None:
        """For ever: a clean job at once when the tip changes, another for higher fees, or when a job's time gets old.

        While the node fails, or gives templates that cannot be mined, miners keep the jobs that they have.
        """
        while True:
            try:
                await self._use_template(await self._next_template())
            except (NodeError, InputError) as error:
                log.error("no new template", problem=str(error))
                await asyncio.sleep(NODE_RETRY_SECONDS)

    async def _next_template(self) -> Template:
        if self._template is not None:
            try:
                async with asyncio.timeout(JOB_SECONDS):
                    return await self._node.next_template(self._template)
            except TimeoutError:
                pass
        return await self._node.template()

    # Workers

    def worker(self, payee: Payee, name: str) -> int:
        """The number of a payee's worker, registering it when it is new."""
        number = self._workers.get((payee, name))
        if number is None:
            number = self._workers[payee, name] = self._next_worker
            self._register(number, payee, name)
        return number

    def number_of(self, worker: Worker) -> int:
        """The number of a connection's worker, registering it when it is new."""
        if worker.number < 0:
            worker.number = self.worker(worker.payee, worker.name)
        return worker.number

    def refuse(self, worker: Worker) -> None:
        """Count a refused share, if its worker is registered."""
        number = self._workers.get((worker.payee, worker.name))
        if number is not None:
            self.workers[number].refused += 1

    def _register(self, number: int, payee: Payee, name: str) -> None:
        self.workers[number] = WorkerStats(payee, name)
        self._next_worker = max(self._next_worker, number + 1)
        self._log.define_worker(number, {"worker": number, "payee": format_payee(payee), "name": name})

    # Shares

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        """Judge a share and append it to the log; the future is done when the miner may be told.

        Raises ShareRefused. A header that meets the network target goes to the node before anything else is decided.
        """
        try:
            self.judge.judge(submission)
        except ShareRefused:
            self.refuse(submission.worker)
            raise
        terms, worker, extranonce1, extranonce2, ntime, nonce, version, _, _ = submission
        number = worker.number if worker.number >= 0 else self.number_of(worker)
        done = self.accept(terms, number, extranonce1, extranonce2, ntime, nonce, version)
        self.workers[number].accepted += 1
        return done

    def accept(
        self,
        terms: JobTerms,
        worker: int,
        extranonce1: bytes,
        extranonce2: bytes,
        ntime: int,
        nonce: int,
        version: int,
    ) -> asyncio.Future[None]:
        """Append a share that was judged to the log and the window. Raises LedgerError."""
        job, share_bits, _, unit = terms
        sequence = self._log.next_sequence
        time = now_micros()
        share = ShareRecord(
            sequence, job.number, extranonce1, extranonce2, ntime, nonce, version, share_bits, worker, time
        )
        return self._book.append_share(share, self.workers[worker].payee, unit, job.height)

    def take_block(self, submission: Submission) -> None:
        """A submission that another process found to be a block: hand it in, if it is one."""
        self.judge.check_block(submission)

    # Epochs

    @property
    def tip(self) -> tuple[bytes, int]:
        """Hash (internal order) and height of the block that jobs build on. There must have been a template."""
        assert self._template is not None  # noqa: S101 - `set_commitment` comes before anything else
        return self._template.prev_hash, self._template.height - 1

    @property
    def closed_epochs(self) -> int:
        """How many epochs were closed."""
        return self.closes[-1].epoch if self.closes else 0

    def shares_since_close(self) -> int:
        """How many shares the present epoch has."""
        closed = self.closes[-1].closing_share if self.closes else -1
        return self._log.next_sequence - 1 - closed

    def close_epoch(self, tip: str, tip_height: int, time: int) -> EpochClose | None:
        """Append a close to the log after the last share; None when there is no share since the last close.

        None, too, while nobody has earned the smallest weight.
        """
        scheme = self.scheme
        first_share = scheme.first_sequence
        if first_share is None or not self.shares_since_close() or not scheme.weights:
            return None
        close = EpochClose(
            epoch=self.closed_epochs + 1,
            first_share=first_share,
            closing_share=self._log.next_sequence - 1,
            t=scheme.t,
            tip=tip,
            tip_height=tip_height,
            time=time,
            segment=self._log.segment,
            first_segment=self.closes[-1].segment + 1 if self.closes else 0,
            rules=self.accounts.rules,
        )
        self._weights[close.epoch] = self._book.close_epoch(close_payload(close))
        self.closes.append(close)
        self._checkpoint = self._state.checkpoint()
        if self._next_rules is not None:
            self._book.change(self._next_rules)
            self._next_rules = None
        return close

    async def settle_accounts(self) -> None:
        """For ever: let go what has left the window, a little at a time, so that a close finds little left to do."""
        told = ""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                self.scheme.settle(SETTLE_SHARES)
                told = ""
            except (LedgerError, InputError) as error:
                if str(error) != told:
                    log.error("accounts cannot be settled", problem=str(error))
                told = str(error)

    def write_checkpoint(self) -> None:
        """Let a restart begin at the last close, whose epoch is published. Call it in a thread. Raises LedgerError."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            self._checkpoints.write(checkpoint)

    def weights_of(self, epoch: int) -> dict[Payee, int]:
        """The weights of a closed epoch, until `forget_weights`."""
        return self._weights[epoch]

    def forget_weights(self, epoch: int) -> None:
        """The epoch is published: its weights are in its bundle."""
        self._weights.pop(epoch, None)

    # Blocks

    def _take_block(self, submission: Submission, header: bytes, block_hash: bytes) -> None:
        """Hand a solved block to the nodes at once, and write it down."""
        if block_hash in self.block_keeper:
            return
        job = self._jobs.get(submission.terms.job.number)
        if job is None:
            log.error("a block for a job whose template is gone", hash=display(block_hash))
            return
        coinbase = job.stratum.coinbase(submission.extranonce1, submission.extranonce2)
        raw = assemble_block(header, coinbase, job.template)
        found = FoundBlock(
            block_hash, job.template.height, job.epoch, coinbase, self.number_of(submission.worker), now_micros()
        )
        self.block_keeper.take(found, raw)

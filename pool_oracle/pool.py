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
from pool_oracle.errors import InputError, JobError, NodeError, ShareRefused
from pool_oracle.judge import JobTerms, Judge, LiveJob, Submission, Worker
from pool_oracle.ledger.sharelog import ShareLog, now_micros
from pool_oracle.logbook import (
    EpochClose,
    FoundBlock,
    WorkerStats,
    close_payload,
    job_payload,
    restore_state,
)
from pool_oracle.networks import Network
from pool_oracle.node.source import NodeSource
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.payout.payee import format_payee
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
        window: int,
        tag: bytes,
        blocks_folder: Path,
        stale_grace: float = 0,
        extranonce2_size: int = 8,
        emulated_target: int | None = None,
    ) -> None:
        """Replay the log and be ready; the first `set_commitment` makes the first job. Raises CorruptLog.

        `blocks_folder` keeps found blocks until they are mature; `stale_grace` is for how many seconds after a new tip
        shares of the one before are accepted.
        """
        self.network = network
        self.extranonce2_size = extranonce2_size
        self._node = node
        self._log = share_log
        self._tag = tag
        self._emulated_target = emulated_target
        state = restore_state(share_log, window, emulated_target)
        self.window = state.window
        self.block_keeper = BlockKeeper(node, share_log, blocks_folder, state.blocks)
        self.closes = state.closes
        self._workers = state.workers
        self.workers: dict[int, WorkerStats] = {}
        self._next_worker = 0  # not their count: numbers that left no record are not known after a restart
        for (payee, name), number in state.workers.items():
            self._register(number, payee, name)
        self._next_job = state.next_job
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
        self._take_template(await self._node.template())

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
            self._next_job,
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
        self._next_job += 1
        self._jobs[job.number] = job
        self._log.define_job(job.number, job_payload(job, EXTRANONCE1_SIZE + self.extranonce2_size))
        template = job.template
        for gone in self.judge.add_job(job.number, job.stratum, job.network_target, template.mintime, template.curtime):
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
                self._take_template(await self._next_template())
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
        done = self._log.append(share, unit)
        self.window.add(sequence, self.workers[worker].payee, unit)
        return done

    def take_block(self, submission: Submission) -> None:
        """A submission that another process found to be a block: hand it in, if it is one."""
        self.judge.check_block(submission)

    # Epochs

    @property
    def tip(self) -> tuple[bytes, int]:
        """Hash (internal order) and height of the block that jobs build on. There must have been a template."""
        assert self._template is not None  # noqa: S101 - `set_commitment` comes before anything else
        return self._template.prev_hash, self._template.height - 1

    def close_epoch(self, tip: str, tip_height: int, time: int) -> EpochClose | None:
        """Append a close to the log after the last share; None when there is no share since the last close."""
        closing_share = self._log.next_sequence - 1
        first_share = self.window.first_sequence
        if first_share is None or (self.closes and self.closes[-1].closing_share == closing_share):
            return None
        close = EpochClose(
            epoch=len(self.closes) + 1,
            first_share=first_share,
            closing_share=closing_share,
            t=self.window.t,
            tip=tip,
            tip_height=tip_height,
            time=time,
            segment=self._log.segment,
            weights=self.window.weights,
        )
        self._log.close_epoch(close_payload(close))
        self.closes.append(close)
        return close

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

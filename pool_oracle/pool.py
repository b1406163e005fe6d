"""The pool: templates to jobs, submissions to accepted shares in the log, found blocks to the node.

It speaks no wire protocol; `stratum/` does. Everything here runs in one event loop, so the order of shares in the log
is the order of their acceptance, and no lock is needed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from pool_oracle.blocks import BlockKeeper
from pool_oracle.errors import InputError, JobError, NodeError, ShareRefused
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
from pool_oracle.payout.window import share_unit
from pool_oracle.units import Payee
from pool_oracle.work.firmware import firmware_warning
from pool_oracle.work.records import ShareRecord
from pool_oracle.work.share import CheckedShare, check_header, pack_header, rolled_version
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.template import Job, Template, assemble_block, make_job

COINBASE_TAG = b"/pool_oracle/"
EXTRANONCE1_SIZE = 4
EXTRANONCE2_SIZE = 8
MAX_NTIME_AHEAD = 7000
"""Seconds that a share's ntime may be ahead of the template's; a node refuses blocks 7,200 ahead of its clock."""

JOB_SECONDS = 60
"""How old a job's time may get before miners are given a new one."""

NODE_RETRY_SECONDS = 1.0

log = structlog.get_logger("pool")


@dataclass(frozen=True, slots=True)
class Commitment:
    """What jobs carry: an epoch, its commitment, and the script that its rewards are paid to."""

    epoch: int
    commitment: bytes
    reward_script: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """A miner's answer to a job, parsed but not judged. `version_bits` is None without version rolling."""

    job_id: str
    worker: int
    extranonce1: bytes
    extranonce2: bytes
    ntime: int
    nonce: int
    version_bits: int | None
    version_mask: int
    share_bits: int


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
        emulated_target: int | None = None,
    ) -> None:
        """Replay the log and be ready; the first `set_commitment` makes the first job. Raises CorruptLog.

        `blocks_folder` keeps found blocks until they are mature; `stale_grace` is for how many seconds after a new tip
        shares of the one before are accepted.
        """
        self.network = network
        self._node = node
        self._log = share_log
        self._tag = tag
        self._stale_grace = stale_grace
        self._emulated_target = emulated_target
        state = restore_state(share_log, window, emulated_target)
        self.window = state.window
        self.block_keeper = BlockKeeper(node, share_log, blocks_folder, state.blocks)
        self.closes = state.closes
        self._workers = state.workers
        self.workers: dict[int, WorkerStats] = {}
        for (payee, name), number in state.workers.items():
            self._register(number, payee, name)
        self._next_job = state.next_job
        self._next_extranonce1 = secrets.randbits(8 * EXTRANONCE1_SIZE)
        self._jobs: dict[str, Job] = {}
        self._seen_headers = state.seen
        self._template: Template | None = None
        self._tip_since = 0.0
        self._commitment: Commitment | None = None
        self._warned_size = 0
        self.job: Job | None = None
        self.on_job: list[Callable[[Job, bool], None]] = []

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
            # Jobs of the tip before stay known for one more tip: a late share there may still be a block.
            previous = self._template.prev_hash if self._template else b""
            kept = {i: job for i, job in self._jobs.items() if job.template.prev_hash == previous}
            for old in self._jobs.values():
                if old.wire_id not in kept:
                    self._log.forget_job(old.number)
            self._jobs = kept
            self._tip_since = time.monotonic()
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
            extranonce_size=EXTRANONCE1_SIZE + EXTRANONCE2_SIZE,
            network_target=self._emulated_target,  # type: ignore[arg-type]
        )
        self._warn_of_size(job)
        return job

    def _publish(self, job: Job, clean: bool) -> None:
        """Make a job the present one: known to shares, defined in the log, sent to miners."""
        self._next_job += 1
        self._jobs[job.wire_id] = job
        self._log.define_job(job.number, job_payload(job, EXTRANONCE1_SIZE + EXTRANONCE2_SIZE))
        self.job = job
        for listener in self.on_job:
            listener(job, clean)

    def _warn_of_size(self, job: Job) -> None:
        """Tell the operator once about a coinbase that some firmware cannot hash."""
        size = len(job.stratum.coinb1) + EXTRANONCE1_SIZE + EXTRANONCE2_SIZE + len(job.stratum.coinb2)
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

    def new_extranonce1(self) -> bytes:
        """A prefix that no other connection of this run has."""
        self._next_extranonce1 = (self._next_extranonce1 + 1) % (1 << 8 * EXTRANONCE1_SIZE)
        return self._next_extranonce1.to_bytes(EXTRANONCE1_SIZE, "big")

    def worker(self, payee: Payee, name: str) -> int:
        """The number of a payee's worker, registering it when it is new."""
        number = self._workers.get((payee, name))
        if number is None:
            number = len(self._workers)
            self._workers[payee, name] = number
            self._register(number, payee, name)
        return number

    def _register(self, number: int, payee: Payee, name: str) -> None:
        self.workers[number] = WorkerStats(payee, name)
        self._log.define_worker(number, {"worker": number, "payee": format_payee(payee), "name": name})

    # Shares

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        """Judge a share and append it to the log; the future is done when the miner may be told.

        Raises ShareRefused. A header that meets the network target goes to the node before anything else is decided.
        """
        stats = self.workers[submission.worker]
        try:
            done = self._judge(submission)
        except ShareRefused:
            stats.refused += 1
            raise
        stats.accepted += 1
        return done

    def _judge(self, submission: Submission) -> asyncio.Future[None]:
        job = self._jobs.get(submission.job_id)
        if job is None:
            raise ShareRefused(21, f"job {submission.job_id[:16]!r} is not known (any more)")
        version, share = self._check(job, submission)
        if share.meets_network_target:
            self._take_block(job, submission, share)
        if self._is_stale(job):
            raise ShareRefused(21, "stale: the job's tip is gone")
        seen = self._seen_headers.of(job.template.prev_hash)
        if share.block_hash in seen:
            raise ShareRefused(22, "duplicate share")
        if not share.meets_share_target:
            raise ShareRefused(23, "low difficulty share")
        if not job.template.mintime <= submission.ntime <= job.template.curtime + MAX_NTIME_AHEAD:
            raise ShareRefused(20, f"ntime {submission.ntime:08x} is out of range")
        record = ShareRecord(
            sequence=self._log.next_sequence,
            job=job.number,
            extranonce1=submission.extranonce1,
            extranonce2=submission.extranonce2,
            ntime=submission.ntime,
            nonce=submission.nonce,
            version=version,
            share_bits=submission.share_bits,
            worker=submission.worker,
            time=now_micros(),
        )
        unit = share_unit(job.network_target, nbits_to_target(submission.share_bits))
        done = self._log.append(record, unit)
        seen.add(share.block_hash)
        self.window.add(record.sequence, self.workers[submission.worker].payee, unit)
        return done

    def _is_stale(self, job: Job) -> bool:
        """Whether the job's tip is gone, and the policy's grace since then over."""
        if self._template is None or job.template.prev_hash == self._template.prev_hash:
            return False
        return time.monotonic() >= self._tip_since + self._stale_grace

    def _check(self, job: Job, submission: Submission) -> tuple[int, CheckedShare]:
        version = job.stratum.version
        if submission.version_bits is not None:
            try:
                version = rolled_version(version, submission.version_mask, submission.version_bits)
            except JobError as error:
                raise ShareRefused(20, str(error)) from None
        root = job.stratum.merkle_root(submission.extranonce1, submission.extranonce2)
        header = pack_header(
            version, job.stratum.prev_hash, root, submission.ntime, job.stratum.nbits, submission.nonce
        )
        share_target = nbits_to_target(submission.share_bits)
        return version, check_header(header, root, share_target, job.network_target, self.network.pow_hash)

    # Epochs

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

    def _take_block(self, job: Job, submission: Submission, share: CheckedShare) -> None:
        """Hand a solved block to the node at once, and write it down."""
        if share.block_hash in self.block_keeper:
            return
        coinbase = job.stratum.coinbase(submission.extranonce1, submission.extranonce2)
        raw = assemble_block(share.header, coinbase, job.template)
        found = FoundBlock(share.block_hash, job.template.height, job.epoch, coinbase, submission.worker, now_micros())
        self.block_keeper.take(found, raw)

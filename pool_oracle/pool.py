"""The pool: templates to jobs, submissions to accepted shares in the log, found blocks to the node.

It speaks no wire protocol; `stratum/` does. Everything here runs in one event loop, so the order of shares in the log
is the order of their acceptance, and no lock is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pool_oracle.errors import BlockRejected, JobError, NodeError, ShareRefused
from pool_oracle.ledger.sharelog import ShareLog, now_micros
from pool_oracle.logbook import (
    EpochClose,
    FoundBlock,
    WorkerStats,
    block_payload,
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
from pool_oracle.work.records import ShareRecord
from pool_oracle.work.share import CheckedShare, check_header, display, pack_header, rolled_version
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.template import Job, Template, assemble_block, make_job

EXTRANONCE1_SIZE = 4
EXTRANONCE2_SIZE = 8
MAX_NTIME_AHEAD = 7000
"""Seconds that a share's ntime may be ahead of the template's; a node refuses blocks 7,200 ahead of its clock."""

JOB_SECONDS = 60
"""How old a job's time may get before miners are given a new one."""

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
        emulated_target: int | None = None,
    ) -> None:
        """Replay the log and be ready; the first `set_commitment` makes the first job. Raises CorruptLog."""
        self.network = network
        self._node = node
        self._log = share_log
        self._tag = tag
        self._emulated_target = emulated_target
        state = restore_state(share_log, window, emulated_target)
        self.window = state.window
        self.blocks = state.blocks
        self.closes = state.closes
        self._workers = state.workers
        self.workers: dict[int, WorkerStats] = {}
        for (payee, name), number in state.workers.items():
            self._register(number, payee, name)
        self._next_job = state.next_job
        self._next_extranonce1 = secrets.randbits(8 * EXTRANONCE1_SIZE)
        self._jobs: dict[str, Job] = {}
        self._seen_headers = state.seen
        self._seen: set[bytes] = set()
        self._template: Template | None = None
        self._commitment: Commitment | None = None
        self._submissions: set[asyncio.Task[None]] = set()
        self._refreshing = asyncio.Lock()
        self.job: Job | None = None
        self.on_job: list[Callable[[Job, bool], None]] = []

    # Jobs

    async def set_commitment(self, commitment: Commitment) -> None:
        """Jobs from now on carry this epoch's commitment and pay its script. Miners get a new job, not a clean one."""
        self._commitment = commitment
        await self.refresh()

    async def refresh(self) -> None:
        """Fetch a template and make a job of it; a clean one where the tip has changed."""
        async with self._refreshing:  # so that an older template never replaces a newer one
            self._take_template(await self._node.template())

    def _take_template(self, template: Template) -> None:
        clean = self._template is None or template.prev_hash != self._template.prev_hash
        if clean:
            for job in self._jobs.values():
                self._log.forget_job(job.number)
            # Jobs of the tip before stay known for one more tip: a late share there may still be a block.
            previous = self._template.prev_hash if self._template else b""
            self._jobs = {i: job for i, job in self._jobs.items() if job.template.prev_hash == previous}
            self._seen = self._seen_headers.of(template.prev_hash)
        self._template = template
        self._issue(template, clean)

    def _issue(self, template: Template, clean: bool) -> None:
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
        self._next_job += 1
        self._jobs[job.wire_id] = job
        self._log.define_job(job.number, job_payload(job, EXTRANONCE1_SIZE + EXTRANONCE2_SIZE))
        self.job = job
        for listener in self.on_job:
            listener(job, clean)

    async def follow_tip(self) -> None:
        """For ever: a clean job as soon as the node's tip changes, and a fresh one of the same tip now and then."""
        while True:
            known = self._template.prev_hash if self._template else b""
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._node.wait_for_tip(known), JOB_SECONDS)
                await self.refresh()
            except NodeError as error:
                log.error("node", problem=str(error))
                await asyncio.sleep(1)

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
        if self._template is not None and job.template.prev_hash != self._template.prev_hash:
            raise ShareRefused(21, "stale: the job's tip is gone")
        if share.block_hash in self._seen:
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
        self._seen.add(share.block_hash)
        self.window.add(record.sequence, self.workers[submission.worker].payee, unit)
        return done

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
        if any(block.hash == share.block_hash for block in self.blocks):
            return
        coinbase = job.stratum.coinbase(submission.extranonce1, submission.extranonce2)
        raw = assemble_block(share.header, coinbase, job.template)
        found = FoundBlock(share.block_hash, job.template.height, job.epoch, coinbase, submission.worker, now_micros())
        self.blocks.append(found)
        task = asyncio.create_task(self._submit_block(found, raw), name=f"block-{job.template.height}")
        self._submissions.add(task)
        task.add_done_callback(self._submissions.discard)
        self._log.append_block(block_payload(found), found.worker)

    async def _submit_block(self, found: FoundBlock, raw: bytes) -> None:
        name = display(found.hash)
        try:
            await self._node.submit(raw)
        except BlockRejected as error:
            found.state = f"rejected: {error.reason}"
            log.error("block refused by the node", height=found.height, hash=name, reason=error.reason)
            return
        except NodeError as error:
            found.state = f"rejected: {error}"
            log.error("block could not be handed in", height=found.height, hash=name, problem=str(error))
            return
        found.state = "accepted"
        log.info("block found", height=found.height, hash=name, epoch=found.epoch)

    async def settle_blocks(self) -> None:
        """Wait for blocks that are on their way to the node."""
        while self._submissions:
            await asyncio.gather(*self._submissions)

"""The pool: templates to jobs, submissions to accepted shares in the log, found blocks to the node.

It speaks no wire protocol; `stratum/` does. Everything here runs in one event loop, so the order of shares in the log
is the order of their acceptance, and no lock is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from pool_oracle.errors import BlockRejected, CorruptLog, JobError, NodeError, ShareRefused
from pool_oracle.hashes import sha256d
from pool_oracle.ledger.sharelog import ShareLog, now_micros, replay
from pool_oracle.networks import Network
from pool_oracle.node.source import NodeSource
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.window import PplnsWindow, share_unit
from pool_oracle.units import Payee
from pool_oracle.work.records import KIND_BLOCK, KIND_CLOSE, KIND_JOB, KIND_WORKER, SegmentHeader, ShareRecord
from pool_oracle.work.share import CheckedShare, StratumJob, check_header, display, pack_header, rolled_version
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.template import Job, Template, assemble_block, make_job

EXTRANONCE1_SIZE = 4
EXTRANONCE2_SIZE = 8
MAX_NTIME_AHEAD = 7000
"""Seconds that a share's ntime may be ahead of the template's; a node refuses blocks 7,200 ahead of its clock."""

SEEN_TIPS = 16
"""Tips whose shares are remembered against duplicates: more than any reorganisation has blocks."""
JOB_SECONDS = 60
"""How old a job's time may get before miners are given a new one."""

log = structlog.get_logger("pool")


@dataclass(frozen=True, slots=True)
class Commitment:
    """What jobs carry: an epoch, its commitment, and the script that its rewards are paid to."""

    epoch: int
    commitment: bytes
    reward_script: bytes


@dataclass(slots=True)
class FoundBlock:
    """A block that a miner of ours found. `coinbase` is without witness data; `hash` is in internal order."""

    hash: bytes
    height: int
    epoch: int
    coinbase: bytes
    worker: int
    time: int
    state: str = "found"  # then "accepted" or "rejected: REASON"


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


@dataclass(slots=True)
class WorkerStats:
    """What is counted of a worker since the start."""

    payee: Payee
    name: str
    accepted: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class EpochClose:
    """An epoch's close: its record in the log, and the weights that follow from the log before it.

    Shares are named by sequence number; `t` is the running sum of units after the closing share; `tip` is the node's
    best block (display order) and `time` the Unix time at the close; `segment` is the one that the close sealed.
    """

    epoch: int
    first_share: int
    closing_share: int
    t: int
    tip: str
    tip_height: int
    time: int
    segment: int
    weights: dict[Payee, int]


class SeenHeaders:
    """The hashes of the headers of accepted shares, by the block they build on.

    Headers on a tip that is gone cannot be accepted, but a reorganisation may bring it back: the last few tips stay.
    """

    def __init__(self) -> None:
        self._by_tip: dict[bytes, set[bytes]] = {}

    def of(self, tip: bytes) -> set[bytes]:
        """The hashes seen on `tip`."""
        seen = self._by_tip.pop(tip, None)
        self._by_tip[tip] = seen = set() if seen is None else seen  # the last used tip stands last
        if len(self._by_tip) > SEEN_TIPS:
            del self._by_tip[next(iter(self._by_tip))]
        return seen


@dataclass(slots=True)
class PoolState:
    """What a replay of the log brings back."""

    window: PplnsWindow
    workers: dict[tuple[Payee, str], int] = field(default_factory=dict)
    closes: list[EpochClose] = field(default_factory=list)
    blocks: list[FoundBlock] = field(default_factory=list)
    next_job: int = 0
    seen: SeenHeaders = field(default_factory=SeenHeaders)


def restore_state(share_log: ShareLog, window: int, emulated_target: int | None) -> PoolState:
    """Replay a log into the window and the registers that a pool needs. Raises CorruptLog.

    `seen` are the headers of the shares on the last tips, so that none of them can be handed in again after a restart.
    """
    state = PoolState(PplnsWindow(window))
    jobs: dict[int, StratumJob] = {}
    payees: dict[int, Payee] = {}
    segment = 0
    for path, record in replay(share_log.folder):
        if isinstance(record, SegmentHeader):
            segment = record.segment
        elif isinstance(record, ShareRecord):
            if record.job not in jobs or record.worker not in payees:
                raise CorruptLog(f"{path.name}: share {record.sequence} points to a job or worker that is not defined")
            job = jobs[record.job]
            network_target = emulated_target or nbits_to_target(job.nbits)
            unit = share_unit(network_target, nbits_to_target(record.share_bits))
            state.window.add(record.sequence, payees[record.worker], unit)
            state.seen.of(job.prev_hash).add(sha256d(record.header(job)))
        else:
            payload = record.payload
            if record.kind == KIND_JOB:
                jobs[payload["job"]] = StratumJob.from_wire(payload)
                state.next_job = max(state.next_job, payload["job"] + 1)
            elif record.kind == KIND_WORKER:
                payees[payload["worker"]] = parse_payee(payload["payee"])
                state.workers[payees[payload["worker"]], payload["name"]] = payload["worker"]
            elif record.kind == KIND_CLOSE:
                state.closes.append(_close_from_payload(payload, state.window, segment, path.name))
            elif record.kind == KIND_BLOCK:
                state.blocks.append(_block_from_payload(payload))
    share_log.t = state.window.t
    return state


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
        """Replay the log and be ready; `start` fetches the first template. Raises CorruptLog."""
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
        self.job: Job | None = None
        self.on_job: list[Callable[[Job, bool], None]] = []

    # Jobs

    async def set_commitment(self, commitment: Commitment) -> None:
        """Jobs from now on carry this epoch's commitment and pay its script. Miners get a new job, not a clean one."""
        self._commitment = commitment
        await self.refresh()

    async def refresh(self) -> None:
        """Fetch a template and make a job of it; a clean one where the tip has changed."""
        template = await self._node.template()
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
        self._log.define_job(job.number, _job_payload(job))
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
        self._log.close_epoch(_close_payload(close))
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
        self._log.append_block(_block_payload(found), found.worker)

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


def _job_payload(job: Job) -> dict[str, object]:
    """The job's record in the log: all that an auditor needs to rebuild a share's header and to check its coinbase."""
    return {
        "job": job.number,
        "height": job.template.height,
        "epoch": job.epoch,
        "curtime": job.template.curtime,
        "mintime": job.template.mintime,
        "extranonceSize": EXTRANONCE1_SIZE + EXTRANONCE2_SIZE,
        **job.stratum.to_wire(),
    }


def _close_payload(close: EpochClose) -> dict[str, object]:
    return {
        "epoch": close.epoch,
        "firstShare": close.first_share,
        "closingShare": close.closing_share,
        "t": str(close.t),
        "tip": close.tip,
        "tipHeight": close.tip_height,
        "time": close.time,
    }


def _close_from_payload(payload: dict[str, object], window: PplnsWindow, segment: int, name: str) -> EpochClose:
    """The close of a record, with the weights of the window as replayed so far. Raises CorruptLog if they disagree."""
    if str(window.t) != payload["t"] or window.first_sequence != payload["firstShare"]:
        raise CorruptLog(f"{name}: the close of epoch {payload['epoch']} does not fit the shares before it")
    return EpochClose(
        epoch=int(str(payload["epoch"])),
        first_share=int(str(payload["firstShare"])),
        closing_share=int(str(payload["closingShare"])),
        t=window.t,
        tip=str(payload["tip"]),
        tip_height=int(str(payload["tipHeight"])),
        time=int(str(payload["time"])),
        segment=segment,
        weights=window.weights,
    )


def _block_payload(block: FoundBlock) -> dict[str, object]:
    return {
        "block": display(block.hash),
        "height": block.height,
        "epoch": block.epoch,
        "coinbase": block.coinbase.hex(),
        "worker": block.worker,
        "time": block.time,
    }


def _block_from_payload(payload: dict[str, object]) -> FoundBlock:
    return FoundBlock(
        hash=bytes.fromhex(str(payload["block"]))[::-1],
        height=int(str(payload["height"])),
        epoch=int(str(payload["epoch"])),
        coinbase=bytes.fromhex(str(payload["coinbase"])),
        worker=int(str(payload["worker"])),
        time=int(str(payload["time"])),
        state="restored",
    )

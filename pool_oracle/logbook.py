"""What the pool writes into its log besides shares, and what it reads back from it after a restart.

Found blocks, closes, jobs and workers as values and as JSON payloads of records, and the replay that makes a pool's
state of them. Formats: docs/protocol.md, "Payloads".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pool_oracle.errors import CorruptLog
from pool_oracle.hashes import sha256d
from pool_oracle.judge import SeenHeaders
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.payout.payee import parse_payee
from pool_oracle.payout.window import PplnsWindow, share_unit
from pool_oracle.units import Payee
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_WORKER,
    SegmentHeader,
    ShareRecord,
)
from pool_oracle.work.share import StratumJob, display
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.template import Job


class BlockState(StrEnum):
    """Where a found block stands.

    SUBMITTED: recorded, and handed to every node; none has answered yet. ACCEPTED: a node took it. REJECTED: every node
    refused it. BEST: in the best chain. ORPHANED: beside it; a reorganisation may bring it back. MATURE: in the best
    chain and so deep that its coinbase can be spent.
    """

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    BEST = "best"
    ORPHANED = "orphaned"
    MATURE = "mature"


FINAL_STATES = frozenset({BlockState.REJECTED, BlockState.MATURE})


@dataclass(slots=True)
class FoundBlock:
    """A block that a miner of ours found. `coinbase` is without witness data; `hash` is in internal order.

    `depth` counts blocks of the best chain from this one to the tip, 0 beside it, as far as known since the start;
    `detail` is who took it, or why it was refused.
    """

    hash: bytes
    height: int
    epoch: int
    coinbase: bytes
    worker: int
    time: int
    state: BlockState = BlockState.SUBMITTED
    depth: int = 0
    detail: str = ""

    @property
    def was_accepted(self) -> bool:
        """Whether a node took it, and no other block has overtaken it as far as is known."""
        return self.is_alive and self.state is not BlockState.SUBMITTED

    @property
    def is_alive(self) -> bool:
        """Whether it was neither refused nor overtaken by another block, as far as is known."""
        return self.state not in (BlockState.REJECTED, BlockState.ORPHANED)


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
            elif record.kind == KIND_BLOCK_STATE:
                _apply_block_state(state.blocks, payload, path.name)
    share_log.t = state.window.t
    return state


def job_payload(job: Job, extranonce_size: int) -> dict[str, object]:
    """The job's record in the log: all that an auditor needs to rebuild a share's header and to check its coinbase."""
    return {
        "job": job.number,
        "height": job.template.height,
        "epoch": job.epoch,
        "curtime": job.template.curtime,
        "mintime": job.template.mintime,
        "extranonceSize": extranonce_size,
        **job.stratum.to_wire(),
    }


def close_payload(close: EpochClose) -> dict[str, object]:
    """The close's record in the log."""
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


def block_payload(block: FoundBlock) -> dict[str, object]:
    """The found block's record in the log."""
    return {
        "block": display(block.hash),
        "height": block.height,
        "epoch": block.epoch,
        "coinbase": block.coinbase.hex(),
        "worker": block.worker,
        "time": block.time,
    }


def block_state_payload(block: FoundBlock, time: int) -> dict[str, object]:
    """What became of a block, for the log; `time` in Unix microseconds."""
    return {
        "block": display(block.hash),
        "state": block.state.value,
        "depth": block.depth,
        "detail": block.detail,
        "time": time,
    }


def _block_from_payload(payload: dict[str, object]) -> FoundBlock:
    return FoundBlock(
        hash=bytes.fromhex(str(payload["block"]))[::-1],
        height=int(str(payload["height"])),
        epoch=int(str(payload["epoch"])),
        coinbase=bytes.fromhex(str(payload["coinbase"])),
        worker=int(str(payload["worker"])),
        time=int(str(payload["time"])),
    )


def _apply_block_state(blocks: list[FoundBlock], payload: dict[str, object], name: str) -> None:
    """Bring a block to a recorded state. Raises CorruptLog for a block that was not found before."""
    block_hash = bytes.fromhex(str(payload["block"]))[::-1]
    for block in reversed(blocks):
        if block.hash == block_hash:
            block.state = BlockState(str(payload["state"]))
            block.detail = str(payload["detail"])
            return
    raise CorruptLog(f"{name}: a state of block {payload['block']}, which was never found")

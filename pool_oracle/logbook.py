"""What the pool writes into its log besides shares: found blocks, closes and jobs, as values and as JSON payloads.

Formats: docs/protocol.md, "Payloads".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pool_oracle.ledger.rules import Rules
from pool_oracle.units import Payee
from pool_oracle.work.share import display
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
    """An epoch's close, as its record in the log tells it.

    Shares are named by sequence number; `t` is the running sum of units after the closing share; `tip` is the node's
    best block (display order) and `time` the Unix time at the close; `segment` is the one that the close sealed, and
    `first_segment` the one after the close before. The epoch's shares were accounted by `rules`.
    """

    epoch: int
    first_share: int
    closing_share: int
    t: int
    tip: str
    tip_height: int
    time: int
    segment: int
    first_segment: int
    rules: Rules


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


def close_from_payload(payload: dict[str, Any], segment: int, first_segment: int, rules: Rules) -> EpochClose:
    """Back from `close_payload`, with what the log around it says."""
    return EpochClose(
        epoch=int(payload["epoch"]),
        first_share=int(payload["firstShare"]),
        closing_share=int(payload["closingShare"]),
        t=int(payload["t"]),
        tip=str(payload["tip"]),
        tip_height=int(payload["tipHeight"]),
        time=int(payload["time"]),
        segment=segment,
        first_segment=first_segment,
        rules=rules,
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


def block_from_payload(payload: dict[str, object]) -> FoundBlock:
    """Back from `block_payload`."""
    return FoundBlock(
        hash=bytes.fromhex(str(payload["block"]))[::-1],
        height=int(str(payload["height"])),
        epoch=int(str(payload["epoch"])),
        coinbase=bytes.fromhex(str(payload["coinbase"])),
        worker=int(str(payload["worker"])),
        time=int(str(payload["time"])),
    )

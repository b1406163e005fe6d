"""What a restart brings back: the accounts and registers that follow from the share log.

The newest checkpoint that fits the log saves reading it all; the log behind it is replayed. Without one, the whole log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pool_oracle.errors import CorruptLog, InputError, LedgerError
from pool_oracle.hashes import sha256d
from pool_oracle.judge import SEEN_TIPS, SeenHeaders
from pool_oracle.ledger.accounts import Accounts
from pool_oracle.ledger.checkpoint import Checkpoint, Checkpoints
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.ledger.tail import LogTail
from pool_oracle.logbook import (
    BlockState,
    EpochClose,
    FoundBlock,
    block_from_payload,
    block_payload,
    close_from_payload,
    close_payload,
)
from pool_oracle.payout.payee import parse_payee
from pool_oracle.units import Payee
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_POLICY,
    KIND_TIP,
    KIND_WORKER,
    LongRecord,
    Record,
    SegmentHeader,
    ShareRecord,
)
from pool_oracle.work.share import StratumJob


@dataclass(slots=True)
class PoolState:
    """What follows from a log, and what a pool goes on with.

    `closes` are those that were read, the last one among them; `weights` are those of epochs that are not published
    yet; `tips` are the blocks whose fees the log has, by height; `tip_segments` tells for the last tips in which
    segment the first share on them may be; `seen` are the headers of the shares on them, so that none can come again.
    """

    accounts: Accounts
    workers: dict[tuple[Payee, str], int] = field(default_factory=dict)
    closes: list[EpochClose] = field(default_factory=list)
    weights: dict[int, dict[Payee, int]] = field(default_factory=dict)
    blocks: list[FoundBlock] = field(default_factory=list)
    tips: dict[int, str] = field(default_factory=dict)
    tip_segments: dict[bytes, int] = field(default_factory=dict)
    next_job: int = 0
    seen: SeenHeaders = field(default_factory=SeenHeaders)

    def note_tip(self, tip: bytes, segment: int) -> None:
        """Shares on `tip` come from now on, `segment` being the present one; the last tips are remembered."""
        if tip not in self.tip_segments:
            self.tip_segments[tip] = segment
            if len(self.tip_segments) > SEEN_TIPS:
                del self.tip_segments[next(iter(self.tip_segments))]

    def checkpoint(self) -> Checkpoint:
        """All of it right after the last close, when nothing came behind that yet."""
        close = self.closes[-1]
        return Checkpoint(
            epoch=close.epoch,
            first_share=close.first_share,
            closing_share=close.closing_share,
            t=close.t,
            segment=close.segment,
            state=self.accounts.scheme.state(),
            registers=self._registers(),
        )

    def _registers(self) -> dict[str, Any]:
        close = self.closes[-1]
        return {
            "rules": close.rules.to_payload(),
            "close": close_payload(close) | {"segment": close.segment, "firstSegment": close.first_segment},
            "workers": [[number, payee.hex(), name] for (payee, name), number in self.workers.items()],
            "blocks": [
                block_payload(block) | {"state": block.state.value, "detail": block.detail} for block in self.blocks
            ],
            "tips": {str(height): block for height, block in self.tips.items()},
            "tipSegments": [[tip.hex(), segment] for tip, segment in self.tip_segments.items()],
            "nextJob": self.next_job,
        }


def restore_state(
    share_log: ShareLog, rules: Rules, *, published: int = 0, checkpoints: Checkpoints | None = None
) -> PoolState:
    """The state that follows from a log. Raises CorruptLog.

    `rules` are those of a log that does not state its own; `published` is the last epoch whose weights nobody needs.
    """
    folder = share_log.folder
    state = None
    if checkpoints is not None:
        state = checkpoints.newest(lambda checkpoint: _resumed(checkpoint, folder, published))
    first = 0
    if state is None:
        state = PoolState(Accounts(rules, tail=lambda stated: LogTail(folder, stated.emulated_target)))
    else:
        first = state.closes[-1].segment + 1
    replayed = _Replay(state, published)
    where = str(folder)
    try:
        for path, record in replay(folder, first=first):
            where = path.name
            replayed.take(record)
    except (InputError, KeyError, ValueError, TypeError) as error:
        raise CorruptLog(f"{where}: {error}") from None
    share_log.t = state.accounts.scheme.t
    return state


def _resumed(checkpoint: Checkpoint, folder: Path, published: int) -> PoolState:
    """The state of a checkpoint. Raises LedgerError or InputError for one that is of no use."""
    if checkpoint.epoch > published:
        raise LedgerError(f"epoch {checkpoint.epoch} is not published, and its weights are in the log alone")
    try:
        state = _from_registers(checkpoint, folder)
    except (KeyError, ValueError, TypeError) as error:
        raise LedgerError(f"its registers cannot be read: {error!r}") from None
    scheme = state.accounts.scheme
    if (scheme.t, scheme.closed) != (checkpoint.t, checkpoint.epoch):
        raise LedgerError(f"its accounts are at T = {scheme.t} after {scheme.closed} closes")
    _see_again(folder, state, checkpoint.segment)
    return state


def _from_registers(checkpoint: Checkpoint, folder: Path) -> PoolState:
    registers = checkpoint.registers
    rules = Rules.from_payload(registers["rules"])
    scheme = rules.restore(checkpoint.state, tail=LogTail(folder, rules.emulated_target))
    close = registers["close"]
    blocks = []
    for payload in registers["blocks"]:
        block = block_from_payload(payload)
        block.state, block.detail = BlockState(payload["state"]), str(payload["detail"])
        blocks.append(block)
    return PoolState(
        accounts=Accounts(rules, scheme),
        workers={(Payee(bytes.fromhex(payee)), name): number for number, payee, name in registers["workers"]},
        closes=[close_from_payload(close, int(close["segment"]), int(close["firstSegment"]), rules)],
        blocks=blocks,
        tips={int(height): block for height, block in registers["tips"].items()},
        tip_segments={bytes.fromhex(tip): int(segment) for tip, segment in registers["tipSegments"]},
        next_job=int(registers["nextJob"]),
    )


def _see_again(folder: Path, state: PoolState, last: int) -> None:
    """Remember the headers of shares on the last tips, up to segment `last`."""
    jobs: dict[int, StratumJob] = {}
    tips = state.tip_segments
    for _, record in replay(folder, first=min(tips.values(), default=last + 1)):
        if isinstance(record, SegmentHeader):
            if record.segment > last:
                return
        elif isinstance(record, LongRecord):
            if record.kind == KIND_JOB:
                jobs[record.payload["job"]] = StratumJob.from_wire(record.payload)
        elif (job := jobs[record.job]).prev_hash in tips:
            state.seen.of(job.prev_hash).add(sha256d(record.header(job)))


class _Replay:
    """A log's records, one after the other, into a pool's state."""

    def __init__(self, state: PoolState, published: int) -> None:
        self.state = state
        self._published = published
        self._segment = 0
        self._jobs: dict[int, tuple[StratumJob, int]] = {}
        self._payees: dict[int, Payee] = {}
        self._long: dict[int, Callable[[dict[str, Any]], None]] = {
            KIND_POLICY: lambda payload: state.accounts.on_policy(Rules.from_payload(payload)),
            KIND_JOB: self._define_job,
            KIND_WORKER: self._define_worker,
            KIND_CLOSE: self._close,
            KIND_BLOCK: self._find_block,
            KIND_BLOCK_STATE: self._set_state,
            KIND_TIP: self._follow_tip,
        }

    def take(self, record: Record) -> None:
        """Raises InputError or KeyError for a record that does not fit those before it."""
        if isinstance(record, ShareRecord):
            self._share(record)
        elif isinstance(record, SegmentHeader):
            self._segment = record.segment
            self.state.accounts.scheme.settle()  # or all shares of a long log would wait in memory
        else:
            self._long[record.kind](record.payload)

    def _share(self, record: ShareRecord) -> None:
        if record.job not in self._jobs or record.worker not in self._payees:
            raise InputError(f"share {record.sequence} points to a job or worker that is not defined")
        job, height = self._jobs[record.job]
        accounts = self.state.accounts
        unit = accounts.rules.unit(job.nbits, record.share_bits)
        accounts.on_share(record.sequence, self._payees[record.worker], unit, height)
        self.state.note_tip(job.prev_hash, self._segment)
        self.state.seen.of(job.prev_hash).add(sha256d(record.header(job)))

    def _define_job(self, payload: dict[str, Any]) -> None:
        number = payload["job"]
        self._jobs[number] = StratumJob.from_wire(payload), int(payload["height"])
        self.state.next_job = max(self.state.next_job, number + 1)

    def _define_worker(self, payload: dict[str, Any]) -> None:
        payee = self._payees[payload["worker"]] = parse_payee(payload["payee"])
        self.state.workers[payee, payload["name"]] = payload["worker"]

    def _close(self, payload: dict[str, Any]) -> None:
        """A close, compared with the accounts of what was read so far."""
        state = self.state
        accounts = state.accounts
        epoch = int(payload["epoch"])
        if str(accounts.scheme.t) != payload["t"] or accounts.scheme.first_sequence != payload["firstShare"]:
            raise InputError(f"the close of epoch {epoch} does not fit the shares before it")
        first = state.closes[-1].segment + 1 if state.closes else 0
        state.closes.append(close_from_payload(payload, self._segment, first, accounts.rules))
        weights = accounts.on_close()
        if not weights:
            raise InputError(f"nobody has weight at the close of epoch {epoch}")
        if epoch > self._published:
            state.weights[epoch] = weights

    def _find_block(self, payload: dict[str, Any]) -> None:
        self.state.blocks.append(block_from_payload(payload))
        self.state.accounts.on_block(payload)

    def _set_state(self, payload: dict[str, Any]) -> None:
        """Bring a block to a recorded state."""
        block_hash = bytes.fromhex(str(payload["block"]))[::-1]
        block = next((block for block in reversed(self.state.blocks) if block.hash == block_hash), None)
        if block is None:
            raise InputError(f"a state of block {payload['block']}, which was never found")
        block.state = BlockState(str(payload["state"]))
        block.detail = str(payload["detail"])
        self.state.accounts.on_block_state(payload)

    def _follow_tip(self, payload: dict[str, Any]) -> None:
        self.state.accounts.on_tip(payload)
        height = int(payload["height"])
        for gone in [known for known in self.state.tips if known > height]:
            del self.state.tips[gone]
        self.state.tips[height] = str(payload["block"])

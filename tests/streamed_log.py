"""A share log and the windows over it, step by step: what a pool appends, and what of that has come to the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

from pool_oracle.ledger.checkpoint import Checkpoint
from pool_oracle.ledger.sharelog import segment_name
from pool_oracle.ledger.tail import LogTail
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.schemes import Scheme
from pool_oracle.payout.window import PplnsWindow, S, share_unit
from pool_oracle.units import Payee
from pool_oracle.work.records import (
    KIND_CLOSE,
    KIND_JOB,
    KIND_WORKER,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
    read_records,
)
from pool_oracle.work.targets import nbits_to_target, target_to_nbits

NBITS = [target_to_nbits(target) for target in (1 << 199, 3 << 197, 1 << 198)]
"""Network targets; a retarget goes from one to another."""

BITS = [target_to_nbits(target) for target in (1 << 198, 1 << 200, 5 << 199, 7 << 204, 1 << 246, (1 << 255) - 1)]
"""Share targets: S or all of it, a half or a quarter, less and less, and so little that a unit is 1 or 0."""

HEIGHT = 840_000

PAYEES = [Payee(bytes((i % 3,)) + bytes((i + 1,)) * 20) for i in range(4)]


def job_payload(number: int, nbits: int) -> dict[str, Any]:
    """Longer than a slot, as jobs are; `nbits` is what a window needs of it."""
    return {"job": number, "nbits": f"{nbits:08x}", "coinb1": "ab" * (40 + 60 * (number % 3))}


class StreamedLog:
    """What a pool appends goes to `pending` and comes to a file by `flush`; `shares` are all, (payee, unit, X)."""

    def __init__(self, folder: Path, window: int, emulated_target: int | None = None) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.x = window
        self.emulated_target = emulated_target
        self.memory = PplnsWindow(window)
        self.shares: list[tuple[Payee, int, int]] = []
        self.closes: list[dict[str, Any]] = []
        self.changes: dict[int, int] = {}  # segment to the X that it begins with
        self.segment = -1
        self.pending: list[tuple[int, bytes]] = []
        self._job, self._nbits = 0, NBITS[0]
        self._defined: set[tuple[int, int]] = set()

    def share(self, worker: int, bits: int) -> tuple[int, Payee, int]:
        """A share, in the log and in the window that stays in memory: its number, payee and unit."""
        if self.segment < 0:
            self.next_segment()
        self._define(KIND_JOB, self._job, job_payload(self._job, self._nbits))
        payee = PAYEES[worker % len(PAYEES)]
        self._define(KIND_WORKER, worker, {"worker": worker, "payee": format_payee(payee), "name": "rig" * worker})
        sequence = len(self.shares)
        self._write(encode_share(ShareRecord(sequence, self._job, b"\1" * 4, b"\2" * 8, 1, 2, 3, bits, worker, 4)))
        unit = share_unit(self.emulated_target or nbits_to_target(self._nbits), nbits_to_target(bits))
        self.shares.append((payee, unit, self.x))
        self.memory.add(sequence, payee, unit)
        return sequence, payee, unit

    def retarget(self, nbits: int) -> None:
        """The next share is of another job."""
        self._job, self._nbits = self._job + 1, nbits

    def change(self, window: int) -> None:
        """Another X, from the next share on."""
        self.x = window
        self.changes[self.segment] = window
        self.memory.change(window)

    def close(self, first_share: int | None = None) -> dict[str, Any] | None:
        """The close of an epoch, if there is anything to close; `first_share` is the window's unless it is told."""
        first_share = self.memory.first_sequence if first_share is None else first_share
        if first_share is None:
            return None
        payload = {
            "epoch": len(self.closes) + 1,
            "firstShare": first_share,
            "closingShare": len(self.shares) - 1,
            "t": str(self.memory.t),
        }
        self.closes.append(payload)
        self._write(encode_long(KIND_CLOSE, payload))
        self.next_segment()
        return payload

    def checkpoint(self, state: dict[str, Any], registers: Any = None) -> Checkpoint:
        """What to write right after a close, all of it being on disk."""
        close = self.closes[-1]
        return Checkpoint(
            epoch=close["epoch"],
            first_share=close["firstShare"],
            closing_share=close["closingShare"],
            t=int(close["t"]),
            segment=self.segment - 1,
            state=state,
            registers=registers,
        )

    def replay(self, scheme: Scheme, segment: int = 0) -> Scheme:
        """Tell a scheme what is on disk from a segment on, as a restart does."""
        while (path := self.folder / segment_name(segment)).exists():
            if segment in self.changes:
                scheme.change(replace(scheme.terms, window=self.changes[segment]))
            targets: dict[int, int] = {}
            payees: dict[int, Payee] = {}
            for _, record in read_records(path.read_bytes(), path.name):
                if isinstance(record, ShareRecord):
                    unit = share_unit(targets[record.job], nbits_to_target(record.share_bits))
                    scheme.add(record.sequence, payees[record.worker], unit, HEIGHT)
                elif isinstance(record, SegmentHeader):
                    assert (record.segment, record.t) == (segment, scheme.t)
                elif record.kind == KIND_JOB:
                    nbits = nbits_to_target(int(record.payload["nbits"], 16))
                    targets[record.payload["job"]] = self.emulated_target or nbits
                elif record.kind == KIND_WORKER:
                    payees[record.payload["worker"]] = parse_payee(record.payload["payee"])
                else:
                    assert scheme.first_sequence == record.payload["firstShare"]
                    scheme.close()
            segment += 1
        return scheme

    def next_segment(self) -> None:
        """Leave a segment that is full."""
        self.segment += 1
        self._defined = set()
        self._write(encode_header(SegmentHeader(self.segment, len(self.shares), self.memory.t, 5)))

    def flush(self, size: int | None = None) -> None:
        """Bring the first `size` bytes of what is pending to the disk."""
        size = sum(len(data) for _, data in self.pending) if size is None else size
        while size > 0 and self.pending:
            segment, data = self.pending.pop(0)
            if len(data) > size:
                self.pending.insert(0, (segment, data[size:]))
                data = data[:size]
            with (self.folder / segment_name(segment)).open("ab") as file:
                file.write(data)
            size -= len(data)

    def tail(self, **settings: int) -> LogTail:
        return LogTail(self.folder, self.emulated_target, **settings)

    def _define(self, kind: int, number: int, payload: dict[str, Any]) -> None:
        if (kind, number) not in self._defined:
            self._defined.add((kind, number))
            self._write(encode_long(kind, payload))

    def _write(self, data: bytes) -> None:
        self.pending.append((self.segment, data))


def defined_weights(shares: list[tuple[Payee, int, int]]) -> tuple[dict[Payee, int], int | None]:
    """Weights and first share of (payee, unit, X) by the definition: X times the length inside, rounded up."""
    end = sum(Fraction(unit, x) for _, unit, x in shares)
    at, first = Fraction(0), None
    weights: dict[Payee, int] = {}
    for sequence, (payee, unit, x) in enumerate(shares):
        begin, at = at, at + Fraction(unit, x)
        inside = at - max(begin, end - S)
        if inside > 0:
            weights[payee] = weights.get(payee, 0) + ceil(x * inside)
            first = sequence if first is None else first
    return weights, first


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """As a file brings it back."""
    back: dict[str, Any] = json.loads(json.dumps(state))
    return back

"""Share logs written by hand: any order of shares, blocks, closes and new segments, and what must follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import write_bundle
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import segment_digest, segment_name
from pool_oracle.payout.manifest import Manifest, Policy, SegmentRef
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.window import PplnsWindow, S, share_unit
from pool_oracle.units import Payee
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_WORKER,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
)
from pool_oracle.work.share import StratumJob, display
from pool_oracle.work.targets import nbits_to_target, target_to_nbits

NETWORK_TARGET = 1 << 236
RULES = Rules(window=2, emulated_target=NETWORK_TARGET)
HALF = target_to_nbits(1 << 237)
"""Share bits of half a block's work."""
SMALL = target_to_nbits(1 << 246)
"""Share bits of a 1024th of a block's work, 1023 hashes."""
START = 1_700_000_000
"""Unix time of a synthetic log's beginning; a whole day is 1699920000."""

COINBASE = f"0200000001{'00' * 32}ffffffff025157ffffffff01{(50 * 10**8).to_bytes(8, 'little').hex()}015100000000"
"""The coinbase of every block: 50 coins to anybody."""


def payee(number: int) -> Payee:
    return Payee(bytes((number % 3,)) + bytes((number + 1,)) * 20)


class LogWriter:
    """Writes a share log as a pool does, without hashing for it. `now` is its clock, Unix microseconds."""

    def __init__(self, folder: Path, rules: Rules = RULES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.window = PplnsWindow(rules.window)
        self.rules = rules
        self.now = START * 1_000_000
        self.sequence = 0
        self.epochs = 0
        self.blocks = 0
        self.weights: dict[int, dict[Payee, int]] = {}
        self.shares: list[tuple[int, Payee]] = []
        self._segment = -1
        self._defined: set[tuple[int, int]] = set()
        self._file: Any = None
        self.next_segment()

    def next_segment(self) -> None:
        """Leave the present segment, as one that is full."""
        self.finish()
        self._segment += 1
        self._file = (self.folder / segment_name(self._segment)).open("wb")
        self.write(encode_header(SegmentHeader(self._segment, self.sequence, self.window.t, self.now)))
        self._defined = set()

    def finish(self) -> None:
        """Bring everything to the file."""
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def share(self, worker: int = 0, *, bits: int = SMALL, seconds: float = 1, job: int | None = None) -> None:
        """A share, `seconds` after what was before."""
        job = self.sequence // 1000 if job is None else job
        self.now += int(seconds * 1_000_000)
        self.define(KIND_JOB, job)
        self.define(KIND_WORKER, worker)
        record = ShareRecord(
            self.sequence, job, b"\x01" * 4, b"\x02" * 8, 1, self.sequence, 0x20000000, bits, worker, self.now
        )
        self.write(encode_share(record))
        self.window.add(self.sequence, payee(worker % 5), share_unit(NETWORK_TARGET, nbits_to_target(bits)))
        self.shares.append((self.sequence, payee(worker % 5)))
        self.sequence += 1

    def define(self, kind: int, number: int) -> None:
        if (kind, number) not in self._defined:
            self._defined.add((kind, number))
            self.write(encode_long(kind, job_payload(number) if kind == KIND_JOB else worker_payload(number)))

    def restart(self) -> None:
        """A pool that was restarted defines everything again."""
        self._defined = set()

    def block(self, worker: int = 0, *, state: str | None = "best") -> bytes:
        """A found block, and what became of it."""
        self.define(KIND_WORKER, worker)
        self.blocks += 1
        block_hash = sha256(self.blocks.to_bytes(8, "big"))
        payload = {"block": display(block_hash), "height": 7, "epoch": self.epochs, "coinbase": COINBASE}
        self.write(encode_long(KIND_BLOCK, payload | {"worker": worker, "time": self.now}))
        if state is not None:
            self.state(block_hash, state)
        return block_hash

    def state(self, block_hash: bytes, state: str, depth: int = 1) -> None:
        payload = {"block": display(block_hash), "state": state, "depth": depth, "detail": "a node\0"}
        self.write(encode_long(KIND_BLOCK_STATE, payload | {"time": self.now}))

    def close_payload(self) -> dict[str, Any]:
        return {
            "epoch": self.epochs + 1,
            "firstShare": self.window.first_sequence,
            "closingShare": self.sequence - 1,
            "t": str(self.window.t),
            "tip": "ab" * 32,
            "tipHeight": 6,
            "time": self.now // 1_000_000,
        }

    def close(self, **changes: Any) -> None:
        """An epoch's close, the end of its segment."""
        self.write(encode_long(KIND_CLOSE, self.close_payload() | changes))
        self.epochs += 1
        self.weights[self.epochs] = self.window.weights
        self.next_segment()


def job_payload(number: int) -> dict[str, Any]:
    job = StratumJob(
        0x20000000, bytes(32), b"\x01" * 40, b"\x02" * 60, (b"\x03" * 32,), target_to_nbits(NETWORK_TARGET)
    )
    return {"job": number, "height": 100 + number, "extranonceSize": 12, **job.to_wire()}


def worker_payload(number: int) -> dict[str, Any]:
    return {"worker": number, "payee": format_payee(payee(number % 5)), "name": f"rig {number}"}


def write_log(folder: Path, steps: str) -> LogWriter:
    """A log of one step a letter: s, S shares of other workers, H half a block's work, b block, c close, n next, r."""
    log = LogWriter(folder)
    act: dict[str, Callable[[], Any]] = {
        "s": lambda: log.share(log.sequence % 3, seconds=20),
        "S": lambda: log.share(3 + log.sequence % 8, seconds=700),
        "H": lambda: log.share(1, bits=HALF, seconds=4000),
        "b": lambda: log.block(log.sequence % 3),
        "c": log.close,
        "n": log.next_segment,
        "r": log.restart,
    }
    for step in steps:
        act[step]()
    log.finish()
    return log


def publish_segments(root: Path, epoch: int, segments: list[Path]) -> Path:
    """A bundle of these segments, with everything else made up."""
    refs = []
    for path in segments:
        digest, length = segment_digest(path)
        refs.append(SegmentRef(path.name, f"0x{digest.hex()}", length, 0))
    manifest = Manifest(
        version=1,
        pool="pool",
        network="regtest",
        chain_id=1,
        distributor="0x" + "11" * 20,
        route="deposit",
        epoch=epoch,
        previous=None,
        policy=Policy("pplns", 2, 0, str(S), format_payee(payee(0)), None),
        closing_share=None,
        closing_t="0",
        first_share=None,
        segments=tuple(refs),
        leaves=1,
        total="1",
        root="0x" + "44" * 32,
        tip="",
        tip_height=0,
    )
    return write_bundle(root, epoch, manifest.to_bytes(), [(payee(0), 1)], segments)

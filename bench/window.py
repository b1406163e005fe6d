"""Closing an epoch with a great window: how long it takes, and in how much memory.

    make bench-window                          100 million shares in the window, 6.5 GB in build/ that go afterwards
    python bench/window.py --shares 10000000   another window; --epoch, --workers likewise; --keep leaves the log
    python bench/window.py --quick             a small one, compared with a full replay, nothing written: does it run?

Method: a log with right checksums, definitions and numbers is made by computation (proof of work is nothing that a
window looks at), over eight network targets, with four share targets among the workers. Its close has a checkpoint of
computed credits. Then a fresh process restarts from the checkpoint, adds the shares of one more epoch, and closes it:
once with all of the work left to the close, once with `settle` called after every 50,000 shares. Its weights are
compared with the computed ones. The files are dropped from the page cache before each process starts, and what leaves
once more before the epoch, so both come from the disk. The replay rate is that of reading records into the scheme.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pool_oracle.hashes import sha256
from pool_oracle.ledger.checkpoint import Checkpoint, Checkpoints
from pool_oracle.ledger.sharelog import segment_name
from pool_oracle.ledger.tail import LogTail
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.schemes import Scheme, Terms, open_scheme, restore_scheme
from pool_oracle.payout.window import S, share_unit
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
from pool_oracle.work.share import StratumJob
from pool_oracle.work.targets import nbits_to_target, target_to_nbits

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "window.json"
FOLDER = ROOT / "build" / "bench-window"
WANTED_SECONDS, WANTED_BYTES = 5, 500 * 10**6
"""What closing an epoch of a million shares with 100 million in the window may take."""

X = 8
SEGMENT_SHARES = 1_000_000
JOB_SHARES = 25_000
RETARGETS = (100, 104, 97, 110, 125, 118, 131, 129)
"""Network targets, one after the other, in hundredths of the first."""
HARDNESS = (4, 2, 1, 8)
"""How much harder workers' share targets are than the easiest, by the worker's number."""
NETWORK_TARGET = 1 << 180
TERMS = Terms(window=X)
SETTLE_EVERY = 50_000
SAMPLE = 1_000_000


@dataclass(frozen=True)
class Plan:
    """A log: `shares` in the window at the first close, `epoch` up to the second, `workers` with a payee each."""

    shares: int
    epoch: int
    workers: int

    @property
    def before(self) -> int:
        """How many shares there are up to the first close: some that have left the window, too."""
        return self.shares + self.shares // 50

    @cached_property
    def borders(self) -> list[int]:
        """The numbers that segments begin with, and the last one's end. Closes end a segment."""
        first = [*range(0, self.before, SEGMENT_SHARES), self.before]
        return first + [
            min(n + SEGMENT_SHARES, self.before + self.epoch)
            for n in range(self.before, self.before + self.epoch, SEGMENT_SHARES)
        ]

    @property
    def closing_segment(self) -> int:
        """The segment that the first close seals."""
        return self.borders.index(self.before) - 1

    @cached_property
    def units(self) -> list[list[int]]:
        """The unit of a share, by retarget and hardness."""
        return [[share_unit(nbits_to_target(n), nbits_to_target(bits)) for bits in self.bits] for n in self.nbits]

    @cached_property
    def nbits(self) -> list[int]:
        """The network targets."""
        return [target_to_nbits(NETWORK_TARGET * factor // 100) for factor in RETARGETS]

    @cached_property
    def bits(self) -> list[int]:
        """The share targets: such that the mean share is X * S / `shares`."""
        jobs = range(self.before // JOB_SHARES)
        factors = sum(RETARGETS[self.retarget_of(job)] for job in jobs)
        hardness = sum(HARDNESS)
        easiest = NETWORK_TARGET * factors * hardness * self.shares // (100 * len(jobs) * len(HARDNESS) * X)
        return [target_to_nbits(easiest // harder) for harder in HARDNESS]

    def retarget_of(self, job: int) -> int:
        """Which network target a job has."""
        return min(job * JOB_SHARES * len(RETARGETS) // (self.before + self.epoch), len(RETARGETS) - 1)

    def payee(self, worker: int) -> Payee:
        """Whom a worker mines for."""
        return Payee(b"\x01" + sha256(worker.to_bytes(4, "big"))[:20])

    def job(self, number: int) -> dict[str, Any]:
        """A job's payload, as long as real ones."""
        nbits = self.nbits[self.retarget_of(number)]
        stratum = StratumJob(0x20000000, bytes(32), bytes(60), bytes(120), tuple(bytes(32) for _ in range(12)), nbits)
        times = {"curtime": 1_700_000_000 + number, "mintime": 1_700_000_000}
        return {"job": number, "height": 900_000, "epoch": 0, "extranonceSize": 12, **times, **stratum.to_wire()}


class Writer:
    """Makes the log of a plan. What it says of the closes is computed from the plan, not by a window."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        import numpy

        self._np = numpy
        self.plan = plan
        self.folder = folder
        self._tables = self._crc_tables()
        self._units = numpy.array(plan.units, dtype=numpy.uint64)

    def write(self, progress: Progress) -> None:
        """Everything: segments, closes, the first close's checkpoint, and what a window should say at both."""
        plan, np = self.plan, self._np
        task = progress.add_task("write", total=plan.before + plan.epoch)
        t = 0
        closes: list[dict[str, Any]] = []
        begins: list[tuple[int, int]] = []  # T at the beginning of each segment, and its first share
        for segment, (first, end) in enumerate(zip(plan.borders, plan.borders[1:], strict=False)):
            begins.append((t, first))
            workers, units = self._rows(first, end)
            slots = [encode_header(SegmentHeader(segment, first, t, 1_700_000_000_000_000))]
            slots += self._definitions(first, end)
            slots.append(self._shares(first, workers))
            t += int(units.sum(dtype=np.uint64))
            if end in (plan.before, plan.before + plan.epoch):
                closes.append(self._close(len(closes) + 1, end, t, begins))
                slots.append(encode_long(KIND_CLOSE, closes[-1]["payload"]))
            (self.folder / segment_name(segment)).write_bytes(b"".join(slots))
            progress.advance(task, end - first)
        for close in closes:
            self._credit(close, begins)
        self._checkpoint(closes[0])
        facts = {"plan": asdict(plan), "weights": [digest_of(close["credits"]) for close in closes]}
        (self.folder / "plan.json").write_text(json.dumps(facts), encoding="utf-8")

    def _rows(self, first: int, end: int) -> tuple[Any, Any]:
        """Worker and unit of the shares of a segment, always the same."""
        np = self._np
        workers = np.random.default_rng(first).integers(0, self.plan.workers, end - first, dtype=np.uint32)
        jobs = np.arange(first, end) // JOB_SHARES
        retargets = np.array([self.plan.retarget_of(job) for job in range(jobs[-1] + 1)])[jobs]
        return workers, self._units[retargets, workers % len(HARDNESS)]

    def _definitions(self, first: int, end: int) -> Iterator[bytes]:
        for number in range(first // JOB_SHARES, (end - 1) // JOB_SHARES + 1):
            yield encode_long(KIND_JOB, self.plan.job(number))
        for number in range(self.plan.workers):
            payload = {"worker": number, "payee": format_payee(self.plan.payee(number)), "name": f"rig{number}"}
            yield encode_long(KIND_WORKER, payload)

    def _shares(self, first: int, workers: Any) -> bytes:
        """The slots of shares: one is encoded, the others differ from it in a few columns."""
        np = self._np
        model = encode_share(ShareRecord(0, 0, b"\1\2\3\4", bytes(8), 1_700_000_000, 0, 0x20000000, 0, 0, 0))
        slots = np.tile(np.frombuffer(model, dtype=np.uint8), (len(workers), 1))
        numbers = np.arange(first, first + len(workers), dtype=np.uint64)
        bits = np.array(self.plan.bits, dtype=np.uint32)[workers % len(HARDNESS)]
        columns = {
            4: (numbers // JOB_SHARES).astype("<u4"),
            16: (numbers * np.uint64(0x9E3779B97F4A7C15)).astype("<u8"),
            28: numbers.astype("<u4"),
            36: bits.astype("<u4"),
            40: workers.astype("<u4"),
            44: (numbers * np.uint64(17) + np.uint64(1_700_000_000_000_000)).astype("<u8"),
            52: numbers.astype("<u8"),
        }
        check = np.full(len(workers), int.from_bytes(model[60:], "little"), dtype=np.uint32)
        for at, values in columns.items():
            raw = values.view(np.uint8).reshape(len(workers), -1)
            for i in range(raw.shape[1]):
                check ^= self._tables[at + i][model[at + i]] ^ self._tables[at + i][raw[:, i]]
            slots[:, at : at + raw.shape[1]] = raw
        slots[:, 60:64] = check.astype("<u4").view(np.uint8).reshape(-1, 4)
        return bytes(slots.tobytes())

    def _crc_tables(self) -> Any:
        """What each byte value in each place of a slot changes of its CRC-32, which is linear."""
        import zlib

        zero = zlib.crc32(bytes(60))
        rows = [[zlib.crc32(bytes(at) + bytes((b,)) + bytes(59 - at)) ^ zero for b in range(256)] for at in range(60)]
        return self._np.array(rows, dtype=self._np.uint32)

    def _close(self, epoch: int, end: int, t: int, begins: list[tuple[int, int]]) -> dict[str, Any]:
        """A close behind share `end` - 1, by the half-open interval of the protocol."""
        np = self._np
        begin = max(0, t - X * S)
        segment = max(i for i, (before, _) in enumerate(begins) if before <= begin)
        before, number = begins[segment]
        _, units = self._rows(number, self.plan.borders[segment + 1])
        sums = np.cumsum(units, dtype=np.uint64)
        skipped = int(np.searchsorted(sums, begin - before, side="right"))
        gone = begin - before - (int(sums[skipped - 1]) if skipped else 0)
        payload = {
            "epoch": epoch,
            "firstShare": number + skipped,
            "closingShare": end - 1,
            "t": str(t),
            "tip": "00" * 32,
            "tipHeight": 899_999,
            "time": 1_700_000_000 + epoch,
        }
        segments = [segment, len(begins) - 1]
        return {"payload": payload, "gone": gone, "segments": segments, "t": t}

    def _credit(self, close: dict[str, Any], begins: list[tuple[int, int]]) -> None:
        """Each payee's credit at a close."""
        np = self._np
        first = close["payload"]["firstShare"]
        sums = np.zeros(self.plan.workers, dtype=np.uint64)
        for segment in range(close["segments"][0], close["segments"][1] + 1):
            number = begins[segment][1]
            workers, units = self._rows(number, self.plan.borders[segment + 1])
            skipped = max(0, first - number)
            np.add.at(sums, workers[skipped:], units[skipped:])
            if skipped or number == first:
                sums[workers[skipped]] -= np.uint64(close["gone"])
        close["credits"] = {self.plan.payee(worker): int(total) for worker, total in enumerate(sums) if total}

    def _checkpoint(self, close: dict[str, Any]) -> None:
        payload = close["payload"]
        inside = sum(close["credits"].values()) + close["gone"]
        count = payload["closingShare"] - payload["firstShare"] + 1
        window = {
            "t": payload["t"],
            "start": "0",
            "grid": str(X),
            "gone": str(close["gone"]),
            "eras": [[X, count, str(inside)]],
            "first": payload["firstShare"],
            "credits": {payee.hex(): str(credit) for payee, credit in sorted(close["credits"].items())},
        }
        state = {"t": payload["t"], "closed": 1, "window": window}
        Checkpoints(self.folder).write(checkpoint_of(payload, self.plan.closing_segment, state))


def checkpoint_of(payload: dict[str, Any], segment: int, state: dict[str, Any]) -> Checkpoint:
    """The checkpoint behind a close."""
    return Checkpoint(
        epoch=payload["epoch"],
        first_share=payload["firstShare"],
        closing_share=payload["closingShare"],
        t=int(payload["t"]),
        segment=segment,
        state=state,
        registers=None,
    )


def digest_of(weights: dict[Payee, int]) -> str:
    """Short for all weights."""
    return sha256(b"".join(payee + weight.to_bytes(8, "big") for payee, weight in sorted(weights.items()))).hex()


def drop_cache(folder: Path) -> None:
    """Let the kernel forget the segments, where it can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in sorted(folder.glob("shares-*")):
        descriptor = os.open(path, os.O_RDWR)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def records(plan: Plan, folder: Path, segment: int) -> Iterator[tuple[int, Payee, int]]:
    """Number, payee and unit of every share of a log from a segment on."""
    payees = [plan.payee(worker) for worker in range(plan.workers)]
    while (path := folder / segment_name(segment)).exists():
        for _, record in read_records(path.read_bytes(), path.name):
            if isinstance(record, ShareRecord):
                units = plan.units[plan.retarget_of(record.job)]
                yield record.sequence, payees[record.worker], units[record.worker % len(HARDNESS)]
        segment += 1


def peak_bytes() -> int:
    """The most memory that this process ever had (resident)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(plan: Plan, folder: Path, settle_every: int) -> dict[str, Any]:
    """Restart, one epoch, its close and its checkpoint; with `settle_every` 0 the close has all the work."""
    expected = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["weights"]
    drop_cache(folder)
    checkpoints = Checkpoints(folder)
    start = time.perf_counter()
    scheme = checkpoints.newest(lambda found: restore_scheme("pplns", TERMS, found.state, tail=LogTail(folder)))
    restart = time.perf_counter() - start
    assert scheme is not None
    assert digest_of(scheme.weights) == expected[0]
    assert abs(scheme.share_count - plan.shares) < plan.shares // 50
    in_window, loaded = scheme.share_count, peak_bytes()
    drop_cache(folder)
    add, settle, most = add_epoch(scheme, records(plan, folder, plan.closing_segment + 1), settle_every)
    start = time.perf_counter()
    first = scheme.first_sequence
    weights = scheme.close()
    close = time.perf_counter() - start
    peak = peak_bytes()
    assert digest_of(weights) == expected[1]
    start = time.perf_counter()
    state = scheme.state()
    state_seconds = time.perf_counter() - start
    payload = {"epoch": 2, "firstShare": first, "closingShare": plan.before + plan.epoch - 1, "t": str(scheme.t)}
    start = time.perf_counter()
    path = checkpoints.write(checkpoint_of(payload, len(plan.borders) - 2, state))
    write = time.perf_counter() - start
    size = path.stat().st_size
    path.unlink()
    return {
        "shares_in_window": in_window,
        "left": in_window + plan.epoch - scheme.share_count,
        "restart_seconds": round(restart, 3),
        "restart_peak_bytes": loaded,
        "add_seconds": round(add, 3),
        "settle_seconds": round(settle, 3),
        "longest_settle_seconds": round(most, 3),
        "close_seconds": round(close, 3),
        "peak_bytes": peak,
        "state_seconds": round(state_seconds, 3),
        "checkpoint_seconds": round(write, 3),
        "checkpoint_bytes": size,
    }


def add_epoch(
    scheme: Scheme, shares: Iterator[tuple[int, Payee, int]], settle_every: int
) -> tuple[float, float, float]:
    """Add shares; seconds of adding alone, of settling, and of the longest settling."""
    add = settle = most = 0.0
    while batch := [share for _, share in zip(range(settle_every or SETTLE_EVERY), shares, strict=False)]:
        start = time.perf_counter()
        for sequence, payee, unit in batch:
            scheme.add(sequence, payee, unit, 900_000)
        middle = time.perf_counter()
        add += middle - start
        if settle_every:
            scheme.settle()
            once = time.perf_counter() - middle
            settle, most = settle + once, max(most, once)
    return add, settle, most


def replay(plan: Plan, folder: Path) -> dict[str, Any]:
    """A full replay, of a sample where the log is great; a small log is compared with what was computed."""
    expected = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["weights"]
    is_small = plan.shares <= SAMPLE
    scheme = open_scheme("pplns", TERMS)
    count, start = 0, time.perf_counter()
    for share in records(plan, folder, 0):
        scheme.add(*share, 900_000)
        count += 1
        if count == plan.before and is_small:
            assert digest_of(scheme.weights) == expected[0]
        if count == SAMPLE and not is_small:
            break
    seconds = time.perf_counter() - start
    if is_small:
        assert digest_of(scheme.weights) == expected[1]
    return {"shares": count, "shares_per_second": round(count / seconds)}


def fresh(what: str, plan: Plan, folder: Path) -> Any:
    """The answer of a part of this bench in a process of its own."""
    numbers = [str(value) for value in asdict(plan).values()]
    command = [sys.executable, __file__, "--part", what, str(folder), *numbers]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def part(what: str, folder: Path, *numbers: str) -> Any:
    """See `fresh`."""
    plan = Plan(*map(int, numbers))
    if what == "write":
        columns = TextColumn("writing the log"), BarColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            Writer(plan, folder).write(progress)
        return None
    if what == "replay":
        return replay(plan, folder)
    return measure(plan, folder, SETTLE_EVERY if what == "settled" else 0)


def report(plan: Plan, folder: Path) -> dict[str, Any]:
    """All figures; the log is made unless it is there."""
    facts = folder / "plan.json"
    if not facts.exists() or json.loads(facts.read_text(encoding="utf-8"))["plan"] != asdict(plan):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fresh("write", plan, folder)
    size = sum(path.stat().st_size for path in folder.glob("shares-*"))
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        **asdict(plan),
        "log_bytes": size,
        "at_once": fresh("at once", plan, folder),
        "settled": fresh("settled", plan, folder),
        "replay": fresh("replay", plan, folder),
    }


def show(results: dict[str, Any]) -> None:
    """A table for people."""
    table = Table(title=f"{results['shares']:,} shares in the window, an epoch of {results['epoch']:,}")
    table.add_column("")
    for column in ("all at the close", f"settled every {SETTLE_EVERY:,} shares"):
        table.add_column(column, justify="right")
    runs = results["at_once"], results["settled"]
    rows = [
        ("restart from a checkpoint", [f"{run['restart_seconds']:.2f} s" for run in runs]),
        ("adding the epoch's shares", [f"{run['add_seconds']:.2f} s" for run in runs]),
        ("settling meanwhile", [f"{run['settle_seconds']:.2f} s" for run in runs]),
        ("the longest settling", [f"{run['longest_settle_seconds'] * 1000:.0f} ms" for run in runs]),
        ("closing", [f"{run['close_seconds']:.3f} s" for run in runs]),
        ("shares that left", [f"{run['left']:,}" for run in runs]),
        ("peak memory", [f"{run['peak_bytes'] / 1e6:.0f} MB" for run in runs]),
        ("state for a checkpoint", [f"{run['state_seconds'] * 1000:.0f} ms" for run in runs]),
        ("writing the checkpoint", [f"{run['checkpoint_seconds']:.2f} s" for run in runs]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(f"Full replay: {results['replay']['shares_per_second']:,} shares a second.")
    run = results["at_once"]
    console.print(
        f"Wanted of a close: {WANTED_SECONDS} s and {WANTED_BYTES / 1e6:.0f} MB; "
        f"it takes {run['close_seconds']:.2f} s and {run['peak_bytes'] / 1e6:.0f} MB."
    )


def main() -> None:
    """Measure, print, and write unless in a hurry."""
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(part(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, default=100_000_000, help="in the window")
    parser.add_argument("--epoch", type=int, default=1_000_000, help="new shares until the close")
    parser.add_argument("--workers", type=int, default=4_000)
    parser.add_argument("--keep", action="store_true", help="leave the log in build/, and use the one that is there")
    parser.add_argument("--quick", action="store_true", help="a small log, nothing written")
    given = parser.parse_args()
    plan = Plan(200_000, 20_000, 100) if given.quick else Plan(given.shares, given.epoch, given.workers)
    folder = FOLDER.with_name(f"{FOLDER.name}-quick") if given.quick else FOLDER
    try:
        results = report(plan, folder)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if not given.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(results)


if __name__ == "__main__":
    main()

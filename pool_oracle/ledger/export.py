"""The share log for others: Parquet files of shares, epochs and leaves, and sealed segments packed with zstd.

    DIR/shares/00000003.parquet     one row a share of segment 3
        epochs/00000003.parquet     the epoch that it closes, if it closes one
        leaves/00000003.parquet     that epoch's weights
        segments/SHA256.zst         a sealed segment, named by the hash of what is inside

Each Parquet file names the segment's SHA-256 in its metadata (`pool_oracle`), and what has been exported is not written
again. Amounts of work that pass 64 bits are DECIMAL(38, 0), targets are hex of one length, so that they sort.
"""

from __future__ import annotations

import importlib
import json
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from pool_oracle.errors import CorruptLog, InputError, LedgerError, SetupError
from pool_oracle.hashes import sha256, sha256d
from pool_oracle.ledger.index.events import Event, LoggedClose, ReadShare
from pool_oracle.ledger.index.meter import Meter, Progress
from pool_oracle.ledger.index.reading import LogReader
from pool_oracle.ledger.packed import pack_segment
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import segment_files, segment_name
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.work.records import KIND_CLOSE, SLOT_SIZE, LongRecord, SegmentHeader, is_whole_slot, read_records
from pool_oracle.work.share import display
from pool_oracle.work.targets import nbits_to_target

EXPORT_VERSION = 1
METADATA_KEY = b"pool_oracle"
ROWS_PER_GROUP = 1 << 17

SHARES, EPOCHS, LEAVES, SEGMENTS = "shares", "epochs", "leaves", "segments"

_TABLES = {
    SHARES: {
        "sequence": "int64",
        "segment": "int32",
        "time": "time_us",
        "payee": "string",
        "worker": "int64",
        "worker_name": "string",
        "job": "int64",
        "height": "int64",
        "hash": "string",
        "version": "uint32",
        "ntime": "uint32",
        "nonce": "uint32",
        "extranonce1": "string",
        "extranonce2": "string",
        "nbits": "uint32",
        "share_bits": "uint32",
        "network_target": "string",
        "share_target": "string",
        "unit": "int64",
        "t": "decimal",
        "work": "decimal",
    },
    EPOCHS: {
        "epoch": "int64",
        "first_share": "int64",
        "closing_share": "int64",
        "t": "decimal",
        "total": "int64",
        "leaves": "int32",
        "root": "string",
        "tip": "string",
        "tip_height": "int64",
        "time": "time_s",
        "segment": "int32",
    },
    LEAVES: {"epoch": "int64", "payee": "string", "weight": "int64"},
}
"""Columns and their types. `hash` is in display order; `t` is T after the share; `work` counts hashes."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How many segments were written and how many were there already, the shares in the former, and packed segments."""

    written: int
    kept: int
    shares: int
    packed: int


def export_log(
    folder: Path, target: Path, rules: Rules, *, packed: bool = False, progress: Progress | None = None
) -> ExportReport:
    """Export a log to a folder; `packed` adds the sealed segments. What was exported before and is unchanged stays.

    Raises SetupError where a library is missing, CorruptLog, and InputError when the folder holds another log's export.
    """
    paths = _begun_segments(folder)
    parquet = Parquet(target, rules)
    parquet.check_numbers(len(paths))
    marks = [parquet.mark(path) for path in paths]
    due = {i for i, mark in enumerate(marks) if not parquet.has(i, mark)}
    shares = 0
    if due:
        reader = LogReader(folder, rules)
        start = _start(paths, min(due), rules)
        if start:
            reader.skip_to(start)
        shares = _export_shares(reader, parquet, marks, due, progress)
    sealed = [path for path in paths if packed and is_sealed(path, paths)]
    for path in sealed:
        pack_segment(path, target / SEGMENTS)
    return ExportReport(len(due), len(paths) - len(due), shares, len(sealed))


def _export_shares(
    reader: LogReader, parquet: Parquet, marks: list[bytes], due: set[int], progress: Progress | None
) -> int:
    """Write the segments that are `due`; returns how many shares they have."""
    meter = Meter(reader, progress)
    shares = 0
    rows: SegmentRows | None = None
    for event in reader.read():
        if isinstance(event, SegmentHeader):
            if rows is not None:
                rows.close()
                rows = None
            if event.segment >= len(marks):  # begun after we looked
                break
            if event.segment in due:
                rows = SegmentRows(parquet, reader, event.segment, marks[event.segment])
            continue
        if isinstance(event, ReadShare):
            meter.count()
            shares += rows is not None
        if rows is not None:
            rows.take(event)
    if rows is not None:
        rows.close()
    meter.tell()
    return shares


def _begun_segments(folder: Path) -> list[Path]:
    """The segments of a log, without a last one whose header is not whole yet."""
    paths = segment_files(folder)
    if paths:
        with paths[-1].open("rb") as file:
            if not is_whole_slot(file.read(SLOT_SIZE)):
                paths.pop()
    return paths


def _start(paths: list[Path], first: int, rules: Rules) -> int:
    """The segment from which reading fills the window before segment `first`, by the T in the segments' headers."""
    if not rules.is_window:
        return 0
    due = _header(paths[first]).t - (rules.window + 1) * S
    return next((i for i in range(first, 0, -1) if _header(paths[i]).t <= due), 0)


def _header(path: Path) -> SegmentHeader:
    with path.open("rb") as file:
        (_, header), *_ = read_records(file.read(SLOT_SIZE), path.name)
    assert isinstance(header, SegmentHeader)  # noqa: S101 - read_records begins with it
    return header


class Parquet:
    """The Parquet files of an export."""

    def __init__(self, target: Path, rules: Rules) -> None:
        """Raises SetupError where pyarrow is missing."""
        self.arrow = _needed("pyarrow")
        self.files = _needed("pyarrow.parquet")
        self._target = target
        self._rules = rules
        kinds = {
            "decimal": self.arrow.decimal128(38, 0),
            "time_us": self.arrow.timestamp("us", "UTC"),
            "time_s": self.arrow.timestamp("s", "UTC"),
        }
        self._schemas = {
            table: self.arrow.schema([(name, kinds.get(kind, kind)) for name, kind in columns.items()])
            for table, columns in _TABLES.items()
        }

    def check_numbers(self, segments: int) -> None:
        """Raise InputError when the folder holds more segments than the log has."""
        numbers = [path.stem for path in (self._target / SHARES).glob("*.parquet")]
        if any(not number.isdigit() or int(number) >= segments for number in numbers):
            raise InputError(f"{self._target} holds the export of another log; give an empty folder")

    def path(self, table: str, number: int) -> Path:
        """Where a segment's rows of a table are."""
        return self._target / table / f"{number:08d}.parquet"

    def mark(self, path: Path) -> bytes:
        """What the files of a segment say that they were made of."""
        target = self._rules.emulated_target
        return json.dumps(
            {
                "export": EXPORT_VERSION,
                "segment": path.name,
                "sha256": sha256(path.read_bytes()).hex(),
                "scheme": self._rules.scheme,
                "window": self._rules.window,
                "emulatedNetworkTarget": None if target is None else _hex_target(target),
            }
        ).encode()

    def has(self, number: int, mark: bytes) -> bool:
        """Whether a segment's files are there, and made of this."""
        for table in _TABLES:
            try:
                metadata = self.files.read_schema(self.path(table, number)).metadata or {}
            except (OSError, self.arrow.ArrowException):
                return False
            if metadata.get(METADATA_KEY) != mark:
                return False
        return True

    def writer(self, table: str, number: int, mark: bytes) -> tuple[Any, Path]:
        """A writer to a file beside its place, and that file."""
        path = self.path(table, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        schema = self._schemas[table].with_metadata({METADATA_KEY: mark})
        return self.files.ParquetWriter(draft, schema, compression="zstd"), draft


class SegmentRows:
    """The rows of one segment on their way into its files, which appear when they are whole."""

    def __init__(self, parquet: Parquet, reader: LogReader, number: int, mark: bytes) -> None:
        """Write what `reader` finds in segment `number`."""
        self._parquet = parquet
        self._reader = reader
        self._number = number
        self._writers = {table: parquet.writer(table, number, mark) for table in _TABLES}
        self._rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _TABLES}

    def take(self, event: Event) -> None:
        """A row, or several, of an event."""
        if isinstance(event, ReadShare):
            rows = self._rows[SHARES]
            rows.append(self._share(event))
            if len(rows) >= ROWS_PER_GROUP:
                self._write(SHARES)
        elif isinstance(event, LoggedClose):
            tree = SumTree(event.weights.items())
            self._rows[EPOCHS].append(
                (
                    event.epoch,
                    event.first_share,
                    event.closing_share,
                    Decimal(event.t),
                    tree.total,
                    len(tree),
                    f"0x{tree.root.hex()}",
                    event.tip,
                    event.tip_height,
                    event.time,
                    event.segment,
                )
            )
            self._rows[LEAVES] += [(event.epoch, format_payee(payee), weight) for payee, weight in tree.leaves]

    def close(self) -> None:
        """Write the rest; the files come to their places, those of shares last. Raises LedgerError."""
        for table in (LEAVES, EPOCHS, SHARES):
            self._write(table)
            writer, draft = self._writers[table]
            writer.close()
            draft.replace(self._parquet.path(table, self._number))

    def _write(self, table: str) -> None:
        rows, self._rows[table] = self._rows[table], []
        if not rows:
            return
        writer, _ = self._writers[table]
        try:
            columns = zip(*rows, strict=True)
            arrays = [self._parquet.arrow.array(c, f.type) for c, f in zip(columns, writer.schema, strict=True)]
            writer.write_table(self._parquet.arrow.table(arrays, schema=writer.schema))
        except self._parquet.arrow.ArrowException as error:
            name = segment_name(self._number)
            raise LedgerError(f"{name} holds a number that has no room in the export: {error}") from None

    def _share(self, share: ReadShare) -> tuple[Any, ...]:
        record, unit, work = share
        job = self._reader.jobs[record.job]
        worker = self._reader.workers[record.worker]
        bits = job.stratum.nbits
        network_target = self._reader.rules.emulated_target
        return (
            record.sequence,
            self._number,
            record.time,
            format_payee(worker.payee),
            worker.number,
            worker.name,
            record.job,
            job.height,
            display(sha256d(record.header(job.stratum))),
            record.version,
            record.ntime,
            record.nonce,
            record.extranonce1.hex(),
            record.extranonce2.hex(),
            bits,
            record.share_bits,
            _hex_target(network_target) if network_target else _hex_of_bits(bits),
            _hex_of_bits(record.share_bits),
            unit,
            Decimal(self._reader.scheme.t),
            Decimal(work),
        )


def is_sealed(path: Path, paths: list[Path]) -> bool:
    """Whether nothing more will come to a segment: a later one is there, or it ends with a close."""
    if path != paths[-1]:
        return True
    try:
        ((_, last),) = deque(read_records(path.read_bytes(), path.name), maxlen=1)
    except CorruptLog:  # it ends in something that is being written, or torn
        return False
    return isinstance(last, LongRecord) and last.kind == KIND_CLOSE


@lru_cache(maxsize=4096)
def _hex_of_bits(bits: int) -> str:
    return _hex_target(nbits_to_target(bits))


def _hex_target(target: int) -> str:
    return f"0x{target:064x}"


def _needed(name: str) -> Any:
    """A library of the extra `export`. Raises SetupError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise SetupError(
            f"{name.partition('.')[0]} is missing, which exports need: pip install 'pool-oracle[export]'"
        ) from None

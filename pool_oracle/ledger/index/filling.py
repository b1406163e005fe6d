"""Filling the index from the share log: in transactions that hold rows and cursor alike, so every share counts once.

Whatever interrupts a filling, the cursor says how far the rows go, and the next one goes on from there. What one share
more changes is added up in memory, and written every `BATCH_ROWS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pool_oracle.errors import LedgerError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.index import schema
from pool_oracle.ledger.index.batch import MINUTE, Batch, Work
from pool_oracle.ledger.index.credit import WindowCredits
from pool_oracle.ledger.index.cursor import (
    move_cursor,
    open_cursor,
    other_rules,
    rules_text,
    slot_before,
    sync_segment,
)
from pool_oracle.ledger.index.database import Database
from pool_oracle.ledger.index.events import LoggedBlock, LoggedBlockState, LoggedClose, LoggedWorker, ReadShare
from pool_oracle.ledger.index.meter import Progress
from pool_oracle.ledger.index.pacing import Pause, in_turns
from pool_oracle.ledger.index.reading import LogReader
from pool_oracle.ledger.index.schema import exact_add
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import segment_name
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import Payee
from pool_oracle.work.records import SegmentHeader

BATCH_ROWS = 20_000
"""How many shares and weights are gathered for one transaction."""

SUBMITTED = "submitted"
"""The state of a block before the first record of one."""


class Filler:
    """Fills an index from one log. After an error it is of no use: what it holds in memory may not be in the index."""

    def __init__(self, database: Database, folder: Path, rules: Rules, pause: Pause | None = None) -> None:
        """Take up where the index ends: the shares of the window are read again, and nothing else.

        Raises LedgerError when the index was filled from another log or by other rules, CorruptLog.
        """
        self._database = database
        self._folder = folder
        self._batch = Batch()
        with database.writing() as connection:
            self._cursor = open_cursor(connection, rules)
            self._payees = _known_payees(connection)
            self._credits = WindowCredits(_written_credits(connection))
            self._next_block = connection.scalar(select(func.count()).select_from(schema.blocks)) or 0
            self._reader = _reader_before(connection, folder, rules, self._cursor["first_share"])
        if self._cursor["position"]:
            self._catch_up(pause)
        self._told = self._reader.consumed, self._cursor["sequence"]
        self._has_looked = False  # an index of an earlier version has no credits

    def fill(self, progress: Progress | None = None, pause: Pause | None = None) -> int:
        """Index what the log has got since; returns how many shares. Raises CorruptLog, LedgerError."""
        before = self._cursor["sequence"]
        for event in in_turns(self._reader.read(), pause):
            if isinstance(event, ReadShare):
                self._take_share(event)
                if self._batch.rows >= BATCH_ROWS:
                    self._write(progress)
            else:
                self._take(event)
        is_new = self._reader.place != (self._cursor["segment"], self._cursor["position"])
        if is_new or (not self._has_looked and any(self._credit_changes())):
            self._write(progress)
        self._has_looked = True
        return int(self._cursor["sequence"] - before)

    # From events to rows

    def _take_share(self, share: ReadShare) -> None:
        record = share.record
        batch = self._batch
        key = record.time // (MINUTE * 1_000_000), record.worker
        work = batch.minutes.get(key)
        if work is None:
            work = batch.minutes[key] = Work()
        work.shares += 1
        work.work += share.work
        times = batch.times.get(record.worker)
        batch.times[record.worker] = (times[0] if times else record.time, record.time)
        batch.shares += 1
        self._count_credit(share)

    def _count_credit(self, share: ReadShare) -> None:
        reader, record = self._reader, share.record
        payee = self._payees[reader.workers[record.worker].payee]
        self._credits.add(record.sequence, payee, reader.scheme.first_sequence)

    def _take(self, event: SegmentHeader | LoggedWorker | LoggedClose | LoggedBlock | LoggedBlockState) -> None:
        if isinstance(event, SegmentHeader):
            self._take_header(event)
        elif isinstance(event, LoggedWorker):
            self._number(event.payee)
            self._batch.workers[event.number] = event
        elif isinstance(event, LoggedClose):
            self._take_close(event)
        elif isinstance(event, LoggedBlock):
            self._take_block(event)
        else:
            self._batch.states.append(event)

    def _take_header(self, header: SegmentHeader) -> None:
        if header.segment > 0:
            self._batch.seals.append(header.segment - 1)
        self._batch.segments.append(
            {
                "number": header.segment,
                "first_share": header.first_sequence,
                "t": header.t,
                "created": header.created,
                "length": None,
                "sha256": None,
            }
        )

    def _take_close(self, close: LoggedClose) -> None:
        tree = SumTree(close.weights.items())
        self._batch.epochs.append(
            {
                "epoch": close.epoch,
                "first_share": close.first_share,
                "closing_share": close.closing_share,
                "t": close.t,
                "total": tree.total,
                "leaves": len(tree),
                "root": tree.root,
                "tip": close.tip,
                "tip_height": close.tip_height,
                "time": close.time,
                "segment": close.segment,
            }
        )
        self._batch.weights += [
            {"epoch": close.epoch, "payee": self._number(payee), "weight": weight} for payee, weight in tree.leaves
        ]
        self._batch.seals.append(close.segment)
        self._batch.forget_before(close.time)

    def _take_block(self, block: LoggedBlock) -> None:
        self._batch.blocks.append(
            {
                "number": self._next_block,
                "hash": block.hash,
                "height": block.height,
                "epoch": block.epoch,
                "worker": block.worker,
                "segment": block.segment,
                "txid": block.txid,
                "time": block.time,
                "t": block.t,
                "state": SUBMITTED,
                "depth": 0,
                "detail": "",
                "state_time": None,
            }
        )
        self._next_block += 1

    def _number(self, payee: Payee) -> int:
        """The payee's number, the next one where it is new."""
        number = self._payees.get(payee)
        if number is None:
            number = self._payees[payee] = len(self._payees)
            self._batch.payees.append({"number": number, "payee": payee})
        return number

    # From rows to the database

    def _write(self, progress: Progress | None) -> None:
        """Write the batch and the cursor in one transaction."""
        batch, self._batch = self._batch, Batch()
        batch.spread()
        cursor = self._cursor | self._place()
        credits_now, credits_gone = self._credit_changes()
        with self._database.writing() as connection:
            move_cursor(connection, self._cursor, cursor)
            _insert(connection, schema.payees, batch.payees)
            self._write_workers(connection, batch)
            _insert(connection, schema.segments, batch.segments)
            self._seal_segments(connection, batch.seals)
            for seconds, horizon in batch.horizons.items():
                buckets = schema.share_buckets.c
                connection.execute(
                    delete(schema.share_buckets).where(buckets.seconds == seconds, buckets.start < horizon)
                )
            self._write_buckets(connection, batch)
            self._write_credits(connection, credits_now, credits_gone)
            _insert(connection, schema.epochs, batch.epochs)
            _insert(connection, schema.weights, batch.weights)
            _insert(connection, schema.blocks, batch.blocks)
            for state in batch.states:
                _set_state(connection, state)
        self._cursor = cursor
        self._credits.wrote(credits_now, credits_gone)
        consumed, sequence = self._told
        self._told = self._reader.consumed, cursor["sequence"]
        if progress is not None:
            progress(self._told[0] - consumed, self._told[1] - sequence)

    def _place(self) -> dict[str, Any]:
        """Where the reader stands, as the cursor's columns; the log is on disk as far as that."""
        reader = self._reader
        segment, position = reader.place
        sync_segment(self._folder / segment_name(segment))
        return {
            "rules": rules_text(reader.rules),
            "segment": segment,
            "position": position,
            "sequence": reader.sequence,
            "t": reader.scheme.t,
            "first_share": reader.scheme.first_sequence,
            "slot": slot_before(self._folder, segment, position),
        }

    def _write_workers(self, connection: Connection, batch: Batch) -> None:
        table = schema.workers
        statement = self._upsert(table)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=[table.c.number],
            set_={
                "shares": table.c.shares + new.shares,
                "work": exact_add(table.c.work, new.work),
                "first_time": func.coalesce(table.c.first_time, new.first_time),
                "last_time": new.last_time,
            },
        )
        rows = []
        for number in batch.workers.keys() | batch.totals.keys():
            worker = self._reader.workers[number]
            work = batch.totals.get(number, Work())
            first, last = batch.times.get(number, (None, None))
            rows.append(
                {
                    "number": number,
                    "payee": self._payees[worker.payee],
                    "name": worker.name,
                    "shares": work.shares,
                    "work": work.work,
                    "first_time": first,
                    "last_time": last,
                }
            )
        if rows:
            connection.execute(statement, rows)

    def _write_buckets(self, connection: Connection, batch: Batch) -> None:
        table = schema.share_buckets
        statement = self._upsert(table)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=[table.c.seconds, table.c.start, table.c.worker],
            set_={"shares": table.c.shares + new.shares, "work": exact_add(table.c.work, new.work)},
        )
        rows = [
            {"seconds": seconds, "start": start, "worker": worker, "shares": work.shares, "work": work.work}
            for (seconds, start, worker), work in batch.buckets.items()
        ]
        if rows:
            connection.execute(statement, rows)

    def _credit_changes(self) -> tuple[dict[int, tuple[int, int]], list[int]]:
        return self._credits.changes(self._reader.scheme.weights, self._payees)

    def _write_credits(self, connection: Connection, now: dict[int, tuple[int, int]], gone: list[int]) -> None:
        table = schema.window_credits
        if gone:
            leave = delete(table).where(table.c.payee == bindparam("gone"))
            connection.execute(leave, [{"gone": number} for number in gone])
        statement = self._upsert(table)
        new = {"shares": statement.excluded.shares, "weight": statement.excluded.weight}
        rows = [{"payee": payee, "shares": shares, "weight": weight} for payee, (shares, weight) in now.items()]
        if rows:
            connection.execute(statement.on_conflict_do_update(index_elements=[table.c.payee], set_=new), rows)

    def _upsert(self, table: Any) -> sqlite.Insert | postgresql.Insert:
        return postgresql.insert(table) if self._database.is_postgresql else sqlite.insert(table)

    def _seal_segments(self, connection: Connection, numbers: list[int]) -> None:
        table = schema.segments
        for number in numbers:
            data = (self._folder / segment_name(number)).read_bytes()
            seal = {"length": len(data), "sha256": sha256(data)}
            connection.execute(update(table).where(table.c.number == number).values(seal))

    # Taking up

    def _catch_up(self, pause: Pause | None) -> None:
        """Read again up to the cursor, which brings back the window and the definitions."""
        cursor, reader = self._cursor, self._reader
        place = cursor["segment"], cursor["position"]
        path = self._folder / segment_name(cursor["segment"])
        what = f"the index {self._database.name} does not follow from the log in {self._folder}"
        remedy = "'pool-oracle ledger rebuild' makes it anew"
        try:
            slot = slot_before(self._folder, *place)
        except OSError:
            slot = b""
        if slot != cursor["slot"]:
            raise LedgerError(f"{what}: {path.name} has other bytes before offset {cursor['position']}; {remedy}")
        for event in in_turns(reader.read_to(*place), pause):
            if isinstance(event, ReadShare):
                self._count_credit(event)
        others = other_rules(cursor["rules"], reader.rules)
        if others:
            raise LedgerError(f"the index {self._database.name} was filled by other rules: {others}; {remedy}")
        window = reader.scheme
        if (reader.sequence, window.t, window.first_sequence) != tuple(
            cursor[name] for name in ("sequence", "t", "first_share")
        ):
            raise LedgerError(f"{what}: up to {path.name}, offset {cursor['position']}, it has other shares; {remedy}")
        reader.trust()


def _written_credits(connection: Connection) -> dict[int, tuple[int, int]]:
    return {row.payee: (row.shares, row.weight) for row in connection.execute(select(schema.window_credits))}


def _known_payees(connection: Connection) -> dict[Payee, int]:
    table = schema.payees
    return {Payee(row.payee): row.number for row in connection.execute(select(table))}


def _reader_before(connection: Connection, folder: Path, rules: Rules, first_share: int | None) -> LogReader:
    """A reader at the beginning of the segment with the oldest share that has credit.

    Only a window follows from what is in it: under another scheme it is a reader at the log's beginning.
    """
    segments, epochs, blocks = schema.segments.c, schema.epochs.c, schema.blocks.c
    newest = select(func.max(segments.number)).where(segments.first_share <= (first_share or 0))
    start = (connection.scalar(newest) or 0) if rules.scheme == "pplns" else 0
    reader = LogReader(
        folder,
        rules,
        segment=start,
        epoch=connection.scalar(select(func.max(epochs.epoch)).where(epochs.segment < start)) or 0,
        blocks=connection.scalars(select(blocks.hash).where(blocks.segment < start)),
    )
    for row in connection.execute(select(schema.workers, schema.payees).join(schema.payees)).mappings():
        number = row[schema.workers.c.number]
        reader.workers[number] = LoggedWorker(number, Payee(row[schema.payees.c.payee]), row[schema.workers.c.name])
    return reader


def _insert(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _set_state(connection: Connection, state: LoggedBlockState) -> None:
    table = schema.blocks
    values = {
        "state": state.state,
        "depth": state.depth,
        "detail": state.detail,
        "state_time": state.time,
    }
    connection.execute(update(table).where(table.c.hash == state.hash).values(values))

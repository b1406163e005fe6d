"""What the index can be asked. Lists that may be long are newest first, and go on `before` a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, func, select

from pool_oracle.ledger.index import schema
from pool_oracle.ledger.index.batch import HOUR, MINUTE
from pool_oracle.ledger.index.chain import PAGE, ChainQueries, page
from pool_oracle.ledger.index.rows import (
    BlockRow,
    Bucket,
    CreditRow,
    EpochRow,
    HashRates,
    PayeeRow,
    SegmentRow,
    Totals,
    WeightRow,
    WorkerRow,
)
from pool_oracle.ledger.index.schema import exact_sum
from pool_oracle.units import Payee, Wei

SPANS = {600: MINUTE, 3600: MINUTE, 86400: HOUR}
"""Seconds that a hash rate is the mean of, and the buckets that it is added up from."""


class Queries(ChainQueries):
    """Questions to one state of the index."""

    def totals(self) -> Totals:
        """Everything counted."""
        cursor = self._connection.execute(select(schema.log_cursor)).mappings().one_or_none()
        place = self.chain_place()
        return Totals(
            shares=cursor["sequence"] if cursor else 0,
            t=cursor["t"] if cursor else 0,
            workers=self._count(schema.workers),
            payees=self._count(schema.payees),
            epochs=self._count(schema.epochs),
            blocks=self._count(schema.blocks),
            payouts=self._count(schema.payouts),
            claims=self._count(schema.claims),
            chain_block=place.block if place else None,
        )

    def shares(self) -> int:
        """How many shares of the log are here."""
        return self._connection.scalar(select(schema.log_cursor.c.sequence)) or 0

    # Workers and payees

    def workers(
        self, payee: Payee | None = None, *, after: int | None = None, limit: int | None = None
    ) -> list[WorkerRow]:
        """Workers, or those of a payee, by number; `limit` of them, above a number."""
        query = _workers().order_by(schema.workers.c.number).limit(limit)
        if payee is not None:
            query = query.where(schema.payees.c.payee == payee)
        if after is not None:
            query = query.where(schema.workers.c.number > after)
        return [WorkerRow(*row) for row in self._connection.execute(query)]

    def worker(self, number: int) -> WorkerRow | None:
        """One worker."""
        row = self._connection.execute(_workers().where(schema.workers.c.number == number)).one_or_none()
        return None if row is None else WorkerRow(*row)

    def payees(self, *, after: int | None = None, limit: int = PAGE) -> list[PayeeRow]:
        """Payees, in the order in which the log first names them; `limit` of them, above a number."""
        number = schema.payees.c.number
        chosen = select(number).order_by(number).limit(limit)
        return self._payee_rows(chosen if after is None else chosen.where(number > after))

    def payee(self, payee: Payee) -> PayeeRow | None:
        """One payee."""
        rows = self._payee_rows(select(schema.payees.c.number).where(schema.payees.c.payee == payee))
        return rows[0] if rows else None

    def is_payee(self, payee: Payee) -> bool:
        """Whether the log names this payee."""
        return self._connection.scalar(select(schema.payees.c.number).where(schema.payees.c.payee == payee)) is not None

    def credit(self, payee: Payee) -> CreditRow:
        """What a payee has in the window."""
        table, payees = schema.window_credits.c, schema.payees.c
        query = select(table.shares, table.weight).join(schema.payees, payees.number == table.payee)
        row = self._connection.execute(query.where(payees.payee == payee)).one_or_none()
        total = self._connection.scalar(select(func.sum(table.weight))) or 0
        first = self._connection.scalar(select(schema.log_cursor.c.first_share))
        return CreditRow(row.shares if row else 0, row.weight if row else 0, int(total), first)

    def _payee_rows(self, chosen: Select[Any]) -> list[PayeeRow]:
        table, payees, weights, claims = schema.workers, schema.payees, schema.weights, schema.claims
        numbers = list(self._connection.scalars(chosen))
        query = (
            select(
                payees.c.number,
                payees.c.payee,
                func.count(table.c.number),
                func.coalesce(func.sum(table.c.shares), 0),
                exact_sum(table.c.work),
                func.min(table.c.first_time),
                func.max(table.c.last_time),
            )
            .outerjoin(table, table.c.payee == payees.c.number)  # a solo pool's payee need not mine
            .where(payees.c.number.in_(numbers))
            .group_by(payees.c.number, payees.c.payee)
            .order_by(payees.c.number)
        )
        rows = self._connection.execute(query).all()
        newest = select(func.max(schema.epochs.c.epoch)).scalar_subquery()
        weight_of = self._pairs(
            select(weights.c.payee, weights.c.weight).where(weights.c.epoch == newest, weights.c.payee.in_(numbers))
        )
        paid = select(claims.c.payee, exact_sum(claims.c.amount)).where(claims.c.payee.in_([row.payee for row in rows]))
        paid_to = self._pairs(paid.group_by(claims.c.payee))
        return [
            PayeeRow(
                number=number,
                payee=payee,
                workers=count,
                shares=int(shares),
                work=work or 0,
                first_time=first,
                last_time=last,
                weight=weight_of.get(number, 0),
                claimed=Wei(paid_to.get(payee, 0)),
            )
            for number, payee, count, shares, work, first, last in rows
        ]

    def hash_rates(self, now: int, *, payee: Payee | None = None, worker: int | None = None) -> HashRates:
        """Of the pool, a payee or a worker: exact means, rounded down.

        They are over whole buckets before `now` (Unix seconds), so the running minute does not count.
        """
        of = self._selected(payee, worker)
        sums = [
            self._connection.scalar(select(exact_sum(schema.share_buckets.c.work)).where(*_span(now, seconds), *of))
            for seconds in SPANS
        ]
        return HashRates(*((work or 0) // seconds for work, seconds in zip(sums, SPANS, strict=True)))

    def worker_hash_rates(self, now: int, workers: Iterable[int]) -> dict[int, HashRates]:
        """As `hash_rates`, of those `workers` (by number) that handed in a share within the last day."""
        table = schema.share_buckets
        rates: dict[int, list[int]] = {}
        numbers = list(workers)
        for i, seconds in enumerate(SPANS):
            query = select(table.c.worker, exact_sum(table.c.work)).where(
                *_span(now, seconds), table.c.worker.in_(numbers)
            )
            for worker, work in self._connection.execute(query.group_by(table.c.worker)):
                rates.setdefault(worker, [0] * len(SPANS))[i] = work // seconds
        return {worker: HashRates(*values) for worker, values in sorted(rates.items())}

    def history(
        self, seconds: int, start: int, end: int, *, payee: Payee | None = None, worker: int | None = None
    ) -> list[Bucket]:
        """The buckets of a minute, an hour or a day (`seconds`) that start from `start` to before `end`.

        Of the pool, a payee or a worker; without those in which nothing came.
        """
        table = schema.share_buckets
        query = (
            select(table.c.start, func.sum(table.c.shares), exact_sum(table.c.work))
            .where(table.c.seconds == seconds, table.c.start >= start, table.c.start < end)
            .where(*self._selected(payee, worker))
            .group_by(table.c.start)
            .order_by(table.c.start)
        )
        return [Bucket(at, int(shares), work) for at, shares, work in self._connection.execute(query)]

    # Epochs and blocks

    def epochs(self, *, before: int | None = None, limit: int = PAGE) -> list[EpochRow]:
        """Closed epochs, newest first."""
        table = schema.epochs
        query = page(select(table), table.c.epoch, before, limit)
        return [EpochRow(*row) for row in self._connection.execute(query)]

    def epoch(self, number: int) -> EpochRow | None:
        """One closed epoch."""
        table = schema.epochs
        row = self._connection.execute(select(table).where(table.c.epoch == number)).one_or_none()
        return None if row is None else EpochRow(*row)

    def weights(self, epoch: int, *, after: Payee | None = None, limit: int | None = None) -> list[tuple[Payee, int]]:
        """The leaves of an epoch, ascending by payee; `limit` of them, above a payee."""
        payees, weights = schema.payees, schema.weights
        query = select(payees.c.payee, weights.c.weight).join(weights, weights.c.payee == payees.c.number)
        query = query.where(weights.c.epoch == epoch).order_by(payees.c.payee).limit(limit)
        if after is not None:
            query = query.where(payees.c.payee > after)
        return [(Payee(payee), weight) for payee, weight in self._connection.execute(query)]

    def weights_of(self, payee: Payee, *, before: int | None = None, limit: int = PAGE) -> list[WeightRow]:
        """A payee's weights, newest epoch first."""
        payees, weights, epochs = schema.payees, schema.weights, schema.epochs
        query = (
            select(weights.c.epoch, weights.c.weight, epochs.c.total)
            .join(payees, payees.c.number == weights.c.payee)
            .join(epochs, epochs.c.epoch == weights.c.epoch)
            .where(payees.c.payee == payee)
        )
        return [WeightRow(*row) for row in self._connection.execute(page(query, weights.c.epoch, before, limit))]

    def blocks(self, *, before: int | None = None, state: str | None = None, limit: int = PAGE) -> list[BlockRow]:
        """Found blocks, or those in a state, newest first."""
        table = schema.blocks.c
        query = _blocks() if state is None else _blocks().where(table.state == state)
        return [BlockRow(*row) for row in self._connection.execute(page(query, table.number, before, limit))]

    def block(self, hash: bytes) -> BlockRow | None:
        """One found block."""
        row = self._connection.execute(_blocks().where(schema.blocks.c.hash == hash)).one_or_none()
        return None if row is None else BlockRow(*row)

    def segments(self) -> list[SegmentRow]:
        """The log's segments, oldest first."""
        query = select(schema.segments).order_by(schema.segments.c.number)
        return [SegmentRow(*row) for row in self._connection.execute(query)]

    def _count(self, table: Table) -> int:
        return self._connection.scalar(select(func.count()).select_from(table)) or 0

    def _pairs(self, query: Select[Any, Any]) -> dict[Any, int]:
        return {key: value for key, value in self._connection.execute(query)}  # noqa: C416 - rows are no pairs to dict()

    def _selected(self, payee: Payee | None, worker: int | None) -> list[ColumnElement[bool]]:
        """Which share buckets are those of a payee or a worker; all where neither is given."""
        column = schema.share_buckets.c.worker
        conditions = []
        if worker is not None:
            conditions.append(column == worker)
        if payee is not None:
            numbers = select(schema.workers.c.number).join(schema.payees)
            conditions.append(column.in_(numbers.where(schema.payees.c.payee == payee)))
        return conditions


def _span(now: int, seconds: int) -> list[ColumnElement[bool]]:
    """The whole buckets of the last `seconds` before `now`."""
    bucket = SPANS[seconds]
    end = now - now % bucket
    table = schema.share_buckets.c
    return [table.seconds == bucket, table.start >= end - seconds, table.start < end]


def _workers() -> Select[Any]:
    table, payees = schema.workers, schema.payees
    columns = (table.c[name] for name in ("name", "shares", "work", "first_time", "last_time"))
    return select(table.c.number, payees.c.payee, *columns).join(payees, payees.c.number == table.c.payee)


def _blocks() -> Select[Any]:
    table, workers, payees = schema.blocks.c, schema.workers.c, schema.payees.c
    return (
        select(table.number, table.hash, table.height, table.epoch, table.worker, workers.name, payees.payee)
        .add_columns(table.txid, table.time, table.t, table.state, table.depth, table.detail, table.state_time)
        .join(schema.workers, workers.number == table.worker)
        .join(schema.payees, payees.number == workers.payee)
    )

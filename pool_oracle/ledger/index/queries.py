"""What the index can be asked. Lists that may be long are newest first, and go on `before` a number."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Subquery, Table, func, select

from pool_oracle.ledger.index import schema
from pool_oracle.ledger.index.batch import HOUR, MINUTE
from pool_oracle.ledger.index.chain import recorded_block
from pool_oracle.ledger.index.rows import (
    BlockRow,
    Bucket,
    ClaimRow,
    EpochRow,
    HashRates,
    PartRow,
    PayeeRow,
    PayoutRow,
    SegmentRow,
    Totals,
    WeightRow,
    WorkerRow,
)
from pool_oracle.ledger.index.schema import exact_sum
from pool_oracle.units import Payee, Wei

SPANS = {60: MINUTE, 300: MINUTE, 3600: MINUTE, 86400: HOUR}
"""Seconds that a hash rate is the mean of, and the buckets that it is added up from."""

PAGE = 100


class Queries:
    """Questions to one state of the index."""

    def __init__(self, connection: Connection) -> None:
        """Ask through `connection`."""
        self._connection = connection

    def totals(self) -> Totals:
        """Everything counted."""
        cursor = self._connection.execute(select(schema.log_cursor)).mappings().one_or_none()
        return Totals(
            shares=cursor["sequence"] if cursor else 0,
            t=cursor["t"] if cursor else 0,
            workers=self._count(schema.workers),
            payees=self._count(schema.payees),
            epochs=self._count(schema.epochs),
            blocks=self._count(schema.blocks),
            payouts=self._count(schema.payouts),
            claims=self._count(schema.claims),
            chain_block=recorded_block(self._connection),
        )

    # Workers and payees

    def workers(self, payee: Payee | None = None) -> list[WorkerRow]:
        """All workers, or those of a payee, by number."""
        table, payees = schema.workers, schema.payees
        query = select(
            table.c.number,
            payees.c.payee,
            *(table.c[name] for name in ("name", "shares", "work", "first_time", "last_time")),
        )
        query = query.join(payees, payees.c.number == table.c.payee).order_by(table.c.number)
        if payee is not None:
            query = query.where(payees.c.payee == payee)
        return [WorkerRow(*row) for row in self._connection.execute(query)]

    def payees(self) -> list[PayeeRow]:
        """All payees, in the order in which the log first names them."""
        table, payees, weights, claims = schema.workers, schema.payees, schema.weights, schema.claims
        query = (
            select(
                payees.c.number,
                payees.c.payee,
                func.count(),
                func.sum(table.c.shares),
                exact_sum(table.c.work),
                func.min(table.c.first_time),
                func.max(table.c.last_time),
            )
            .join(table, table.c.payee == payees.c.number)
            .group_by(payees.c.number, payees.c.payee)
            .order_by(payees.c.number)
        )
        newest = select(func.max(schema.epochs.c.epoch)).scalar_subquery()
        weight_of = self._pairs(select(weights.c.payee, weights.c.weight).where(weights.c.epoch == newest))
        paid_to = self._pairs(select(claims.c.payee, exact_sum(claims.c.amount)).group_by(claims.c.payee))
        return [
            PayeeRow(
                payee=payee,
                workers=count,
                shares=int(shares),
                work=work,
                first_time=first,
                last_time=last,
                weight=weight_of.get(number, 0),
                claimed=Wei(paid_to.get(payee, 0)),
            )
            for number, payee, count, shares, work, first, last in self._connection.execute(query)
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

    def worker_hash_rates(self, now: int) -> dict[int, HashRates]:
        """As `hash_rates`, of every worker that handed in a share within the last day."""
        table = schema.share_buckets
        rates: dict[int, list[int]] = {}
        for i, seconds in enumerate(SPANS):
            query = select(table.c.worker, exact_sum(table.c.work)).where(*_span(now, seconds))
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
        query = _page(select(table), table.c.epoch, before, limit)
        return [EpochRow(*row) for row in self._connection.execute(query)]

    def weights(self, epoch: int) -> list[tuple[Payee, int]]:
        """The leaves of an epoch, ascending by payee."""
        payees, weights = schema.payees, schema.weights
        query = select(payees.c.payee, weights.c.weight).join(weights, weights.c.payee == payees.c.number)
        query = query.where(weights.c.epoch == epoch).order_by(payees.c.payee)
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
        return [WeightRow(*row) for row in self._connection.execute(_page(query, weights.c.epoch, before, limit))]

    def blocks(self, *, before: int | None = None, limit: int = PAGE) -> list[BlockRow]:
        """Found blocks, newest first."""
        table, workers, payees = schema.blocks.c, schema.workers.c, schema.payees.c
        query = (
            select(table.number, table.hash, table.height, table.epoch, table.worker, workers.name, payees.payee)
            .add_columns(table.txid, table.time, table.t, table.state, table.depth, table.detail, table.state_time)
            .join(schema.workers, workers.number == table.worker)
            .join(schema.payees, payees.number == workers.payee)
        )
        return [BlockRow(*row) for row in self._connection.execute(_page(query, table.number, before, limit))]

    def segments(self) -> list[SegmentRow]:
        """The log's segments, oldest first."""
        query = select(schema.segments).order_by(schema.segments.c.number)
        return [SegmentRow(*row) for row in self._connection.execute(query)]

    # What the chain told

    def payouts(self, *, before: int | None = None, limit: int = PAGE) -> list[PayoutRow]:
        """Payouts, newest first."""
        table, latest = schema.payouts, _latest_epochs()
        query = select(
            table.c.number,
            table.c.root,
            func.coalesce(table.c.epoch, latest.c.epoch),
            *(table.c[name] for name in ("amount", "fee", "time", "block")),
        ).outerjoin(latest, latest.c.root == table.c.root)
        return [PayoutRow(*row) for row in self._connection.execute(_page(query, table.c.number, before, limit))]

    def parts(self, payee: Payee, *, before: int | None = None, limit: int = PAGE) -> list[PartRow]:
        """What a payee gets of each payout whose root is a closed epoch's, newest payout first."""
        table, epochs, weights = schema.payouts, schema.epochs, schema.weights
        latest, claimed = _latest_epochs(), schema.claimed_payouts
        query = (
            select(
                table.c.number,
                epochs.c.epoch,
                weights.c.weight,
                table.c.amount,
                epochs.c.total,
                claimed.c.payout.is_not(None),
            )
            .join(latest, latest.c.root == table.c.root)
            .join(epochs, epochs.c.epoch == latest.c.epoch)
            .join(weights, weights.c.epoch == epochs.c.epoch)
            .join(schema.payees, schema.payees.c.number == weights.c.payee)
            .outerjoin(claimed, (claimed.c.payout == table.c.number) & (claimed.c.payee == payee))
            .where(schema.payees.c.payee == payee)
        )
        return [
            PartRow(number, epoch, weight, Wei(amount * weight // total), bool(is_claimed))
            for number, epoch, weight, amount, total, is_claimed in self._connection.execute(
                _page(query, table.c.number, before, limit)
            )
        ]

    def claims(self, payee: Payee | None = None, *, limit: int = PAGE) -> list[ClaimRow]:
        """Claims, all or a payee's, newest first."""
        table, covered = schema.claims, schema.claimed_payouts
        query = select(table).order_by(table.c.block.desc(), table.c.log_index.desc()).limit(limit)
        if payee is not None:
            query = query.where(table.c.payee == payee)
        rows = self._connection.execute(query).all()
        if not rows:
            return []
        numbers: dict[tuple[int, int], list[int]] = {}
        pairs = select(covered.c.block, covered.c.log_index, covered.c.payout).order_by(covered.c.payout)
        between = covered.c.block.between(rows[-1].block, rows[0].block)
        for block, log_index, payout in self._connection.execute(pairs.where(between)):
            numbers.setdefault((block, log_index), []).append(payout)
        return [
            ClaimRow(
                payee=Payee(row.payee),
                recipient=row.recipient,
                payouts=tuple(numbers.get((row.block, row.log_index), ())),
                amount=row.amount,
                block=row.block,
                log_index=row.log_index,
                transaction_hash=row.transaction_hash,
            )
            for row in rows
        ]

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
            conditions.append(column.in_([row.number for row in self.workers(payee)]))
        return conditions


def _span(now: int, seconds: int) -> list[ColumnElement[bool]]:
    """The whole buckets of the last `seconds` before `now`."""
    bucket = SPANS[seconds]
    end = now - now % bucket
    table = schema.share_buckets.c
    return [table.seconds == bucket, table.start >= end - seconds, table.start < end]


def _page(query: Select[Any], key: ColumnElement[int], before: int | None, limit: int) -> Select[Any]:
    """Newest first, `limit` of them, below a number."""
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc()).limit(limit)


def _latest_epochs() -> Subquery:
    """(root, epoch): the latest epoch of each root. Epochs with one root have the same leaves."""
    table = schema.epochs.c
    return select(table.root, func.max(table.epoch).label("epoch")).group_by(table.root).subquery()

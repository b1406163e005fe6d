"""What the chain tells of payouts and claims, as plain values: whoever asks the chain brings them here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Subquery, delete, func, insert, select, tuple_

from pool_oracle.errors import LedgerError
from pool_oracle.ledger.index.rows import ChainPlace, ClaimRow, PartRow, PayoutRow
from pool_oracle.ledger.index.schema import (
    chain_cursor,
    claimed_payouts,
    claims,
    epochs,
    payees,
    payouts,
    weights,
)
from pool_oracle.units import Payee, Wei

PAGE = 100


def recorded_place(connection: Connection) -> ChainPlace | None:
    """How far the chain's payouts and claims are here; None where nothing was recorded."""
    row = connection.execute(select(chain_cursor)).one_or_none()
    return None if row is None else ChainPlace(row.chain_id, row.distributor, row.block, row.block_hash)


def record_chain(
    connection: Connection,
    first_block: int,
    last: ChainPlace,
    new_payouts: Iterable[PayoutRow],
    new_claims: Iterable[ClaimRow],
) -> None:
    """Replace everything from `first_block` on by what the blocks up to `last` hold: a reorganisation is read again.

    Where another distributor was recorded, or another chain, all of that goes. Raises LedgerError when there is a gap
    before `first_block`, or a value stands outside the blocks.
    """
    known = recorded_place(connection)
    if known is not None and (known.chain_id, known.distributor) != (last.chain_id, last.distributor):
        _forget_from(connection, 0)
        known = None
    if first_block > last.block + 1 or (known is not None and first_block > known.block + 1):
        what = f"do not follow block {known.block if known else None}"
        raise LedgerError(f"blocks {first_block} to {last.block} of the chain {what}")
    kept_payouts, kept_claims = list(new_payouts), list(new_claims)
    for block in {row.block for row in kept_payouts} | {row.block for row in kept_claims}:
        if not first_block <= block <= last.block:
            raise LedgerError(f"something of block {block} is not in blocks {first_block} to {last.block} of the chain")
    _forget_from(connection, first_block)
    claim_columns = claims.columns.keys()
    rows: list[tuple[Any, list[dict[str, Any]]]] = [
        (payouts, [asdict(row) for row in kept_payouts]),
        (claims, [{name: getattr(row, name) for name in claim_columns} for row in kept_claims]),
        (claimed_payouts, [pair for row in kept_claims for pair in _covered(row)]),
        (chain_cursor, [{"id": 1, **asdict(last)}]),
    ]
    connection.execute(delete(chain_cursor))
    for table, values in rows:
        if values:
            connection.execute(insert(table), values)


def _forget_from(connection: Connection, block: int) -> None:
    for table in (claimed_payouts, claims, payouts):
        connection.execute(delete(table).where(table.c.block >= block))


def _covered(claim: ClaimRow) -> list[dict[str, Any]]:
    where = {"payee": claim.payee, "block": claim.block, "log_index": claim.log_index}
    return [{"payout": number, **where} for number in claim.payouts]


class ChainQueries:
    """Questions about what the chain told."""

    def __init__(self, connection: Connection) -> None:
        """Ask through `connection`."""
        self._connection = connection

    def chain_place(self) -> ChainPlace | None:
        """How far the chain's payouts and claims are here; None where nothing was recorded."""
        return recorded_place(self._connection)

    def chain_blocks(self) -> list[tuple[int, bytes]]:
        """(block, hash) of every block with a payout or a claim, ascending."""
        query = select(payouts.c.block, payouts.c.block_hash).union(select(claims.c.block, claims.c.block_hash))
        return [(row.block, row.block_hash) for row in self._connection.execute(query.order_by("block"))]

    def payouts(self, *, before: int | None = None, limit: int = PAGE) -> list[PayoutRow]:
        """Payouts, newest first."""
        rows = self._connection.execute(page(_payouts(), payouts.c.number, before, limit))
        return [PayoutRow(*row) for row in rows]

    def payout(self, number: int) -> PayoutRow | None:
        """One payout."""
        row = self._connection.execute(_payouts().where(payouts.c.number == number)).one_or_none()
        return None if row is None else PayoutRow(*row)

    def parts(self, payee: Payee, *, before: int | None = None, limit: int = PAGE) -> list[PartRow]:
        """What a payee gets of each payout whose root is a closed epoch's, newest payout first."""
        latest, claimed = _latest_epochs(), claimed_payouts
        query = (
            select(
                payouts.c.number,
                epochs.c.epoch,
                weights.c.weight,
                payouts.c.amount,
                epochs.c.total,
                claimed.c.payout.is_not(None),
            )
            .join(latest, latest.c.root == payouts.c.root)
            .join(epochs, epochs.c.epoch == latest.c.epoch)
            .join(weights, weights.c.epoch == epochs.c.epoch)
            .join(payees, payees.c.number == weights.c.payee)
            .outerjoin(claimed, (claimed.c.payout == payouts.c.number) & (claimed.c.payee == payee))
            .where(payees.c.payee == payee)
        )
        return [
            PartRow(number, epoch, weight, Wei(amount * weight // total), bool(is_claimed))
            for number, epoch, weight, amount, total, is_claimed in self._connection.execute(
                page(query, payouts.c.number, before, limit)
            )
        ]

    def claims(
        self, payee: Payee | None = None, *, before: tuple[int, int] | None = None, limit: int = PAGE
    ) -> list[ClaimRow]:
        """Claims, all or a payee's, newest first, before a (block, log index)."""
        query = select(claims).order_by(claims.c.block.desc(), claims.c.log_index.desc()).limit(limit)
        if payee is not None:
            query = query.where(claims.c.payee == payee)
        if before is not None:
            query = query.where(tuple_(claims.c.block, claims.c.log_index) < tuple_(*before))
        rows = self._connection.execute(query).all()
        if not rows:
            return []
        numbers: dict[tuple[int, int], list[int]] = {}
        covered = claimed_payouts.c
        pairs = select(covered.block, covered.log_index, covered.payout).order_by(covered.payout)
        pairs = pairs.where(covered.block.between(rows[-1].block, rows[0].block))
        if payee is not None:
            pairs = pairs.where(covered.payee == payee)
        for block, log_index, payout in self._connection.execute(pairs):
            numbers.setdefault((block, log_index), []).append(payout)
        return [
            ClaimRow(
                payee=Payee(row.payee),
                recipient=row.recipient,
                payouts=tuple(numbers.get((row.block, row.log_index), ())),
                amount=row.amount,
                block=row.block,
                log_index=row.log_index,
                block_hash=row.block_hash,
                transaction_hash=row.transaction_hash,
            )
            for row in rows
        ]


def page(query: Select[Any], key: ColumnElement[int], before: int | None, limit: int) -> Select[Any]:
    """Newest first, `limit` of them, below a number."""
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc()).limit(limit)


def _payouts() -> Select[Any]:
    latest, table = _latest_epochs(), payouts.c
    return select(
        table.number,
        table.root,
        func.coalesce(table.epoch, latest.c.epoch),
        *(table[name] for name in ("amount", "fee", "time", "block", "block_hash", "transaction_hash")),
    ).outerjoin(latest, latest.c.root == table.root)


def _latest_epochs() -> Subquery:
    """(root, epoch): the latest epoch of each root. Epochs with one root have the same leaves."""
    table = epochs.c
    return select(table.root, func.max(table.epoch).label("epoch")).group_by(table.root).subquery()

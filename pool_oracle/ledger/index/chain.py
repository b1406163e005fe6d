"""What the chain tells of payouts and claims, as plain values: whoever asks the chain brings them here."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select, update

from pool_oracle.errors import LedgerError
from pool_oracle.ledger.index.rows import ClaimRow, PayoutRow
from pool_oracle.ledger.index.schema import chain_cursor, claimed_payouts, claims, payouts


def recorded_block(connection: Connection) -> int | None:
    """The last block whose payouts and claims are here; None where none is."""
    return connection.scalar(select(chain_cursor.c.block))


def record_chain(
    connection: Connection,
    first_block: int,
    last_block: int,
    new_payouts: Iterable[PayoutRow],
    new_claims: Iterable[ClaimRow],
) -> None:
    """Replace everything from `first_block` on by what these blocks hold: a reorganisation is read again.

    Raises LedgerError when there is a gap before `first_block`, or a value stands outside the blocks.
    """
    known = recorded_block(connection)
    if first_block > last_block + 1 or (known is not None and first_block > known + 1):
        raise LedgerError(f"blocks {first_block} to {last_block} of the chain do not follow block {known}")
    kept_payouts, kept_claims = list(new_payouts), list(new_claims)
    for block in {row.block for row in kept_payouts} | {row.block for row in kept_claims}:
        if not first_block <= block <= last_block:
            raise LedgerError(f"something of block {block} is not in blocks {first_block} to {last_block} of the chain")
    for table in (claimed_payouts, claims, payouts):
        connection.execute(delete(table).where(table.c.block >= first_block))
    for payout in kept_payouts:
        connection.execute(insert(payouts), {column.name: getattr(payout, column.name) for column in payouts.columns})
    for claim in kept_claims:
        connection.execute(insert(claims), {column.name: getattr(claim, column.name) for column in claims.columns})
        for payout_number in claim.payouts:
            row = {"payout": payout_number, "payee": claim.payee, "block": claim.block, "log_index": claim.log_index}
            connection.execute(insert(claimed_payouts), row)
    if known is None:
        connection.execute(insert(chain_cursor), {"id": 1, "block": last_block})
    else:
        connection.execute(update(chain_cursor).values(block=last_block))

"""The index's tables, and its integers of any size.

Hashes are in internal order; payees, roots and addresses are their bytes. `t` is the running sum of units, `work`
counts hashes; amounts are wei. Times are Unix times; the column says of which unit (s, us).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine

VERSION_TABLE = "index_version"
"""Where Alembic keeps the schema's version."""

POSTGRESQL = "postgresql"


class Exact(TypeDecorator[int]):
    """An integer of any size: NUMERIC on PostgreSQL, decimal text on SQLite, whose integers end at 2^63."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type in a database."""
        return dialect.type_descriptor(Numeric() if dialect.name == POSTGRESQL else Text())

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        """To the database."""
        if value is None:
            return None
        return Decimal(value) if dialect.name == POSTGRESQL else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """From the database."""
        return None if value is None else int(value)


class exact_sum(GenericFunction[int]):  # noqa: N801 - named as SQL functions are
    """The sum of an `Exact` column; None of no rows."""

    type = Exact()
    inherit_cache = True


class exact_add(GenericFunction[int]):  # noqa: N801 - named as SQL functions are
    """The sum of two `Exact` values."""

    type = Exact()
    inherit_cache = True


@compiles(exact_sum, POSTGRESQL)
def _exact_sum(element: Any, compiler: Any, **options: Any) -> str:
    return f"sum({compiler.process(element.clauses, **options)})"


@compiles(exact_add, POSTGRESQL)
def _exact_add(element: Any, compiler: Any, **options: Any) -> str:
    left, right = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({left} + {right})"


class SqliteExactSum:
    """`exact_sum` for SQLite."""

    def __init__(self) -> None:
        self._total: int | None = None

    def step(self, value: str | None) -> None:
        """One row."""
        if value is not None:
            self._total = (self._total or 0) + int(value)

    def finalize(self) -> str | None:
        """The sum."""
        return None if self._total is None else str(self._total)


def sqlite_exact_add(left: str | None, right: str | None) -> str | None:
    """`exact_add` for SQLite."""
    return None if left is None or right is None else str(int(left) + int(right))


metadata = MetaData()


def _id(name: str, kind: type[TypeEngine[int]] = Integer, *constraints: ForeignKey) -> Column[int]:
    """A part of a primary key that we number."""
    return Column(name, kind, *constraints, primary_key=True, autoincrement=False)


def _table(name: str, *items: Any) -> Table:
    """A table that SQLite keeps in the order of its primary key."""
    return Table(name, metadata, *items, sqlite_with_rowid=False)


log_cursor = Table(
    "log_cursor",
    metadata,
    _id("id"),
    Column("rules", Text, nullable=False),
    Column("segment", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("t", Exact, nullable=False),
    Column("first_share", BigInteger),
    Column("slot", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="log_cursor_is_one_row"),
)
"""How far the log was read, and by which rules, as JSON.

`segment` and `position`: the first byte that was not. `sequence`: the next share's number; `first_share`: the oldest
one with credit. `slot`: the last 64 bytes that were read, by which the log is known again.
"""

segments = _table(
    "segments",
    _id("number"),
    Column("first_share", BigInteger, nullable=False),
    Column("t", Exact, nullable=False),
    Column("created", BigInteger, nullable=False),  # us
    Column("length", BigInteger),
    Column("sha256", LargeBinary),
)
"""The log's segments. `length` and `sha256` are those of sealed ones."""

payees = Table("payees", metadata, _id("number"), Column("payee", LargeBinary, nullable=False, unique=True))
"""Numbered in the order in which the log first names them."""

workers = _table(
    "workers",
    _id("number", BigInteger),
    Column("payee", Integer, ForeignKey("payees.number"), nullable=False),
    Column("name", Text, nullable=False),
    Column("shares", BigInteger, nullable=False),
    Column("work", Exact, nullable=False),
    Column("first_time", BigInteger),  # us
    Column("last_time", BigInteger),  # us
    Index("workers_of_payee", "payee"),
)
"""Workers by their number in the log; times are those of the first and the last share."""

share_buckets = _table(
    "share_buckets",
    _id("seconds"),
    _id("start", BigInteger),  # s
    _id("worker", BigInteger, ForeignKey("workers.number")),
    Column("shares", BigInteger, nullable=False),
    Column("work", Exact, nullable=False),
    Index("share_buckets_of_worker", "worker", "seconds", "start"),
)
"""What each worker handed in, in buckets of a minute, an hour and a day; short ones are kept for a while only."""

epochs = _table(
    "epochs",
    _id("epoch", BigInteger),
    Column("first_share", BigInteger, nullable=False),
    Column("closing_share", BigInteger, nullable=False),
    Column("t", Exact, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("leaves", Integer, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("tip", Text, nullable=False),
    Column("tip_height", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),  # s
    Column("segment", Integer, ForeignKey("segments.number"), nullable=False),
    Index("epochs_by_root", "root"),
)
"""Closed epochs. Epoch 0, which pays the policy's genesis payee, is not in the log."""

weights = _table(
    "weights",
    _id("epoch", BigInteger, ForeignKey("epochs.epoch")),
    _id("payee", Integer, ForeignKey("payees.number")),
    Column("weight", BigInteger, nullable=False),
    Index("weights_of_payee", "payee", "epoch"),
)
"""The leaves of each epoch. Weights and totals are below 2^63: X is 127 at the most."""

window_credits = _table(
    "window_credits",
    _id("payee", Integer, ForeignKey("payees.number")),
    Column("shares", BigInteger, nullable=False),
    Column("weight", BigInteger, nullable=False),
)
"""What each payee has in the window, as far as the log was read: its weight if the epoch closed there."""

blocks = _table(
    "blocks",
    _id("number"),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("height", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("worker", BigInteger, ForeignKey("workers.number"), nullable=False),
    Column("segment", Integer, ForeignKey("segments.number"), nullable=False),
    Column("txid", LargeBinary, nullable=False),
    Column("time", BigInteger, nullable=False),  # us
    Column("t", Exact, nullable=False),
    Column("state", Text, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("detail", Text, nullable=False),
    Column("state_time", BigInteger),  # us
)
"""Found blocks, in the order of the log. `epoch` is the job's; `txid` the coinbase's; `t` T when it was found."""

payouts = _table(
    "payouts",
    _id("number", BigInteger),
    Column("root", LargeBinary, nullable=False),
    Column("epoch", BigInteger),
    Column("amount", Exact, nullable=False),
    Column("fee", Exact, nullable=False),
    Column("time", BigInteger, nullable=False),  # s
    Column("block", BigInteger, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    Column("transaction_hash", LargeBinary, nullable=False),
    Index("payouts_of_block", "block"),
)
"""The distributor's payouts, from the chain. `epoch` is the one that the contract names, if it names one."""

claims = _table(
    "claims",
    _id("block", BigInteger),
    _id("log_index"),
    Column("payee", LargeBinary, nullable=False),
    Column("recipient", LargeBinary, nullable=False),
    Column("amount", Exact, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    Column("transaction_hash", LargeBinary, nullable=False),
    Index("claims_of_payee", "payee", "block", "log_index"),
)
"""Payments to payees, from the chain, each named by its event's place there; one may cover several payouts."""

claimed_payouts = _table(
    "claimed_payouts",
    _id("payout", BigInteger, ForeignKey("payouts.number")),
    Column("payee", LargeBinary, primary_key=True),
    Column("block", BigInteger, nullable=False),
    Column("log_index", Integer, nullable=False),
    ForeignKeyConstraint(["block", "log_index"], ["claims.block", "claims.log_index"]),
    Index("claimed_payouts_of_claim", "block", "log_index"),
)
"""Which payouts a claim covered."""

chain_cursor = Table(
    "chain_cursor",
    metadata,
    _id("id"),
    Column("chain_id", BigInteger, nullable=False),
    Column("distributor", LargeBinary, nullable=False),
    Column("block", BigInteger, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="chain_cursor_is_one_row"),
)
"""The last block whose payouts and claims are here, and of which distributor on which chain they are."""

"""What follows from the share log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# An integer of any size: decimal text, NUMERIC on PostgreSQL.
EXACT = sa.Text().with_variant(sa.Numeric(), "postgresql")


def upgrade() -> None:
    """Cursor, segments, payees, workers, share buckets, epochs, weights, blocks."""
    op.create_table(
        "log_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("window", sa.Integer, nullable=False),
        sa.Column("emulated_target", EXACT),
        sa.Column("segment", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("t", EXACT, nullable=False),
        sa.Column("first_share", sa.BigInteger),
        sa.Column("slot", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="log_cursor_is_one_row"),
    )
    op.create_table(
        "segments",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_share", sa.BigInteger, nullable=False),
        sa.Column("t", EXACT, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger),
        sa.Column("sha256", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "payees",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("payee", sa.LargeBinary, nullable=False, unique=True),
    )
    op.create_table(
        "workers",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("payee", sa.Integer, sa.ForeignKey("payees.number"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("shares", sa.BigInteger, nullable=False),
        sa.Column("work", EXACT, nullable=False),
        sa.Column("first_time", sa.BigInteger),
        sa.Column("last_time", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.create_index("workers_of_payee", "workers", ["payee"])
    op.create_table(
        "share_buckets",
        sa.Column("seconds", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("worker", sa.BigInteger, sa.ForeignKey("workers.number"), primary_key=True, autoincrement=False),
        sa.Column("shares", sa.BigInteger, nullable=False),
        sa.Column("work", EXACT, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("share_buckets_of_worker", "share_buckets", ["worker", "seconds", "start"])
    op.create_table(
        "epochs",
        sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("first_share", sa.BigInteger, nullable=False),
        sa.Column("closing_share", sa.BigInteger, nullable=False),
        sa.Column("t", EXACT, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("leaves", sa.Integer, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("tip", sa.Text, nullable=False),
        sa.Column("tip_height", sa.BigInteger, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("segment", sa.Integer, sa.ForeignKey("segments.number"), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("epochs_by_root", "epochs", ["root"])
    op.create_table(
        "weights",
        sa.Column("epoch", sa.BigInteger, sa.ForeignKey("epochs.epoch"), primary_key=True, autoincrement=False),
        sa.Column("payee", sa.Integer, sa.ForeignKey("payees.number"), primary_key=True, autoincrement=False),
        sa.Column("weight", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("weights_of_payee", "weights", ["payee", "epoch"])
    op.create_table(
        "blocks",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("height", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.BigInteger, sa.ForeignKey("workers.number"), nullable=False),
        sa.Column("segment", sa.Integer, sa.ForeignKey("segments.number"), nullable=False),
        sa.Column("txid", sa.LargeBinary, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("t", EXACT, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("state_time", sa.BigInteger),
        sqlite_with_rowid=False,
    )

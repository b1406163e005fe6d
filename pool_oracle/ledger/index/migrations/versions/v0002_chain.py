"""What the distributor's chain tells: payouts and claims."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# An integer of any size: decimal text, NUMERIC on PostgreSQL.
EXACT = sa.Text().with_variant(sa.Numeric(), "postgresql")


def upgrade() -> None:
    """Payouts, claims, and how far the chain was read."""
    op.create_table(
        "payouts",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("fee", EXACT, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("block", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "claims",
        sa.Column("block", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("log_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("payee", sa.LargeBinary, nullable=False),
        sa.Column("recipient", sa.LargeBinary, nullable=False),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("transaction_hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("claims_of_payee", "claims", ["payee"])
    op.create_table(
        "claimed_payouts",
        sa.Column("payout", sa.BigInteger, sa.ForeignKey("payouts.number"), primary_key=True, autoincrement=False),
        sa.Column("payee", sa.LargeBinary, primary_key=True),
        sa.Column("block", sa.BigInteger, nullable=False),
        sa.Column("log_index", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["block", "log_index"], ["claims.block", "claims.log_index"]),
        sqlite_with_rowid=False,
    )
    op.create_index("claimed_payouts_of_claim", "claimed_payouts", ["block", "log_index"])
    op.create_table(
        "chain_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("block", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="chain_cursor_is_one_row"),
    )

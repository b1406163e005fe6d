"""What a running pool adds: credits that every payee has now, which chain was read, and its blocks' hashes.

The cursor keeps the whole of the rules. The chain is read again from its beginning.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# An integer of any size: decimal text, NUMERIC on PostgreSQL.
EXACT = sa.Text().with_variant(sa.Numeric(), "postgresql")


def upgrade() -> None:
    """The cursor's rules, credits, and a chain whose blocks are known by their hashes."""
    _keep_rules()
    op.create_table(
        "window_credits",
        sa.Column("payee", sa.Integer, sa.ForeignKey("payees.number"), primary_key=True, autoincrement=False),
        sa.Column("shares", sa.BigInteger, nullable=False),
        sa.Column("weight", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    _chain_again()


def _keep_rules() -> None:
    connection = op.get_bind()
    names = "id", "segment", "position", "sequence", "t", "first_share", "slot"
    row = connection.execute(sa.text("SELECT * FROM log_cursor")).mappings().one_or_none()
    op.drop_table("log_cursor")
    table = op.create_table(
        "log_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rules", sa.Text, nullable=False),
        sa.Column("segment", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("t", EXACT, nullable=False),
        sa.Column("first_share", sa.BigInteger),
        sa.Column("slot", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="log_cursor_is_one_row"),
    )
    if row is not None:
        target = row["emulated_target"]
        rules = {"window": row["window"], "emulated_target": None if target is None else int(target)}
        text = json.dumps(rules, sort_keys=True)
        connection.execute(sa.insert(table), {name: row[name] for name in names} | {"rules": text})


def _chain_again() -> None:
    for name in ("claimed_payouts", "claims", "payouts", "chain_cursor"):
        op.drop_table(name)
    op.create_table(
        "payouts",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("fee", EXACT, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("block", sa.BigInteger, nullable=False),
        sa.Column("block_hash", sa.LargeBinary, nullable=False),
        sa.Column("transaction_hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("payouts_of_block", "payouts", ["block"])
    op.create_table(
        "claims",
        sa.Column("block", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("log_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("payee", sa.LargeBinary, nullable=False),
        sa.Column("recipient", sa.LargeBinary, nullable=False),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("block_hash", sa.LargeBinary, nullable=False),
        sa.Column("transaction_hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("claims_of_payee", "claims", ["payee", "block", "log_index"])
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
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("distributor", sa.LargeBinary, nullable=False),
        sa.Column("block", sa.BigInteger, nullable=False),
        sa.Column("block_hash", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="chain_cursor_is_one_row"),
    )

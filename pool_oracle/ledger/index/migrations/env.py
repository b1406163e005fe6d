"""What Alembic runs in every migration: it uses the connection, and the transaction, of whoever opens the index."""

from __future__ import annotations

from alembic import context

from pool_oracle.ledger.index.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()

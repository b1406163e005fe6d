"""The index as one hash: equal for equal rows, whatever database holds them and however they came there."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection, Table, select

from pool_oracle.ledger.index.schema import metadata

ROWS_AT_ONCE = 5_000


def digest_of(connection: Connection) -> bytes:
    """SHA-256 over all tables by name: name and columns, then every row in the order of its primary key.

    Each is one line of JSON. Integers are decimal strings, bytes are 0x hex, what is missing is null.
    """
    digest = hashlib.sha256()
    for name in sorted(metadata.tables):
        _add_table(digest, connection, metadata.tables[name])
    return digest.digest()


def _add_table(digest: Any, connection: Connection, table: Table) -> None:
    digest.update(_line([table.name, *table.columns.keys()]))
    rows = connection.execute(
        select(table).order_by(*table.primary_key.columns), execution_options={"yield_per": ROWS_AT_ONCE}
    )
    for row in rows:
        digest.update(_line([_canonical(value) for value in row]))


def _canonical(value: Any) -> str | None:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return None if value is None else str(value)


def _line(values: list[Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

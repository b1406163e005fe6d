"""Where the index ends: how far the log was read, and by which rules; and how a log is known again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from pool_oracle.errors import LedgerError
from pool_oracle.ledger.index import schema
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import segment_name
from pool_oracle.work.records import SLOT_SIZE


def open_cursor(connection: Connection, rules: Rules) -> dict[str, Any]:
    """The cursor's row, made where it is missing."""
    table = schema.log_cursor
    row = connection.execute(select(table)).mappings().one_or_none()
    if row is None:
        values = {
            "id": 1,
            "rules": rules_text(rules),
            "segment": 0,
            "position": 0,
            "sequence": 0,
            "t": 0,
            "first_share": None,
            "slot": b"",
        }
        connection.execute(insert(table), values)
        return values
    return dict(row)


def rules_text(rules: Rules) -> str:
    """The rules as the cursor keeps them."""
    return json.dumps(asdict(rules), sort_keys=True, default=_plain)


def _plain(value: Any) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


def other_rules(kept: str, rules: Rules) -> str:
    """In which terms two rules differ, in words; nothing where they are the same.

    A term that the kept ones do not name has its default there.
    """
    defaults = {name: field.default for name, field in Rules.__dataclass_fields__.items()}
    before, now = defaults | json.loads(kept), json.loads(rules_text(rules))
    return ", ".join(
        f"{name} {before.get(name)} instead of {now[name]}" for name in now if before.get(name) != now[name]
    )


def sync_segment(path: Path) -> None:
    """Bring a segment to the disk: the index must not know of a share that a power cut may still take."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def move_cursor(connection: Connection, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Move the cursor, if it is where it was left. Raises LedgerError when another process has moved it."""
    table = schema.log_cursor
    stands = table.c.segment == old["segment"], table.c.position == old["position"]
    if connection.execute(update(table).where(*stands).values(new)).rowcount != 1:
        raise LedgerError("another process fills this index; it needs only one")


def slot_before(folder: Path, segment: int, position: int) -> bytes:
    """The last slot before a place in the log."""
    if position == 0:
        return b""
    with (folder / segment_name(segment)).open("rb") as file:
        file.seek(position - SLOT_SIZE)
        return file.read(SLOT_SIZE)

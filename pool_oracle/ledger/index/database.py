"""Opening the index's database: SQLite in write-ahead mode, or PostgreSQL, brought to the present schema.

Every transaction is either reading, one snapshot of the whole index, or writing, of which SQLite has one at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pool_oracle.errors import InputError, LedgerError, SetupError
from pool_oracle.ledger.index.schema import POSTGRESQL, VERSION_TABLE, SqliteExactSum, metadata, sqlite_exact_add

SQLITE = "sqlite"
BUSY_SECONDS = 30
"""How long a writer waits for another to be done."""

_WRITES = "index_writes"
_MIGRATION_LOCK = 0x504F5243  # "PORC"; of PostgreSQL's advisory locks


def sqlite_url(path: Path) -> str:
    """The URL of an index in a file."""
    return URL.create(SQLITE, database=str(path)).render_as_string()


class Database:
    """An index's database, of the present schema. Raises LedgerError for whatever the database refuses."""

    def __init__(self, url: str, *, fresh: bool = False) -> None:
        """Open `sqlite:///PATH` or `postgresql://...`, creating or upgrading tables; `fresh` drops them first.

        Raises InputError for another URL, SetupError where PostgreSQL's driver is missing, LedgerError.
        """
        place = _parse(url)
        self.name = place.set(drivername=place.get_backend_name()).render_as_string(hide_password=True)
        self.engine = _create_engine(place)
        self.is_postgresql = self.engine.dialect.name == POSTGRESQL
        snapshot: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self.engine.execution_options(**snapshot) if self.is_postgresql else self.engine
        self._writer = self.engine.execution_options(**{_WRITES: True})
        try:
            self._migrate(fresh=fresh)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees the index as it is when it begins."""
        with self._translating(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that takes effect as a whole, at its end."""
        with self._translating(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    def _migrate(self, *, fresh: bool) -> None:
        with self.writing() as connection:
            if self.is_postgresql:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            if fresh:
                metadata.drop_all(connection)
                connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
            try:
                upgrade(connection)
            except CommandError as error:
                raise LedgerError(
                    f"the index {self.name} has a schema that this version does not know ({error}); "
                    "'pool-oracle ledger rebuild' makes it anew"
                ) from None

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            lines = str(getattr(error, "orig", None) or error).splitlines()
            raise LedgerError(f"the index {self.name}: {' '.join(lines[:1])}") from error


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a version. Raises CommandError where the present one is not known."""
    with resources.as_file(resources.files("pool_oracle.ledger.index") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _parse(url: str) -> URL:
    try:
        place = make_url(url)
    except ArgumentError:
        raise InputError("the index's URL must be sqlite:///PATH or postgresql://USER@HOST/DATABASE") from None
    backend = place.get_backend_name()
    if backend == SQLITE and place.database:
        return place.set(drivername="sqlite+pysqlite")
    if backend == POSTGRESQL:
        return place.set(drivername="postgresql+psycopg")
    raise InputError(f"the index is kept in a file of SQLite (sqlite:///PATH) or in PostgreSQL, not in {backend}")


def _create_engine(place: URL) -> Engine:
    if place.get_backend_name() == POSTGRESQL:
        try:
            return create_engine(place, pool_pre_ping=True)  # the server may have been restarted
        except ModuleNotFoundError:
            raise SetupError(
                "PostgreSQL's driver is missing: pip install 'pool-oracle[postgresql]', or 'psycopg[binary]'"
            ) from None
    try:
        Path(str(place.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"the index {place.database} cannot be created: {error.strerror}") from None
    engine = create_engine(place, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says, not where the driver guesses
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may undo the last fills, and the log has them
    connection.execute("PRAGMA foreign_keys = ON")
    connection.create_aggregate("exact_sum", 1, SqliteExactSum)  # type: ignore[arg-type]
    connection.create_function("exact_add", 2, sqlite_exact_add, deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

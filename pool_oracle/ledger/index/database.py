"""Opening the index's database: SQLite in write-ahead mode, or PostgreSQL, brought to the present schema.

Every transaction is either reading, one snapshot of the whole index, or writing, of which SQLite has one at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import time
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

CONNECT_SECONDS = 10
"""How long PostgreSQL may take to answer, and to be missed when it has gone without a word."""

_WRITES = "index_writes"
_MIGRATION_LOCK = 0x504F5243  # "PORC"; of PostgreSQL's advisory locks, as the next one
_FILLING_LOCK = 0x504F5246  # "PORF", and the schema's name
_THIS_INDEX = ":lock, hashtext(current_schema())"
_POLL_SECONDS = 0.05
_POOL: dict[str, Any] = {"pool_size": 5, "max_overflow": 11, "pool_timeout": 5}
"""Connections of one process: the fillers' and those of whoever asks; who finds none within 5 s is told so."""


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
        self._turn = contextlib.ExitStack()
        self._has_turn = False
        try:
            if fresh:
                self._turn.enter_context(self._only_filler(BUSY_SECONDS))
                self._has_turn = True
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

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """The turn to fill, which one process has at a time; who dropped the tables has had it since.

        Raises LedgerError where another process has it.
        """
        with self._turn.pop_all() as turn:
            if not self._has_turn:
                turn.enter_context(self._only_filler(0))
            self._has_turn = False
            yield

    def close(self) -> None:
        """Let go of all connections."""
        self._turn.close()
        self.engine.dispose()

    @contextlib.contextmanager
    def _only_filler(self, patience: float) -> Iterator[None]:
        lock = self._lock_server if self.is_postgresql else self._lock_file
        deadline = time.monotonic() + patience
        with contextlib.ExitStack() as stack:
            while not stack.enter_context(lock()):
                if time.monotonic() >= deadline:
                    raise LedgerError(f"another process fills this index, {self.name}; it needs only one")
                stack.close()
                time.sleep(_POLL_SECONDS)
            yield

    @contextlib.contextmanager
    def _lock_file(self) -> Iterator[bool]:
        """A lock on a file beside SQLite's; says whether it was to be had."""
        path = Path(f"{self.engine.url.database}-filling")
        try:
            file = path.open("a")
        except OSError as error:
            raise LedgerError(f"the index {self.name}: {path} cannot be opened: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    @contextlib.contextmanager
    def _lock_server(self) -> Iterator[bool]:
        """A lock of a connection to PostgreSQL; says whether it was to be had."""
        lock = {"lock": _FILLING_LOCK}
        with self._translating():
            connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        has_it = False
        try:
            with self._translating():
                has_it = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock({_THIS_INDEX})"), lock))
            yield has_it
        finally:
            try:
                if has_it:
                    connection.execute(text(f"SELECT pg_advisory_unlock({_THIS_INDEX})"), lock)
            except BaseException as error:
                connection.invalidate()  # the lock goes with the connection
                if not isinstance(error, SQLAlchemyError):
                    raise
            finally:
                connection.close()

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


def _patience(place: URL) -> dict[str, Any]:
    """Timeouts of libpq, where the URL has no others: https://www.postgresql.org/docs/current/libpq-connect.html."""
    wanted = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": CONNECT_SECONDS,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 2500 * CONNECT_SECONDS,  # ms
    }
    return {name: value for name, value in wanted.items() if name not in place.query}


def _create_engine(place: URL) -> Engine:
    if place.get_backend_name() == POSTGRESQL:
        try:
            # It may have been restarted since the last time, or be cut off without a word.
            return create_engine(place, pool_pre_ping=True, connect_args=_patience(place), **_POOL)
        except ModuleNotFoundError:
            raise SetupError(
                "PostgreSQL's driver is missing: pip install 'pool-oracle[postgresql]', or 'psycopg[binary]'"
            ) from None
    try:
        Path(str(place.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"the index {place.database} cannot be created: {error.strerror}") from None
    engine = create_engine(place, connect_args={"timeout": BUSY_SECONDS}, **_POOL)
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

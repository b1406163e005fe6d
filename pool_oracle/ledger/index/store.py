"""The index, open: fill it, ask it, let go of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from pool_oracle.ledger.index.chain import record_chain
from pool_oracle.ledger.index.database import Database
from pool_oracle.ledger.index.digest import digest_of
from pool_oracle.ledger.index.filling import Filler
from pool_oracle.ledger.index.meter import Progress
from pool_oracle.ledger.index.pacing import Pause
from pool_oracle.ledger.index.queries import Queries
from pool_oracle.ledger.index.rows import ChainPlace, ClaimRow, PayoutRow
from pool_oracle.ledger.rules import Rules


class Index:
    """The index at a URL. Any number of processes may ask it, and any thread; one process fills it.

    Everything raises LedgerError when the database fails.
    """

    def __init__(self, url: str, *, fresh: bool = False) -> None:
        """Open or create it; `fresh` drops what is there. Raises InputError, SetupError, LedgerError."""
        self._database = Database(url, fresh=fresh)
        self._filler: tuple[Path, Rules, Filler] | None = None
        self._filling = threading.Lock()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Its URL without the password."""
        return self._database.name

    def fill(self, folder: Path, rules: Rules, progress: Progress | None = None, pause: Pause | None = None) -> int:
        """Index what the log in a folder has got since the last time; returns how many shares.

        The log may grow meanwhile: filling ends with the last record that is whole. The first call reads the window's
        shares again. `pause` is called every few milliseconds of reading; what it raises ends the filling.
        Raises CorruptLog, and LedgerError when the index comes from another log or other rules, or another process is
        filling it just now.
        """
        with self._filling, self._database.filling():
            kept, self._filler = self._filler, None  # after an error there is none
            filler = kept[2] if kept and kept[:2] == (folder, rules) else Filler(self._database, folder, rules, pause)
            shares = filler.fill(progress, pause)
            self._filler = (folder, rules, filler)
            return shares

    def record_chain(
        self, first_block: int, last: ChainPlace, payouts: Iterable[PayoutRow], claims: Iterable[ClaimRow]
    ) -> None:
        """Replace everything from `first_block` of the chain on by what the blocks up to `last` hold.

        Where another distributor or chain was recorded, all of that goes. Raises LedgerError when there is a gap before
        `first_block`, or a value stands outside the blocks.
        """
        with self._database.writing() as connection:
            record_chain(connection, first_block, last, payouts, claims)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Queries]:
        """Queries that all see the same state of the index."""
        with self._database.reading() as connection:
            yield Queries(connection)

    def digest(self) -> bytes:
        """A hash of every row: equal for every index of one log and chain."""
        with self._database.reading() as connection:
            return digest_of(connection)

    def close(self) -> None:
        """Let go of the database."""
        self._filler = None
        self._database.close()

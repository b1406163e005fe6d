"""Progress of whoever reads a log."""

from __future__ import annotations

from collections.abc import Callable

from pool_oracle.ledger.index.reading import LogReader

PROGRESS_SHARES = 5_000
"""How many shares are read between two reports of progress."""

Progress = Callable[[int, int], None]
"""Told how many bytes and how many shares were read since it was told last."""


class Meter:
    """Counts shares, and reports progress now and then."""

    def __init__(self, reader: LogReader, progress: Progress | None) -> None:
        """Bytes are counted by `reader`."""
        self.shares = 0
        self._reader = reader
        self._progress = progress
        self._told = reader.consumed, 0

    def count(self) -> None:
        """One share more."""
        self.shares += 1
        if self.shares % PROGRESS_SHARES == 0:
            self.tell()

    def tell(self) -> None:
        """Report what has come since the last report."""
        if self._progress is not None:
            consumed, shares = self._told
            self._told = self._reader.consumed, self.shares
            self._progress(self._told[0] - consumed, self._told[1] - shares)

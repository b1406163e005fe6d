"""Who has how much in the window, as far as a log was read, and what of it is not in the index yet."""

from __future__ import annotations

from array import array

from pool_oracle.units import Payee

SPARE = 1 << 16
"""How many shares that are gone may stay in memory before they are cut off."""


class WindowCredits:
    """Counts each payee's shares in the window, and tells what has changed since it was written.

    A share takes four bytes, and a few hundred nanoseconds on its way in and out.
    """

    def __init__(self, written: dict[int, tuple[int, int]]) -> None:
        """`written` is what the index holds: payee's number to (shares, weight)."""
        self._written = written
        self._finders = array("I")  # the payee's number of each share, oldest first
        self._base = 0  # the sequence number of the first of them
        self._first = 0  # that of the oldest share with credit
        self._counts: dict[int, int] = {}

    def add(self, sequence: int, payee: int, first: int | None) -> None:
        """A share of the payee with this number; `first` is now the oldest share with credit."""
        if not self._finders:
            self._base = self._first = sequence
        self._finders.append(payee)
        self._counts[payee] = self._counts.get(payee, 0) + 1
        self._drop_before(sequence + 1 if first is None else first)

    def _drop_before(self, first: int) -> None:
        finders, base, counts = self._finders, self._base, self._counts
        for sequence in range(self._first, first):
            counts[finders[sequence - base]] -= 1
        self._first = max(first, self._first)
        if self._first - base > SPARE:
            del finders[: self._first - base]
            self._base = self._first

    def changes(
        self, weights: dict[Payee, int], numbers: dict[Payee, int]
    ) -> tuple[dict[int, tuple[int, int]], list[int]]:
        """(what is new or other than written, by payee's number; whose credit is gone).

        A payee that the log has not named yet has no number, and does not count.
        """
        now = {numbers[payee]: weight for payee, weight in weights.items() if payee in numbers}
        counts, written = self._counts, self._written
        other = {
            number: (counts.get(number, 0), weight)
            for number, weight in now.items()
            if written.get(number) != (counts.get(number, 0), weight)
        }
        return other, [number for number in written if number not in now]

    def wrote(self, other: dict[int, tuple[int, int]], gone: list[int]) -> None:
        """These changes are in the index."""
        self._written |= other
        for number in gone:
            del self._written[number]

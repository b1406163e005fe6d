"""Unit PPLNS on the timeline of work (protocol.md).

S = 2^56 stands for one block's expected work. A share's unit is u = min(S, T_net * S // T_share); T is the running sum
of units in log order. Closing at T with window X credits each share with the overlap of its interval (T_i - u_i, T_i]
and (T - X*S, T]. Source: M. Rosenfeld, Analysis of Bitcoin Pooled Mining Reward Systems (2011), 3.3, unit-PPLNS.

A policy may change X when an epoch closes. Rosenfeld then scales what is in the window: units by X'/X, what a unit is
paid by X/X', so that no miner's expected reward jumps. In closed form: a share under X_i has the length u_i / X_i, the
window holds the newest S of length, and a share's weight is X_i times the length inside, rounded up. Only the oldest
share can be inside in part. While X does not change, that is the rule above.

So a window is a few sums and each payee's credit; its shares are needed only one after the other, as they leave. A
`Tail` remembers them: in memory, or as a place in the share log where they are read again (`ledger/tail.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from math import lcm
from typing import Any, Protocol

from pool_oracle.errors import TargetError, WindowError
from pool_oracle.units import Payee, Unit

S = 1 << 56
MAX_WINDOW = 127

Share = tuple[int, Payee, int]
"""A share as the window knows it: sequence number, payee, whole unit (1 to S)."""


def share_unit(network_target: int, share_target: int) -> Unit:
    """min(S, T_net * S // T_share). Raises TargetError unless both targets are positive."""
    if network_target <= 0 or share_target <= 0:
        raise TargetError("a target must be positive")
    return Unit(min(S, network_target * S // share_target))


def check_window(window: int) -> int:
    """The window itself. Raises WindowError unless it is 1 to 127, so that X*S stays below 2^63."""
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= MAX_WINDOW:
        raise WindowError(f"the window X must be an integer from 1 to {MAX_WINDOW}, not {window!r}")
    return window


class Tail(Protocol):
    """Remembers the shares of a window, first in, first out. What it raises, the window passes on."""

    @property
    def append(self) -> Callable[[Share], None]:
        """Take the newest share. Every accepted share comes by here, so this does no input or output."""

    @property
    def take(self) -> Callable[[], Share]:
        """Give the oldest share away; there is one. When it raises, the share is still there."""

    def trim(self) -> None:
        """A good moment to let go of what can be found again elsewhere."""

    def resume(self, first: int, count: int, before: int) -> None:
        """Begin with `count` shares, the oldest of them number `first`, before which T was `before`.

        Raises WindowError or LedgerError where there is no such share.
        """


class MemoryTail:
    """All shares of a window in memory, some 150 bytes each."""

    def __init__(self) -> None:
        self.shares: deque[Share] = deque()
        self.append = self.shares.append
        self.take = self.shares.popleft

    def trim(self) -> None:
        """Nothing of it is anywhere else."""

    def resume(self, first: int, count: int, before: int) -> None:
        """Raises WindowError: memory does not outlive its process."""
        raise WindowError(f"the {count} shares from {first} on are not in this state; a share log has to give them")


class PplnsWindow:
    """Every payee's credit if the epoch closed now.

    Invariant, whenever somebody looks: `weights` sum to `total`, exactly; while X never changed, `total` = min(T, X*S).
    Adding a share costs the same whatever the window holds; looking costs in proportion to the shares that have left
    since somebody looked or called `settle`, and to the payees.
    """

    def __init__(self, window: int, *, t: int = 0, tail: Tail | None = None) -> None:
        """An empty window of X = `window`; `t` is the running sum before the first share that will be added.

        Without a `tail` all shares stay in memory, and what no longer fits goes at once.
        """
        self._eras = deque([[check_window(window), 0, 0]])  # (X, shares under it, their whole units), oldest first
        self._newest = self._eras[-1]
        self._credits: dict[Payee, int] = {}
        self._grid = window  # lengths are counted in units / grid; a multiple of the X of every era, so all are whole
        self._length = 0  # of all that was not dropped; when settled, at most S * grid
        self._edge: Share | None = None  # the oldest share, once the tail was asked for it
        self._gone = 0  # length of the oldest share that is outside
        self._step = 1  # length of one unit under the present X
        self._size = S * window  # S * grid
        self._start = t
        memory = MemoryTail()
        self._memory = memory if tail is None else None
        self._tail: Tail = memory if tail is None else tail
        self._remember = self._tail.append
        self.t = t

    def change(self, window: int) -> None:
        """Shares from now on are under another X. Costs nothing for the shares that are inside. Raises WindowError."""
        check_window(window)
        finer = lcm(self._grid, window) // self._grid
        self._grid *= finer
        self._size *= finer
        self._length *= finer
        self._gone *= finer
        self._step = self._grid // window
        if self._newest[1]:
            self._newest = [window, 0, 0]
            self._eras.append(self._newest)
        else:
            self._newest[0] = window

    def add(self, sequence: int, payee: Payee, unit: int) -> None:
        """Append a share of `unit` (0 to S)."""
        self.t += unit
        if unit == 0:
            return
        self._remember((sequence, payee, unit))
        era = self._newest
        era[1] += 1
        era[2] += unit
        self._credits[payee] = self._credits.get(payee, 0) + unit
        self._length += unit * self._step
        if self._length > self._size and self._memory is not None:
            self._shrink(None)

    def settle(self, limit: int | None = None) -> int:
        """Let the oldest credit that no longer fits go, that of at most `limit` shares; returns of how many.

        Whoever looks need not call this. To call it now and then spreads the work, so that a look has little left to
        do. When the tail fails, what has left has left, and the share in question has not.
        """
        left = self._shrink(limit)
        self._tail.trim()
        return left

    def _shrink(self, limit: int | None) -> int:
        """See `settle`."""
        excess = self._length - self._size
        left = 0
        while excess > 0 and left != limit:
            sequence, payee, unit = self._edge or self._take_edge()
            era = self._eras[0]
            step = self._grid // era[0]
            whole, gone = unit * step, self._gone
            then_gone = whole if gone + excess >= whole else gone + excess
            lost = then_gone // step - gone // step  # a weight is what is inside / step, rounded up
            held = self._credits.get(payee, 0)
            if not held or lost > held:
                raise WindowError(f"share {sequence} leaves with {lost}, where payee 0x{payee.hex()} has {held}")
            if lost == held:
                del self._credits[payee]
            else:
                self._credits[payee] = held - lost
            self._length -= then_gone - gone
            excess -= then_gone - gone
            left += 1
            if then_gone < whole:
                self._gone = then_gone
                continue
            self._edge = None
            self._gone = 0
            era[1] -= 1
            era[2] -= unit
            if era[1] == 0 and len(self._eras) > 1:
                self._eras.popleft()
        return left

    def _take_edge(self) -> Share:
        self._edge = self._tail.take()
        return self._edge

    @property
    def weights(self) -> dict[Payee, int]:
        """Each payee's credit; payees without any are absent."""
        self.settle()
        return dict(self._credits)

    @property
    def total(self) -> int:
        """The sum of the weights."""
        self.settle()
        return self._sum()

    def _sum(self) -> int:
        """Whole units, less those that the oldest share has lost."""
        oldest = self._eras[0]
        return sum(units for _, _, units in self._eras) - self._gone * oldest[0] // self._grid

    @property
    def first_sequence(self) -> int | None:
        """The sequence number of the oldest share that has credit, perhaps only in part; None in an empty window."""
        return (self._edge or self._take_edge())[0] if self.share_count else None

    @property
    def share_count(self) -> int:
        """How many shares have credit."""
        self.settle()
        return sum(count for _, count, _ in self._eras)

    def state(self) -> dict[str, Any]:
        """The window as plain values, for `restore`. Integers that may pass 2^53 are decimal strings.

        It holds all `shares` where they are in memory; else `first`, the number of the oldest, and the `credits`.
        """
        first = self.first_sequence
        state = {
            "t": str(self.t),
            "start": str(self._start),
            "grid": str(self._grid),
            "gone": str(self._gone),
            "eras": [[x, count, str(units)] for x, count, units in self._eras],
        }
        if self._memory is not None:
            shares = [self._edge, *self._memory.shares] if self._edge else []
            return state | {"shares": [[sequence, payee.hex(), str(unit)] for sequence, payee, unit in shares]}
        packed = {payee.hex(): str(credit) for payee, credit in sorted(self._credits.items())}
        return state | {"first": first, "credits": packed}

    @classmethod
    def restore(cls, state: dict[str, Any], *, tail: Tail | None = None) -> PplnsWindow:
        """The window of a state: it goes on exactly as the one that the state was taken of.

        A state without shares needs a `tail` that has them. Raises WindowError for numbers that no window has, and
        what the tail raises; a state of another form raises KeyError and the like.
        """
        window = cls(state["eras"][-1][0], t=int(state["start"]), tail=tail)
        window._eras = deque([x, count, int(units)] for x, count, units in state["eras"])
        window._newest = window._eras[-1]
        window._grid, window._gone, window.t = int(state["grid"]), int(state["gone"]), int(state["t"])
        window._size = S * window._grid
        window._step = window._grid // window._newest[0]
        window._check_eras()
        if "shares" in state:
            shares = [(sequence, Payee(bytes.fromhex(payee)), int(unit)) for sequence, payee, unit in state["shares"]]
            window._credits = window._credits_of(shares)
            for share in shares:
                window._remember(share)
        else:
            window._credits = {Payee(bytes.fromhex(payee)): int(credit) for payee, credit in state["credits"].items()}
            window._resume(state["first"])
        window._check_credits()
        return window

    @property
    def _before(self) -> int:
        """T before the oldest share."""
        return self.t - sum(units for _, _, units in self._eras)

    def _resume(self, first: int | None) -> None:
        """Tell the tail which shares are inside."""
        count = sum(count for _, count, _ in self._eras)
        if (first is None) != (count == 0):
            raise WindowError(f"a window of {count} shares cannot begin with share {first}")
        if first is not None:
            self._tail.resume(first, count, self._before)

    def _check_eras(self) -> None:
        """Measure the length. Raises WindowError for eras that no window has."""
        for era in self._eras:
            x, count, units = era
            step, odd = divmod(self._grid, check_window(x))
            if odd or step < 1 or not count <= units <= count * S or (count < 1 and era is not self._newest):
                raise WindowError(f"a window cannot hold {count} shares, {units} in sum, under X = {x}")
            self._length += units * step
        self._length -= self._gone
        if self._gone < 0 or self._length < 0 or self._length > self._size:
            raise WindowError(f"a window of {self._size} cannot hold {self._length} and have lost {self._gone}")
        if self._length < self._size and (self._gone or self._before != self._start):
            raise WindowError("nothing can have left a window that is not full")

    def _credits_of(self, shares: list[Share]) -> dict[Payee, int]:
        """The credits of all shares. Raises WindowError where they are not those of the eras."""
        sums: dict[Payee, int] = {}
        ordered = iter(shares)
        lost = self._gone * self._eras[0][0] // self._grid
        for x, count, units in self._eras:
            found = 0
            for _, payee, unit in islice(ordered, count):
                if not lost < unit <= S:
                    raise WindowError(f"a window cannot hold a share of {unit} under X = {x}")
                sums[payee] = sums.get(payee, 0) + unit - lost
                found += unit
                lost = 0  # only the oldest share is inside in part
            if found != units:
                raise WindowError(f"the shares under X = {x} are {found} in sum, not {units}")
        if next(ordered, None) is not None:
            raise WindowError("the shares of a window must be those of its eras")
        return sums

    def _check_credits(self) -> None:
        """Raises WindowError unless they are those of what is inside."""
        if any(credit <= 0 for credit in self._credits.values()) or sum(self._credits.values()) != self._sum():
            raise WindowError(f"the credits of this window must be above 0, and {self._sum()} in sum")
        if self._gone and self._gone >= (self._edge or self._take_edge())[2] * self._grid // self._eras[0][0]:
            raise WindowError(f"the oldest share of a window cannot have lost {self._gone}, which is all of it")

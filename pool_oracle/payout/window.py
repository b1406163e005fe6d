"""Unit PPLNS on the timeline of work (protocol.md).

S = 2^56 stands for one block's expected work. A share's unit is u = min(S, T_net * S // T_share); T is the running sum
of units in log order. Closing at T with window X credits each share with the overlap of its interval (T_i - u_i, T_i]
and (T - X*S, T]. Source: M. Rosenfeld, Analysis of Bitcoin Pooled Mining Reward Systems (2011), 3.3, unit-PPLNS.

A policy may change X when an epoch closes. Rosenfeld then scales what is in the window: units by X'/X, what a unit is
paid by X/X', so that no miner's expected reward jumps. In closed form: a share under X_i has the length u_i / X_i, the
window holds the newest S of length, and a share's weight is X_i times the length inside, rounded up. Only the oldest
share can be inside in part. While X does not change, that is the rule above.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import lcm
from typing import Any

from pool_oracle.errors import TargetError, WindowError
from pool_oracle.units import Payee, Unit

S = 1 << 56
MAX_WINDOW = 127


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


class PplnsWindow:
    """The shares inside the window, and every payee's credit if the epoch closed now.

    Invariant after each `add`: `weights` sum to `total`, exactly; while X never changed, `total` = min(T, X*S). Adding
    a share costs in proportion to the shares that it pushes out, so a close costs only the copy of the weights.
    """

    def __init__(self, window: int, *, t: int = 0) -> None:
        """An empty window of X = `window`; `t` is the running sum before the first share that will be added."""
        self._shares: deque[tuple[int, Payee, int]] = deque()  # (sequence number, payee, unit), whole
        self._eras: deque[list[int]] = deque([[check_window(window), 0]])  # (X, shares under it), oldest first
        self._credits: dict[Payee, int] = {}
        self._grid = window  # lengths are counted in units / grid; a multiple of the X of every era, so all are whole
        self._length = 0  # of all that is inside, at most S * grid
        self._gone = 0  # length of the oldest share that is outside
        self._step = 1  # length of one unit under the present X
        self._size = S * window  # S * grid
        self.t = t
        self.total = 0

    def change(self, window: int) -> None:
        """Shares from now on are under another X. Costs nothing for the shares that are inside. Raises WindowError."""
        check_window(window)
        finer = lcm(self._grid, window) // self._grid
        self._grid *= finer
        self._size *= finer
        self._length *= finer
        self._gone *= finer
        self._step = self._grid // window
        if self._eras[-1][1]:
            self._eras.append([window, 0])
        else:
            self._eras[-1][0] = window

    def add(self, sequence: int, payee: Payee, unit: int) -> None:
        """Append a share of `unit` (0 to S) and let the oldest credit that no longer fits go."""
        self.t += unit
        if unit == 0:
            return
        self._shares.append((sequence, payee, unit))
        self._eras[-1][1] += 1
        self._credits[payee] = self._credits.get(payee, 0) + unit
        self.total += unit
        self._length += unit * self._step
        excess = self._length - self._size
        while excess > 0:
            excess -= self._drop_oldest(excess)

    def _drop_oldest(self, excess: int) -> int:
        """Push up to `excess` of length of the oldest share outside; returns how much."""
        _, payee, unit = self._shares[0]
        era = self._eras[0]
        step = self._grid // era[0]
        inside = unit * step - self._gone
        weight = -(-inside // step)
        if inside <= excess:
            dropped, lost = inside, weight
            self._shares.popleft()
            self._gone = 0
            era[1] -= 1
            if era[1] == 0 and len(self._eras) > 1:
                self._eras.popleft()
        else:
            dropped = excess
            self._gone += dropped
            lost = weight + (dropped - inside) // step
        self._length -= dropped
        self.total -= lost
        left = self._credits[payee] - lost
        if left:
            self._credits[payee] = left
        else:
            del self._credits[payee]
        return dropped

    @property
    def weights(self) -> dict[Payee, int]:
        """Each payee's credit; payees without any are absent."""
        return dict(self._credits)

    @property
    def first_sequence(self) -> int | None:
        """The sequence number of the oldest share that has credit, perhaps only in part; None in an empty window."""
        return self._shares[0][0] if self._shares else None

    @property
    def share_count(self) -> int:
        """How many shares have credit."""
        return len(self._shares)

    def state(self) -> dict[str, Any]:
        """The window as plain values, for `restore`. Integers that may pass 2^53 are decimal strings."""
        return {
            "t": str(self.t),
            "grid": str(self._grid),
            "gone": str(self._gone),
            "eras": [list(era) for era in self._eras],
            "shares": [[sequence, payee.hex(), str(unit)] for sequence, payee, unit in self._shares],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> PplnsWindow:
        """The window of a state: it goes on exactly as the one that the state was taken of.

        Raises WindowError for numbers that no window has; a state of another form raises KeyError and the like.
        """
        window = cls(state["eras"][-1][0], t=int(state["t"]))
        window._eras = deque(list(era) for era in state["eras"])
        window._grid, window._gone = int(state["grid"]), int(state["gone"])
        window._size = S * window._grid
        window._step = window._grid // window._eras[-1][0]
        for sequence, payee, unit in state["shares"]:
            window._shares.append((sequence, Payee(bytes.fromhex(payee)), int(unit)))
        window._sum_up()
        return window

    def _sum_up(self) -> None:
        """Length, total and credits of the shares. Raises WindowError where they make no window."""
        if sum(count for _, count in self._eras) != len(self._shares) or self._gone < 0:
            raise WindowError("the shares of a window must be those of its eras, and begin in the oldest")
        shares = iter(self._shares)
        gone = self._gone
        for x, count in self._eras:
            step, odd = divmod(self._grid, check_window(x))
            for _, payee, unit in islice(shares, count):
                inside = unit * step - gone
                if odd or not 0 < unit <= S or inside <= 0:
                    raise WindowError(f"a window cannot hold a share of {unit} under X = {x}")
                gone = 0  # only the oldest share is inside in part
                weight = -(-inside // step)
                self._length += inside
                self.total += weight
                self._credits[payee] = self._credits.get(payee, 0) + weight
        if self._length > self._size:
            raise WindowError("the shares of a window must not be longer than it")

"""Unit PPLNS on the timeline of work (protocol.md).

S = 2^56 stands for one block's expected work. A share's unit is u = min(S, T_net * S // T_share); T is the running sum
of units in log order. Closing at T with window X credits each share with the overlap of its interval (T_i - u_i, T_i]
and (T - X*S, T]. Source: M. Rosenfeld, Analysis of Bitcoin Pooled Mining Reward Systems (2011), unit-PPLNS.
"""

from __future__ import annotations

from collections import deque

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

    Invariant after each `add`: `weights` sum to `total` = min(T, X*S), exactly. Adding a share costs in proportion to
    the shares that it pushes out, so a close costs only the copy of the weights.
    """

    def __init__(self, window: int, *, t: int = 0) -> None:
        """An empty window of X = `window`; `t` is the running sum before the first share that will be added."""
        self._size = check_window(window) * S
        self._shares: deque[tuple[int, Payee, int]] = deque()  # (sequence number, payee, credit left)
        self._credits: dict[Payee, int] = {}
        self.t = t
        self.total = 0

    def add(self, sequence: int, payee: Payee, unit: int) -> None:
        """Append a share of `unit` (0 to S) and let the oldest credit that no longer fits go."""
        self.t += unit
        if unit == 0:
            return
        self._shares.append((sequence, payee, unit))
        self._credits[payee] = self._credits.get(payee, 0) + unit
        self.total += unit
        excess = self.total - self._size
        while excess > 0:
            excess -= self._drop_oldest(excess)

    def _drop_oldest(self, excess: int) -> int:
        """Take up to `excess` of credit from the oldest share; returns how much."""
        sequence, payee, credit = self._shares[0]
        taken = min(excess, credit)
        if taken == credit:
            self._shares.popleft()
        else:
            self._shares[0] = (sequence, payee, credit - taken)
        left = self._credits[payee] - taken
        if left:
            self._credits[payee] = left
        else:
            del self._credits[payee]
        self.total -= taken
        return taken

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

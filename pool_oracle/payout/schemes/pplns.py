"""PPLNS: a block pays the newest X blocks' worth of work. The default.

A share of unit u has the weight of its overlap with the window (T - X*S, T]. While it is inside, work of X*S is done
and X blocks are expected, each paying it u / (X*S): in sum u/S of a block's reward, which is its part of the work,
whenever it was submitted. So there is nothing to hop for. Expected reward u/S * B, variance (u/S * B)^2 / X, maturity
X/2 blocks. Source: Rosenfeld 3.3 (unit-PPLNS); splitting the oldest share: protocol.md.
"""

from __future__ import annotations

from typing import Any

from pool_oracle.payout.schemes.base import Scheme, Terms
from pool_oracle.payout.window import PplnsWindow, Tail
from pool_oracle.units import Payee


class Pplns(Scheme):
    """The window of protocol.md. Weights are in units: S is one block's expected work."""

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._window = PplnsWindow(terms.window, t=t)
        self._tail: Tail | None = None

    def use_tail(self, tail: Tail) -> None:
        """See Scheme."""
        self._tail = tail
        self._window = PplnsWindow(self.terms.window, t=self.t, tail=tail)

    def _credit(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        self._window.add(sequence, payee, unit)

    def change(self, terms: Terms) -> None:
        """A new X scales the shares that are inside, see `payout/window.py`."""
        if terms.window != self.terms.window:
            self._window.change(terms.window)
        super().change(terms)

    def settle(self, limit: int | None = None) -> int:
        """Let shares leave the window."""
        return self._window.settle(limit)

    @property
    def weights(self) -> dict[Payee, int]:
        """Each payee's credit in the window, in units."""
        return self._window.weights

    @property
    def total(self) -> int:
        """min(T, X*S) while X has not changed."""
        return self._window.total

    @property
    def first_sequence(self) -> int | None:
        """The oldest share of the window."""
        return self._window.first_sequence

    @property
    def share_count(self) -> int:
        """The shares of the window."""
        return self._window.share_count

    def state(self) -> dict[str, Any]:
        """With every share of the window, or with a tail only each payee's credit and which share is the oldest."""
        return super().state() | {"window": self._window.state()}

    def load(self, state: dict[str, Any]) -> None:
        """See Scheme."""
        super().load(state)
        self._window = PplnsWindow.restore(state["window"], tail=self._tail)

"""PPS: a share is worth its expected subsidy, whatever the pool finds. The treasury carries the luck.

A share of unit u in a job at height h earns subsidy(h) * u/S * (1 - f). Sums are kept in 1/(S * 10^4) of a satoshi,
where every share's credit is whole. A close rounds each payee's sum down to satoshis and carries the rest into the
next epoch, so that nothing is lost or made. Variance and hopping: none. Maturity: the close of the epoch.
Source: Rosenfeld 2.2; the reserve that it takes: reserve.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pool_oracle.payout.schemes.base import (
    BASIS_POINTS,
    PaidBy,
    SinceCloseScheme,
    Terms,
    block_subsidy,
    pack_sums,
    unpack_sums,
)
from pool_oracle.payout.window import S
from pool_oracle.units import Payee, Satoshi

SATOSHI = S * BASIS_POINTS
"""One satoshi in the unit of the sums."""


class Pps(SinceCloseScheme):
    """Weights are satoshis after the fee, earned since the last close; carried fractions count where they add up."""

    paid_by: ClassVar[PaidBy] = PaidBy.TREASURY

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._earned: dict[Payee, int] = {}  # since the last close
        self._carried: dict[Payee, int] = {}  # from before it, each under one satoshi
        self._rate = (-1, 0)  # of the last height

    def guaranteed(self, height: int) -> Satoshi:
        """The subsidy."""
        return block_subsidy(height, self.terms.halving_interval)

    def _credit(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        if self._rate[0] != height:
            self._rate = (height, self.guaranteed(height) * (BASIS_POINTS - self.terms.fee_bps))
        self._earned[payee] = self._earned.get(payee, 0) + unit * self._rate[1]
        super()._credit(sequence, payee, unit, height)

    def change(self, terms: Terms) -> None:
        """A new fee holds from the next share on."""
        super().change(terms)
        self._rate = (-1, 0)

    @property
    def weights(self) -> dict[Payee, int]:
        """Whole satoshis of everybody who earned something since the last close."""
        sums = ((payee, earned + self._carried.get(payee, 0)) for payee, earned in self._earned.items())
        return {payee: value // SATOSHI for payee, value in sums if value >= SATOSHI}

    def close(self) -> dict[Payee, int]:
        """Pay whole satoshis, carry the rest. Costs in proportion to the payees who earned something."""
        weights = super().close()
        if weights:
            for payee, earned in self._earned.items():
                rest = (earned + self._carried.pop(payee, 0)) % SATOSHI
                if rest:
                    self._carried[payee] = rest
            self._earned.clear()
        return weights

    def state(self) -> dict[str, Any]:
        """Right after a close this is small: the fractions of satoshis that are carried."""
        return super().state() | {
            "earned": pack_sums(self._earned),
            "carried": pack_sums(self._carried),
        }

    def load(self, state: dict[str, Any]) -> None:
        """See Scheme."""
        super().load(state)
        self._earned = unpack_sums(state["earned"])
        self._carried = unpack_sums(state["carried"])

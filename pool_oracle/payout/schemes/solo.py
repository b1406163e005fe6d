"""SOLO: every block pays one payee, whom the policy names.

"The finder takes the block" cannot be one root: a root is fixed before the block that it pays, so before anybody knows
the finder. Paying the finder afterwards would take the division out of the block and leave it to the operator, which
is what this protocol is there to avoid. So a SOLO pool mines for one payee: a farm that wants jobs, log and audit, and
its reward at a contract. Others are refused at authorize. (A pool of many SOLO miners would hand each payee jobs of
its own, with the commitment of a one-leaf root; jobs here are the same for everybody.)

Expected reward of a share u/S * B, variance u/S * B^2: a whole block or nothing. Source: Rosenfeld 1.2.
"""

from __future__ import annotations

from pool_oracle.errors import InputError
from pool_oracle.payout.schemes.base import SinceCloseScheme, Terms
from pool_oracle.units import Payee


class Solo(SinceCloseScheme):
    """One leaf of weight 1. Raises InputError where the terms name no payee."""

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._payee = _payee_of(terms)

    def admits(self, payee: Payee) -> bool:
        """Only the policy's payee."""
        return payee == self._payee

    def change(self, terms: Terms) -> None:
        """Another payee is paid from the next close on."""
        self._payee = _payee_of(terms)
        super().change(terms)

    @property
    def weights(self) -> dict[Payee, int]:
        """The payee, once there is a share since the last close."""
        return {self._payee: 1} if self._count else {}


def _payee_of(terms: Terms) -> Payee:
    if terms.payee is None:
        raise InputError("the scheme 'solo' needs the payee that it mines for")
    return terms.payee

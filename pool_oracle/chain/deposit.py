"""The deposit route: rewards are paid to an address whose holder brings them to the distributor by `fund`.

The commitment is in every coinbase all the same, so anybody can see which root each reward was owed to.
"""

from __future__ import annotations

from dataclasses import dataclass

from pool_oracle.work.scripts import DepositTerms


@dataclass(frozen=True, slots=True)
class DepositRoute(DepositTerms):
    """An address of the mined network, as its output script."""

    name = "deposit"

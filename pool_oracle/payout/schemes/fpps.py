"""FPPS: PPS on subsidy and transaction fees, the fees being a trimmed mean of the 144 blocks before the share's.

A share of unit u in a job at height h earns (subsidy(h) + m(h)) * u/S * (1 - f). m(h): take the fees of the blocks
h - 144 to h - 1 of the best chain as the log tells them, sort them, leave out the lowest and the highest tenth (14 of
144 each), and divide the sum of the rest by their number, rounded down to a satoshi. The fees of a block are its
coinbase's outputs less the subsidy, so anyone with the chain can check them. What is left out keeps one block with a
mistaken fee, or a row of empty ones, from moving the rate. Fees are skewed, so m lies below the plain mean.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pool_oracle.errors import InputError
from pool_oracle.payout.schemes.base import Terms
from pool_oracle.payout.schemes.pps import Pps
from pool_oracle.units import Satoshi

FEE_BLOCKS = 144
"""How many blocks the mean looks back: a day."""

TRIM = 10
"""One part in so many is left out at either end."""


def trimmed_mean(fees: list[Satoshi]) -> Satoshi:
    """The mean without the lowest and the highest tenth (each rounded down), in whole satoshis; 0 of nothing."""
    if not fees:
        return Satoshi(0)
    cut = len(fees) // TRIM
    kept = sorted(fees)[cut : len(fees) - cut]
    return Satoshi(sum(kept) // len(kept))


class FeeHistory:
    """Fees of the newest blocks of the best chain, without a gap. Twice what the mean needs, for reorganisations."""

    def __init__(self) -> None:
        """No block is known."""
        self._fees: dict[int, Satoshi] = {}
        self._tip = -1
        self._means: dict[int, Satoshi] = {}

    def add(self, height: int, fees: Satoshi) -> None:
        """A block of the best chain; blocks known at its height and above are forgotten.

        Raises InputError for negative fees, or a height that leaves a gap.
        """
        if height < 0 or fees < 0:
            raise InputError(f"block {height} cannot have fees of {fees} satoshi")
        if self._fees and not min(self._fees) <= height <= self._tip + 1:
            raise InputError(f"fees of block {height} leave a gap; the newest known is block {self._tip}")
        for gone in range(height, self._tip + 1):
            del self._fees[gone]
        self._fees[height] = fees
        self._tip = height
        self._means.clear()
        self._fees.pop(height - 2 * FEE_BLOCKS, None)

    def mean_before(self, height: int) -> Satoshi:
        """m(height). Raises InputError when a block that it needs is not known; a young chain has fewer than 144."""
        mean = self._means.get(height)
        if mean is None:
            wanted = range(max(0, height - FEE_BLOCKS), height)
            missing = [h for h in wanted if h not in self._fees]
            if missing:
                raise InputError(f"a share at height {height} needs the fees of blocks {missing[0]} to {missing[-1]}")
            mean = self._means[height] = trimmed_mean([self._fees[h] for h in wanted])
        return mean

    def state(self) -> dict[str, str]:
        """Height to fees."""
        return {str(height): str(fees) for height, fees in sorted(self._fees.items())}

    def load(self, state: dict[str, str]) -> None:
        """Back from `state`."""
        self._fees = {int(height): Satoshi(int(fees)) for height, fees in state.items()}
        self._tip = max(self._fees, default=-1)
        self._means.clear()


class Fpps(Pps):
    """As PPS, with the mean fee in the rate. Raises InputError for a share whose 144 blocks are not known."""

    needs_fees: ClassVar[bool] = True

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._fees = FeeHistory()

    def on_tip(self, height: int, fees: Satoshi) -> None:
        """A block of the best chain. Before the first share the 144 blocks before its height are told, in order."""
        self._fees.add(height, fees)
        self._rate = (-1, 0)

    def guaranteed(self, height: int) -> Satoshi:
        """Subsidy and mean fee."""
        return Satoshi(super().guaranteed(height) + self._fees.mean_before(height))

    def state(self) -> dict[str, Any]:
        """With the fees that are known."""
        return super().state() | {"fees": self._fees.state()}

    def load(self, state: dict[str, Any]) -> None:
        """See Scheme."""
        super().load(state)
        self._fees.load(state["fees"])

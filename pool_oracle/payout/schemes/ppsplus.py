"""PPS+: the subsidy by PPS, the fees of found blocks by PPLNS, both in satoshis of one tree.

The subsidy part is that of pps.py. A found block's fees, its coinbase's outputs less the subsidy, go after the pool's
fee to the payees of the PPLNS window as it stood at the last close before the block's record in the log: that division
was fixed before the block was found. They are credited when the block is mature; a block that is lost credits nothing.
The division is exact in 1/(S * 10^4) of a satoshi; what it leaves over (less than one such part for each payee), or
fees that come before any close, go to the next block's fees.
"""

from __future__ import annotations

from typing import Any

from pool_oracle.payout.schemes.base import BASIS_POINTS, Fate, Found, Terms, block_subsidy, pack_sums, unpack_sums
from pool_oracle.payout.schemes.pps import Pps
from pool_oracle.payout.window import PplnsWindow, S, Tail
from pool_oracle.units import Payee


class PpsPlus(Pps):
    """Weights are satoshis after the fee: the subsidy for shares since the last close, and fees of mature blocks."""

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._window = PplnsWindow(terms.window, t=t)
        self._tail: Tail | None = None
        self._divided: dict[Payee, int] = {}  # credits of the window at the last close
        self._pending: dict[bytes, tuple[int, dict[Payee, int]]] = {}  # found: fees, and whom they will go to
        self._left = 0

    def use_tail(self, tail: Tail) -> None:
        """See Scheme."""
        self._tail = tail
        self._window = PplnsWindow(self.terms.window, t=self.t, tail=tail)

    def _credit(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        super()._credit(sequence, payee, unit, height)
        self._window.add(sequence, payee, unit)

    def change(self, terms: Terms) -> None:
        """A new fee and a new X hold from the next share on."""
        if terms.window != self.terms.window:
            self._window.change(terms.window)
        super().change(terms)

    def settle(self, limit: int | None = None) -> int:
        """Let shares leave the window."""
        return self._window.settle(limit)

    def on_block(self, found: Found) -> None:
        """Note the fees, and the division that holds for them."""
        fees = max(0, found.value - block_subsidy(found.height, self.terms.halving_interval))
        self._pending[found.hash] = (fees * (BASIS_POINTS - self.terms.fee_bps) * S, self._divided)

    def on_fate(self, block_hash: bytes, fate: Fate) -> None:
        """Credit the fees of a block that is mature. One that is lost is kept: it may come back."""
        if fate is not Fate.MATURE or block_hash not in self._pending:
            return
        fees, divided = self._pending.pop(block_hash)
        fees += self._left
        total = sum(divided.values())
        self._left = fees
        for payee, credit in divided.items():
            part = fees * credit // total
            self._earned[payee] = self._earned.get(payee, 0) + part
            self._left -= part

    def close(self) -> dict[Payee, int]:
        """As PPS; and the window as it stands divides the fees of blocks that are found from now on."""
        weights = super().close()
        if weights:
            self._divided = self._window.weights
        return weights

    @property
    def first_sequence(self) -> int | None:
        """The oldest share of the window or of the epoch."""
        return min((first for first in (self._first, self._window.first_sequence) if first is not None), default=None)

    @property
    def share_count(self) -> int:
        """The shares of the window or of the epoch, whichever are more."""
        return max(self._count, self._window.share_count)

    def state(self) -> dict[str, Any]:
        """With the window, and the blocks that are not mature."""
        pending = {
            block_hash.hex(): {"fees": str(fees), "divided": pack_sums(divided)}
            for block_hash, (fees, divided) in self._pending.items()
        }
        return super().state() | {
            "window": self._window.state(),
            "divided": pack_sums(self._divided),
            "pending": pending,
            "left": str(self._left),
        }

    def load(self, state: dict[str, Any]) -> None:
        """See Scheme."""
        super().load(state)
        self._window = PplnsWindow.restore(state["window"], tail=self._tail)
        self._divided = unpack_sums(state["divided"])
        self._pending = {
            bytes.fromhex(block_hash): (int(item["fees"]), unpack_sums(item["divided"]))
            for block_hash, item in state["pending"].items()
        }
        self._left = int(state["left"])

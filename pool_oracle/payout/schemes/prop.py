"""PROP: a block pays the work of its round, in proportion. Known to be hoppable; here for completeness.

Classically a round is the shares since the last block (Rosenfeld 2.1). Here a block pays the root of an epoch that was
closed before it, so the round is cut at closes: a root pays all shares that were submitted up to its close and after
the close that the last found block paid. Shares between a close and the block that it pays are not lost, they are in
the next round. Two blocks that carry one root pay the same shares twice, as two blocks in a row do in any scheme whose
root is fixed in advance. A block that leaves the best chain gives its round back.

Hopping stays as profitable as in the classical scheme: the expected reward of a share falls with the work that the
round holds already, by Rosenfeld's 43.5 % of a block (2.1, appendix B), and the closes only shift it by an epoch.
"""

from __future__ import annotations

from typing import Any

from pool_oracle.payout.schemes.base import Fate, Found, Scheme, Terms, pack_sums, unpack_sums
from pool_oracle.units import Payee


class Prop(Scheme):
    """Weights are units of work. Above 2^64, 256 blocks of work without a block (chance e^-256), no tree holds them."""

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._epochs: dict[int, dict[Payee, int]] = {}  # the epoch whose close ends it -> what was submitted in it
        self._firsts: dict[int, tuple[int, int]] = {}  # the same epoch -> its first share, and how many
        self._credits: dict[Payee, int] = {}  # of the round
        self._blocks: dict[bytes, tuple[int, bool]] = {}  # not mature: the epoch it pays, whether it is in the chain
        self._settled = 0  # the last epoch that a mature block paid

    def _credit(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        epoch = self.closed + 1
        sums = self._epochs.setdefault(epoch, {})
        sums[payee] = sums.get(payee, 0) + unit
        first, count = self._firsts.get(epoch, (sequence, 0))
        self._firsts[epoch] = (first, count + 1)
        self._credits[payee] = self._credits.get(payee, 0) + unit

    @property
    def _paid(self) -> int:
        """The epoch whose close the round begins after."""
        return max((epoch for epoch, alive in self._blocks.values() if alive), default=self._settled)

    def on_block(self, found: Found) -> None:
        """The round ends with the close that this block pays."""
        self._set(found.hash, found.epoch, alive=True)

    def on_fate(self, block_hash: bytes, fate: Fate) -> None:
        """Give a lost block's round back, or take it again; a mature one's shares are forgotten."""
        if block_hash not in self._blocks:
            return
        epoch, _ = self._blocks[block_hash]
        self._set(block_hash, epoch, alive=fate is not Fate.LOST)
        if fate is Fate.MATURE:
            self._settled = max(self._settled, epoch)
            del self._blocks[block_hash]
            for known in [known for known in self._epochs if known <= self._settled]:
                del self._epochs[known], self._firsts[known]

    def _set(self, block_hash: bytes, epoch: int, *, alive: bool) -> None:
        before = self._paid
        self._blocks[block_hash] = (epoch, alive)
        if self._paid != before:
            self._sum_up()

    def _sum_up(self) -> None:
        self._credits = {}
        for epoch in self._round():
            for payee, credit in self._epochs[epoch].items():
                self._credits[payee] = self._credits.get(payee, 0) + credit

    def _round(self) -> list[int]:
        paid = self._paid
        return [epoch for epoch in self._epochs if epoch > paid]

    @property
    def weights(self) -> dict[Payee, int]:
        """Each payee's work in the round, in units."""
        return dict(self._credits)

    @property
    def first_sequence(self) -> int | None:
        """The first share of the round."""
        return min((self._firsts[epoch][0] for epoch in self._round()), default=None)

    @property
    def share_count(self) -> int:
        """The shares of the round."""
        return sum(self._firsts[epoch][1] for epoch in self._round())

    def state(self) -> dict[str, Any]:
        """With the work of every epoch since the last mature block's."""
        return super().state() | {
            "epochs": {str(epoch): pack_sums(sums) for epoch, sums in self._epochs.items()},
            "firsts": {str(epoch): list(first) for epoch, first in self._firsts.items()},
            "blocks": {block.hex(): list(value) for block, value in self._blocks.items()},
            "settled": self._settled,
        }

    def load(self, state: dict[str, Any]) -> None:
        """See Scheme."""
        super().load(state)
        self._epochs = {int(epoch): unpack_sums(sums) for epoch, sums in state["epochs"].items()}
        self._firsts = {int(epoch): (int(first), int(count)) for epoch, (first, count) in state["firsts"].items()}
        self._blocks = {
            bytes.fromhex(block): (int(epoch), bool(alive)) for block, (epoch, alive) in state["blocks"].items()
        }
        self._settled = int(state["settled"])
        self._sum_up()

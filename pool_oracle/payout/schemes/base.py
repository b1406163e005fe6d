"""What every reward scheme has in common: what it is told, in the order of the log, and what it answers at a close."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from pool_oracle.errors import InputError
from pool_oracle.payout.payee import check_payee
from pool_oracle.payout.window import Tail, check_window
from pool_oracle.units import SATOSHI_PER_COIN, Payee, Satoshi

BASIS_POINTS = 10_000
"""One whole, in the unit of fees: 1/100 of a percent."""


class PaidBy(StrEnum):
    """Where the money of a root comes from.

    BLOCK: a block whose job carried the root's commitment pays it, and the distributor takes the fee. TREASURY: every
    block pays the treasury, and that funds the root with exactly its total, the fee being off the weights already.
    """

    BLOCK = "block"
    TREASURY = "treasury"


class Fate(StrEnum):
    """What became of a found block, as the log tells it: in the best chain, out of it (it may come back), for good."""

    ALIVE = "alive"
    LOST = "lost"
    MATURE = "mature"


@dataclass(frozen=True, slots=True)
class Found:
    """A block of ours: its hash, the epoch whose root its job carried, its height, what its coinbase pays in all."""

    hash: bytes
    epoch: int
    height: int
    value: Satoshi


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy and a network fix for a scheme. Raises WindowError, InputError or PayeeError for what cannot be.

    `window`: X (PPLNS, PPS+). `fee_bps`: what PPS, PPS+ and FPPS take off the weights; elsewhere the distributor takes
    it. `halving_interval`: in blocks. `payee`: who a SOLO pool mines for.
    """

    window: int = 8
    fee_bps: int = 0
    halving_interval: int = 210_000
    payee: Payee | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_window(self.window)
        if not 0 <= self.fee_bps <= BASIS_POINTS:
            raise InputError(f"the fee must be 0 to {BASIS_POINTS} basis points, not {self.fee_bps}")
        if self.halving_interval < 1:
            raise InputError(f"the halving interval must be at least 1 block, not {self.halving_interval}")
        if self.payee is not None:
            check_payee(self.payee)


def block_subsidy(height: int, halving_interval: int) -> Satoshi:
    """New coins of the block at `height`. Source: GetBlockSubsidy in Bitcoin Core's validation.cpp."""
    return Satoshi(50 * SATOSHI_PER_COIN >> height // halving_interval)


class Scheme(ABC):
    """Shares in, weights out. Everything is told in log order, which alone decides; no scheme sees a clock.

    `t` is the running sum of units. `closed` counts the epochs that were closed; the next close is of epoch
    `closed + 1`, and a job carries the root of an epoch that is closed.
    """

    paid_by: ClassVar[PaidBy] = PaidBy.BLOCK
    needs_fees: ClassVar[bool] = False
    """Whether shares are priced by the fees of blocks, so that `on_tip` has to come before them."""

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """No share yet; `t` is the running sum of units before the first that will be added."""
        self.terms = terms
        self.t = t
        self.closed = 0

    def use_tail(self, tail: Tail) -> None:  # noqa: B027 - most schemes have no window
        """Before the first share, or before `load`: what leaves a window comes from `tail`, not out of memory."""

    # What happens

    def add(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        """A share was accepted: its number, whose it is, its unit (0 to S), the height of its job's block."""
        self.t += unit
        if unit:
            self._credit(sequence, payee, unit, height)

    @abstractmethod
    def _credit(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        """Credit a share whose unit is above 0."""

    def on_tip(self, height: int, fees: Satoshi) -> None:  # noqa: B027 - most schemes need no fees
        """The best chain has a new block at `height` with `fees`; what was said of this height and above is void."""

    def on_block(self, found: Found) -> None:  # noqa: B027 - most schemes need no blocks
        """A miner of ours found a block."""

    def on_fate(self, block_hash: bytes, fate: Fate) -> None:  # noqa: B027
        """Something became of a found block."""

    def change(self, terms: Terms) -> None:
        """New terms from the next share on. A policy may change them right after a close, nowhere else."""
        self.terms = terms

    def settle(self, limit: int | None = None) -> int:
        """Do some of what a close would have to do: for `limit` shares at most; returns for how many."""
        return 0

    def close(self) -> dict[Payee, int]:
        """Close the epoch: the weights of its root. Where nobody has any, nothing is closed, and nothing changes."""
        weights = self.weights
        if weights:
            self.closed += 1
        return weights

    # What it says

    @property
    @abstractmethod
    def weights(self) -> dict[Payee, int]:
        """What `close` would answer now: each payee's weight, above 0."""

    @property
    def total(self) -> int:
        """The sum of the weights."""
        return sum(self.weights.values())

    @property
    @abstractmethod
    def first_sequence(self) -> int | None:
        """The oldest share that the weights rest on, which a bundle must reach back to; None where there is none."""

    @property
    @abstractmethod
    def share_count(self) -> int:
        """How many shares the weights rest on."""

    def admits(self, payee: Payee) -> bool:
        """Whether a miner of this payee may work here; refused at authorize otherwise."""
        return True

    def guaranteed(self, height: int) -> Satoshi:
        """B of the reserve: what the treasury owes for one block's work at `height`, whatever is found, before fees."""
        return Satoshi(0)

    # Checkpoints

    def state(self) -> dict[str, Any]:
        """All that a restart, or an auditor who begins in the middle, must know, as values that JSON can hold."""
        return {"t": str(self.t), "closed": self.closed}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state. Raises what a wrong one makes; use `restore_scheme`."""
        self.t = int(state["t"])
        self.closed = int(state["closed"])


class SinceCloseScheme(Scheme):
    """A scheme whose weights rest on the shares since the last close: it notes the first of them, and how many."""

    def __init__(self, terms: Terms, *, t: int = 0) -> None:
        """See Scheme."""
        super().__init__(terms, t=t)
        self._first: int | None = None
        self._count = 0

    def _credit(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        self._count += 1
        if self._first is None:
            self._first = sequence

    def close(self) -> dict[Payee, int]:
        """See Scheme."""
        weights = super().close()
        if weights:
            self._first, self._count = None, 0
        return weights

    @property
    def first_sequence(self) -> int | None:
        """The first share after the last close."""
        return self._first

    @property
    def share_count(self) -> int:
        """The shares since the last close."""
        return self._count

    def state(self) -> dict[str, Any]:
        """See Scheme."""
        return super().state() | {"first": self._first, "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """See Scheme."""
        super().load(state)
        self._first, self._count = state["first"], int(state["count"])


def pack_sums(sums: dict[Payee, int]) -> dict[str, str]:
    """Sums of payees as JSON holds them."""
    return {payee.hex(): str(value) for payee, value in sorted(sums.items())}


def unpack_sums(packed: dict[str, str]) -> dict[Payee, int]:
    """Back from `pack_sums`."""
    return {Payee(bytes.fromhex(payee)): int(value) for payee, value in packed.items()}

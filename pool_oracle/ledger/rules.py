"""What a log is accounted by: the scheme and its terms, as configuration, share log and manifest state them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pool_oracle.errors import InputError
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.schemes import SCHEMES, PaidBy, Scheme, Terms, open_scheme, restore_scheme
from pool_oracle.payout.window import Tail, share_unit
from pool_oracle.units import Payee, Unit
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import nbits_to_target


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy's scheme with its terms (see `Terms`), and the emulated network target where there is one.

    Raises InputError, WindowError or PayeeError for what cannot be.
    """

    window: int = 8
    emulated_target: int | None = None
    scheme: str = "pplns"
    fee_bps: int = 0
    halving_interval: int = 210_000
    payee: Payee | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that the scheme has what it needs."""
        self.open()

    @property
    def terms(self) -> Terms:
        """What the scheme is told."""
        return Terms(self.window, self.fee_bps, self.halving_interval, self.payee)

    @property
    def is_window(self) -> bool:
        """Whether weights rest on the newest shares alone; others go on from the accounts of the epoch before."""
        return self.scheme == "pplns"

    @property
    def pays_from_treasury(self) -> bool:
        """Whether blocks pay a treasury, which is epoch 0's only leaf, and the treasury pays everybody else."""
        return SCHEMES[self.scheme].paid_by is PaidBy.TREASURY

    def open(self, *, t: int = 0, tail: Tail | None = None) -> Scheme:
        """The scheme before its first share; see `open_scheme`."""
        return open_scheme(self.scheme, self.terms, t=t, tail=tail)

    def restore(self, state: dict[str, Any], *, tail: Tail | None = None) -> Scheme:
        """The scheme as it was when `state` was taken under these rules; see `restore_scheme`. Raises InputError."""
        return restore_scheme(self.scheme, self.terms, state, tail=tail)

    def unit(self, nbits: int, share_bits: int) -> Unit:
        """The unit of a share: `nbits` of its job's header, and its own target in compact form. Raises TargetError."""
        return share_unit(self.emulated_target or nbits_to_target(nbits), nbits_to_target(share_bits))

    def can_become(self, rules: Rules) -> bool:
        """Whether a log may go on under other rules after a close: the terms may change, nothing else."""
        mine = self.scheme, self.emulated_target, self.halving_interval
        return mine == (rules.scheme, rules.emulated_target, rules.halving_interval)

    def to_payload(self) -> dict[str, Any]:
        """The record of a share log (docs/protocol.md, "Payloads")."""
        return {
            "scheme": self.scheme,
            "window": self.window,
            "feeBps": self.fee_bps,
            "halvingInterval": self.halving_interval,
            "payee": None if self.payee is None else format_payee(self.payee),
            "emulatedTarget": None if self.emulated_target is None else f"0x{self.emulated_target:064x}",
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Rules:
        """Back from `to_payload`. Raises InputError for what is no record of rules."""
        try:
            return cls(
                window=payload["window"],
                emulated_target=_given(payload["emulatedTarget"], _target),
                scheme=payload["scheme"],
                fee_bps=int(payload["feeBps"]),
                halving_interval=int(payload["halvingInterval"]),
                payee=_given(payload["payee"], parse_payee),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no policy's record: {error!r}") from None


def _target(text: Any) -> int:
    return target_from_wire(text, "emulatedTarget")


def _given(value: Any, read: Any) -> Any:
    return None if value is None else read(value)

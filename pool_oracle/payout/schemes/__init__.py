"""Reward schemes: how a log of shares becomes the weights of an epoch. A scheme is one file here and one line below.

`docs/payouts.md` explains each to a miner. All are pure and exact: the same log gives the same weights everywhere, and
the only rounding is the one that a scheme states. Source of PPLNS, PPS and PROP: M. Rosenfeld, Analysis of Bitcoin
Pooled Mining Reward Systems (2011), arXiv:1112.4980, by section in each file.
"""

from __future__ import annotations

from typing import Any

from pool_oracle.errors import InputError
from pool_oracle.payout.schemes.base import Fate, Found, PaidBy, Scheme, Terms
from pool_oracle.payout.schemes.fpps import Fpps
from pool_oracle.payout.schemes.pplns import Pplns
from pool_oracle.payout.schemes.pps import Pps
from pool_oracle.payout.schemes.ppsplus import PpsPlus
from pool_oracle.payout.schemes.prop import Prop
from pool_oracle.payout.schemes.solo import Solo
from pool_oracle.payout.window import Tail

__all__ = ["SCHEMES", "Fate", "Found", "PaidBy", "Scheme", "Terms", "open_scheme", "restore_scheme"]

SCHEMES: dict[str, type[Scheme]] = {
    "pplns": Pplns,
    "pps": Pps,
    "fpps": Fpps,
    "pps+": PpsPlus,
    "prop": Prop,
    "solo": Solo,
}
"""A policy's word for a scheme to the scheme."""


def open_scheme(name: str, terms: Terms, *, t: int = 0, tail: Tail | None = None) -> Scheme:
    """A scheme before its first share; `t` is the running sum of units before it. Raises InputError.

    A scheme with a window takes what leaves it from `tail`, where one is given, and keeps no shares itself.
    """
    scheme = _scheme_named(name)(terms, t=t)
    if tail is not None:
        scheme.use_tail(tail)
    return scheme


def restore_scheme(name: str, terms: Terms, state: dict[str, Any], *, tail: Tail | None = None) -> Scheme:
    """A scheme that goes on exactly where `state()` was taken. Raises InputError for a state that is not of its form.

    The terms are those in force when the state was taken. A state that was taken with a tail needs one that still has
    the shares of the window; what that raises is passed on.
    """
    scheme = open_scheme(name, terms, tail=tail)
    try:
        scheme.load(state)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"this is no state of the scheme {name!r}: {error!r}") from None
    return scheme


def _scheme_named(name: str) -> type[Scheme]:
    try:
        return SCHEMES[name]
    except (KeyError, TypeError):
        raise InputError(f"scheme {name!r} is not known; use one of {', '.join(SCHEMES)}") from None

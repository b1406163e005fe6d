"""The reserve that PPS, PPS+ and FPPS need: the treasury pays for work, and blocks come by luck.

R = B ln(1/delta) / (2 f): with a reserve of R, a pool that pays B (1 - f) for each block's work and gets B for each
block found is ever ruined with a probability of at most delta. Source: Rosenfeld 2.2 and appendix C.

Rosenfeld's formula is the limit of small f and lies on the safe side. Between blocks the balance falls steadily and a
block lifts it by B, so ruin means to touch -R, never to pass it, and its exact probability is e^(-theta R / B) where
theta > 0 solves (1 - f) theta = 1 - e^(-theta); theta = 2 f + (4/3) f^2 + ... > 2 f.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal

from pool_oracle.errors import ConfigError, InputError
from pool_oracle.payout.schemes.base import BASIS_POINTS
from pool_oracle.units import Satoshi, format_coins

_DIGITS = 40
_PRECISION = Context(prec=_DIGITS)


@dataclass(frozen=True, slots=True)
class Reserve:
    """What a treasury must hold. `reward`: B, see `Scheme.guaranteed`; `odds`: 1/delta, ruin one time in so many.

    Raises InputError: no fee (then ruin is certain), or odds below 2.
    """

    reward: Satoshi
    odds: int
    fee_bps: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.fee_bps <= BASIS_POINTS:
            raise InputError(f"a fee of {self.fee_bps} basis points leaves no reserve that suffices; take at least 1")
        if self.odds < 2:
            raise InputError(f"the odds of ruin must be one in 2 or more, not one in {self.odds}")
        if self.reward < 0:
            raise InputError(f"the reward cannot be {self.reward} satoshi")

    @property
    def amount(self) -> Satoshi:
        """R, rounded up to a satoshi.

        The logarithm is taken to 40 digits, correctly rounded, and its last digit raised by one, so that it is never
        too small; it is then too large by less than 2 parts in 10^39.
        """
        logarithm = _PRECISION.next_plus(_PRECISION.ln(Decimal(self.odds)))
        scaled = int(logarithm.scaleb(_DIGITS, context=Context(prec=2 * _DIGITS)).to_integral_value(ROUND_CEILING))
        return Satoshi(-(-self.reward * BASIS_POINTS * scaled // (2 * self.fee_bps * 10**_DIGITS)))

    def check(self, scheme: str, held: Satoshi, owed: Satoshi, coin: str = "BTC") -> None:
        """Refuse a scheme whose treasury does not cover the reserve and what it owes to closed epochs.

        `held`: the treasury's balance of the reward asset, in satoshis, rounded down. Raises ConfigError with both
        numbers.
        """
        needed = Satoshi(self.amount + owed)
        if held >= needed:
            return
        debts = f", {format_coins(owed, coin)} of it owed to closed epochs" if owed else ""
        raise ConfigError(
            f"scheme {scheme!r} needs a treasury of {format_coins(needed, coin)} (reward "
            f"{format_coins(self.reward, coin)}, fee {Decimal(self.fee_bps) / 100} %, ruin one time in {self.odds}"
            f"{debts}), and it holds {format_coins(held, coin)}; fund it, take a higher fee, or use 'pplns'"
        )

"""What a transaction offers per gas: EIP-1559 fees from the chain's history, a gas price where there is no base fee.

Every amount is an integer number of wei per gas. No offer exceeds the settings, whatever a node says.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low
from typing import Any, Protocol

from pool_oracle.errors import ChainError, ChainRefused, FeesTooHigh

GWEI = 10**9
HISTORY_BLOCKS = 20
MIN_BUMP_PERMILLE = 125
"""Nodes want 10 % more for a replacement (geth, Besu, Nethermind, reth); an eighth is safely above."""
LEGACY_CHAINS = frozenset((30, 31, 33))
"""Rootstock's networks: gas prices only, whatever their blocks show."""


@dataclass(frozen=True, slots=True)
class FeeSettings:
    """Bounds of what is offered. `max_fee` also caps a gas price."""

    max_fee: int = 100 * GWEI
    max_tip: int = 10 * GWEI
    min_tip: int = 1


@dataclass(frozen=True, slots=True)
class Fees:
    """An offer: at most `max_fee`, of which `tip` to the miner; where `tip` is None, `max_fee` is the gas price."""

    max_fee: int
    tip: int | None

    def fields(self) -> dict[str, int]:
        """As a transaction names them."""
        if self.tip is None:
            return {"gasPrice": self.max_fee}
        return {"maxFeePerGas": self.max_fee, "maxPriorityFeePerGas": self.tip}


class Asked(Protocol):
    """What is needed of a chain."""

    @property
    def chain_id(self) -> int:
        """The chain's id."""

    def ask(self, method: str, *params: Any) -> Any:
        """A JSON-RPC call's result. Raises ChainRefused, ChainUnreachable."""

    def ask_number(self, method: str, *params: Any) -> int:
        """The same where the result is a quantity."""


def suggest_fees(chain: Asked, settings: FeeSettings) -> Fees:
    """Fees by which a transaction is mined soon: twice the next base fee, and the usual tip (EIP-1559).

    Raises FeesTooHigh where the settings do not allow that much, ChainError.
    """
    history = None if chain.chain_id in LEGACY_CHAINS else _history(chain)
    if history is None:
        return _legacy(chain, settings)
    base, tip = next_base_fee(history), usual_tip(history, settings)
    if base + tip > settings.max_fee:
        raise FeesTooHigh(
            f"the base fee is {gwei(base)} gwei per gas, the settings allow {gwei(settings.max_fee)} with the tip; "
            "wait, or raise the cap"
        )
    return Fees(min(2 * base + tip, settings.max_fee), tip)


def _history(chain: Asked) -> dict[str, Any] | None:
    """The fee history; None on a chain that has no base fee."""
    block = chain.ask("eth_getBlockByNumber", "latest", False)
    if not isinstance(block, dict) or not block.get("baseFeePerGas"):
        return None
    try:
        history = chain.ask("eth_feeHistory", hex(HISTORY_BLOCKS), "latest", [50])
    except ChainRefused:
        return None
    return history if isinstance(history, dict) and history.get("baseFeePerGas") else None


def _legacy(chain: Asked, settings: FeeSettings) -> Fees:
    price = chain.ask_number("eth_gasPrice")
    if price > settings.max_fee:
        raise FeesTooHigh(
            f"the gas price is {gwei(price)} gwei, the settings allow {gwei(settings.max_fee)}; wait, or raise the cap"
        )
    return Fees(min(price + price // 8, settings.max_fee), None)


def next_base_fee(history: dict[str, Any]) -> int:
    """The base fee of the block after the newest: the last of eth_feeHistory's list."""
    return _number(history["baseFeePerGas"][-1])


def usual_tip(history: dict[str, Any], settings: FeeSettings) -> int:
    """The median over blocks that had transactions of what half of their gas paid at the most."""
    ratios, rewards = history.get("gasUsedRatio") or [], history.get("reward") or []
    try:
        tips = [_number(row[0]) for ratio, row in zip(ratios, rewards, strict=False) if ratio and row]
    except (TypeError, IndexError):
        raise ChainError("the node's fee history cannot be read") from None
    usual = median_low(tips) if tips else settings.min_tip
    return max(settings.min_tip, min(usual, settings.max_tip))


def bump_fees(old: Fees, now: Fees, settings: FeeSettings, permille: int = MIN_BUMP_PERMILLE) -> Fees | None:
    """Fees that replace a transaction which offered `old`: at least `permille` more, at least what is usual `now`.

    None where the settings do not allow the least that replaces it.
    """
    least = _raised(old.max_fee, permille)
    if least > settings.max_fee:
        return None
    fee = min(max(least, now.max_fee), settings.max_fee)
    if old.tip is None or now.tip is None:
        return Fees(fee, None)
    least_tip = _raised(old.tip, permille)
    if least_tip > settings.max_tip:
        return None
    return Fees(fee, min(max(least_tip, now.tip), fee))


def _raised(amount: int, permille: int) -> int:
    """Rounded up, and always more."""
    return amount + max(1, -(-amount * permille // 1000))


def gwei(amount: int) -> str:
    """Wei as gwei, for people."""
    whole, part = divmod(amount, GWEI)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")


def _number(text: Any) -> int:
    try:
        return int(text, 16)
    except (TypeError, ValueError):
        raise ChainError(f"the node's fee {str(text)[:40]!r} is no number") from None

"""Integers with a unit in their type. Floats are for display and never come back from it."""

from __future__ import annotations

from typing import NewType

Satoshi = NewType("Satoshi", int)
"""1e-8 of a coin of a Bitcoin-like chain."""

Wei = NewType("Wei", int)
"""1e-18 of the EVM chain's coin."""

Unit = NewType("Unit", int)
"""Work of shares in 2^-56 of a block's expected work (protocol.md: u and T)."""

Target = NewType("Target", int)
"""A 256-bit number that a proof-of-work hash must not exceed."""

Payee = NewType("Payee", bytes)
"""21 bytes: kind (1) and id (20)."""

SATOSHI_PER_COIN = 100_000_000
WEI_PER_SATOSHI = 10**10
WEI_PER_COIN = 10**18


def format_coins(amount: Satoshi, symbol: str = "BTC") -> str:
    """`amount` for people, exact to the satoshi: 1.50000000 BTC."""
    whole, rest = divmod(abs(amount), SATOSHI_PER_COIN)
    return f"{'-' if amount < 0 else ''}{whole}.{rest:08d} {symbol}"


def format_wei(amount: Wei, symbol: str = "RBTC") -> str:
    """`amount` for people, exact to the wei, without trailing zeros."""
    whole, rest = divmod(abs(amount), WEI_PER_COIN)
    digits = f"{rest:018d}".rstrip("0").ljust(8, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{digits} {symbol}"

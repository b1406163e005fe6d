"""Targets: 256-bit numbers that a hash must not exceed, and their two short forms.

`nbits` is the compact form of a header (Bitcoin Core, arith_uint256.cpp SetCompact). Share difficulty is the ratio
that stratum speaks of: difficulty 1 is the target 0xFFFF * 2^208 on SHA-256d networks.
"""

from __future__ import annotations

from fractions import Fraction

from pool_oracle.errors import TargetError
from pool_oracle.networks import DIFFICULTY_1_TARGET
from pool_oracle.units import Target

MAX_TARGET = (1 << 256) - 1

_SIGN = 0x00800000
_MANTISSA = 0x007FFFFF


def nbits_to_target(nbits: int) -> Target:
    """The target of compact bits. Raises TargetError for zero, negative or overflowing ones, as a node does."""
    exponent, mantissa = nbits >> 24, nbits & _MANTISSA
    if exponent <= 3:
        mantissa >>= 8 * (3 - exponent)
        target = mantissa
    else:
        target = mantissa << 8 * (exponent - 3)
    if mantissa and nbits & _SIGN:
        raise TargetError(f"nbits {nbits:08x} stand for a negative target")
    if target > MAX_TARGET:
        raise TargetError(f"nbits {nbits:08x} overflow 256 bits")
    if target == 0:
        raise TargetError(f"nbits {nbits:08x} stand for a target of zero")
    return Target(target)


def target_to_nbits(target: int) -> int:
    """The compact bits of `target`, rounded down to the bits' precision of 15 to 23 bits."""
    check_target(target, "target")
    size = (target.bit_length() + 7) // 8
    mantissa = target << 8 * (3 - size) if size <= 3 else target >> 8 * (size - 3)
    if mantissa & _SIGN:
        mantissa >>= 8
        size += 1
    return size << 24 | mantissa


def difficulty_to_target(difficulty: Fraction | int, difficulty_1: int = DIFFICULTY_1_TARGET) -> Target:
    """floor(difficulty_1 / difficulty), at most 2^256 - 1. Raises TargetError for a difficulty with no target."""
    ratio = Fraction(difficulty)
    if ratio <= 0:
        raise TargetError(f"share difficulty must be positive, not {ratio}")
    target = difficulty_1 * ratio.denominator // ratio.numerator
    if target == 0:
        raise TargetError(f"share difficulty {ratio} is too high: its target is 0")
    return Target(min(target, MAX_TARGET))


def target_to_difficulty(target: int, difficulty_1: int = DIFFICULTY_1_TARGET) -> float:
    """The share difficulty of `target`, for display and for the wire of stratum."""
    return difficulty_1 / target


def check_target(target: int, field: str) -> Target:
    """The target itself. Raises TargetError when it is not 1 to 2^256 - 1."""
    if not 0 < target <= MAX_TARGET:
        raise TargetError(f"{field} must be positive and below 2^256, not {target:#x}")
    return Target(target)

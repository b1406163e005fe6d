"""How long a coinbase may be for the firmware that hashes it.

A miner gets the coinbase in two parts and hashes all of it; one whose buffer is too short computes another merkle root,
and every share of it is refused with no word why. Ours has one payout output whatever the number of miners, about 250
bytes; routes, tags and outputs to come must not outgrow the buffers. Source of the figures: the coinbase classes of
OCEAN's DATUM Gateway (datum_stratum.h), and Canaan's MM firmware (its issue 2).
"""

from __future__ import annotations

from dataclasses import dataclass

WARN_ABOVE = 730
"""Bytes of a whole coinbase without witness data above which an operator is warned: 20 less than Antminer's limit."""


@dataclass(frozen=True, slots=True)
class FirmwareLimit:
    """The longest coinbase, in bytes without witness data, that a firmware or service is known to take."""

    firmware: str
    coinbase_bytes: int


FIRMWARE_LIMITS: tuple[FirmwareLimit, ...] = (
    FirmwareLimit("NiceHash", 500),
    FirmwareLimit("Antminer, stock firmware", 750),
    FirmwareLimit("Antminer S21, stock firmware", 2_250),
    FirmwareLimit("Canaan Avalon", 6_144),
    FirmwareLimit("Whatsminer, stock firmware", 6_500),
    FirmwareLimit("ePIC, Bitaxe", 16_384),
)


def firmware_warning(coinbase_bytes: int) -> str | None:
    """What to tell an operator about a coinbase of that size; None when all known firmware takes it with room left."""
    if coinbase_bytes <= WARN_ABOVE:
        return None
    failing = [limit.firmware for limit in FIRMWARE_LIMITS if coinbase_bytes > limit.coinbase_bytes]
    who = f"these will compute wrong hashes: {', '.join(failing)}" if failing else "known firmware is near its limit"
    return f"the coinbase has {coinbase_bytes} bytes (more than {WARN_ABOVE}); {who}"

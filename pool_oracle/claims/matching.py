"""Each payout with its block(s), and the alarm where another amount arrived than the coinbase paid.

Amounts are wei of the reward asset; a satoshi is 10^10 of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pool_oracle.chain.events import PayoutEvent
from pool_oracle.chain.flyover import CONFIRMATIONS, Registration
from pool_oracle.units import WEI_PER_SATOSHI, Wei
from pool_oracle.work.transaction import parse_transaction


def coinbase_value(coinbase: bytes) -> Wei:
    """All that a coinbase pays, in wei. Raises JobError."""
    return Wei(sum(output.value for output in parse_transaction(coinbase).outputs) * WEI_PER_SATOSHI)


@dataclass(frozen=True, slots=True)
class MinedBlock:
    """A block of the pool.

    `root` is that of the epoch it pays, None where that is not published here; `expected` is what its coinbase pays,
    and the distributor has to get; `is_alive`: neither refused nor orphaned, as far as is known.
    """

    hash: bytes
    txid: bytes
    height: int
    epoch: int
    root: bytes | None
    expected: Wei
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a block's reward stands, in words; the payouts that it is in; and what is wrong, where something is."""

    block: MinedBlock
    reward: str
    payouts: tuple[int, ...] = ()
    alarm: str = ""


def match_registrations(
    blocks: Sequence[MinedBlock],
    registrations: Mapping[bytes, Registration],
    payouts: Iterable[PayoutEvent],
    bridge_height: int,
) -> list[Standing]:
    """For the flyover route, where each block is a payout of its own."""
    known = {payout.number: payout for payout in payouts}
    standings = []
    for block in blocks:
        registration = registrations.get(block.txid)
        if registration is None:
            standings.append(Standing(block, _waiting(block, bridge_height)))
            continue
        payout = known.get(registration.payout_id)
        alarm = _registration_alarm(block, registration, payout)
        standings.append(Standing(block, f"payout {registration.payout_id}", (registration.payout_id,), alarm))
    return standings


def _waiting(block: MinedBlock, bridge_height: int) -> str:
    if not block.is_alive:
        return "none"
    missing = CONFIRMATIONS - max(0, bridge_height - block.height + 1)
    return f"waits for {missing} blocks" if missing > 0 else "due"


def _registration_alarm(block: MinedBlock, registration: Registration, payout: PayoutEvent | None) -> str:
    number = registration.payout_id
    if registration.amount != block.expected:
        return f"the coinbase paid {block.expected} wei, and payout {number} was registered with {registration.amount}"
    if payout is None:
        return f"it was registered as payout {number}, which the distributor does not have"
    if payout.amount + payout.fee != block.expected:
        return f"the coinbase paid {block.expected} wei, and payout {number} got {payout.amount + payout.fee}"
    if block.root is not None and payout.root != block.root:
        return f"payout {number} has root 0x{payout.root.hex()}, and the block's epoch has 0x{block.root.hex()}"
    return ""


def match_roots(blocks: Sequence[MinedBlock], payouts: Iterable[PayoutEvent]) -> list[Standing]:
    """For routes that bring money by root: all blocks of a root together owe what its payouts together have got."""
    got: dict[bytes, list[PayoutEvent]] = {}
    for payout in payouts:
        got.setdefault(payout.root, []).append(payout)
    owed: dict[bytes, int] = {}
    for block in blocks:
        if block.is_alive and block.root is not None:
            owed[block.root] = owed.get(block.root, 0) + block.expected
    standings = []
    for block in blocks:
        if not block.is_alive or block.root is None:
            standings.append(Standing(block, "none"))
            continue
        mine = got.get(block.root, [])
        numbers = tuple(payout.number for payout in mine)
        came = sum(payout.amount + payout.fee for payout in mine)
        alarm = ""
        if came and came != owed[block.root]:
            alarm = f"blocks with its root paid {owed[block.root]} wei, and payouts with it got {came}"
        reward = f"payout {', '.join(map(str, numbers))}" if numbers else "not funded yet"
        standings.append(Standing(block, reward, numbers, alarm))
    return standings

"""The index's answers, as plain values; payouts and claims are also what it is told of them.

Work counts hashes, rates are hashes a second. `time` and `start` are Unix seconds unless said otherwise. Hashes are in
internal order; amounts are wei.
"""

from __future__ import annotations

from dataclasses import dataclass

from pool_oracle.units import Payee, Wei


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is. `t` is the running sum of units; `chain_block` the last one that was recorded."""

    shares: int
    t: int
    workers: int
    payees: int
    epochs: int
    blocks: int
    payouts: int
    claims: int
    chain_block: int | None


@dataclass(frozen=True, slots=True)
class HashRates:
    """Means over the last ten minutes, hour and day."""

    ten_minutes: int = 0
    hour: int = 0
    day: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What came in within a bucket that starts at `start`."""

    start: int
    shares: int
    work: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker, with the times of its first and its last share, Unix microseconds."""

    number: int
    payee: Payee
    name: str
    shares: int
    work: int
    first_time: int | None
    last_time: int | None


@dataclass(frozen=True, slots=True)
class PayeeRow:
    """A payee: its workers together, its weight in the epoch that closed last, and what it was paid so far.

    Times are those of its first and last share, Unix microseconds.
    """

    number: int
    payee: Payee
    workers: int
    shares: int
    work: int
    first_time: int | None
    last_time: int | None
    weight: int
    claimed: Wei


@dataclass(frozen=True, slots=True)
class CreditRow:
    """What a payee has in the window: its shares there and its weight, of `total`, if the epoch closed now.

    `first_share` is the oldest share with credit; None where the window is empty.
    """

    shares: int
    weight: int
    total: int
    first_share: int | None


@dataclass(frozen=True, slots=True)
class EpochRow:
    """A closed epoch."""

    epoch: int
    first_share: int
    closing_share: int
    t: int
    total: int
    leaves: int
    root: bytes
    tip: str
    tip_height: int
    time: int
    segment: int


@dataclass(frozen=True, slots=True)
class WeightRow:
    """A payee's weight in an epoch, and the epoch's total."""

    epoch: int
    weight: int
    total: int


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A found block, numbered in the order of the log. `txid` is its coinbase's, `t` T when it was found.

    `epoch` is the job's; times are Unix microseconds.
    """

    number: int
    hash: bytes
    height: int
    epoch: int
    worker: int
    worker_name: str
    payee: Payee
    txid: bytes
    time: int
    t: int
    state: str
    depth: int
    detail: str
    state_time: int | None


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """How far a chain was read: its last block that was, and which distributor's payouts were looked for."""

    chain_id: int
    distributor: bytes
    block: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class PayoutRow:
    """A payout; `amount` is without the `fee`, `block` the EVM chain's.

    `epoch`, when recorded: the one that the contract names, else None; in answers also the latest with its root.
    """

    number: int
    root: bytes
    epoch: int | None
    amount: Wei
    fee: Wei
    time: int
    block: int
    block_hash: bytes
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class PartRow:
    """What one payee gets of a payout: amount * weight // total."""

    payout: int
    epoch: int
    weight: int
    part: Wei
    is_claimed: bool


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A payment to a payee for one payout or several, named by its event's place in the EVM chain."""

    payee: Payee
    recipient: bytes
    payouts: tuple[int, ...]
    amount: Wei
    block: int
    log_index: int
    block_hash: bytes
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment of the log; length and SHA-256 once it is sealed. `created` in Unix microseconds."""

    number: int
    first_share: int
    t: int
    created: int
    length: int | None
    sha256: bytes | None

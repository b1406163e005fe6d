"""What the API answers from the index, field by field: the schemas of /api/v1/openapi.json.

Integers that may pass 2^53 are decimal strings. Times are Unix seconds. Hashes of blocks and transactions of the mined
network are in display order.
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

T = TypeVar("T")

Payee = Annotated[str, Field(description="0x and 42 hex digits: kind and id")]
Address = Annotated[
    str, Field(description="An address of the mined network, or of the EVM chain, that names the payee")
]
Big = Annotated[str, Field(description="A decimal integer")]
Hashes = Annotated[str, Field(description="Hashes that the shares took on average, a decimal integer")]
Rate = Annotated[str, Field(description="Hashes a second, a decimal integer")]
Wei = Annotated[str, Field(description="Wei, a decimal integer")]
Hex = Annotated[str, Field(description="0x and hex digits")]
Weight = Annotated[str, Field(description="Units, or satoshis under a scheme that pays by share; a decimal integer")]
Time = Annotated[int, Field(description="Unix seconds")]


class Answer(BaseModel):
    """Something that the API answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Page(Answer, Generic[T]):
    """Some rows of a list."""

    model_config = ConfigDict(json_schema_extra={"description": "Some rows of a list"})

    rows: list[T]
    next: str | None = Field(description="Give this as `before` (or `after`) for the next page; null at the end")


class HashRates(Answer):
    """Means over whole minutes (a day: whole hours) before now."""

    ten_minutes: Rate
    hour: Rate
    day: Rate


class Worker(Answer):
    """A worker, since the beginning of the log."""

    number: int
    worker: str = Field(description="The name behind the address in its user name")
    payee: Payee
    address: Address
    shares: int
    work: Hashes
    first_share: Time | None
    last_share: Time | None
    hash_rates: HashRates


class PayeeSummary(Answer):
    """A payee, since the beginning of the log: its workers together."""

    number: int
    payee: Payee
    address: Address
    workers: int
    shares: int
    work: Hashes
    first_share: Time | None
    last_share: Time | None
    weight: Weight = Field(description="In the epoch that closed last")
    claimed: Wei = Field(description="What it was paid so far")


class Window(Answer):
    """What a payee has in the window now. If the epoch closed now, it would be paid weight / total of each payout."""

    shares: int
    weight: Weight
    total: Weight
    first_share: int | None = Field(description="The sequence number of the oldest share with credit")


class PayeeDetail(PayeeSummary):
    """A payee, with its hash rates and what it has in the window."""

    hash_rates: HashRates
    window: Window


class Bucket(Answer):
    """What came in within a minute, an hour or a day."""

    start: Time
    shares: int
    work: Hashes
    hash_rate: Rate


class Epoch(Answer):
    """A closed epoch. Shares are named by sequence number."""

    epoch: int
    first_share: int
    closing_share: int
    t: Big = Field(description="The running sum of units at the close")
    leaves: int
    total: Weight
    root: Hex
    tip: str = Field(description="The mined network's best block at the close")
    tip_height: int
    time: Time


class Leaf(Answer):
    """A payee's weight in an epoch."""

    payee: Payee
    address: Address
    weight: Weight


class EpochWeight(Answer):
    """A payee's weight in an epoch, and the epoch's total."""

    epoch: int
    weight: Weight
    total: Weight


class Block(Answer):
    """A block that a miner of this pool found."""

    number: int = Field(description="Counts the found blocks from 0")
    hash: str
    height: int
    epoch: int = Field(description="The epoch whose commitment its coinbase carries")
    worker: str
    payee: Payee = Field(description="Who found it")
    address: Address
    coinbase: str = Field(description="The coinbase's txid")
    time: Time
    state: str = Field(description="submitted, accepted, rejected, best, orphaned or mature (docs/operator.md)")
    depth: int
    detail: str = Field(description="Who took it, or why it was refused")
    state_time: Time | None


class Payout(Answer):
    """A payout of the distributor."""

    payout: int
    root: Hex
    epoch: int | None = Field(description="The latest epoch with this root; null for a root that is not the pool's")
    amount: Wei = Field(description="What is divided, the fee being off")
    fee: Wei
    time: Time
    block: int = Field(description="Of the EVM chain")
    block_hash: Hex
    transaction: Hex


class Part(Answer):
    """What a payee gets of a payout."""

    payout: int
    epoch: int
    weight: Weight
    amount: Wei
    claimed: bool = Field(description="Whether it was paid")


class Claim(Answer):
    """A payment to a payee, for one payout or several."""

    payee: Payee
    address: Address
    recipient: Hex = Field(description="The account that was paid")
    payouts: list[int]
    amount: Wei
    block: int = Field(description="Of the EVM chain")
    log_index: int
    block_hash: Hex
    transaction: Hex


class State(Answer):
    """How the index stands, and how much it holds."""

    shares: int = Field(description="Shares that are indexed")
    behind_shares: int = Field(description="Shares of the log that are not indexed yet")
    level_seconds: float | None = Field(description="How long ago it held all of the log; null for not since the start")
    chain_block: int | None = Field(description="Payouts and claims are indexed up to this block of the EVM chain")
    chain_seconds: float | None = Field(description="How long ago it held all of the chain")
    workers: int
    payees: int
    epochs: int
    blocks: int
    payouts: int
    claims: int
    hash_rates: HashRates = Field(description="The whole pool's")


class Problem(Answer):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    status: int
    detail: str = Field(description="What is wrong, and what would be right")

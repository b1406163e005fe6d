"""A miner's claim: what is claimable over all payouts, what the gas costs, and the transactions that take it.

Invariant: a claim is sent only with proofs that lead to the roots that the contract has, for payouts that it says are
not claimed. Amounts are in the asset's smallest unit, gas in wei.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from web3.logs import DISCARD

from pool_oracle.chain.calls import Request
from pool_oracle.chain.distributor import DistributorClient, Payout, part_of
from pool_oracle.claims.proofs import ProofSource
from pool_oracle.claims.reading import Asset, Progress, asset_of, read_claimed, read_payouts, read_recipients
from pool_oracle.claims.sending import Wallet, call_of, estimate_gas, gas_price
from pool_oracle.errors import InputError, TransactionReverted
from pool_oracle.payout.payee import KIND_ACCOUNT, format_payee
from pool_oracle.payout.sumtree import SumProof
from pool_oracle.units import Payee, Wei

MAX_BATCH = 256
"""Payouts in one claim: what one word of claimed bits serves."""
MAX_CALL_BYTES = 120_000
"""Nodes take no transaction above 128 KiB (geth, core/txpool/legacypool: txMaxSize)."""
BLOCK_PARTS = 2
"""A claim takes half of a block's gas at the most, so that it finds room."""


@dataclass(frozen=True, slots=True)
class Part:
    """A payee's part of a payout, with the proof of it."""

    payout: Payout
    epochs: tuple[int, ...]
    proof: SumProof
    is_claimed: bool

    @property
    def amount(self) -> Wei:
        """What the contract pays for it."""
        return part_of(self.payout, self.proof.weight)

    @property
    def is_claimable(self) -> bool:
        """Whether there is something to be had."""
        return not self.is_claimed and self.amount > 0


@dataclass(frozen=True, slots=True)
class Survey:
    """Where a payee stands. `without`: payouts in which it has no part, and what the source of proofs says of each."""

    payee: Payee
    recipient: str | None
    asset: Asset
    parts: list[Part]
    without: list[tuple[int, str]]

    @property
    def claimable(self) -> list[Part]:
        """What can be claimed, by number of payout."""
        return [part for part in self.parts if part.is_claimable]


@dataclass(frozen=True, slots=True)
class Batch:
    """The parts that one transaction claims, and its gas."""

    parts: tuple[Part, ...]
    call: Request
    gas: int

    @property
    def amount(self) -> Wei:
        """What it brings."""
        return Wei(sum(part.amount for part in self.parts))


@dataclass(frozen=True, slots=True)
class Plan:
    """All transactions of a claim, at the gas price of now."""

    asset: Asset
    batches: list[Batch]
    gas_price: int

    @property
    def amount(self) -> Wei:
        """What is claimed."""
        return Wei(sum(batch.amount for batch in self.batches))

    @property
    def gas(self) -> int:
        """The gas of all transactions."""
        return sum(batch.gas for batch in self.batches)

    @property
    def cost(self) -> Wei:
        """What that gas costs, in the chain's coin."""
        return Wei(self.gas * self.gas_price)

    @property
    def share_bps(self) -> int | None:
        """The gas in basis points of the amount; None where the asset is not what gas is paid in."""
        return self.cost * 10_000 // self.amount if self.asset.is_coin and self.amount else None

    @property
    def is_worth_it(self) -> bool:
        """Whether the gas costs less than what it brings, as far as that can be compared."""
        return not self.asset.is_coin or self.cost < self.amount


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a claim did. `owed` was refused by the recipient, and waits for `withdrawOwed`."""

    transaction: str
    payouts: list[int]
    amount: Wei
    owed: Wei
    gas: int


def survey_claims(
    distributor: DistributorClient,
    source: ProofSource,
    payee: Payee,
    progress: Progress,
    wanted: Iterable[int] | None = None,
) -> Survey:
    """Look at every payout, or those of `wanted`. Raises ProofError for a wrong proof, SourceError, ChainError."""
    payouts = read_payouts(distributor, progress, wanted)
    claimed = read_claimed(distributor, [(payee, payout.id) for payout in payouts])
    parts, without = [], []
    with progress("proofs checked", len(payouts)) as advance:
        for payout in payouts:
            answer = source.find(payout, payee)
            if answer.proof is None:
                without.append((payout.id, answer.note))
            else:
                parts.append(Part(payout, answer.epochs, answer.proof, (payee, payout.id) in claimed))
            advance(1)
    recipient = read_recipients(distributor, [payee])[payee]
    return Survey(payee, recipient, asset_of(distributor), parts, without)


def plan_claim(distributor: DistributorClient, survey: Survey, sender: str | None, size: int = MAX_BATCH) -> Plan:
    """The transactions that claim everything claimable, each of `size` payouts at the most.

    `sender` is who will send them, where that is known. Raises InputError where there is no recipient, ChainError.
    """
    if not 1 <= size <= MAX_BATCH:
        raise InputError(f"a batch has 1 to {MAX_BATCH} payouts, not {size}")
    require_recipient(survey.payee, survey.recipient)
    chain = distributor.chain
    limit = int(chain.web3.eth.get_block("latest")["gasLimit"]) // BLOCK_PARTS
    batches: list[Batch] = []
    waiting = [survey.claimable[at : at + size] for at in range(0, len(survey.claimable), size)]
    while waiting:
        parts = waiting.pop(0)
        call = _claim_call(distributor, survey.payee, parts)
        is_small = len(call.data) // 2 <= MAX_CALL_BYTES
        gas = estimate_gas(chain, call, sender) if is_small or len(parts) == 1 else 0
        if len(parts) > 1 and (not is_small or gas > limit):
            waiting[:0] = [parts[: len(parts) // 2], parts[len(parts) // 2 :]]
            continue
        batches.append(Batch(tuple(parts), call, gas))
    return Plan(survey.asset, batches, gas_price(chain))


def require_recipient(payee: Payee, recipient: str | None) -> str:
    """Where a payee's money goes. Raises InputError where nobody knows."""
    if recipient is None:
        kind = "its owner must set one" if payee[0] == KIND_ACCOUNT else "'pool-oracle link' links its key to one"
        raise InputError(f"payee {format_payee(payee)} has no recipient on the EVM chain yet; {kind}")
    return recipient


def send_claims(
    distributor: DistributorClient, plan: Plan, wallet: Wallet, on_receipt: Callable[[Receipt], None]
) -> list[Receipt]:
    """Send a plan's transactions, one after the other; each is told when it is mined.

    What somebody else has claimed meanwhile is left out, so there may be nothing left. Raises TransactionReverted,
    ChainError; what was sent until then is sent.
    """
    receipts = []
    for batch in plan.batches:
        call = _still_open(distributor, batch)
        if call is None:
            continue
        try:
            receipt = _read_receipt(distributor, wallet.send(call))
        except TransactionReverted:
            again = _still_open(distributor, batch)
            if again is None or again == call:
                raise
            receipt = _read_receipt(distributor, wallet.send(again))
        receipts.append(receipt)
        on_receipt(receipt)
    return receipts


def _still_open(distributor: DistributorClient, batch: Batch) -> Request | None:
    """The batch's call without what is claimed by now; None where nothing is left."""
    payee = batch.parts[0].proof.payee
    claimed = read_claimed(distributor, [(payee, part.payout.id) for part in batch.parts])
    left = [part for part in batch.parts if (payee, part.payout.id) not in claimed]
    if len(left) == len(batch.parts):
        return batch.call
    return _claim_call(distributor, payee, left) if left else None


def _claim_call(distributor: DistributorClient, payee: Payee, parts: Sequence[Part]) -> Request:
    items = [(p.payout.id, p.proof.index, p.proof.weight, list(p.proof.siblings)) for p in parts]
    return call_of(distributor.contract, "claim", payee, items)


def _read_receipt(distributor: DistributorClient, receipt: Any) -> Receipt:
    events = distributor.contract.events
    numbers: list[int] = []
    amount = 0
    for event in events.Claimed().process_receipt(receipt, errors=DISCARD):
        word, bits = event["args"]["word"], event["args"]["bits"]
        numbers += [word * 256 + bit for bit in range(256) if bits >> bit & 1]
        amount += event["args"]["amount"]
    owed = sum(event["args"]["amount"] for event in events.Owed().process_receipt(receipt, errors=DISCARD))
    transaction = receipt["transactionHash"].to_0x_hex()
    return Receipt(transaction, numbers, Wei(amount), Wei(owed), int(receipt["gasUsed"]))

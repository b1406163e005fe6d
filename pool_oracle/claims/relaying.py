"""Claiming for many: who is paid by which payouts, in batches, when gas price and amounts are as the relayer wants.

The ledger is the outbox of the relayer's account: what a transaction claims and for whom stands in its journal, with
its hash, before it is sent, and a run that was killed is gone on with. Whether somebody was paid is always asked of the
contract, so that without its ledger, too, a relay pays nobody twice. Amounts are in the asset's smallest unit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from web3.logs import DISCARD
from web3.types import TxReceipt

from pool_oracle.chain.calls import Request
from pool_oracle.chain.distributor import DistributorClient, Payout, part_of
from pool_oracle.chain.intents import FILLER_PREFIX
from pool_oracle.chain.outbox import Outbox
from pool_oracle.claims.proofs import BundleProofs
from pool_oracle.claims.reading import ClaimedWords, Pair, Progress, read_claimed, read_recipients
from pool_oracle.claims.sending import call_of, gas_price
from pool_oracle.errors import AlreadyDone, ChainError, InputError, TransactionReverted
from pool_oracle.hashes import sha256
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import Payee, Wei

MAX_BATCH = 100
"""Payees in one transaction: with recipients that burn all they may, it still fits into half a block of Rootstock."""
PENDING_SECONDS = 120
"""For how long transactions that are not in the ledger are waited for."""


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """When a relayer pays the gas: up to `max_gas_price` (wei), for parts of at least `min_amount`.

    `payees`: for these alone; None for everybody. `batch`: how many in one transaction.
    """

    max_gas_price: int
    min_amount: Wei
    batch: int = 50
    payees: frozenset[Payee] | None = None

    def __post_init__(self) -> None:
        """Raises InputError."""
        if not 1 <= self.batch <= MAX_BATCH:
            raise InputError(f"a batch has 1 to {MAX_BATCH} payees, not {self.batch}")
        if self.max_gas_price < 1 or self.min_amount < 1:
            raise InputError("gas price and least amount must be 1 wei or more")


@dataclass(frozen=True, slots=True)
class RelayBatch:
    """Who is claimed for by one transaction, out of one payout."""

    payout: Payout
    payees: tuple[Payee, ...]
    amount: Wei

    @property
    def pairs(self) -> list[Pair]:
        """Payee and payout's number."""
        return [(payee, self.payout.id) for payee in self.payees]


@dataclass(slots=True)
class RelayPlan:
    """What is to be done, and what is left.

    That is: who has no recipient, how many parts are too small, payouts whose root no bundle here has.
    """

    batches: list[RelayBatch] = field(default_factory=list)
    without_recipient: set[Payee] = field(default_factory=set)
    too_small: int = 0
    unknown: list[int] = field(default_factory=list)

    @property
    def amount(self) -> Wei:
        """What all batches together bring to their payees."""
        return Wei(sum(batch.amount for batch in self.batches))


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a transaction did."""

    transaction: str
    payout: int
    paid: int
    amount: Wei
    gas: int


@dataclass(slots=True)
class RelayResult:
    """What a run has sent, what the contract refused, and why it ended early, where it did."""

    sent: list[Relayed] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: str = ""


def plan_relay(
    distributor: DistributorClient, epochs: BundleProofs, payouts: Sequence[Payout], policy: RelayPolicy, show: Progress
) -> RelayPlan:
    """Everything that is claimable now by the policy. Raises ManifestError, ChainError."""
    plan = RelayPlan()
    recipients: dict[Payee, str | None] = {}
    words = ClaimedWords(distributor)
    with show("payouts looked through", len(payouts)) as advance:
        for payout in payouts:
            tree = epochs.tree(payout.root)
            if tree is None:
                plan.unknown.append(payout.id)
            else:
                parts = _open_parts(words, payout, tree, policy, plan)
                strangers = [payee for payee in parts if payee not in recipients]
                recipients |= read_recipients(distributor, strangers)
                plan.without_recipient |= {payee for payee in parts if recipients[payee] is None}
                wanted = [payee for payee in parts if recipients[payee] is not None]
                for at in range(0, len(wanted), policy.batch):
                    chosen = tuple(wanted[at : at + policy.batch])
                    amount = Wei(sum(parts[payee] for payee in chosen))
                    plan.batches.append(RelayBatch(payout, chosen, amount))
            advance(1)
    return plan


def _open_parts(
    words: ClaimedWords, payout: Payout, tree: SumTree, policy: RelayPolicy, plan: RelayPlan
) -> dict[Payee, Wei]:
    """Parts of a payout that are worth it and not claimed yet."""
    parts = {}
    for payee, weight in tree.leaves:
        if policy.payees is None or payee in policy.payees:
            parts[payee] = part_of(payout, weight)
    claimed = words.claimed((payee, payout.id) for payee in parts)
    unpaid = {payee: amount for payee, amount in parts.items() if (payee, payout.id) not in claimed}
    worth_it = {payee: amount for payee, amount in unpaid.items() if amount >= policy.min_amount}
    plan.too_small += len(unpaid) - len(worth_it)
    return worth_it


class Relay:
    """A relayer at work."""

    def __init__(
        self, distributor: DistributorClient, outbox: Outbox, policy: RelayPolicy, told: Callable[[str], None]
    ) -> None:
        """`outbox` is the account that pays, and the ledger; `told` takes lines for people."""
        self._distributor = distributor
        self._outbox = outbox
        self._policy = policy
        self._tell = told

    def run(self, plan: RelayPlan, epochs: BundleProofs) -> RelayResult:
        """Send a plan's batches, one after the other. Raises ChainError; what was sent until then is in the ledger."""
        result = RelayResult()
        for batch in plan.batches:
            if problem := self.too_expensive():
                result.stopped = problem
                break
            left = self._unclaimed(batch.pairs)
            tree = epochs.tree(batch.payout.root)
            if not left or tree is None:
                continue
            request = self._request(batch.payout.id, left, tree)
            try:
                receipt = self._send(_key(left), request, left)
            except TransactionReverted as error:
                result.failed.append(f"payout {batch.payout.id}: {error}")
                continue
            if receipt is not None:
                result.sent.append(self._read(receipt, batch.payout.id))
        return result

    def finish(self) -> None:
        """Go on with what an earlier run has begun, so that nothing is sent beside it. Raises ChainError."""
        for intent in self._outbox.open_intents():
            if intent.mined is not None or intent.key.startswith(FILLER_PREFIX):
                continue
            pairs = list(self._pairs(intent.request))
            self._tell(f"an earlier run has begun to pay {len(pairs)} parts: it is gone on with")
            try:
                self._send(intent.key, intent.request, pairs)
            except TransactionReverted as error:
                self._tell(f"it was refused: {error}")
        self._await_strangers()

    def too_expensive(self) -> str:
        """Why nothing is sent at the gas price of now; empty where it is low enough."""
        price, limit = gas_price(self._distributor.chain), self._policy.max_gas_price
        return f"the gas price is {price} wei, above the limit of {limit} wei" if price > limit else ""

    def _await_strangers(self) -> None:
        """Wait for transactions of the account that are not in the ledger: it may have been lost meanwhile."""
        count = self._distributor.chain.web3.eth.get_transaction_count
        address = self._distributor.chain.web3.to_checksum_address(self._outbox.address)
        deadline = time.monotonic() + PENDING_SECONDS
        while waiting := int(count(address, "pending")) - int(count(address)):
            if time.monotonic() > deadline:
                raise ChainError(
                    f"{address} has {waiting} transactions under way that are not in this ledger; is it used "
                    "elsewhere, or was the ledger lost? Wait until they are mined"
                )
            time.sleep(0.5)

    def _send(self, key: str, request: Request, pairs: list[Pair]) -> TxReceipt | None:
        """Through the outbox; None where all of them were paid already."""
        try:
            return self._outbox.send(request, key=key, done=lambda: not self._unclaimed(pairs))
        except AlreadyDone:
            return None

    def _unclaimed(self, pairs: list[Pair]) -> list[Pair]:
        claimed = read_claimed(self._distributor, pairs)
        return [pair for pair in pairs if pair not in claimed]

    def _request(self, payout: int, pairs: list[Pair], tree: SumTree) -> Request:
        proofs = [tree.proof(payee) for payee, _ in pairs]
        items = [(proof.payee, proof.index, proof.weight, list(proof.siblings)) for proof in proofs]
        return call_of(self._distributor.contract, "claimMany", payout, items)

    def _pairs(self, request: Request) -> Iterator[Pair]:
        """Whom a transaction of the ledger claims for."""
        _, arguments = self._distributor.contract.decode_function_input(request.data)
        for item in arguments["claims"]:
            yield Payee(bytes(item["payee"])), int(arguments["payoutId"])

    def _read(self, receipt: TxReceipt, payout: int) -> Relayed:
        events = self._distributor.contract.events.Claimed().process_receipt(receipt, errors=DISCARD)
        amount = Wei(sum(event["args"]["amount"] for event in events))
        relayed = Relayed(receipt["transactionHash"].to_0x_hex(), payout, len(events), amount, int(receipt["gasUsed"]))
        self._tell(f"payout {payout}: {relayed.paid} payees, {relayed.amount} wei: {relayed.transaction}")
        return relayed


def _key(pairs: list[Pair]) -> str:
    """The intent's name: the same parts have the same one in every run."""
    digest = sha256(b"".join(payee + number.to_bytes(32, "big") for payee, number in pairs))
    return f"relay:{pairs[0][1]}:{digest[:16].hex()}"

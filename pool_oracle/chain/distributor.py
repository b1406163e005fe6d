"""The distributor contract, as Python sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from web3 import Web3
from web3.logs import DISCARD
from web3.types import TxReceipt

from pool_oracle.chain.client import Chain, Sending
from pool_oracle.chain.events import CommittedEpoch, DistributorEvents
from pool_oracle.errors import ChainError
from pool_oracle.payout.bip137 import SignedMessage
from pool_oracle.payout.sumtree import SumProof, sum_of
from pool_oracle.units import Payee, Wei


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout of the contract: `amount` is divided by `root`. `time` is the block's Unix time."""

    id: int
    root: bytes
    amount: Wei
    epoch: int
    time: int


class DistributorClient:
    """Reads a distributor, and sends to it through whichever Sender is given."""

    def __init__(self, chain: Chain, address: str) -> None:
        """Raises ChainError if there is no contract."""
        self.chain = chain
        self.contract = chain.contract("NativeDistributor", address)
        self.address = str(self.contract.address)
        self.address_bytes = bytes.fromhex(self.address[2:])

    def events(self) -> DistributorEvents:
        """What it logged."""
        return DistributorEvents(self.chain, self.address)

    def operator(self) -> str:
        """Who may commit."""
        return str(self.contract.functions.operator().call())

    def fee_bps(self) -> int:
        """The fee on payouts recorded from now on, in basis points."""
        return int(self.contract.functions.feeBps().call())

    def active_epoch(self) -> CommittedEpoch:
        """The epoch that money which arrives now belongs to."""
        root, manifest_hash, number, _ = self.contract.functions.activeEpoch().call()
        return CommittedEpoch(number, root, manifest_hash, 0)

    def latest_epoch(self) -> CommittedEpoch:
        """The epoch that was committed last: the pending one where there is one, else the active one."""
        root, manifest_hash, number, _ = self.contract.functions.pendingEpoch().call()
        if not any(root):
            return self.active_epoch()
        return CommittedEpoch(number, root, manifest_hash, 0)

    def committed_epochs(self) -> list[CommittedEpoch]:
        """Every commit, oldest first, from the contract's events."""
        return self.events().commits()

    def payouts(self) -> list[Payout]:
        """Every payout, oldest first."""
        return [self.payout(i) for i in range(self.contract.functions.payoutCount().call())]

    def payout(self, payout_id: int) -> Payout:
        """One payout. Raises ChainError for an unknown one."""
        if payout_id >= self.contract.functions.payoutCount().call():
            raise ChainError(f"the distributor has no payout {payout_id}")
        root, amount, epoch, time = self.contract.functions.payout(payout_id).call()
        return Payout(payout_id, root, Wei(amount), epoch, time)

    def fee_owed(self) -> Wei:
        """The fee that nobody has withdrawn yet."""
        return Wei(self.contract.functions.feeOwed().call())

    def total_accounted(self) -> Wei:
        """Everything not yet paid."""
        return Wei(self.contract.functions.totalAccounted().call())

    def is_claimed(self, payee: Payee, payout_id: int) -> bool:
        """Whether the payee was paid its part of a payout."""
        return bool(self.contract.functions.isClaimed(payee, payout_id).call())

    def recipient_of(self, payee: Payee) -> str | None:
        """Where the payee's money goes; None where nobody is known."""
        address = self.contract.functions.recipientOf(payee).call()
        return None if int(address, 16) == 0 else str(address)

    def nonce_of(self, payee: Payee) -> int:
        """The nonce of the payee's next recipient."""
        return int(self.contract.functions.nonceOf(payee).call())

    def commit(self, sender: Sending, root: bytes, manifest_hash: bytes, number: int) -> tuple[int, TxReceipt]:
        """Commit an epoch as the contract's number `number`; returns the number that it got, and the receipt.

        Raises AlreadyDone where the contract counts so far already, and what `Sending.send` raises. The contract takes
        whatever comes as the next, so nothing is sent while the one before is missing: a reorganisation may drop it.
        """

        def is_done() -> bool:
            latest = self.latest_epoch().number
            if latest < number - 1:
                raise ChainError(
                    f"commit {number - 1} is not on the chain any more; commit {number} has to wait for it"
                )
            return latest >= number

        receipt = sender.send(
            self.contract.functions.commit(root, manifest_hash),
            intent=f"commit:{self.address}:{manifest_hash.hex()}",
            done=is_done,
        )
        (event,) = self.contract.events.Committed().process_receipt(receipt, errors=DISCARD)
        return int(event["args"]["epoch"]), receipt

    def claim(self, sender: Sending, payee: Payee, claims: list[tuple[int, SumProof]]) -> TxReceipt:
        """Claim a payee's parts of several payouts, each given with its proof."""
        items = [(payout_id, proof.index, proof.weight, list(proof.siblings)) for payout_id, proof in claims]
        return sender.send(self.contract.functions.claim(payee, items))

    def claimed_amounts(self) -> dict[Payee, Wei]:
        """What each payee was paid so far, from the contract's events."""
        amounts: dict[Payee, Wei] = {}
        for claim in self.events().all()[1]:
            amounts[claim.payee] = Wei(amounts.get(claim.payee, 0) + claim.amount)
        return amounts

    def fees_taken(self) -> Wei:
        """The sum of the fee over all payouts, from the contract's events."""
        return Wei(sum(payout.fee for payout in self.events().all()[0]))

    def link_message(self, payee: Payee, recipient: str, deadline: int) -> str:
        """The text that the owner of a Bitcoin payee has to sign."""
        return str(self.contract.functions.linkMessage(payee, Web3.to_checksum_address(recipient), deadline).call())

    def link_bitcoin_key(
        self, sender: Sending, payee: Payee, recipient: str, deadline: int, signed: SignedMessage
    ) -> TxReceipt:
        """Set the recipient of a Bitcoin payee by its signature."""
        signature: Any = (
            signed.header,
            signed.r.to_bytes(32, "big"),
            signed.s.to_bytes(32, "big"),
            signed.x,
            signed.y,
        )
        call = self.contract.functions.linkBitcoinKey(payee, Web3.to_checksum_address(recipient), deadline, signature)
        return sender.send(call)


def part_of(payout: Payout, weight: int) -> Wei:
    """What a weight gets of a payout."""
    return Wei(payout.amount * weight // sum_of(payout.root))

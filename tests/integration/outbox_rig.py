"""A distributor on a real chain, outboxes that commit to it, and what must be true of the chain afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eth_account.signers.local import LocalAccount
from web3.types import TxReceipt

from pool_oracle.chain.keys import LocalSigner, Signer
from pool_oracle.chain.outbox import Outbox, SendSettings
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.chain.sending import OutboxSender
from pool_oracle.demo.scenario import OPERATOR, STRANGER, demo_accounts
from pool_oracle.errors import ChainError
from pool_oracle.payout.sumtree import SumTree
from tests.integration.distributor_history import DistributorHistory, account_payee

SETTINGS: dict[str, Any] = {
    "patience_seconds": 20,
    "poll_seconds": 0.05,
    "resend_seconds": 0.2,
    "stuck_blocks": 3,
}


def root_of(number: int) -> bytes:
    """Epoch `number`'s root: all differ."""
    return SumTree([(account_payee(number), 1 + number)]).root


class OutboxRig:
    """One distributor and its operator; outboxes are opened and closed as a test wants."""

    def __init__(self, url: str, folder: Path, account: LocalAccount | None = None, address: str | None = None) -> None:
        """`address` is a distributor that is there already."""
        self.url = url
        self.folder = folder
        accounts = demo_accounts()
        self.account = account or accounts[OPERATOR]
        self.stranger = accounts[STRANGER]
        self.chain = QuorumChain([url])
        if address is None:
            address = DistributorHistory(url).client.address
        self.address = address
        self.contract = self.chain.contract("NativeDistributor", address)

    def open(self, *urls: str, signer: Signer | None = None, **settings: Any) -> OutboxSender:
        """A sender of the operator over these nodes, by default over anvil itself."""
        chain = QuorumChain(urls or [self.url], timeout=1)
        signer = signer or LocalSigner(self.account)
        outbox = Outbox(chain, signer, self.folder / "outbox", SendSettings(**(SETTINGS | settings)))
        return OutboxSender(outbox)

    def commit(self, sender: OutboxSender, number: int, *, asks: bool = True) -> TxReceipt:
        """Commit an epoch, as a keeper does it."""
        call = self.contract.functions.commit(root_of(number), bytes(32))
        done = (lambda: self.is_done(number)) if asks else None
        return sender.send(call, intent=f"commit:{number}", done=done)

    def is_done(self, number: int) -> bool:
        """Whether the distributor has an epoch; an error where it is not this one's turn, since one before is gone."""
        latest = self.latest()
        if latest < number - 1:
            raise ChainError(f"epoch {number - 1} is not there any more")
        return latest >= number

    def latest(self) -> int:
        """The number of the distributor's newest epoch."""
        return int(self.contract.functions.activeEpoch().call()[2])

    def committed(self) -> list[bytes]:
        """The roots of all commits since the first, in order."""
        logs = self.contract.events.Committed().get_logs(from_block=0)
        return [bytes(entry["args"]["root"]) for entry in logs][1:]

    def expect(self, count: int) -> None:
        """Every epoch was committed, in order and once."""
        numbers = {root_of(number): number for number in range(1, 500)}
        found = [numbers[root] for root in self.committed()]
        assert found == list(range(1, count + 1)), f"committed: {found}, wanted 1 to {count}"

    def nonce(self) -> int:
        return int(self.chain.ask("eth_getTransactionCount", self.account.address, "latest"), 16)

    def mine(self, blocks: int = 1) -> None:
        self.chain.rpc("anvil_mine", hex(blocks))

    def hold(self) -> None:
        """Transactions wait until `mine`."""
        self.chain.rpc("evm_setAutomine", False)

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks by as many empty ones."""
        self.chain.rpc("anvil_reorg", depth, [])


def close(sender: OutboxSender) -> None:
    sender._outbox.close()

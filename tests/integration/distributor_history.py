"""A distributor on a real chain with payouts and claims, and what an index must say of them."""

from __future__ import annotations

from pool_oracle.chain.anvil import find_project_root
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.deploy import DistributorSettings, deploy, load_artifact
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.events import DistributorEvents
from pool_oracle.demo.scenario import FEE_RECIPIENT, OPERATOR, demo_accounts
from pool_oracle.payout.payee import payee_of_account
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import Payee


def account_payee(number: int) -> Payee:
    """An EVM account that nobody has used yet."""
    return payee_of_account(b"\xaa" * 16 + number.to_bytes(4, "big"))


class DistributorHistory:
    """Funds payouts and claims them, for payees of one tree."""

    def __init__(self, url: str, payees: int = 5) -> None:
        self.chain = Chain(url)
        accounts = demo_accounts()
        self.sender = Sender(self.chain, accounts[OPERATOR])
        self.payees = [account_payee(number) for number in range(payees)]
        self.tree = SumTree((payee, 1 + number) for number, payee in enumerate(self.payees))
        self.settings = DistributorSettings(
            operator=self.sender.address,
            fee_recipient=str(accounts[FEE_RECIPIENT].address),
            fee_bps=100,
            fee_cap_bps=100,
            activation_delay=0,
            min_payout=0,
            genesis_root=self.tree.root,
            genesis_manifest_hash=bytes(32),
        )
        self.client = self.deploy()

    def deploy(self) -> DistributorClient:
        """Another distributor on the same chain."""
        artifact = load_artifact(find_project_root(), "NativeDistributor")
        return DistributorClient(self.chain, deploy(self.sender, artifact, self.settings.as_tuple()))

    def events(self) -> DistributorEvents:
        return DistributorEvents(self.chain, self.client.address)

    def fund(self, value: int = 10**18) -> int:
        """One payout; returns its number."""
        number = int(self.client.contract.functions.payoutCount().call())
        self.sender.send(self.client.contract.functions.fund(self.tree.root, bytes(32)), value=value)
        return number

    def claim(self, payee: Payee, *payouts: int) -> None:
        """One claim of several payouts."""
        self.client.claim(self.sender, payee, [(number, self.tree.proof(payee)) for number in payouts])

    def claim_many(self, payout: int, payees: list[Payee]) -> None:
        """One transaction, an event for each payee."""
        proofs = [(payee, self.tree.proof(payee)) for payee in payees]
        items = [(payee, proof.index, proof.weight, list(proof.siblings)) for payee, proof in proofs]
        self.sender.send(self.client.contract.functions.claimMany(payout, items))

    def mine(self, blocks: int) -> None:
        """Empty blocks."""
        self.chain.rpc("anvil_mine", hex(blocks))

    def part(self, payee: Payee, value: int = 10**18) -> int:
        """What the payee gets of a payout of `value`."""
        return (value - value // 100) * self.tree.proof(payee).weight // self.tree.total

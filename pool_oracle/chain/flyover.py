"""The flyover route: where its rewards are paid on Bitcoin, and how they are registered on Rootstock."""

from __future__ import annotations

from dataclasses import dataclass

from web3.logs import DISCARD
from web3.types import EventData

from pool_oracle.chain.client import Chain, Sending
from pool_oracle.errors import AlreadyDone, ChainError
from pool_oracle.hashes import hash160, sha256, sha256d
from pool_oracle.units import Wei
from pool_oracle.work.scripts import FlyoverTerms, flyover_hash, flyover_redeem_script, flyover_script, p2wsh

BRIDGE_ADDRESS = "0x0000000000000000000000000000000001000006"
CONFIRMATIONS = 100
"""Blocks, the reward's own included, that the bridge wants before it credits a coinbase."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A reward that became a payout."""

    payout_id: int
    amount: Wei
    transaction: str


class FlyoverRouteClient:
    """The route contract and the bridge behind it."""

    name = "flyover"

    def __init__(self, chain: Chain, address: str, *, nested: bool) -> None:
        """`nested`: the bridge's own deposit address is P2SH-P2WSH. Raises ChainError if there is no contract."""
        self.chain = chain
        self.contract = chain.contract("FlyoverRoute", address)
        self.address = str(self.contract.address)
        self.nested = nested
        bridge = self.contract.functions.bridge().call()
        self._bridge = chain.precompiled("IBridge", bridge)

    def distributor(self) -> str:
        """The distributor that rewards are brought to."""
        return str(self.contract.functions.distributor().call())

    def terms(self) -> FlyoverTerms:
        """What deposit addresses depend on now; the redeem script changes when the PowPeg does."""
        return FlyoverTerms(
            user_refund=self.contract.functions.userRefund().call(),
            lbc=bytes.fromhex(self.address[2:]),
            lp=self.contract.functions.providerRefund().call(),
            powpeg_redeem_script=self._bridge.functions.getActivePowpegRedeemScript().call(),
            nested=self.nested,
        )

    def reward_script(self, commitment: bytes) -> bytes:
        """The output script for rewards of a commitment, checked against the contract's own derivation.

        Raises ChainError when contract and Python do not agree: then no job may be made.
        """
        terms = self.terms()
        redeem = flyover_redeem_script(
            flyover_hash(commitment, terms.user_refund, terms.lbc, terms.lp), terms.powpeg_redeem_script
        )
        mine = (hash160(redeem), hash160(p2wsh(sha256(redeem))))
        theirs = tuple(self.contract.functions.depositScriptHashes(commitment).call())
        if mine != theirs:
            raise ChainError(
                f"the route contract derives another deposit than we do for commitment 0x{commitment.hex()}"
            )
        return flyover_script(commitment, terms)

    def bridge_height(self) -> int:
        """The height of the bridge's best Bitcoin header."""
        return int(self._bridge.functions.getBtcBlockchainBestChainHeight().call())

    def relay_headers(self, sender: Sending, headers: list[bytes]) -> None:
        """Give the bridge Bitcoin headers. On Rootstock the PowPeg does that; on a local chain somebody must."""
        sender.send(self._bridge.functions.receiveHeaders(headers))

    def register(
        self, sender: Sending, coinbase: bytes, height: int, partial_tree: bytes, root: bytes, manifest_hash: bytes
    ) -> Registration:
        """Register a matured coinbase (without witness data) and fund the distributor, unless somebody has done so.

        Raises TransactionReverted, ChainError.
        """
        call = self.contract.functions.register(coinbase, height, partial_tree, root, manifest_hash)
        txid = sha256d(coinbase)
        intent = f"register:{self.address}:{txid[::-1].hex()}"
        try:
            receipt = sender.send(call, intent=intent, done=lambda: txid in self.registrations())
        except AlreadyDone:
            return self.registrations()[txid]
        (event,) = self.contract.events.Registered().process_receipt(receipt, errors=DISCARD)
        return _registration(event)

    def registrations(self) -> dict[bytes, Registration]:
        """Every reward that anybody registered, by the coinbase's txid (internal order)."""
        events = self.contract.events.Registered().get_logs(from_block=0)
        return {bytes(event["args"]["txid"]): _registration(event) for event in events}


def _registration(event: EventData) -> Registration:
    arguments = event["args"]
    return Registration(int(arguments["payoutId"]), Wei(arguments["amount"]), event["transactionHash"].to_0x_hex())

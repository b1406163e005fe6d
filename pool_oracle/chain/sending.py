"""Ways to have a contract called: through an outbox, as a dry run without a key, or proposed to a Safe.

All are used in the same way. Where nothing is sent, `send` raises NotSent in place of a receipt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from web3.contract.contract import ContractConstructor, ContractFunction
from web3.types import Nonce, TxParams, TxReceipt, Wei

from pool_oracle.chain.calls import Request, try_call
from pool_oracle.chain.fees import Fees, FeeSettings, gwei, suggest_fees
from pool_oracle.chain.outbox import Outbox
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.chain.safe import proposal_path, safe_batch, write_proposal
from pool_oracle.errors import AlreadyDone, ChainError, NotSent

log = structlog.get_logger("sending")


def request_of(call: ContractFunction | ContractConstructor, value: int) -> Request:
    """What a contract's call or deployment sends. Asks no node."""
    # web3 asks the node for whatever is missing here; none of it is used.
    unused = TxParams(chainId=0, nonce=Nonce(0), gas=0, gasPrice=Wei(0), value=Wei(value))
    built = call.build_transaction(unused)
    data = built["data"]
    return Request(
        what=str(getattr(call, "fn_name", "deployment")),
        to=str(built.get("to") or ""),
        data=data if isinstance(data, str) else f"0x{bytes(data).hex()}",
        value=value,
    )


class OutboxSender:
    """Calls contracts through an outbox."""

    def __init__(self, outbox: Outbox) -> None:
        """The outbox's account pays the gas."""
        self.chain = outbox.chain
        self._outbox = outbox

    @property
    def address(self) -> str:
        """The account's address."""
        return self._outbox.address

    def send(
        self,
        call: ContractFunction | ContractConstructor,
        *,
        value: int = 0,
        intent: str | None = None,
        done: Callable[[], bool] | None = None,
    ) -> TxReceipt:
        """Send a transaction and wait for its receipt; `intent` and `done` are Outbox.send's key and question.

        Raises TransactionReverted with the contract's error, AlreadyDone, ChainError for everything else.
        """
        return self._outbox.send(request_of(call, value), key=intent, done=done)


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be sent: `gas` is the limit, `cost` the most that it can cost in wei, value included."""

    request: Request
    gas: int
    fees: Fees

    @property
    def cost(self) -> int:
        """Wei."""
        return self.gas * self.fees.max_fee + self.request.value


class DrySender:
    """Tries calls as an account whose key it has not, and shows what would be sent."""

    def __init__(self, chain: QuorumChain, address: str, fees: FeeSettings | None = None) -> None:
        """`address` is the account that would send."""
        self.chain = chain
        self.address = address
        self._fees = fees or FeeSettings()
        self.planned: list[Planned] = []

    def send(
        self,
        call: ContractFunction | ContractConstructor,
        *,
        value: int = 0,
        intent: str | None = None,
        done: Callable[[], bool] | None = None,
    ) -> TxReceipt:
        """Raises NotSent with gas and fees, TransactionReverted where it would fail, AlreadyDone, ChainError."""
        _ask(done, intent)
        request = request_of(call, value)
        gas = try_call(self.chain, self.address, request)
        planned = Planned(request, gas, suggest_fees(self.chain, self._fees))
        self.planned.append(planned)
        fees = planned.fees
        log.info(
            "would send",
            what=request.what,
            intent=intent,
            sender=self.address,
            to=request.to or None,
            value=request.value,
            data=request.data,
            gas=gas,
            max_fee_gwei=gwei(fees.max_fee),
            tip_gwei=None if fees.tip is None else gwei(fees.tip),
            cost_wei=planned.cost,
        )
        raise NotSent(f"dry run: {request.what} would be sent with {gas} gas at {gwei(fees.max_fee)} gwei at the most")


class SafeProposer:
    """Writes calls down for the owners of a Safe to sign, in a file for its Transaction Builder."""

    def __init__(self, chain: QuorumChain, safe: str, folder: Path) -> None:
        """`safe` is the Safe's address; files are written into `folder`."""
        self.chain = chain
        self.address = safe
        self._folder = folder

    def send(
        self,
        call: ContractFunction | ContractConstructor,
        *,
        value: int = 0,
        intent: str | None = None,
        done: Callable[[], bool] | None = None,
    ) -> TxReceipt:
        """Raises NotSent naming the file, TransactionReverted where it would fail, AlreadyDone, ChainError."""
        _ask(done, intent)
        request = request_of(call, value)
        if not request.to:
            raise ChainError("a deployment cannot be proposed to a Safe; deploy with a key")
        path = proposal_path(self._folder, request, intent)
        if not path.exists():
            try_call(self.chain, self.address, request)
            now = int(time.time() * 1000)
            batch = safe_batch(self.chain.chain_id, self.address, request, _in_words(call, intent), now)
            write_proposal(path, batch)
            log.info("proposed", what=request.what, intent=intent, file=str(path), safe=self.address)
        raise NotSent(f"{request.what} is proposed in {path}; load it in the Safe's Transaction Builder and sign it")


def _ask(done: Callable[[], bool] | None, intent: str | None) -> None:
    if done is not None and done():
        raise AlreadyDone(f"{intent or 'the call'} was done by somebody else")


def _in_words(call: ContractFunction | ContractConstructor, intent: str | None) -> str:
    """The call as its signers should read it: name and arguments, bytes in hex."""
    arguments = [f"0x{bytes(a).hex()}" if isinstance(a, bytes) else str(a) for a in getattr(call, "args", ())]
    return f"{intent or 'pool_oracle'}: {getattr(call, 'fn_name', 'deployment')}({', '.join(arguments)})"

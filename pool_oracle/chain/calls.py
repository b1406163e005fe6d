"""What is to be sent: tried as a call first, then made a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pool_oracle.chain.client import GAS_MARGIN_PERCENT
from pool_oracle.chain.fees import Fees
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.errors import TransactionReverted


@dataclass(frozen=True, slots=True)
class Request:
    """A transaction's content: `to` is empty for a deployment, `value` in wei. `what` names it for people."""

    what: str
    to: str
    data: str
    value: int


def try_call(chain: QuorumChain, sender: str, request: Request) -> int:
    """Try a request as a call; returns the gas limit that it needs. Raises TransactionReverted with its error."""
    call: dict[str, Any] = {"from": sender, "data": request.data, "value": hex(request.value)}
    if request.to:
        call["to"] = request.to
    try:
        chain.ask("eth_call", call, "latest")
        gas = chain.ask_number("eth_estimateGas", call)
    except TransactionReverted as error:
        raise TransactionReverted(request.what, error.error) from None
    return gas + gas * GAS_MARGIN_PERCENT // 100


def transaction_fields(chain_id: int, request: Request, nonce: int, gas: int, fees: Fees) -> Mapping[str, Any]:
    """A transaction as it is signed."""
    fields: dict[str, Any] = {"chainId": chain_id, "nonce": nonce, "gas": gas, "value": request.value}
    fields |= {"data": request.data, **fees.fields()}
    if request.to:
        fields["to"] = request.to
    return fields

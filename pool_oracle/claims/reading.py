"""What claims need to know of a distributor, many values in one request where the node takes that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from requests.exceptions import RequestException
from web3 import Web3
from web3.contract.contract import ContractFunction
from web3.exceptions import BadFunctionCallOutput, ContractLogicError, Web3Exception

from pool_oracle.chain.client import Chain
from pool_oracle.chain.distributor import DistributorClient, Payout
from pool_oracle.chain.flyover import FlyoverRouteClient
from pool_oracle.errors import ChainError, InputError
from pool_oracle.units import Payee, Wei, format_wei

CALLS_PER_REQUEST = 100
WORD_BITS = 256
"""Payouts whose claimed bits are in one word of the contract."""

_ABI: list[dict[str, Any]] = [
    {"type": "function", "stateMutability": "view", "name": name, "inputs": [], "outputs": [{"name": "", "type": kind}]}
    for name, kind in (("token", "address"), ("symbol", "string"), ("decimals", "uint8"))
]

Advance = Callable[[int], None]
Progress = Callable[[str, int], Any]
"""Like `terminal.progress`: a context in which done steps are told."""


@dataclass(frozen=True, slots=True)
class Asset:
    """What a distributor pays in. `is_coin`: the chain's own coin, in which gas is paid, too."""

    symbol: str
    decimals: int
    is_coin: bool

    def show(self, amount: int) -> str:
        """An amount for people, exact, without trailing zeros."""
        if self.is_coin:
            return format_wei(Wei(amount), self.symbol)
        whole, rest = divmod(amount, 10**self.decimals)
        digits = f"{rest:0{self.decimals}d}".rstrip("0") if self.decimals else ""
        return f"{whole}{'.' if digits else ''}{digits} {self.symbol}"


COINS = {30: "RBTC", 31: "tRBTC", 33: "rRBTC", 1: "ETH", 61: "ETC", 17000: "ETH", 11155111: "ETH"}
"""Chain ids to tickers. Source: https://chainlist.org."""


def open_distributor(rpc: str, address: str) -> DistributorClient:
    """The distributor at an address, or ChainError: nobody answers, nothing is there, or something else is."""
    client = DistributorClient(Chain(rpc), address)
    try:
        client.contract.functions.payoutCount().call()
        client.total_accounted()
    except (Web3Exception, ValueError):
        raise ChainError(
            f"the contract at {client.address} on chain {client.chain.chain_id} is no distributor"
        ) from None
    return client


def open_route(rpc: str, address: str, *, nested: bool) -> FlyoverRouteClient:
    """The flyover route at an address, or ChainError. `nested` is FlyoverRouteClient's."""
    chain = Chain(rpc)
    try:
        client = FlyoverRouteClient(chain, address, nested=nested)
        client.distributor()
    except (Web3Exception, ValueError):
        raise ChainError(f"the contract at {address} on chain {chain.chain_id} is no flyover route") from None
    return client


def coin_of_chain(chain_id: int) -> Asset:
    """The coin of a chain, in which gas is paid."""
    return Asset(COINS.get(chain_id, "RBTC"), 18, is_coin=True)


def asset_of(distributor: DistributorClient) -> Asset:
    """The asset of a distributor. Raises ChainError."""
    web3 = distributor.chain.web3
    try:
        token = web3.eth.contract(address=Web3.to_checksum_address(distributor.address), abi=_ABI)
        address = token.functions.token().call()
    except (ContractLogicError, BadFunctionCallOutput):
        return coin_of_chain(distributor.chain.chain_id)
    contract = web3.eth.contract(address=address, abi=_ABI)
    symbol, decimals = _call(contract.functions.symbol()), _call(contract.functions.decimals())
    return Asset(str(symbol)[:12], int(decimals), is_coin=False)


def read_payouts(
    distributor: DistributorClient, progress: Progress, wanted: Iterable[int] | None = None
) -> list[Payout]:
    """The payouts of those numbers, or all, in order. Raises InputError for one that is not there, ChainError."""
    functions = distributor.contract.functions
    count = int(_call(functions.payoutCount()))
    numbers = sorted(set(wanted)) if wanted is not None else list(range(count))
    if numbers and not 0 <= numbers[0] <= numbers[-1] < count:
        odd = next(number for number in numbers if not 0 <= number < count)
        there = f"there are 0 to {count - 1}" if count else "there is none yet"
        raise InputError(f"the distributor has no payout {odd}; {there}")
    with progress("payouts read", len(numbers)) as advance:
        rows = call_many(distributor.chain, [functions.payout(number) for number in numbers], advance)
    return [
        Payout(number, bytes(root), Wei(amount), int(epoch), int(time))
        for number, (root, amount, epoch, time) in zip(numbers, rows, strict=True)
    ]


Pair = tuple[Payee, int]
"""A payee, and a payout's number."""


class ClaimedWords:
    """Who was paid what, as it was when it was first asked for: each word of the contract is read once."""

    def __init__(self, distributor: DistributorClient) -> None:
        """Reads nothing yet."""
        self._distributor = distributor
        self._bits: dict[tuple[Payee, int], int] = {}

    def claimed(self, pairs: Iterable[Pair]) -> set[Pair]:
        """Those of the pairs that are claimed. Raises ChainError."""
        asked = list(pairs)
        places = sorted({(payee, number // WORD_BITS) for payee, number in asked} - self._bits.keys())
        claimed_word = self._distributor.contract.functions.claimedWord
        words = call_many(self._distributor.chain, [claimed_word(payee, word) for payee, word in places])
        self._bits.update(zip(places, (int(word) for word in words), strict=True))
        return {(p, n) for p, n in asked if self._bits[p, n // WORD_BITS] >> n % WORD_BITS & 1}


def read_claimed(distributor: DistributorClient, pairs: Iterable[Pair]) -> set[Pair]:
    """Those of the pairs that are claimed now. Raises ChainError."""
    return ClaimedWords(distributor).claimed(pairs)


def read_recipients(distributor: DistributorClient, payees: Sequence[Payee]) -> dict[Payee, str | None]:
    """Where each payee's money goes; None where nobody is known. Raises ChainError."""
    recipient_of = distributor.contract.functions.recipientOf
    addresses = call_many(distributor.chain, [recipient_of(payee) for payee in payees])
    return {p: None if int(address, 16) == 0 else str(address) for p, address in zip(payees, addresses, strict=True)}


def call_many(chain: Chain, calls: Sequence[ContractFunction], advance: Advance | None = None) -> list[Any]:
    """The answers to calls of contracts, in order. Raises ChainError."""
    answers: list[Any] = []
    together = CALLS_PER_REQUEST
    while len(answers) < len(calls):
        part = calls[len(answers) : len(answers) + together]
        try:
            answers += _call_together(chain, part) if len(part) > 1 else [_call(part[0])]
        except (RequestException, Web3Exception, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
            together = 1  # not every node takes several calls in one request
            continue
        if advance is not None:
            advance(len(part))
    return answers


def _call_together(chain: Chain, calls: Sequence[ContractFunction]) -> list[Any]:
    with chain.web3.batch_requests() as batch:
        for call in calls:
            batch.add(call)
        answers = list(batch.execute())
    if len(answers) != len(calls):
        raise ValueError("answers are missing")
    return answers


def _call(call: ContractFunction) -> Any:
    try:
        return call.call()
    except (Web3Exception, ValueError) as error:
        raise ChainError(f"{call.fn_name} was not answered by the chain node: {str(error)[:200]}") from None

"""A chain as a sender of transactions has to know it: with three nodes or more, only what a majority of them says.

That is heads, blocks' hashes, receipts and an account's nonce. With fewer nodes there is no majority; one is believed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hexbytes import HexBytes
from web3 import Web3
from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse, TxReceipt

from pool_oracle.chain.client import Chain
from pool_oracle.chain.endpoint import Endpoint
from pool_oracle.chain.refusals import refusal
from pool_oracle.chain.rpc import Endpoints
from pool_oracle.errors import AlreadyKnown, ChainError, ChainUnreachable, NonceTooLow

TIMEOUT_SECONDS = 10
FORK_DEPTH = 16
"""How far below the heads a block that a majority has is looked for."""

_HASH = re.compile("0x[0-9a-fA-F]{64}")

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Head:
    """A block that is believed to be the newest. `is_majority` says whether more than one node was asked for that."""

    number: int
    hash: str
    is_majority: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt, compared by what nodes have to agree on. Hashes are hex in lower case."""

    transaction: str
    block: int
    block_hash: str
    succeeded: bool
    logs: tuple[tuple[str, ...], ...]
    """Of each its address, data and topics."""
    raw: dict[str, Any] = field(compare=False)
    """As a node told it."""

    def for_web3(self) -> TxReceipt:
        """As web3 gives receipts."""
        return Web3(_Given(self.raw)).eth.get_transaction_receipt(HexBytes(self.transaction))


class _Given(JSONBaseProvider):
    """Answers whatever is asked with one result."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._result = result

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        return RPCResponse(jsonrpc="2.0", id=1, result=self._result)


class QuorumChain(Chain):
    """A chain behind several nodes: a Chain for those who read, and what a sender of transactions has to know."""

    def __init__(self, urls: Sequence[str], *, chain_id: int | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        """`urls` in order of preference; without `chain_id` the first node's that answers is right."""
        super().__init__(urls[0] if urls else "", timeout=timeout)
        self._nodes = Endpoints(urls, chain_id=chain_id, timeout=timeout)
        self.web3 = Web3(self._nodes)

    def ask(self, method: str, *params: Any) -> Any:
        """Any JSON-RPC call. Raises the kind of ChainRefused that the node means, TransactionReverted, ChainError."""
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        if "error" in answer:
            raise refusal(method, answer["error"])
        return answer["result"]

    def ask_number(self, method: str, *params: Any) -> int:
        """A JSON-RPC call whose result is a quantity. Raises like `ask`."""
        answer = self.ask(method, *params)
        try:
            return int(answer, 16)
        except (TypeError, ValueError):
            raise ChainError(f"{method}: the node answers {str(answer)[:40]!r}, which is no number") from None

    def head(self) -> Head:
        """The newest block, or the newest that a majority has. Raises ChainUnreachable where there is no such."""
        needed = self._nodes.majority
        if needed == 1:
            block = self.ask("eth_getBlockByNumber", "latest", False)
            return Head(_number(block, "number"), _hash(block), False)
        blocks = self._nodes.each(self._sound(), lambda e: e.result("eth_getBlockByNumber", "latest", False))
        heads = sorted((_number(block, "number") for block in blocks), reverse=True)
        if len(heads) >= needed:
            top = heads[needed - 1]
            for number in range(top, max(-1, top - FORK_DEPTH), -1):
                found = self.block_hash(number)
                if found is not None:
                    return Head(number, found, True)
        raise ChainUnreachable(f"no majority of chain nodes has the same head ({len(heads)} of {self._count} answer)")

    def block_hash(self, number: int) -> str | None:
        """The hash of a block; None where the chain, or a majority, has no block of this number, or no common one."""
        if self._nodes.majority == 1:
            block = self.ask("eth_getBlockByNumber", hex(number), False)
            return None if block is None else _hash(block)

        def one(endpoint: Endpoint) -> str | None:
            block = endpoint.result("eth_getBlockByNumber", hex(number), False)
            return None if block is None else _hash(block)

        return self._most(self._nodes.each(self._sound(), one))

    def nonce(self, address: str, expected: int | None) -> int:
        """How many transactions of the account are in blocks, by a majority.

        Two nodes that differ are believed where one says what is `expected`. Raises ChainUnreachable where there is no
        telling.
        """
        if self._count == 1:
            return self.ask_number("eth_getTransactionCount", address, "latest")
        counts: list[int] = self._nodes.each(
            [endpoint for endpoint in self._sound() if not endpoint.is_lagging],
            lambda e: int(e.result("eth_getTransactionCount", address, "latest"), 16),
        )
        agreed = self._most(counts)
        if agreed is not None and (self._nodes.majority > 1 or len(set(counts)) == 1):
            return agreed
        if expected is not None and expected in counts:
            return expected
        raise ChainUnreachable(f"the chain nodes do not agree on the nonce of {address}: {sorted(counts)}")

    def everywhere(self, method: str, *params: Any) -> list[Any]:
        """What the nodes answer, all that is not null; a majority may say something else. Raises ChainUnreachable."""
        nodes = self._sound()
        if len(nodes) < 2:
            answers = [self.ask(method, *params)]
        else:
            answers = self._nodes.each(nodes, lambda e: e.result(method, *params))
        if not answers:
            raise ChainUnreachable(f"{method}: no chain node answers")
        return [answer for answer in answers if answer is not None]

    def receipt(self, transaction: str) -> Receipt | None:
        """The receipt of a transaction, by a majority; None where it is in no block of the believed chain.

        `transaction` is its hash in lower case. Raises ChainUnreachable.
        """
        receipts = [_receipt(answer) for answer in self.everywhere("eth_getTransactionReceipt", transaction)]
        found = self._most([r for r in receipts if r is not None and r.transaction == transaction])
        return found if found is not None and self.block_hash(found.block) == found.block_hash else None

    def broadcast(self, raw: bytes) -> None:
        """Give a signed transaction to every node. Raises what the first said where none took it."""
        text = f"0x{raw.hex()}"
        nodes = self._nodes.usable()
        if len(nodes) < 2:
            self.ask("eth_sendRawTransaction", text)
            return
        answers = self._nodes.each(nodes, lambda e: e.ask("eth_sendRawTransaction", [text]))
        if not answers:
            raise ChainUnreachable("eth_sendRawTransaction: no chain node answers")
        if any("error" not in answer for answer in answers):
            return
        refusals = [refusal("eth_sendRawTransaction", answer["error"]) for answer in answers]
        for kind in (AlreadyKnown, NonceTooLow):
            for told in refusals:
                if isinstance(told, kind):
                    raise told
        raise refusals[0]

    @property
    def _count(self) -> int:
        return len(self._nodes.all)

    def _sound(self) -> list[Endpoint]:
        """The nodes that may have a say: on the right chain, and not failing just now."""
        self._nodes.survey()
        return [endpoint for endpoint in self._nodes.all if endpoint.is_checked and not endpoint.is_aside]

    def _most(self, answers: Sequence[T | None]) -> T | None:
        """What a majority of all nodes says; None where there is none."""
        counted = Counter(answer for answer in answers if answer is not None).most_common(1)
        return counted[0][0] if counted and counted[0][1] >= self._nodes.majority else None


def _number(block: Any, field: str) -> int:
    try:
        return int(block[field], 16)
    except (KeyError, TypeError, ValueError):
        raise ChainError(f"the node's block has no {field}") from None


def _hash(block: Any) -> str:
    """A block's hash, in lower case."""
    found = block.get("hash") if isinstance(block, dict) else None
    if not isinstance(found, str) or not _HASH.fullmatch(found):
        raise ChainError("the node's block has no hash")
    return found.lower()


def _receipt(answer: Any) -> Receipt | None:
    """A node's receipt; None for what is none."""
    try:
        return Receipt(
            transaction=answer["transactionHash"].lower(),
            block=int(answer["blockNumber"], 16),
            block_hash=answer["blockHash"].lower(),
            succeeded=int(answer["status"], 16) == 1,
            logs=tuple((log["address"].lower(), log["data"], *log["topics"]) for log in answer["logs"]),
            raw=answer,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None

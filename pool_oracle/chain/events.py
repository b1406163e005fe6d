"""What a distributor's events tell of commits, payouts and claims.

Formats: contracts/interfaces/IDistributor.sol, `Committed`, `PayoutRecorded` and `Claimed`; the ABI's 32-byte words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from pool_oracle.chain.client import Chain
from pool_oracle.chain.logs import ContractLogs, Log, bytes_of, number_of, topic_of, words_of
from pool_oracle.errors import ChainError
from pool_oracle.hashes import keccak256
from pool_oracle.payout.payee import PAYEE_SIZE
from pool_oracle.units import Payee, Wei

T = TypeVar("T")

NO_EPOCH = (1 << 64) - 1
"""The epoch of payouts that were funded with a root of their own."""

COMMITTED = keccak256(b"Committed(uint64,bytes32,bytes32,uint64)")
PAYOUT_RECORDED = keccak256(b"PayoutRecorded(uint256,bytes32,bytes32,uint64,uint256,uint256)")
CLAIMED = keccak256(b"Claimed(bytes21,address,uint256,uint256,uint256)")


@dataclass(frozen=True, slots=True)
class CommittedEpoch:
    """An epoch as the contract announced it."""

    number: int
    root: bytes
    manifest_hash: bytes
    block: int


@dataclass(frozen=True, slots=True)
class PayoutEvent:
    """A payout was recorded. `epoch` is None where it was funded with a root of its own; `time` is its block's."""

    number: int
    root: bytes
    epoch: int | None
    amount: Wei
    fee: Wei
    time: int
    block: int
    block_hash: bytes
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class ClaimEvent:
    """A payee was paid its part of one payout or several."""

    payee: Payee
    recipient: bytes
    payouts: tuple[int, ...]
    amount: Wei
    block: int
    log_index: int
    block_hash: bytes
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class EventPage:
    """All payouts and claims of the blocks `first` to `last`; `last_hash` is the hash of the last one."""

    first: int
    last: int
    last_hash: bytes
    payouts: tuple[PayoutEvent, ...]
    claims: tuple[ClaimEvent, ...]


class DistributorEvents:
    """Reads the events of one distributor."""

    def __init__(self, chain: Chain, distributor: str) -> None:
        """`distributor` is the contract's address."""
        self._chain = chain
        self._address = distributor
        self._logs = ContractLogs(chain, distributor, (PAYOUT_RECORDED, CLAIMED))
        self.tip = self._logs.tip
        self.block_hash = self._logs.block_hash

    @property
    def chain_id(self) -> int:
        """The chain's id. Raises ChainError."""
        return self._chain.chain_id

    @property
    def distributor(self) -> bytes:
        """The distributor's address, 20 bytes."""
        return bytes_of(self._address)

    def first_block(self) -> int:
        """The block that the distributor was deployed in, or one before it. Raises ChainError."""
        return self._logs.first_block(COMMITTED)

    def fork(self, blocks: list[tuple[int, bytes]]) -> int:
        """The last of these (number, hash) that is in the best chain: its number, -1 where none is. Raises ChainError.

        They ascend, and are of one chain.
        """
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            number, block_hash = blocks[middle]
            if self.block_hash(number) == block_hash:
                low = middle + 1
            else:
                high = middle
        return blocks[low - 1][0] if low else -1

    def page(self, first: int, before: tuple[int, bytes] | None) -> EventPage | None:
        """The next page from block `first` on, or None when the chain has no such block, or was changed meanwhile.

        `before` is a block (number, hash) that the page's chain must hold. Raises ChainError.
        """
        page = self._logs.page(first, before)
        if page is None:
            return None
        times = _Times(self._chain)
        payouts, claims = self._decode(page.logs, times)
        if times.is_other_chain:
            return None
        return EventPage(page.first, page.last, page.last_hash, tuple(payouts), tuple(claims))

    def commits(self) -> list[CommittedEpoch]:
        """Every commit, oldest first. Raises ChainError."""
        logs = ContractLogs(self._chain, self._address, [COMMITTED])
        return [_decoded(_commit, log) for log in logs.all(logs.first_block(COMMITTED))]

    def all(self) -> tuple[list[PayoutEvent], list[ClaimEvent]]:
        """Every payout and every claim. Raises ChainError."""
        return self._decode(self._logs.all(self.first_block()), _Times(self._chain))

    def _decode(self, logs: Iterable[Log], times: _Times) -> tuple[list[PayoutEvent], list[ClaimEvent]]:
        payouts, claims = [], []
        for log in logs:
            if _decoded(_event, log) == CLAIMED:
                claims.append(_decoded(_claim, log))
            else:
                payouts.append(_decoded(lambda log: _payout(log, times), log))
        return payouts, claims


class _Times:
    """Timestamps of blocks, from the logs where the node tells them there."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._known: dict[str, int] = {}
        self.is_other_chain = False

    def of(self, log: Log) -> int:
        """The timestamp of a log's block."""
        if log.get("blockTimestamp"):
            return number_of(log["blockTimestamp"])
        name = log["blockHash"]
        if name not in self._known:
            block = self._chain.rpc("eth_getBlockByHash", name, False)
            if block is None:  # a reorganisation came in between
                self.is_other_chain = True
                return 0
            self._known[name] = number_of(block["timestamp"])
        return self._known[name]


def _decoded(decode: Callable[[Log], T], log: Log) -> T:
    """A log's event. Raises ChainError for one that is not of the contract's form."""
    try:
        return decode(log)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        where = log.get("blockNumber")
        raise ChainError(f"the node's log of block {where} is not one of the distributor: {error!r}") from None


def _event(log: Log) -> bytes:
    return topic_of(log, 0)


def _commit(log: Log) -> CommittedEpoch:
    block = number_of(log["blockNumber"])
    return CommittedEpoch(int.from_bytes(topic_of(log, 1), "big"), topic_of(log, 2), topic_of(log, 3), block)


def _payout(log: Log, times: _Times) -> PayoutEvent:
    epoch, amount, fee = words_of(log, 3)
    return PayoutEvent(
        number=int.from_bytes(topic_of(log, 1), "big"),
        root=topic_of(log, 2),
        epoch=None if epoch == NO_EPOCH else epoch,
        amount=Wei(amount),
        fee=Wei(fee),
        time=times.of(log),
        block=number_of(log["blockNumber"]),
        block_hash=bytes_of(log["blockHash"]),
        transaction_hash=bytes_of(log["transactionHash"]),
    )


def _claim(log: Log) -> ClaimEvent:
    word, bits, amount = words_of(log, 3)
    return ClaimEvent(
        payee=Payee(topic_of(log, 1)[:PAYEE_SIZE]),
        recipient=topic_of(log, 2)[12:],
        payouts=tuple(word * 256 + bit for bit in range(bits.bit_length()) if bits >> bit & 1),
        amount=Wei(amount),
        block=number_of(log["blockNumber"]),
        log_index=number_of(log["logIndex"]),
        block_hash=bytes_of(log["blockHash"]),
        transaction_hash=bytes_of(log["transactionHash"]),
    )

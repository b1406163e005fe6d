"""A contract's logs, in pages of blocks, each page of one and the same chain.

How many blocks a node gives at once differs from node to node, and is found out. Format: JSON-RPC's eth_getLogs
(https://ethereum.github.io/execution-apis/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pool_oracle.chain.client import Chain
from pool_oracle.errors import ChainError, ChainRefused

FIRST_PAGE = 2_000
"""How many blocks are asked for at once, before it is known what the node likes."""
MAX_PAGE = 200_000
MANY_LOGS = 2_000
"""A page with more of them does not grow."""

_WORD = 32

Log = dict[str, Any]
"""A log as the node gives it."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """All logs of the blocks `first` to `last`; `last_hash` is the hash of the last one."""

    first: int
    last: int
    last_hash: bytes
    logs: tuple[Log, ...]


class ContractLogs:
    """Reads logs of one contract, of events that are named by their topics."""

    def __init__(self, chain: Chain, address: str, topics: Sequence[bytes]) -> None:
        """`topics` are the hashes of the events' signatures."""
        self._chain = chain
        self._address = address
        self._topics = topics
        self._page = FIRST_PAGE
        self._max_page = MAX_PAGE

    def tip(self) -> tuple[int, bytes]:
        """(number, hash) of the best block. Raises ChainError."""
        block = self._chain.rpc("eth_getBlockByNumber", "latest", False)
        return number_of(block["number"]), bytes_of(block["hash"])

    def block_hash(self, number: int) -> bytes | None:
        """The hash of a block of the best chain; None where the chain is shorter. Raises ChainError."""
        block = self._chain.rpc("eth_getBlockByNumber", hex(number), False)
        return None if block is None else bytes_of(block["hash"])

    def first_block(self, born: bytes) -> int:
        """The block that the contract was deployed in, where it logged the event `born`. Raises ChainError.

        Nodes that have forgotten old states cannot tell; then it is block 0.
        """
        low, high = 0, self.tip()[0]
        try:
            while low < high:
                middle = (low + high) // 2
                if bytes_of(self._chain.rpc("eth_getCode", self._address, hex(middle))):
                    high = middle
                else:
                    low = middle + 1
            return low if self._logs(low, low, [born]) else 0
        except ChainRefused:
            return 0

    def all(self, first: int) -> list[Log]:
        """Every log from block `first` on. Raises ChainError, also for a chain that changes all the time."""
        for _ in range(3):
            logs: list[Log] = []
            at, before = first, None
            while (page := self.page(at, before)) is not None:
                logs += page.logs
                at, before = page.last + 1, (page.last, page.last_hash)
            if before is None or self.block_hash(before[0]) == before[1]:
                return logs
        raise ChainError("the chain was reorganised again and again while it was read")

    def page(self, first: int, before: tuple[int, bytes] | None) -> LogPage | None:
        """The next page from block `first` on, or None when the chain has no such block, or was changed meanwhile.

        `before` is a block (number, hash) that the page's chain must hold. Raises ChainError.
        """
        while True:
            try:
                return self._read_page(first, before)
            except ChainRefused:
                # Nodes refuse what is too much at once, each in its own words.
                if self._page == 1:
                    raise
                self._page = self._max_page = max(1, self._page // 4)
            except ChainError:
                self._page = max(1, self._page // 2)  # it may have been too much for its time, too
                raise

    def _read_page(self, first: int, before: tuple[int, bytes] | None) -> LogPage | None:
        tip, _ = self.tip()
        if first > tip:
            return None
        last = min(tip, first + self._page - 1)
        last_hash = self.block_hash(last)
        if last_hash is None or (before is not None and self.block_hash(before[0]) != before[1]):
            return None
        logs = self._logs(first, last, self._topics)
        # One chain all the while: a last block that is the same has the same blocks before it.
        if self.block_hash(last) != last_hash:
            return None
        if len(logs) < MANY_LOGS:
            self._page = min(self._max_page, 2 * self._page)
        return LogPage(first, last, last_hash, tuple(logs))

    def _logs(self, first: int, last: int, topics: Sequence[bytes]) -> list[Log]:
        names = [f"0x{topic.hex()}" for topic in topics]
        query = {"address": self._address, "topics": [names], "fromBlock": hex(first), "toBlock": hex(last)}
        logs: list[Log] = self._chain.rpc("eth_getLogs", query)
        return [log for log in logs if not log.get("removed")]


def words_of(log: Log, count: int) -> list[int]:
    """The words of a log's data. Raises ValueError unless there are `count`."""
    data = bytes_of(log["data"])
    if len(data) != count * _WORD:
        raise ValueError(f"{len(data)} bytes of data instead of {count * _WORD}")
    return [int.from_bytes(data[at : at + _WORD], "big") for at in range(0, len(data), _WORD)]


def topic_of(log: Log, number: int) -> bytes:
    """A topic's 32 bytes; the first is the event's."""
    return bytes_of(log["topics"][number])


def number_of(text: str) -> int:
    """A number as nodes write it."""
    return int(text, 16)


def bytes_of(text: str) -> bytes:
    """Bytes as nodes write them."""
    return bytes.fromhex(text[2:])

"""The SQL index of a pool that runs: one thread fills it from the share log, one with what the chain tells.

It is beside the pool, never in its way: nothing waits for it, and whatever happens to it is a line in the log and
another attempt. After a restart each goes on where the index says that it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from pool_oracle.chain.events import DistributorEvents
from pool_oracle.errors import ChainError, CorruptLog, LedgerError, PoolOracleError
from pool_oracle.ledger.index.queries import Queries
from pool_oracle.ledger.index.rows import ChainPlace, ClaimRow, PayoutRow
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.rules import Rules

FILL_SECONDS = 1.0
"""How long the log is left alone between two looks at it."""
CHAIN_SECONDS = 3.0
"""The same for the chain."""
TURN_SECONDS = 0.003
"""How long a filler that has much to read leaves the processor to miners, after every few milliseconds of reading."""
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0
TELL_SECONDS = 15.0
"""How often a filling that takes long is spoken of."""
STOP_SECONDS = 10.0
"""How long a database that does not answer may hold up the end of the pool."""

REMEDY = "it is tried again; 'pool-oracle ledger rebuild' makes the index anew from the share log"
LOG_REMEDY = "'pool-oracle ledger verify' tells what is wrong with the share log; the index goes on when it is mended"

log = structlog.get_logger("index")


class _Stopped(Exception):
    """The pool ends."""


@dataclass(frozen=True, slots=True)
class IndexState:
    """How the index stands. `logged` is how many shares the log has.

    `level_seconds` and `chain_seconds`: how long ago it held all of the log, and all of the chain; None for never since
    the pool was started.
    """

    logged: int
    level_seconds: float | None
    chain_seconds: float | None


class Indexing:
    """Fills the index of a pool from `start` to `stop`. Any thread may read it meanwhile."""

    def __init__(
        self, url: str, folder: Path, rules: Rules, logged: Callable[[], int], events: DistributorEvents | None
    ) -> None:
        """`folder` holds the share log, `logged` tells how many shares were appended to it.

        Without `events` the chain is not asked.
        """
        self._url = url
        self._folder = folder
        self._rules = rules
        self._logged = logged
        self._events = events
        self._index: Index | None = None
        self._stopping = threading.Event()
        self._level_at: float | None = None
        self._chain_level_at: float | None = None
        self._progress = _Progress(logged)
        self._threads = [_Thread("log", self._fill, self._stopping)]
        if events is not None:
            self._threads.append(_Thread("chain", self._follow_chain, self._stopping))

    def start(self) -> None:
        """Begin, and return at once: the database need not be there."""
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """End after the row that is being written; what is not indexed yet is indexed after the next start."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            log.warning("index left", problem=f"its database has not answered for {STOP_SECONDS:.0f} seconds")
            return
        await asyncio.to_thread(self._close)

    @property
    def state(self) -> IndexState:
        """How the index stands."""
        now = time.monotonic()
        level, chain = self._level_at, self._chain_level_at
        return IndexState(
            self._logged(),
            None if level is None else now - level,
            None if chain is None else now - chain,
        )

    @contextlib.contextmanager
    def reading(self) -> Iterator[Queries]:
        """Queries that all see the same state of the index. Raises LedgerError while it is away."""
        index = self._index
        if index is None:
            raise LedgerError("the index is not open")
        with index.reading() as queries:
            yield queries

    # The log

    def _fill(self) -> float:
        """Bring the index level with the log; returns after how many seconds to do so again."""
        index = self._index or self._open()
        try:
            index.fill(self._folder, self._rules, self._progress.tell, self._take_turn)
        except CorruptLog:
            raise
        except LedgerError:
            self._close()  # it may be another database by now, or none
            raise
        self._level_at = time.monotonic()
        self._progress.is_level()
        return FILL_SECONDS

    def _open(self) -> Index:
        index = self._index = Index(self._url)
        with index.reading() as queries:
            shares = queries.shares()
        log.info("index open", index=index.name, shares=shares, behind=max(0, self._logged() - shares))
        self._progress.begin(shares)
        return index

    def _close(self) -> None:
        index, self._index = self._index, None
        if index is not None:
            index.close()

    def _take_turn(self) -> None:
        self._progress.turn()
        if self._stopping.wait(TURN_SECONDS):
            raise _Stopped

    # The chain

    def _follow_chain(self) -> float:
        """Read a page of the chain; returns after how many seconds to go on."""
        index = self._index
        if index is None or self._events is None:
            return FILL_SECONDS
        if self._read_page(index, self._events):
            return 0
        self._chain_level_at = time.monotonic()
        return CHAIN_SECONDS

    def _read_page(self, index: Index, events: DistributorEvents) -> bool:
        """Whether there may be more to read at once."""
        chain_id, distributor = events.chain_id, events.distributor
        with index.reading() as queries:
            place = queries.chain_place()
        if place is None or (place.chain_id, place.distributor) != (chain_id, distributor):
            first, before = events.first_block(), None
            log.info(
                "payouts are read from the chain", chain=chain_id, distributor=f"0x{distributor.hex()}", block=first
            )
        elif events.tip() == (place.block, place.block_hash):
            return False
        elif events.block_hash(place.block) == place.block_hash:
            first, before = place.block + 1, (place.block, place.block_hash)
        else:
            return self._go_back(index, events, place)
        page = events.page(first, before)
        if page is None:
            return True  # the chain was changed meanwhile
        last = ChainPlace(chain_id, distributor, page.last, page.last_hash)
        payouts = [PayoutRow(**asdict(event)) for event in page.payouts]
        claims = [ClaimRow(**asdict(event)) for event in page.claims]
        index.record_chain(page.first, last, payouts, claims)
        if payouts or claims:
            log.info("payouts and claims indexed", payouts=len(payouts), claims=len(claims), block=page.last)
        return True

    def _go_back(self, index: Index, events: DistributorEvents, place: ChainPlace) -> bool:
        """Forget what a reorganisation of the chain has taken back, up to the last payout or claim that it left."""
        with index.reading() as queries:
            blocks = queries.chain_blocks()
        fork = events.fork(blocks)
        block_hash = dict(blocks).get(fork)
        if block_hash is None:
            fork = max(0, events.first_block() - 1)
            block_hash = events.block_hash(fork) or b""
        log.warning("the chain was reorganised", read_to=place.block, read_again_from=fork + 1)
        index.record_chain(fork + 1, ChainPlace(place.chain_id, place.distributor, fork, block_hash), [], [])
        return True


class _Thread(threading.Thread):
    """Does one thing again and again until `stopping`; what fails is told, and tried again with growing pauses."""

    def __init__(self, what: str, step: Callable[[], float], stopping: threading.Event) -> None:
        """`step` returns the seconds until the next one."""
        # A daemon: a database that never answers must not keep the process from ending.
        super().__init__(name=f"index-{what}", daemon=True)
        self._what = what
        self._step = step
        self._stopping_event = stopping

    def run(self) -> None:
        """What the thread does."""
        failures = 0
        seconds = 0.0
        while not self._stopping_event.wait(seconds):
            try:
                seconds = self._step()
            except _Stopped:
                return
            except Exception as error:
                seconds = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 10))
                failures += 1
                _tell(self._what, error, seconds)
            else:
                if failures:
                    log.info("index goes on", source=self._what, failures=failures)
                failures = 0


def _tell(what: str, error: Exception, seconds: float) -> None:
    """One line for the operator: what is wrong, what to do, when it is tried again."""
    problem = str(error) if isinstance(error, PoolOracleError) else repr(error)
    if isinstance(error, ChainError):
        log.error("payouts not indexed", problem=problem, retry_seconds=seconds)
    else:
        remedy = LOG_REMEDY if isinstance(error, CorruptLog) else REMEDY
        log.error("index not filled", source=what, problem=problem, remedy=remedy, retry_seconds=seconds)


class _Progress:
    """Tells the operator now and then about a filling that takes long."""

    def __init__(self, logged: Callable[[], int]) -> None:
        self._logged = logged
        self._shares = 0
        self._told_at = 0.0
        self._has_told = False

    def begin(self, shares: int) -> None:
        """So many are indexed."""
        self._shares = shares
        self._told_at = time.monotonic()

    def tell(self, _size: int, shares: int) -> None:
        """So many more are."""
        self._shares += shares
        self.turn()

    def turn(self) -> None:
        """It goes on; perhaps it reads the window's shares again, which are indexed already."""
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._told_at = time.monotonic()
            self._has_told = True
            log.info("index is behind", shares=self._shares, behind=max(0, self._logged() - self._shares))

    def is_level(self) -> None:
        """All are."""
        self._told_at = time.monotonic()
        if self._has_told:
            self._has_told = False
            log.info("index is level with the log", shares=self._shares)

"""What users of a pool look up: routes that are answered from the SQL index, each by a thread with its own connection.

Every answer tells how far the index is in `Index-Shares` and `Index-Behind-Shares`. An index that is too far behind is
not asked: 503 says so. Lists are in pages of 500 rows at the most.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Response

from pool_oracle.api import answers
from pool_oracle.api.problems import AWAY, Problem
from pool_oracle.api.rendering import Rendering
from pool_oracle.errors import PayeeError
from pool_oracle.indexing import Indexing
from pool_oracle.ledger.index.batch import DAY, HOUR, MINUTE
from pool_oracle.ledger.index.queries import Queries
from pool_oracle.ledger.index.rows import HashRates
from pool_oracle.logbook import BlockState
from pool_oracle.networks import Network
from pool_oracle.payout.payee import parse_payee
from pool_oracle.units import Payee

STALE_SECONDS = 60
"""An index that was not level with the log for so long is not asked."""
STALE_CHAIN_SECONDS = 300
"""The same for what the chain tells."""
READERS = 12
"""How many threads ask at once; each takes a connection."""
ANSWER_SECONDS = 10
RATES_SECONDS = 10
"""How long the whole pool's hash rates are kept."""
MAX_ROWS = 500
MAX_BUCKETS = 1_500
BUCKETS = {"minute": MINUTE, "hour": HOUR, "day": DAY}
BIGGEST = (1 << 62) - 1

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="How many rows at the most")]
Before = Annotated[int | None, Query(ge=0, le=BIGGEST, description="Only rows below this number: `next` of a page")]
After = Annotated[int | None, Query(ge=0, le=BIGGEST, description="Only rows above this number: `next` of a page")]
Number = Annotated[int, Path(ge=0, le=BIGGEST)]
PayeeText = Annotated[str, Path(description="An address of the network, or 0x and 42 hex digits", max_length=130)]
MaybePayee = Annotated[str | None, Query(description="Only this payee's: an address, or 0x and 42 hex digits")]

BeforeClaim = Annotated[
    str | None,
    Query(pattern=r"^[0-9]{1,18}-[0-9]{1,9}$", description="Only claims before this BLOCK-LOGINDEX: `next` of a page"),
]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"model": answers.Problem, "description": "There is none"},
    422: {"model": answers.Problem, "description": "A parameter is not as it must be"},
    503: {"model": answers.Problem, "description": "The index is away, or behind: `Index-Behind-Shares` says how far"},
}


class Lookups:
    """Answers from the index of a pool."""

    def __init__(self, indexing: Indexing, network: Network) -> None:
        """`network` is the mined one: addresses are written as there."""
        self._indexing = indexing
        self._network = network
        self._show = Rendering(network)
        self._pool_rates: tuple[int, HashRates] | None = None
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="index-reader")

    def router(self) -> APIRouter:
        """The routes, below /api/v1/index."""
        router = APIRouter(prefix="/api/v1/index", tags=["index"], responses=PROBLEMS)
        routes: dict[str, Callable[..., Any]] = {
            "": self.state,
            "/history": self.history,
            "/workers": self.workers,
            "/workers/{number}": self.worker,
            "/payees": self.payees,
            "/payees/{payee}": self.payee,
            "/payees/{payee}/window": self.window,
            "/payees/{payee}/weights": self.weights,
            "/payees/{payee}/parts": self.parts,
            "/payees/{payee}/claims": self.claims_of,
            "/epochs": self.epochs,
            "/epochs/{epoch}": self.epoch,
            "/epochs/{epoch}/leaves": self.leaves,
            "/blocks": self.blocks,
            "/blocks/{hash}": self.block,
            "/payouts": self.payouts,
            "/payouts/{payout}": self.payout,
            "/claims": self.claims,
        }
        for path, route in routes.items():
            router.add_api_route(path, self._in_a_thread(route), methods=["GET"])
        return router

    def close(self) -> None:
        """Nobody asks any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _in_a_thread(self, route: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """The route by a thread of our own: a database that hangs must not take those of other routes."""

        @functools.wraps(route)
        async def answer(*arguments: Any, **parameters: Any) -> Any:
            work = functools.partial(route, *arguments, **parameters)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await asyncio.get_running_loop().run_in_executor(self._threads, work)
            except TimeoutError:
                raise Problem(503, AWAY, {"Retry-After": "10"}) from None

        return answer

    # The pool

    def state(self, response: Response) -> answers.State:
        """How the index stands: how far behind, how much it holds, and the whole pool's hash rate.

        It answers also while the index is behind.
        """
        with self._asking(response, stale=True) as ask:
            totals = ask.totals()
            state = self._indexing.state
            return answers.State(
                shares=totals.shares,
                behind_shares=max(0, state.logged - totals.shares),
                level_seconds=_rounded(state.level_seconds),
                chain_block=totals.chain_block,
                chain_seconds=_rounded(state.chain_seconds),
                workers=totals.workers,
                payees=totals.payees,
                epochs=totals.epochs,
                blocks=totals.blocks,
                payouts=totals.payouts,
                claims=totals.claims,
                hash_rates=self._show.hash_rates(self._hash_rates(ask)),
            )

    def _hash_rates(self, ask: Queries) -> HashRates:
        """The whole pool's: of thousands of workers they take a while, so they are kept for some seconds."""
        now = int(time.time())
        with self._counting:
            if self._pool_rates is None or self._pool_rates[0] != now // RATES_SECONDS:
                self._pool_rates = now // RATES_SECONDS, ask.hash_rates(now)
            return self._pool_rates[1]

    def history(
        self,
        response: Response,
        bucket: Annotated[Literal["minute", "hour", "day"], Query(description="What is added up")] = "hour",
        start: Annotated[int | None, Query(ge=0, le=BIGGEST, description="Unix seconds; a day before `end`")] = None,
        end: Annotated[int | None, Query(ge=0, le=BIGGEST, description="Unix seconds; now")] = None,
        payee: MaybePayee = None,
        worker: Annotated[int | None, Query(ge=0, le=BIGGEST, description="Only this worker's, by its number")] = None,
    ) -> list[answers.Bucket]:
        """Shares, work and hash rates over time, of the pool, a payee or a worker; empty buckets are left out.

        Minutes are kept for three hours before an epoch's close, hours for 35 days, days for ever.
        """
        who = self._given_payee(payee)
        until = int(time.time()) + 1 if end is None else end
        since = max(0, until - 86400) if start is None else start
        seconds = BUCKETS[bucket]
        if until - since > seconds * MAX_BUCKETS:
            raise Problem(
                422, f"start to end must be {MAX_BUCKETS} {bucket}s at the most; ask for less, or a longer bucket"
            )
        with self._asking(response) as ask:
            return [
                self._show.bucket(row, seconds) for row in ask.history(seconds, since, until, payee=who, worker=worker)
            ]

    # Workers and payees

    def workers(
        self, response: Response, payee: MaybePayee = None, after: After = None, limit: Limit = 100
    ) -> answers.Page[answers.Worker]:
        """Workers with their hash rates, all or a payee's, in the order in which they came."""
        who = self._given_payee(payee)
        with self._asking(response) as ask:
            rows = ask.workers(who, after=after, limit=limit)
            rates = ask.worker_hash_rates(int(time.time()), [row.number for row in rows])
            shown = [self._show.worker(row, rates.get(row.number)) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].number) if len(rows) == limit else None)

    def worker(self, response: Response, number: Number) -> answers.Worker:
        """One worker with its hash rates."""
        with self._asking(response) as ask:
            row = _found(ask.worker(number), f"worker {number}")
            rates = ask.worker_hash_rates(int(time.time()), [number])
            return self._show.worker(row, rates.get(number))

    def payees(self, response: Response, after: After = None, limit: Limit = 100) -> answers.Page[answers.PayeeSummary]:
        """Payees, in the order in which they came."""
        with self._asking(response) as ask:
            rows = ask.payees(after=after, limit=limit)
            shown = [self._show.payee(row) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].number) if len(rows) == limit else None)

    def payee(self, response: Response, payee: PayeeText) -> answers.PayeeDetail:
        """One payee: its workers together, its hash rates, what it has in the window, what it was paid."""
        who = self._payee(payee)
        with self._asking(response) as ask:
            row = _found(ask.payee(who), f"payee {payee}")
            rates = ask.hash_rates(int(time.time()), payee=who)
            return self._show.payee_detail(row, rates, ask.credit(who))

    def window(self, response: Response, payee: PayeeText) -> answers.Window:
        """A payee's shares in the window, and its weight if the epoch closed now."""
        with self._asking_for(response, payee) as (ask, who):
            return self._show.window(ask.credit(who))

    def weights(
        self, response: Response, payee: PayeeText, before: Before = None, limit: Limit = 100
    ) -> answers.Page[answers.EpochWeight]:
        """A payee's weight in each epoch that it has one in, newest first."""
        with self._asking_for(response, payee) as (ask, who):
            rows = ask.weights_of(who, before=before, limit=limit)
            shown = [self._show.epoch_weight(row) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].epoch) if len(rows) == limit else None)

    def parts(
        self, response: Response, payee: PayeeText, before: Before = None, limit: Limit = 100
    ) -> answers.Page[answers.Part]:
        """What a payee gets, or got, of each payout, newest payout first.

        `/api/v1/proof/PAYOUT/PAYEE` has what the contract wants to see for it.
        """
        with self._asking_for(response, payee, chain=True) as (ask, who):
            rows = ask.parts(who, before=before, limit=limit)
            shown = [self._show.part(row) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].payout) if len(rows) == limit else None)

    def claims_of(
        self, response: Response, payee: PayeeText, before: BeforeClaim = None, limit: Limit = 100
    ) -> answers.Page[answers.Claim]:
        """What a payee was paid, newest first."""
        with self._asking_for(response, payee, chain=True) as (ask, who):
            return self._claims(ask, who, before, limit)

    # Epochs and blocks

    def epochs(self, response: Response, before: Before = None, limit: Limit = 100) -> answers.Page[answers.Epoch]:
        """Closed epochs, newest first."""
        with self._asking(response) as ask:
            rows = ask.epochs(before=before, limit=limit)
            shown = [self._show.epoch(row) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].epoch) if len(rows) == limit else None)

    def epoch(self, response: Response, epoch: Number) -> answers.Epoch:
        """One closed epoch. Epoch 0, which pays the policy's genesis payee, is not in the log."""
        with self._asking(response) as ask:
            return self._show.epoch(_found(ask.epoch(epoch), f"closed epoch {epoch}"))

    def leaves(
        self,
        response: Response,
        epoch: Number,
        after: Annotated[str | None, Query(description="`next` of a page: a payee")] = None,
        limit: Limit = 100,
    ) -> answers.Page[answers.Leaf]:
        """Every payee's weight in an epoch, ascending by payee, as in the sum tree."""
        last = self._given_payee(after)
        with self._asking(response) as ask:
            _found(ask.epoch(epoch), f"closed epoch {epoch}")
            rows = ask.weights(epoch, after=last, limit=limit)
            shown = [self._show.leaf(payee, weight) for payee, weight in rows]
            return answers.Page(rows=shown, next=shown[-1].payee if len(rows) == limit else None)

    def blocks(
        self,
        response: Response,
        state: Annotated[BlockState | None, Query(description="Only blocks in this state")] = None,
        before: Before = None,
        limit: Limit = 100,
    ) -> answers.Page[answers.Block]:
        """Found blocks and what became of them, newest first."""
        with self._asking(response) as ask:
            rows = ask.blocks(before=before, state=None if state is None else state.value, limit=limit)
            shown = [self._show.block(row) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].number) if len(rows) == limit else None)

    def block(
        self,
        response: Response,
        hash: Annotated[str, Path(pattern="^[0-9a-fA-F]{64}$", description="In display order")],
    ) -> answers.Block:
        """One found block and what became of it."""
        with self._asking(response) as ask:
            return self._show.block(_found(ask.block(bytes.fromhex(hash)[::-1]), f"found block {hash}"))

    # What the chain told

    def payouts(self, response: Response, before: Before = None, limit: Limit = 100) -> answers.Page[answers.Payout]:
        """Payouts of the distributor, newest first."""
        with self._asking(response, chain=True) as ask:
            rows = ask.payouts(before=before, limit=limit)
            shown = [self._show.payout(row) for row in rows]
            return answers.Page(rows=shown, next=str(rows[-1].number) if len(rows) == limit else None)

    def payout(self, response: Response, payout: Number) -> answers.Payout:
        """One payout of the distributor, by its number there."""
        with self._asking(response, chain=True) as ask:
            return self._show.payout(_found(ask.payout(payout), f"payout {payout}"))

    def claims(self, response: Response, before: BeforeClaim = None, limit: Limit = 100) -> answers.Page[answers.Claim]:
        """Payments to payees, newest first."""
        with self._asking(response, chain=True) as ask:
            return self._claims(ask, None, before, limit)

    def _claims(self, ask: Queries, payee: Payee | None, before: str | None, limit: int) -> answers.Page[answers.Claim]:
        block, _, log_index = (before or "").partition("-")
        rows = ask.claims(payee, before=(int(block), int(log_index)) if before else None, limit=limit)
        shown = [self._show.claim(row) for row in rows]
        more = f"{rows[-1].block}-{rows[-1].log_index}" if len(rows) == limit else None
        return answers.Page(rows=shown, next=more)

    # Asking

    @contextlib.contextmanager
    def _asking(self, response: Response, *, chain: bool = False, stale: bool = False) -> Iterator[Queries]:
        """Queries, and in the answer how far the index is. Raises Problem where that is not far enough."""
        with self._indexing.reading() as ask:
            state, shares = self._indexing.state, ask.shares()
            headers = {"Index-Shares": str(shares), "Index-Behind-Shares": str(max(0, state.logged - shares))}
            if not stale:
                _check_age(state.level_seconds, STALE_SECONDS, "the share log", headers)
                if chain:
                    _check_age(state.chain_seconds, STALE_CHAIN_SECONDS, "the distributor's chain", headers)
            response.headers.update(headers)
            yield ask

    @contextlib.contextmanager
    def _asking_for(self, response: Response, text: str, *, chain: bool = False) -> Iterator[tuple[Queries, Payee]]:
        """The same about a payee, which there must be."""
        who = self._payee(text)
        with self._asking(response, chain=chain) as ask:
            if not ask.is_payee(who):
                raise _none(f"payee {text}")
            yield ask, who

    def _payee(self, text: str) -> Payee:
        try:
            return parse_payee(text, self._network)
        except PayeeError as error:
            raise Problem(422, f"payee: {error}") from None

    def _given_payee(self, text: str | None) -> Payee | None:
        return None if text is None else self._payee(text)


def _found(row: T | None, what: str) -> T:
    if row is None:
        raise _none(what)
    return row


def _check_age(seconds: float | None, most: float, what: str, headers: dict[str, str]) -> None:
    if seconds is not None and seconds <= most:
        return
    since = "since the pool was started" if seconds is None else f"for {seconds:.0f} seconds"
    behind = f"({headers['Index-Behind-Shares']} shares of the log are not in it)"
    text = f"the index has not been level with {what} {since} {behind}; it goes on by itself, try again later"
    raise Problem(503, text, headers | {"Retry-After": "10"})


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _none(what: str) -> Problem:
    return Problem(404, f"there is no {what} in the index")

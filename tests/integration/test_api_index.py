"""What the API answers from the index, about a log whose every share is known, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pool_oracle import indexing as indexing_module
from pool_oracle.api import lookups as lookups_module
from pool_oracle.api.lookups import Lookups
from pool_oracle.api.problems import AWAY, handle_problems
from pool_oracle.chain.events import ClaimEvent, EventPage, PayoutEvent
from pool_oracle.indexing import Indexing, IndexState
from pool_oracle.ledger.index.batch import DAY, HOUR
from pool_oracle.networks import network_named
from pool_oracle.payout.payee import address_of, format_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.units import Payee, Wei
from pool_oracle.work.share import display
from tests.integration.databases import NewUrl
from tests.integration.synthetic_log import HALF, RULES, LogWriter, payee

REGTEST = network_named("regtest")
DISTRIBUTOR = b"\x0d" * 20
STRANGER = Payee(b"\x00" + b"\x77" * 20)


class ToldChain:
    """A chain of ten blocks, at the seam between the index and whoever asks a node."""

    chain_id = 31337
    distributor = DISTRIBUTOR

    def __init__(self, payouts: list[PayoutEvent], claims: list[ClaimEvent]) -> None:
        self._page = EventPage(0, 10, block_hash(10), tuple(payouts), tuple(claims))

    def first_block(self) -> int:
        return 0

    def tip(self) -> tuple[int, bytes]:
        return 10, block_hash(10)

    def block_hash(self, number: int) -> bytes:
        return block_hash(number)

    def page(self, first: int, before: Any) -> EventPage | None:
        return self._page if first == 0 and before is None else None


def block_hash(number: int) -> bytes:
    return number.to_bytes(32, "big")


def payout_event(number: int, root: bytes, epoch: int | None, amount: int) -> PayoutEvent:
    transaction = bytes((0xF0, number)) * 16
    return PayoutEvent(number, root, epoch, Wei(amount), Wei(3), 1_700_000_100, 5, block_hash(5), transaction)


def claim_event(who: Payee, payouts: tuple[int, ...], amount: int, log_index: int) -> ClaimEvent:
    return ClaimEvent(who, who[1:], payouts, Wei(amount), 7, log_index, block_hash(7), bytes((log_index,)) * 32)


class Known:
    """The log that all tests here ask about, and the routes over its index."""

    AMOUNT = 3 * 10**20 + 11

    def __init__(self, folder: Path) -> None:
        log = self.log = LogWriter(folder)
        now = int(time.time())
        self.hour = now - now % HOUR
        log.now = (self.hour - 2 * HOUR) * 1_000_000
        self.blocks: list[bytes] = []
        for number in range(60):  # a share a minute of workers 0 to 6, of payees 0 to 4
            log.share(number % 7, seconds=60)
            if number in (20, 40):
                self.blocks.append(log.block(number % 7, state="mature" if number == 20 else "best"))
                log.close()
        log.share(1, bits=HALF, seconds=60)
        self.blocks.append(log.block(3, state=None))
        log.finish()
        self.roots = {n: SumTree(weights.items()).root for n, weights in log.weights.items()}
        self.chain = ToldChain(
            [
                payout_event(0, self.roots[1], 1, self.AMOUNT),
                payout_event(1, b"\x05" * 32, None, 9),
                payout_event(2, self.roots[2], None, self.AMOUNT),
            ],
            [claim_event(payee(1), (0, 2), 5 * 10**19, 3), claim_event(payee(2), (0,), 7, 4)],
        )


class Client:
    """Asks an application, without a network between."""

    def __init__(self, api: FastAPI, runner: asyncio.Runner) -> None:
        self._transport = httpx.ASGITransport(app=api)
        self.run = runner.run

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.run(self.ask(path, parameters))

    async def ask(self, path: str, parameters: dict[str, Any]) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://pool") as client:
            return await client.get(path, params=parameters)


class Asker:
    """Asks the routes about a log."""

    def __init__(self, client: Client, known: Known, indexing: Indexing) -> None:
        self.client = client
        self.known = known
        self.indexing = indexing

    def __call__(self, path: str, **parameters: Any) -> Any:
        """The answer's JSON."""
        answer = self.get(path, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.client.get(f"/api/v1/index{path}", **parameters)

    def refused(self, path: str, status: int, **parameters: Any) -> str:
        """What the refusal says."""
        answer = self.get(path, **parameters)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        body = answer.json()
        assert body["status"] == status
        return str(body["detail"])

    def pages(self, path: str, key: str = "before", **parameters: Any) -> list[Any]:
        """All rows, by two a page."""
        rows: list[Any] = []
        more: dict[str, Any] = {}
        while True:
            page = self(path, limit=2, **more, **parameters)
            assert len(page["rows"]) <= 2
            rows += page["rows"]
            if page["next"] is None:
                return rows
            more = {key: page["next"]}


@contextlib.contextmanager
def routes_over(indexing: Indexing) -> Iterator[Client]:
    api = FastAPI()
    handle_problems(api)
    lookups = Lookups(indexing, REGTEST)
    api.include_router(lookups.router())
    with asyncio.Runner() as runner:
        yield Client(api, runner)
        lookups.close()


@contextlib.contextmanager
def asking(url: str, known: Known) -> Iterator[Asker]:
    """Routes over an index that is filled and goes on being filled."""
    indexing = Indexing(url, known.log.folder, RULES, lambda: known.log.sequence, known.chain)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing_module, "FILL_SECONDS", 0.05)
        patch.setattr(indexing_module, "CHAIN_SECONDS", 0.05)
        with routes_over(indexing) as client:
            indexing.start()
            deadline = time.monotonic() + 30
            while indexing.state.level_seconds is None or indexing.state.chain_seconds is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            try:
                yield Asker(client, known, indexing)
            finally:
                client.run(indexing.stop())


@pytest.fixture
def ask(new_url: NewUrl, tmp_path: Path) -> Iterator[Asker]:
    """Asks about the known log."""
    with asking(new_url(), Known(tmp_path)) as asker:
        yield asker


# What it says


def test_the_state_says_how_far_the_index_is(ask: Asker) -> None:
    state = ask("")
    assert (state["shares"], state["behindShares"], state["chainBlock"]) == (61, 0, 10)
    counts = [state[name] for name in ("workers", "payees", "epochs", "blocks", "payouts", "claims")]
    assert counts == [7, 5, 2, 3, 3, 2]
    assert 0 <= state["levelSeconds"] < 5
    assert 0 <= state["chainSeconds"] < 5
    answer = ask.get("/epochs")
    assert (answer.headers["index-shares"], answer.headers["index-behind-shares"]) == ("61", "0")


def test_workers_come_with_their_hash_rates(ask: Asker) -> None:
    rows = ask("/workers")["rows"]
    assert [row["number"] for row in rows] == list(range(7))
    assert [row["shares"] for row in rows] == [9, 10, 9, 9, 8, 8, 8]
    assert sum(int(row["work"]) for row in rows) == 60 * 1023 + work(HALF)
    first = rows[0]
    assert (first["worker"], first["payee"]) == ("rig 0", format_payee(payee(0)))
    assert first["address"] == address_of(payee(0), REGTEST)
    begin = ask.known.hour - 2 * HOUR
    assert (first["firstShare"], first["lastShare"]) == (begin + 60, begin + 57 * 60)
    assert first["hashRates"]["day"] == str(9 * 1023 // DAY)
    assert ask("/workers/0") == first
    assert ask.pages("/workers", "after") == rows
    mine = ask("/workers", payee=format_payee(payee(1)))["rows"]
    assert [row["number"] for row in mine] == [1, 6]
    assert ask("/workers", payee=address_of(payee(1), REGTEST))["rows"] == mine


def work(bits: int) -> int:
    target = (bits & 0x7FFFFF) << 8 * ((bits >> 24) - 3)
    return (1 << 256) // (target + 1)


def test_hash_rates_are_means_of_ten_minutes_an_hour_and_a_day(
    new_url: NewUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(tmp_path)
    last = known.hour - HOUR + 120

    with asking(new_url(), known) as ask:
        monkeypatch.setattr(lookups_module, "time", SimpleNamespace(time=lambda: last))
        rates = ask("/payees/" + format_payee(payee(1)))["hashRates"]
        tens = [n for n in range(52, 60) if (n % 7) % 5 == 1]
        assert rates["tenMinutes"] == str((len(tens) * 1023 + work(HALF)) // 600)
        hours = [n for n in range(2, 60) if (n % 7) % 5 == 1]
        assert rates["hour"] == str((len(hours) * 1023 + work(HALF)) // HOUR)
        days = [n for n in range(59) if (n % 7) % 5 == 1]
        assert rates["day"] == str(len(days) * 1023 // DAY)
        assert int(ask("")["hashRates"]["hour"]) >= int(rates["hour"])


def test_a_payee_is_its_workers_together_with_its_window_and_what_it_was_paid(ask: Asker) -> None:
    log = ask.known.log
    rows = ask("/payees")["rows"]
    assert [row["payee"] for row in rows] == [format_payee(payee(n)) for n in range(5)]
    assert ask.pages("/payees", "after") == rows
    detail = ask(f"/payees/{address_of(payee(1), REGTEST)}")
    assert {name: detail[name] for name in rows[1]} == rows[1]
    assert (detail["workers"], detail["shares"], detail["claimed"]) == (2, 18, str(5 * 10**19))
    assert detail["weight"] == str(log.weights[2][payee(1)])
    window = {
        "shares": 18,
        "weight": str(log.window.weights[payee(1)]),
        "total": str(log.window.total),
        "firstShare": log.window.first_sequence,
    }
    assert detail["window"] == ask(f"/payees/{format_payee(payee(1))}/window") == window
    assert int(window["weight"]) > S // 2


def test_epochs_their_leaves_and_a_payees_weights(ask: Asker) -> None:
    known = ask.known
    rows = ask("/epochs")["rows"]
    assert [row["epoch"] for row in rows] == [2, 1]
    assert [(row["firstShare"], row["closingShare"]) for row in rows] == [(0, 40), (0, 20)]
    assert [row["root"] for row in rows] == [f"0x{known.roots[n].hex()}" for n in (2, 1)]
    assert ask("/epochs", before=2)["rows"] == [rows[1]] == [ask("/epochs/1")]
    leaves = ask.pages("/epochs/2/leaves", "after")
    weights = sorted(known.log.weights[2].items())
    assert leaves == [
        {"payee": format_payee(who), "address": address_of(who, REGTEST), "weight": str(weight)}
        for who, weight in weights
    ]
    assert rows[0]["total"] == str(sum(weight for _, weight in weights))
    assert ask(f"/payees/{format_payee(payee(3))}/weights")["rows"] == [
        {"epoch": n, "weight": str(known.log.weights[n][payee(3)]), "total": str(sum(known.log.weights[n].values()))}
        for n in (2, 1)
    ]


def test_blocks_and_their_states(ask: Asker) -> None:
    hashes = [display(block) for block in ask.known.blocks]
    rows = ask("/blocks")["rows"]
    assert [row["hash"] for row in rows] == hashes[::-1]
    assert [row["state"] for row in rows] == ["submitted", "best", "mature"]
    assert [row["worker"] for row in rows] == ["rig 3", "rig 5", "rig 6"]
    assert [row["payee"] for row in rows] == [format_payee(payee(n)) for n in (3, 0, 1)]
    assert ask.pages("/blocks") == rows
    assert ask("/blocks", state="best")["rows"] == [rows[1]]
    assert ask("/blocks", state="orphaned")["rows"] == []
    assert ask(f"/blocks/{hashes[0]}") == rows[2]
    assert ask(f"/blocks/{hashes[0].upper()}") == rows[2]


def test_payouts_parts_and_claims(ask: Asker) -> None:
    known = ask.known
    rows = ask("/payouts")["rows"]
    assert [(row["payout"], row["epoch"], row["amount"]) for row in rows] == [
        (2, 2, str(known.AMOUNT)),
        (1, None, "9"),
        (0, 1, str(known.AMOUNT)),
    ]
    assert {row["blockHash"] for row in rows} == {f"0x{block_hash(5).hex()}"}
    assert ask.pages("/payouts") == rows
    assert ask("/payouts/1") == rows[1]
    parts = ask(f"/payees/{format_payee(payee(1))}/parts")["rows"]
    for part, epoch in zip(parts, (2, 1), strict=True):
        weights = known.log.weights[epoch]
        assert part["amount"] == str(known.AMOUNT * weights[payee(1)] // sum(weights.values()))
        assert part["claimed"] is True
    assert [part["claimed"] for part in ask(f"/payees/{format_payee(payee(2))}/parts")["rows"]] == [False, True]
    claims = ask("/claims")["rows"]
    assert [(row["payee"], row["payouts"]) for row in claims] == [
        (format_payee(payee(2)), [0]),
        (format_payee(payee(1)), [0, 2]),
    ]
    assert ask.pages("/claims") == claims
    assert ask(f"/payees/{format_payee(payee(1))}/claims")["rows"] == [claims[1]]
    assert ask(f"/payees/{format_payee(payee(3))}/claims")["rows"] == []


def test_history_is_in_buckets(ask: Asker) -> None:
    hour = ask.known.hour
    rows = ask("/history", start=hour - 2 * HOUR, end=hour)
    assert [row["start"] for row in rows] == [hour - 2 * HOUR, hour - HOUR]
    assert [row["shares"] for row in rows] == [59, 2]
    assert rows[0]["work"] == str(59 * 1023)
    assert rows[0]["hashRate"] == str(59 * 1023 // HOUR)
    minutes = ask("/history", bucket="minute", start=hour - 2 * HOUR, end=hour, payee=format_payee(payee(4)))
    assert sum(row["shares"] for row in minutes) == 8
    assert ask("/history", bucket="day", end=hour - 30 * DAY) == []
    assert sum(row["shares"] for row in ask("/history", worker=2)) == 9


# What it refuses


def test_what_there_is_none_of_is_404_and_says_what_was_asked_for(ask: Asker) -> None:
    stranger = format_payee(STRANGER)
    for path, what in (
        ("/workers/7", "worker 7"),
        ("/epochs/0", "closed epoch 0"),
        ("/epochs/3/leaves", "closed epoch 3"),
        ("/payouts/3", "payout 3"),
        (f"/blocks/{'ab' * 32}", f"found block {'ab' * 32}"),
        *((f"/payees/{stranger}{of}", f"payee {stranger}") for of in ("", "/window", "/weights", "/parts", "/claims")),
    ):
        assert ask.refused(path, 404) == f"there is no {what} in the index"
    assert ask("/workers", payee=stranger) == {"rows": [], "next": None}


@pytest.mark.parametrize(
    ("path", "parameters", "said"),
    [
        ("/workers", {"limit": 501}, "query parameter limit: Input should be less than or equal to 500, not '501'"),
        ("/workers", {"limit": "many"}, "query parameter limit: Input should be a valid integer"),
        ("/epochs", {"before": -1}, "query parameter before: Input should be greater than or equal to 0, not '-1'"),
        ("/blocks", {"before": 1 << 63}, "query parameter before"),
        (
            "/blocks",
            {"state": "lost"},
            "'submitted', 'accepted', 'rejected', 'best', 'orphaned' or 'mature', not 'lost'",
        ),
        ("/blocks/12", {}, "path parameter hash"),
        ("/claims", {"before": "7"}, "query parameter before"),
        ("/payouts/none", {}, "path parameter payout: Input should be a valid integer"),
        ("/payees/nobody", {}, "payee: "),
        ("/payees/bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", {}, "payee: "),
        ("/workers", {"payee": "0x12"}, "payee: "),
        ("/epochs/1/leaves", {"after": "0x12"}, "payee: "),
        (
            "/history",
            {"bucket": "week"},
            "query parameter bucket: Input should be 'minute', 'hour' or 'day', not 'week'",
        ),
        ("/history", {"bucket": "minute", "start": 0}, "start to end must be 1500 minutes at the most"),
    ],
)
def test_a_wrong_parameter_is_422_and_says_what_would_be_right(
    ask: Asker, path: str, parameters: dict[str, Any], said: str
) -> None:
    assert said in ask.refused(path, 422, **parameters)


class Stuck:
    """An index that is filled no more."""

    def __init__(self, indexing: Indexing, state: IndexState) -> None:
        self.state, self.reading = state, indexing.reading


@pytest.mark.parametrize("level", [None, 61.0])
def test_an_index_that_is_behind_is_503_and_says_how_far(new_url: NewUrl, tmp_path: Path, level: float | None) -> None:
    known = Known(tmp_path)
    with asking(new_url(), known) as ask:
        stuck: Any = Stuck(ask.indexing, IndexState(70, level, 1.0))
        with routes_over(stuck) as client:
            answer = client.get("/api/v1/index/epochs")
            assert (answer.status_code, answer.headers["index-behind-shares"]) == (503, "9")
            assert answer.headers["retry-after"] == "10"
            since = "for 61 seconds" if level else "since the pool was started"
            text = f"not been level with the share log {since} (9 shares of the log are not in it)"
            assert text in answer.json()["detail"]
            assert client.get("/api/v1/index").json()["behindShares"] == 9
            stuck.state = IndexState(70, 1.0, None)
            assert client.get("/api/v1/index/epochs").status_code == 200
            detail = client.get("/api/v1/index/payouts").json()["detail"]
            assert "not been level with the distributor's chain since" in detail


def test_an_index_that_is_away_is_503_and_tells_nobody_where_it_was(tmp_path: Path) -> None:
    known = Known(tmp_path / "log")
    indexing = Indexing(f"sqlite:///{tmp_path}/index.sqlite", known.log.folder, RULES, lambda: 0, None)
    with routes_over(indexing) as client:
        for path in ("", "/workers", "/payouts/1"):
            answer = client.get(f"/api/v1/index{path}")
            assert (answer.status_code, answer.json()["detail"]) == (503, AWAY)


# What it says of itself


def test_every_route_and_field_is_explained(ask: Asker) -> None:
    schema = ask.client.get("/openapi.json").json()
    paths = {path: item["get"] for path, item in schema["paths"].items()}
    assert len(paths) == 18
    for path, route in paths.items():
        assert len(route["description"]) > 12, path
        assert {"200", "404", "422", "503"} <= set(route["responses"]), path
        for parameter in route.get("parameters", []):
            assert parameter.get("description") or parameter["schema"]["type"] == "integer", (path, parameter)
    for name, item in schema["components"]["schemas"].items():
        if name not in ("HTTPValidationError", "ValidationError"):
            assert item["description"], name


def test_a_database_that_hangs_is_503_and_takes_no_thread_of_others(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(lookups_module, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(ask.indexing, "reading", lambda: answer.wait(20))

    async def many() -> list[httpx.Response]:
        return list(await asyncio.gather(*(ask.client.ask("/api/v1/index/workers", {}) for _ in range(60))))

    began = time.monotonic()
    answers = ask.client.run(many())
    answer.set()
    assert time.monotonic() - began < 5
    assert {(one.status_code, one.json()["detail"]) for one in answers} == {(503, AWAY)}


def test_two_hundred_askers_at_once_are_answered(ask: Asker) -> None:
    async def all_at_once() -> set[int]:
        answers = await asyncio.gather(*(ask.client.ask("/api/v1/index/workers", {}) for _ in range(200)))
        return {answer.status_code for answer in answers}

    assert ask.client.run(all_at_once()) == {200}

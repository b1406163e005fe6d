"""The index beside a pool that runs: it follows log and chain, whatever happens to pool, database and chain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from sqlalchemy import text
from structlog.testing import capture_logs

from pool_oracle import indexing as indexing_module
from pool_oracle.app import PoolApp
from pool_oracle.chain.anvil import Anvil
from pool_oracle.chain.events import DistributorEvents
from pool_oracle.config import Config
from pool_oracle.errors import LedgerError
from pool_oracle.indexing import Indexing
from pool_oracle.ledger.index import filling
from pool_oracle.ledger.index.database import Database, sqlite_url
from pool_oracle.ledger.index.rows import ChainPlace, ClaimRow, PayoutRow
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.sharelog import segment_files, segment_name
from pool_oracle.ledger_commands import run_rebuild
from tests.integration.databases import NewUrl, PostgresServer, expected_digest, running_postgresql
from tests.integration.distributor_history import DistributorHistory
from tests.integration.synthetic_log import RULES, LogWriter, write_log
from tests.integration.test_oracle import ALICE, BOB, mine

Logs = list[Any]


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    """What was logged so far; also by threads that were there before."""
    monkeypatch.setattr(indexing_module, "log", structlog.get_logger("index"))
    with capture_logs() as captured:
        yield captured


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait a second for each look."""
    monkeypatch.setattr(indexing_module, "FILL_SECONDS", 0.02)
    monkeypatch.setattr(indexing_module, "CHAIN_SECONDS", 0.02)
    monkeypatch.setattr(indexing_module, "FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(indexing_module, "LAST_RETRY_SECONDS", 0.2)


@contextlib.asynccontextmanager
async def filling_from(
    url: str, folder: Path, *, logged: Callable[[], int] = lambda: 0, events: DistributorEvents | None = None
) -> AsyncIterator[Indexing]:
    """Something that fills an index of synthetic logs."""
    indexing = Indexing(url, folder, RULES, logged, events)
    indexing.start()
    try:
        yield indexing
    finally:
        await indexing.stop()


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for a state."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def shares_in(indexing: Indexing) -> int:
    """How many shares the index has; -1 while it is away."""
    try:
        with indexing.reading() as ask:
            return ask.shares()
    except LedgerError:
        return -1


def events_of(logs: Logs) -> list[str]:
    return [entry["event"] for entry in logs]


def chain_digest(events: DistributorEvents, url: str) -> bytes:
    """The digest of an index that read the whole chain in one go, and no log."""
    with Index(url) as index:
        page = events.page(0, None)
        assert page is not None
        place = ChainPlace(events.chain_id, events.distributor, page.last, page.last_hash)
        assert (page.last, page.last_hash) == events.tip()
        index.record_chain(0, place, map(payout_row, page.payouts), map(claim_row, page.claims))
        return index.digest()


def payout_row(event: Any) -> PayoutRow:
    return PayoutRow(**{name: getattr(event, name) for name in PayoutRow.__slots__})


def claim_row(event: Any) -> ClaimRow:
    return ClaimRow(**{name: getattr(event, name) for name in ClaimRow.__slots__})


# A pool that runs


def test_the_index_of_a_running_pool_equals_a_rebuilt_one(new_url: NewUrl, deployed: Config, tmp_path: Path) -> None:
    url = new_url()
    config = msgspec.structs.replace(deployed, index=msgspec.structs.replace(deployed.index, url=url))

    async def run() -> None:
        app = PoolApp(config, register_rewards=False)
        await app.start()
        try:
            await mine(app, ALICE, 20)
            await app.keeper.close()
            await mine(app, BOB, 1, block=True)
            epoch = await app.keeper.close()
            assert epoch is not None
            funded = app.distributor.contract.functions.fund(epoch.root, epoch.manifest_hash)
            await asyncio.to_thread(app.operator.send, funded, value=10**18)
            await until(lambda: shares_in(app.indexing) == app.log.next_sequence == 21)
            tip = DistributorEvents(app.chain, app.distributor.address).tip()
            await until(lambda: place_of(app.indexing) == tip)
            with app.indexing.reading() as ask:
                assert [row.name for row in ask.workers(ALICE)] == ["rig"]
                assert [row.epoch for row in ask.epochs()] == [2, 1]
                assert ask.epochs()[0].root == epoch.root
                assert ask.blocks()[0].payee == BOB
                (payout,) = ask.payouts()
                assert (payout.root, payout.epoch) == (epoch.root, 2)
                parts = [ask.parts(who)[0].part for who in (ALICE, BOB)]
                assert sum(parts) in (payout.amount, payout.amount - 1)
        finally:
            await app.stop()
        assert app.indexing.state.level_seconds is not None

    def place_of(indexing: Indexing) -> tuple[int, bytes] | None:
        with indexing.reading() as ask:
            place = ask.chain_place()
        return place and (place.block, place.block_hash)

    asyncio.run(run())
    with Index(url) as index, Index(new_url()) as again:
        index.fill(config.shares, config.log_rules)  # what came after the last look: the pool's end
        with index.reading() as ask:
            place, payouts, claims = ask.chain_place(), ask.payouts(), ask.claims()
        assert place is not None
        again.fill(config.shares, config.log_rules)
        unnamed = [msgspec_free(row, epoch=None) for row in payouts]
        again.record_chain(0, place, unnamed, claims)
        assert again.digest() == index.digest()


def msgspec_free(row: PayoutRow, **changes: Any) -> PayoutRow:
    return PayoutRow(**{name: getattr(row, name) for name in PayoutRow.__slots__} | changes)


def test_a_pool_whose_index_never_comes_takes_shares_and_commits_as_ever(deployed: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = sqlite_url(tmp_path / "file" / "index.sqlite")
    config = msgspec.structs.replace(deployed, index=msgspec.structs.replace(deployed.index, url=url))

    async def run() -> None:
        app = PoolApp(config, register_rewards=False)
        await app.start()
        try:
            await mine(app, ALICE, 3)
            assert (await app.keeper.close()) is not None
            assert shares_in(app.indexing) == -1
            assert app.failure is not None
            assert not app.failure.done()
        finally:
            await app.stop()

    asyncio.run(run())


CHILD = Path(__file__).with_name("indexing_child.py")


def test_a_pool_that_is_killed_again_and_again_indexes_every_share_once(new_url: NewUrl, tmp_path: Path) -> None:
    url, folder = new_url(), tmp_path / "log"
    acknowledged = indexed = 0
    for round_number in range(6):
        child = subprocess.Popen(
            [sys.executable, str(CHILD), url, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        wanted = indexed + 100 + 130 * round_number
        while indexed < wanted:
            acknowledged, indexed = map(int, child.stdout.readline().split())
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    expected = expected_digest(folder)
    with Index(url) as index:
        with index.reading() as ask:
            before = ask.shares()
        assert before > 0
        assert before + index.fill(folder, RULES) > acknowledged
        assert index.digest() == expected


# Databases that are not as they must be


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may stop."""
    with running_postgresql() as running:
        yield running


def test_a_database_that_goes_away_and_comes_back_is_filled_on(
    server: PostgresServer, logs: Logs, tmp_path: Path
) -> None:
    log = LogWriter(tmp_path / "log")
    flush = log._file.flush
    for _ in range(100):
        log.share()
    flush()

    async def run() -> None:
        async with filling_from(server.url, log.folder, logged=lambda: log.sequence) as indexing:
            await until(lambda: shares_in(indexing) == 100)
            await asyncio.to_thread(server.stop)
            for _ in range(100):
                log.share()
            flush()
            await until(lambda: events_of(logs).count("index not filled") > 2)
            assert shares_in(indexing) == -1
            level = indexing.state.level_seconds
            assert level is not None
            assert level > 0.05
            server.start()  # here, since it ends with the thread that started it
            await until(lambda: shares_in(indexing) == 200)

    asyncio.run(run())
    log.finish()
    failures = [entry for entry in logs if entry["event"] == "index not filled"]
    assert all("'pool-oracle ledger rebuild'" in entry["remedy"] for entry in failures)
    assert all("postgresql://pool" in entry["problem"] for entry in failures)
    pauses = [entry["retry_seconds"] for entry in failures]
    assert pauses[:3] == [0.05, 0.1, 0.2]
    assert max(pauses) == 0.2
    assert "index goes on" in events_of(logs)
    with Index(server.url) as index:
        assert index.fill(log.folder, RULES) == 0
        assert index.digest() == expected_digest(log.folder)


def test_a_database_that_is_there_only_later_is_filled_then(server: PostgresServer, tmp_path: Path) -> None:
    log = write_log(tmp_path, "sscss")
    server.stop()

    async def run() -> None:
        async with filling_from(server.url, log.folder) as indexing:
            await asyncio.sleep(0.2)
            assert indexing.state.level_seconds is None
            server.start()  # here, since it ends with the thread that started it
            await until(lambda: shares_in(indexing) == 4)

    asyncio.run(run())


def test_an_index_of_another_log_is_named_with_its_remedy_which_helps_while_the_pool_runs(
    new_url: NewUrl, logs: Logs, tmp_path: Path
) -> None:
    other, log = write_log(tmp_path / "other", "SSSScSSS"), write_log(tmp_path / "log", "ssssc")
    url = new_url()
    with Index(url) as index:
        index.fill(other.folder, RULES)

    async def run() -> None:
        async with filling_from(url, log.folder) as indexing:
            await until(lambda: "index not filled" in events_of(logs))
            await asyncio.to_thread(run_rebuild, log.folder, RULES, url)
            await until(lambda: shares_in(indexing) == 4)
            await until(lambda: indexing.state.level_seconds is not None)

    asyncio.run(run())
    (failure, *_) = [entry for entry in logs if entry["event"] == "index not filled"]
    assert "does not follow from the log" in failure["problem"]
    assert "'pool-oracle ledger rebuild'" in failure["problem"]
    with Index(url) as index:
        assert index.digest() == expected_digest(log.folder)


def test_an_index_of_a_later_version_is_named_with_its_remedy(new_url: NewUrl, logs: Logs, tmp_path: Path) -> None:
    log, url = write_log(tmp_path, "sss"), new_url()
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text("UPDATE index_version SET version_num = '9999'"))
    database.close()

    async def run() -> None:
        async with filling_from(url, log.folder) as indexing:
            await until(lambda: events_of(logs).count("index not filled") > 1)
            await asyncio.to_thread(run_rebuild, log.folder, RULES, url)
            await until(lambda: shares_in(indexing) == 3)

    asyncio.run(run())
    assert "a schema that this version does not know" in logs[0]["problem"]


def test_an_index_that_another_process_fills_is_named_and_filled_when_that_has_ended(
    new_url: NewUrl, logs: Logs, tmp_path: Path
) -> None:
    log, url = write_log(tmp_path, "sss"), new_url()

    async def run() -> None:
        with Index(url, fresh=True):  # whoever rebuilds has it until it has filled it
            async with filling_from(url, log.folder) as indexing:
                await until(lambda: events_of(logs).count("index not filled") > 1)
                assert shares_in(indexing) in (-1, 0)
        async with filling_from(url, log.folder) as indexing:
            await until(lambda: shares_in(indexing) == 3)

    asyncio.run(run())
    failure = next(entry for entry in logs if entry["event"] == "index not filled")
    assert "another process fills this index" in failure["problem"]


def test_a_rebuild_while_the_pool_runs_ends_with_the_same_index(new_url: NewUrl, tmp_path: Path) -> None:
    log, url = write_log(tmp_path, "sSbsc" * 40), new_url()

    async def run() -> None:
        async with filling_from(url, log.folder) as indexing:
            await until(lambda: shares_in(indexing) == log.sequence)
            for _ in range(5):
                report = await asyncio.to_thread(run_rebuild, log.folder, RULES, url)
                assert report["shares"] == log.sequence
            await until(lambda: shares_in(indexing) == log.sequence)

    asyncio.run(run())
    with Index(url) as index:
        assert index.digest() == expected_digest(log.folder)


def test_a_file_that_somebody_removes_is_made_again(logs: Logs, tmp_path: Path) -> None:
    log, path = write_log(tmp_path / "log", "sscss"), tmp_path / "index.sqlite"

    async def run() -> None:
        async with filling_from(sqlite_url(path), log.folder) as indexing:
            await until(lambda: shares_in(indexing) == 4)
            with sqlite3.connect(path) as connection:
                connection.execute("DROP TABLE claimed_payouts")
                connection.execute("DROP TABLE log_cursor")
            connection.close()
            log._file = segment_files(log.folder)[-1].open("ab")
            log.share()
            log.finish()
            await until(lambda: "index not filled" in events_of(logs))
            await asyncio.to_thread(run_rebuild, log.folder, RULES, sqlite_url(path))
            await until(lambda: shares_in(indexing) == 5)

    asyncio.run(run())


def test_a_damaged_log_is_named_with_what_looks_into_it(new_url: NewUrl, logs: Logs, tmp_path: Path) -> None:
    log = write_log(tmp_path, "sscsss")
    path = log.folder / segment_name(1)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)

    async def run() -> None:
        async with filling_from(new_url(), log.folder) as indexing:
            await until(lambda: events_of(logs).count("index not filled") > 1)
            data[-100] ^= 1
            path.write_bytes(data)
            await until(lambda: shares_in(indexing) == 5)

    asyncio.run(run())
    failure = next(entry for entry in logs if entry["event"] == "index not filled")
    assert segment_name(1) in failure["problem"]
    assert "'pool-oracle ledger verify'" in failure["remedy"]


def test_a_mistake_of_ours_is_told_and_tried_again_too(
    new_url: NewUrl, logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path, "ss")
    places = iter(range(2))
    place = filling.Filler._place

    def mistaken(filler: Any) -> Any:
        if next(places, None) is not None:
            raise ZeroDivisionError
        return place(filler)

    monkeypatch.setattr(filling.Filler, "_place", mistaken)

    async def run() -> None:
        async with filling_from(new_url(), log.folder) as indexing:
            await until(lambda: shares_in(indexing) == 2)

    asyncio.run(run())
    assert [entry["problem"] for entry in logs if entry["event"] == "index not filled"] == ["ZeroDivisionError()"] * 2


def test_a_long_filling_is_ended_at_once_and_goes_on_later(
    new_url: NewUrl, logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "BATCH_ROWS", 2_000)
    monkeypatch.setattr(indexing_module, "TELL_SECONDS", 0.0)
    log = LogWriter(tmp_path)
    for i in range(40_000):
        log.share(i % 50, seconds=0.01)
    log.finish()
    url = new_url()

    async def run() -> None:
        async with filling_from(url, log.folder, logged=lambda: 40_000) as indexing:
            await until(lambda: 0 < shares_in(indexing) < 40_000)
            began = time.monotonic()
        assert time.monotonic() - began < 2
        with Index(url) as index, index.reading() as ask:
            assert ask.shares() < 40_000
        async with filling_from(url, log.folder, logged=lambda: 40_000) as indexing:
            await until(lambda: shares_in(indexing) == 40_000)
            await until(lambda: indexing.state.level_seconds is not None)

    asyncio.run(run())
    assert "index is behind" in events_of(logs)
    assert "index is level with the log" in events_of(logs)
    opened = [entry for entry in logs if entry["event"] == "index open"]
    assert [entry["shares"] > 0 for entry in opened] == [False, True]
    with Index(url) as index:
        assert index.digest() == expected_digest(log.folder)


def test_a_database_that_never_answers_does_not_keep_the_pool_from_ending(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing_module, "STOP_SECONDS", 0.2)
    answer = threading.Event()
    monkeypatch.setattr(indexing_module, "Index", lambda _url: answer.wait(20))

    async def run() -> None:
        async with filling_from("sqlite:///x", tmp_path):
            await asyncio.sleep(0.05)
            began = time.monotonic()
        assert time.monotonic() - began < 2

    asyncio.run(run())
    answer.set()
    assert "index left" in events_of(logs)


# The chain


@contextlib.asynccontextmanager
async def following(url: str, history: DistributorHistory, tmp_path: Path) -> AsyncIterator[Indexing]:
    """Fills an index from a chain, and from a log without a share."""
    (tmp_path / "empty").mkdir(exist_ok=True)
    async with filling_from(url, tmp_path / "empty", events=history.events()) as indexing:
        yield indexing


async def follow_up(indexing: Indexing, history: DistributorHistory) -> None:
    """Wait until the index has the chain's tip."""
    tip = await asyncio.to_thread(history.events().tip)

    def is_there() -> bool:
        try:
            with indexing.reading() as ask:
                place = ask.chain_place()
        except LedgerError:
            return False
        return place == ChainPlace(history.chain.chain_id, history.events().distributor, *tip)

    await until(is_there)


def test_payouts_and_claims_come_from_the_chain_as_they_happen_and_go_on_after_a_restart(
    new_url: NewUrl, anvil: Anvil, logs: Logs, tmp_path: Path
) -> None:
    history = DistributorHistory(anvil.url)
    url = new_url()
    asked: list[int] = []
    rpc = history.chain.rpc

    def noted(method: str, *params: Any) -> Any:
        if method == "eth_getLogs":
            asked.append(int(params[0]["fromBlock"], 16))
        return rpc(method, *params)

    async def run() -> None:
        async with following(url, history, tmp_path) as indexing:
            await follow_up(indexing, history)
            history.fund()
            history.claim(history.payees[0], 0)
            await follow_up(indexing, history)
            with indexing.reading() as ask:
                assert [row.number for row in ask.payouts()] == [0]
                (claim,) = ask.claims(history.payees[0])
                assert (claim.payouts, claim.amount) == ((0,), history.part(history.payees[0]))
                last = ask.chain_place()
            assert last is not None
        history.fund()
        history.claim(history.payees[1], 0, 1)
        history.chain.rpc = noted  # type: ignore[method-assign]
        async with following(url, history, tmp_path) as indexing:
            await follow_up(indexing, history)
            await until(lambda: indexing.state.chain_seconds is not None)
            with indexing.reading() as ask:
                assert [row.payouts for row in ask.claims()] == [(0, 1), (0,)]
        assert min(asked) == last.block + 1

    asyncio.run(run())
    with Index(url) as index:
        assert index.digest() == with_cursor(chain_digest, history, new_url())
    assert "payouts and claims indexed" in events_of(logs)


def with_cursor(digest: Callable[..., bytes], history: DistributorHistory, url: str) -> bytes:
    """The digest of an index of a log without a share, and the chain."""
    folder = (
        Path(url.removeprefix("sqlite:///")).parent / "nothing" if url.startswith("sqlite") else Path("/nonexistent")
    )
    with Index(url) as index:
        index.fill(folder, RULES)
    return digest(history.events(), url)


@pytest.mark.parametrize("way", ["anvil_reorg", "evm_revert", "shorter"])
def test_a_reorganisation_is_read_again_from_the_fork(
    new_url: NewUrl, anvil: Anvil, logs: Logs, tmp_path: Path, way: str
) -> None:
    history = DistributorHistory(anvil.url)
    url = new_url()
    history.fund()
    history.claim(history.payees[0], 0)
    kept = history.events().tip()[0]
    snapshot = history.chain.rpc("evm_snapshot")

    async def run() -> None:
        async with following(url, history, tmp_path) as indexing:
            history.mine(2)
            history.fund(5 * 10**18)
            history.claim(history.payees[1], 0, 1)
            history.claim(history.payees[2], 1)
            await follow_up(indexing, history)
            with indexing.reading() as ask:
                assert len(ask.claims()) == 3
            if way == "anvil_reorg":
                history.chain.rpc("anvil_reorg", 3, [])
            else:
                assert history.chain.rpc("evm_revert", snapshot)
            if way != "shorter":
                history.mine(1)
                history.fund(7 * 10**18)
                history.claim(history.payees[2], 0)
                history.mine(6)
            await follow_up(indexing, history)
            with indexing.reading() as ask:
                others = [] if way == "shorter" else [((0,), history.payees[2])]
                assert [(row.payouts, row.payee) for row in ask.claims()] == [*others, ((0,), history.payees[0])]
                assert [row.amount for row in ask.payouts()][1:] == [99 * 10**16] * (way != "shorter")
                assert ask.parts(history.payees[1]) == []

    asyncio.run(run())
    (told,) = [entry for entry in logs if entry["event"] == "the chain was reorganised"]
    assert told["read_again_from"] == kept + 1
    with Index(url) as index:
        assert index.digest() == with_cursor(chain_digest, history, new_url())


def test_a_chain_that_begins_anew_and_another_distributor_are_read_from_their_beginning(
    new_url: NewUrl, anvil: Anvil, tmp_path: Path
) -> None:
    first = DistributorHistory(anvil.url)
    url = new_url()
    for _ in range(3):
        first.fund()
    first.claim(first.payees[0], 0, 2)
    second = DistributorHistory(anvil.url)
    second.fund(3 * 10**18)

    async def run(history: DistributorHistory, amounts: list[int]) -> None:
        async with following(url, history, tmp_path) as indexing:
            await follow_up(indexing, history)
            with indexing.reading() as ask:
                assert [row.amount for row in ask.payouts()] == amounts

    asyncio.run(run(first, [99 * 10**16] * 3))
    asyncio.run(run(second, [297 * 10**16]))
    anvil.stop()
    with Anvil() as another:
        third = DistributorHistory(another.url)
        third.fund(2 * 10**18)
        asyncio.run(run(third, [198 * 10**16]))


def test_a_chain_that_does_not_answer_is_tried_again_while_the_log_is_indexed(
    new_url: NewUrl, anvil: Anvil, logs: Logs, tmp_path: Path
) -> None:
    history = DistributorHistory(anvil.url)
    log = write_log(tmp_path, "sss")
    anvil.stop()

    async def run() -> None:
        async with filling_from(new_url(), log.folder, events=history.events()) as indexing:
            await until(lambda: shares_in(indexing) == 3)
            await until(lambda: events_of(logs).count("payouts not indexed") > 1)
            assert indexing.state.chain_seconds is None

    asyncio.run(run())
    failure = next(entry for entry in logs if entry["event"] == "payouts not indexed")
    assert "the chain node at http://127.0.0.1" in failure["problem"]

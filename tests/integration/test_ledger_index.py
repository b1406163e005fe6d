"""The SQL index, on SQLite and on a real PostgreSQL: the same log makes the same rows, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, inspect, text

from pool_oracle.errors import CorruptLog, InputError, LedgerError, SetupError
from pool_oracle.hashes import sha256, sha256d
from pool_oracle.ledger.index import database as database_module
from pool_oracle.ledger.index import filling
from pool_oracle.ledger.index.batch import DAY, HOUR, KEPT_SECONDS, MINUTE
from pool_oracle.ledger.index.database import Database, sqlite_url, upgrade
from pool_oracle.ledger.index.reading import work_of_target
from pool_oracle.ledger.index.rows import ChainPlace, ClaimRow, HashRates, PayoutRow
from pool_oracle.ledger.index.schema import VERSION_TABLE, metadata
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, segment_files, segment_name
from pool_oracle.networks import NETWORKS, network_named
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import PplnsWindow, S, share_unit
from pool_oracle.units import Payee, Wei
from pool_oracle.work.records import (
    KIND_CLOSE,
    KIND_WORKER,
    SLOT_SIZE,
    ShareRecord,
    encode_long,
    whole_length,
)
from pool_oracle.work.targets import nbits_to_target, target_to_nbits
from tests.integration.databases import digest_of, expected_digest, schema_url
from tests.integration.synthetic_log import (
    HALF,
    NETWORK_TARGET,
    RULES,
    SMALL,
    START,
    LogWriter,
    job_payload,
    payee,
    worker_payload,
    write_log,
)

EASY_TARGET = 1 << 248
"""As the rig's: an emulated network target that 256 hashes meet on average."""

# What the rows are


def test_the_index_of_a_pools_log_says_what_the_pool_knows(new_url, rig, tmp_path):
    async def run() -> None:
        async with rig(window=2) as mined:
            pool = mined.pool
            await mined.mine(30)
            await mined.mine(12, payee(1))
            weights = [dict(pool.scheme.weights)]
            pool.close_epoch("ab" * 32, 5, START)
            block = mined.solve(payee(2), wanted=lambda number: number <= pool.job.network_target)
            await pool.submit(block)
            while not pool.blocks or pool.blocks[0].state.value == "submitted":
                await asyncio.sleep(0.01)
            await mined.mine(70, payee(2))
            weights.append(dict(pool.scheme.weights))
            pool.close_epoch("cd" * 32, 6, START + 600)
            await mined.log.flush()
            with Index(new_url()) as index:
                assert index.fill(mined.log.folder, Rules(2, pool.job.network_target)) == mined.log.next_sequence
                with index.reading() as ask:
                    totals = ask.totals()
                    assert (totals.shares, totals.t) == (mined.log.next_sequence, pool.scheme.t)
                    assert [(row.payee, row.shares) for row in ask.workers()] == [
                        (worker.payee, worker.accepted) for worker in pool.workers.values()
                    ]
                    assert [dict(ask.weights(close.epoch)) for close in pool.closes] == weights
                    for who, weight in pool.scheme.weights.items():
                        credit = ask.credit(who)
                        assert (credit.weight, credit.total) == (weight, sum(pool.scheme.weights.values()))
                        assert credit.first_share == pool.scheme.first_sequence
                    newest = ask.epochs()[0]
                    close = pool.closes[-1]
                    assert (newest.first_share, newest.closing_share, newest.t) == (
                        close.first_share,
                        close.closing_share,
                        close.t,
                    )
                    assert newest.root == SumTree(weights[-1].items()).root
                    (found,) = ask.blocks()
                    (known,) = pool.blocks
                    assert (found.hash, found.txid) == (known.hash, sha256d(known.coinbase))
                    assert (found.state, found.payee) == (known.state.value, payee(2))

    asyncio.run(run())


@pytest.mark.parametrize("scheme", ["pplns", "prop", "solo", "pps", "pps+"])
def test_under_every_scheme_an_index_that_was_taken_up_again_equals_one_filled_in_one_go(
    new_url, rig, tmp_path, scheme
):
    url = new_url()
    terms = {"scheme": scheme, "fee_bps": 100, "payee": payee(7) if scheme == "solo" else None}
    rules = Rules(2, EASY_TARGET, halving_interval=network_named("regtest").halving_interval, **terms)

    def fill(folder: Path) -> dict[Payee, int]:
        with Index(url) as index:  # each a process of its own
            index.fill(folder, rules)
            with index.reading() as ask:
                return {row.payee: ask.credit(row.payee).weight for row in ask.payees()}

    async def run() -> None:
        for number in range(1, 4):
            async with rig(window=2, published=number - 1, **terms) as mined:
                await mined.mine(15, payee(number))
                await mined.pool.submit(
                    mined.solve(payee(0), wanted=lambda n, job=mined.pool.job: n <= job.network_target)
                )
                await mined.pool.block_keeper.settle()
                await mined.log.flush()
                weights = fill(mined.log.folder)
                named = {who: weight for who, weight in mined.pool.accounts.scheme.weights.items() if who in weights}
                assert {who: weight for who, weight in weights.items() if weight} == named
                mined.pool.close_epoch("ab" * 32, number, START)
                await mined.log.flush()
                fill(mined.log.folder)

    asyncio.run(run())
    with Index(url) as index, Index(new_url()) as again:
        assert again.fill(tmp_path / "shares", rules) == 48
        with index.reading() as ask:
            paid = ask.payee(payee(7))
            assert (paid is not None and (paid.workers, paid.shares, paid.work)) == (scheme == "solo" and (0, 0, 0))
            assert all(row.workers == 1 for row in ask.payees() if row != paid)
        assert again.digest() == index.digest()


def test_a_policy_that_changes_is_followed_also_by_an_index_that_is_taken_up_again(new_url, rig, tmp_path):
    url = new_url()
    halving_interval = network_named("regtest").halving_interval

    async def run() -> None:
        for number, window in enumerate((2, 3, 3, 1), 1):
            async with rig(window=window, published=number - 1) as mined:
                with Index(url) as index:
                    for mine in range(2):
                        await mined.mine(9, payee(number + mine))
                        await mined.log.flush()
                        index.fill(mined.log.folder, Rules(window, EASY_TARGET, halving_interval=halving_interval))
                mined.pool.close_epoch("ab" * 32, number, START)
                await mined.log.flush()

    asyncio.run(run())
    for window in (1, 2):  # the log itself says by what it goes
        rules = Rules(window, EASY_TARGET, halving_interval=halving_interval)
        with Index(url) as index, Index(new_url()) as again:
            index.fill(tmp_path / "shares", rules)
            again.fill(tmp_path / "shares", rules)
            assert again.digest() == index.digest()


def test_sqlite_and_postgresql_hold_the_same_bytes(postgresql, tmp_path):
    log = write_log(tmp_path / "log", "sSbsc" * 12 + "HHHHcn" + "rsSs" * 9)
    one = digest_of(sqlite_url(tmp_path / "index.sqlite"), log.folder)
    other = digest_of(schema_url(postgresql, "same_bytes"), log.folder)
    assert one == other


def test_a_rebuilt_index_has_the_same_bytes(new_url, tmp_path):
    log = write_log(tmp_path / "log", "sSbsc" * 5)
    url = new_url()
    first = digest_of(url, log.folder)
    with Index(url) as index:
        assert index.fill(log.folder, RULES) == 0
        index.record_chain(0, place(9), [payout(0, b"r" * 32, block=9)], [])
        assert index.digest() != first
    with Index(url, fresh=True) as index:
        assert index.digest() != first
        index.fill(log.folder, RULES)
        assert index.digest() == first


def test_another_share_makes_another_digest(new_url, tmp_path):
    write_log(tmp_path / "one", "ssss")
    write_log(tmp_path / "other", "sssss")
    assert digest_of(new_url(), tmp_path / "one") != digest_of(new_url(), tmp_path / "other")


def test_fifty_thousand_shares_of_two_hundred_workers_are_added_up(new_url, tmp_path):
    log = LogWriter(tmp_path)
    for i in range(50_000):
        log.share(i * 7919 % 200, seconds=0.05)
        if i % 5000 == 4999:
            log.close()
    log.finish()
    told = []
    with Index(new_url()) as index:
        assert index.fill(tmp_path, RULES, lambda size, shares: told.append((size, shares))) == 50_000
        assert [sum(values) for values in zip(*told, strict=True)] == [
            sum(path.stat().st_size for path in segment_files(tmp_path)),
            50_000,
        ]
        assert len(told) > 2
        with index.reading() as ask:
            workers = ask.workers()
            assert [row.number for row in workers] == list(range(200))
            assert {row.shares for row in workers} == {250}
            assert sum(row.work for row in workers) == 50_000 * 1023
            assert sum(bucket.shares for bucket in ask.history(DAY, 0, 1 << 40)) == 50_000
            assert {n: dict(ask.weights(n)) for n in log.weights} == log.weights


def test_sums_beyond_64_bits_stay_exact(new_url, tmp_path):
    bits = target_to_nbits(1 << 160)  # 2^96 hashes a share
    log = LogWriter(tmp_path)
    for _ in range(300):
        log.share(0, bits=bits)
        log.share(1, bits=bits)
    log.finish()
    work = work_of_target(nbits_to_target(bits))
    assert work > 1 << 95
    assert log.window.t == 600 * S > 1 << 64
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            assert ask.totals().t == 600 * S
            assert [row.work for row in ask.workers()] == [300 * work, 300 * work]
            assert sum(row.work for row in ask.payees()) == 600 * work
            assert [bucket.work for bucket in ask.history(DAY, 0, 1 << 40)] == [600 * work]


def test_blocks_come_with_their_finder_and_their_newest_state(new_url, tmp_path):
    log = LogWriter(tmp_path)
    first = log.block(0, state=None)
    log.share(0)
    t = log.window.t
    second = log.block(4, state="accepted")
    log.close()
    log.state(first, "orphaned", 0)
    log.state(second, "best", 3)
    log.finish()
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            newest, oldest = ask.blocks()
            assert (newest.hash, newest.payee, newest.worker_name, newest.t) == (second, payee(4), "rig 4", t)
            assert (newest.state, newest.depth, newest.detail) == ("best", 3, "a node\N{REPLACEMENT CHARACTER}")
            assert (oldest.hash, oldest.state, oldest.t, oldest.number) == (first, "orphaned", 0, 0)
            assert ask.blocks(before=1) == [oldest]
            assert ask.blocks(limit=1) == [newest]


def test_sealed_segments_are_named_by_their_sha256(new_url, tmp_path):
    log = write_log(tmp_path, "sscssnsss")
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            rows = ask.segments()
    *sealed, growing = segment_files(log.folder)
    assert [(row.sha256, row.length) for row in rows[:-1]] == [
        (sha256(path.read_bytes()), path.stat().st_size) for path in sealed
    ]
    assert growing.name == segment_name(2)
    assert (rows[2].sha256, rows[2].length, rows[2].first_share, rows[2].t) == (None, None, 4, 4 * S // 1024)


def test_epochs_and_weights_come_newest_first_and_in_pages(new_url, tmp_path):
    log = write_log(tmp_path, "sssc" * 5)
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            assert [row.epoch for row in ask.epochs(limit=2)] == [5, 4]
            assert [row.epoch for row in ask.epochs(before=4, limit=2)] == [3, 2]
            assert [row.epoch for row in ask.epochs(before=1)] == []
            rows = ask.weights_of(payee(1))
            assert [(row.epoch, row.weight) for row in rows] == [(n, log.weights[n][payee(1)]) for n in range(5, 0, -1)]
            assert all(row.total == sum(log.weights[row.epoch].values()) for row in rows)
            assert ask.weights(3) == sorted(log.weights[3].items())


def test_payees_have_their_workers_and_their_present_weight_together(new_url, tmp_path):
    log = LogWriter(tmp_path)
    log.share(0)
    log.share(5, bits=HALF)  # another worker of the same payee
    log.share(1)
    log.close()
    log.finish()
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            first, second = ask.payees()
            assert (first.payee, first.workers, first.shares) == (payee(0), 2, 2)
            assert (first.weight, second.weight) == (S // 2 + S // 1024, S // 1024)
            assert (first.first_time, first.last_time) == ((START + 1) * 10**6, (START + 2) * 10**6)
            assert [row.number for row in ask.workers(payee(0))] == [0, 5]
            assert (second.payee, second.claimed) == (payee(1), 0)


def test_a_payees_shares_in_the_window_are_counted_whatever_way_the_index_was_filled(new_url, tmp_path):
    source, folder = tmp_path / "whole", tmp_path / "log"
    log = write_log(source, "HsSHcSSsHHsHrSSHnHHsH")
    url = new_url()
    for part in range(11):
        grow(folder, source, size_of(source) * part // 10)
        with Index(url) as index:  # each a process of its own
            index.fill(folder, RULES)
    inside = Counter(finder for sequence, finder in log.shares if sequence >= log.window.first_sequence)
    assert log.window.first_sequence > 0
    with Index(url) as index, index.reading() as ask:
        credits_now = {payee(n): ask.credit(payee(n)) for n in range(5)}
    assert {who: row.weight for who, row in credits_now.items() if row.weight} == log.window.weights
    assert {who: row.shares for who, row in credits_now.items() if row.weight} == dict(inside)
    assert {(row.total, row.first_share) for row in credits_now.values()} == {(2 * S, log.window.first_sequence)}


# Hash rates


def test_a_hash_rate_is_the_work_of_whole_buckets_over_their_time(new_url, tmp_path):
    log = LogWriter(tmp_path)
    begin = 1_700_006_400  # a whole hour
    log.now = begin * 1_000_000
    for _ in range(2 * 60):
        log.share(0, seconds=30)
        log.share(1, seconds=30)
    log.finish()
    now = begin + 2 * HOUR + 59  # the shares of the last minute are in a bucket that is not whole
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            each = HashRates(10 * 1023 // 600, 60 * 1023 // HOUR, 119 * 1023 // DAY)
            assert ask.hash_rates(now, worker=0) == HashRates(each.ten_minutes, each.hour, 120 * 1023 // DAY)
            assert ask.worker_hash_rates(now, [1, 7]) == {1: each}
            assert each == ask.hash_rates(now, payee=payee(1))
            assert ask.hash_rates(now).hour == 120 * 1023 // HOUR
            assert ask.hash_rates(now + DAY + HOUR) == HashRates()
            assert ask.worker_hash_rates(now + 2 * DAY, [0, 1]) == {}
            assert ask.hash_rates(now, payee=payee(3)) == HashRates()
            assert ask.history(HOUR, begin, begin + HOUR, worker=0)[0].shares == 60


@pytest.mark.parametrize(("network", "hashes"), [("main", (1 << 48) // 0xFFFF), ("litecoin", 65537)])
def test_a_share_of_difficulty_1_is_the_networks_own_number_of_hashes(network, hashes):
    assert work_of_target(NETWORKS[network].difficulty_1_target) == hashes


def test_minutes_and_hours_go_at_a_close_and_days_stay(new_url, tmp_path):
    log = LogWriter(tmp_path)
    for _ in range(50):
        log.share(0, seconds=DAY)
        log.close()
    log.share(0, seconds=60)
    log.finish()
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        with index.reading() as ask:
            counts = {seconds: len(ask.history(seconds, 0, 1 << 40)) for seconds in (MINUTE, HOUR, DAY)}
    assert counts == {MINUTE: 2, HOUR: KEPT_SECONDS[HOUR] // DAY, DAY: 50}


# Crashes, growth, several fillers


def grow(folder: Path, source: Path, size: int) -> None:
    """What a log holds after its first `size` bytes were written."""
    folder.mkdir(exist_ok=True)
    for path in segment_files(source):
        data = path.read_bytes()[: max(0, size)]
        if data or path.name == segment_name(0):
            (folder / path.name).write_bytes(data)
        size -= path.stat().st_size


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in segment_files(folder))


class PowerCut(Exception):
    """The end of a process, as a test plays it."""


def cut_after(index: Index, statements: int) -> Callable[[], None]:
    """Let an index fail before its n-th statement from now; returns what ends that."""
    engine = index._database.engine
    left = itertools.count(statements, -1)

    def fail(*_: Any) -> None:
        if next(left) == 0:
            raise PowerCut

    event.listen(engine, "before_cursor_execute", fail)
    return lambda: event.remove(engine, "before_cursor_execute", fail)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.text(alphabet="ssssSSHbcnr", min_size=1, max_size=60),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.booleans()), max_size=6),
    batch=st.integers(1, 12),
)
@example(steps="HHHHcHHHHcHHHs", cuts=[(0.5, 40, True)], batch=1)  # buckets that go when a later batch closes an epoch
def test_however_often_filling_is_cut_off_every_share_counts_once(new_url, steps, cuts, batch):
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        source, folder = Path(scratch) / "whole", Path(scratch) / "log"
        write_log(source, "s" + steps.replace("c", "sc"))
        expected = expected_digest(source)
        patch.setattr(filling, "BATCH_ROWS", batch)
        url = new_url()
        index = Index(url)
        for part, statements, is_process_gone in sorted(cuts):
            grow(folder, source, int(part * size_of(source)))
            end = cut_after(index, statements)
            with contextlib.suppress(PowerCut):
                index.fill(folder, RULES)
            end()
            if is_process_gone:
                index.close()
                index = Index(url)
        grow(folder, source, size_of(source))
        index.fill(folder, RULES)
        assert index.digest() == expected
        index.close()


def test_a_process_killed_in_the_middle_of_filling_leaves_an_index_that_goes_on(new_url, tmp_path):
    log = LogWriter(tmp_path / "log")
    for i in range(30_000):
        log.share(i % 20)
    log.finish()
    url = new_url()
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pool_oracle.ledger.index import filling\n"
        "from pool_oracle.ledger.index.reading import Rules\n"
        "from pool_oracle.ledger.index.store import Index\n"
        "filling.BATCH_ROWS = 2000\n"
        "write, left = filling.move_cursor, iter(range(5))\n"
        "def dying(connection, old, new):\n"
        "    write(connection, old, new)\n"
        "    if next(left, None) is None:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "filling.move_cursor = dying\n"
        "Index(sys.argv[1]).fill(Path(sys.argv[2]), Rules(2, 1 << 236))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, url, str(log.folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    expected = expected_digest(log.folder)
    with Index(url) as index:
        with index.reading() as ask:
            assert ask.totals().shares == sum(row.shares for row in ask.workers()) == 10_000
        assert index.fill(log.folder, RULES) == 20_000
        assert index.digest() == expected


def test_filling_ends_with_the_last_whole_record_of_a_log_that_grows(new_url, tmp_path):
    source, folder = tmp_path / "whole", tmp_path / "log"
    write_log(source, "ssbcsSn" * 2 + "ss")
    expected = expected_digest(source)
    with Index(new_url()) as index:
        for size in range(0, size_of(source) + 1, 23):
            grow(folder, source, size)
            index.fill(folder, RULES)
            with index.reading() as ask:
                last = segment_files(folder)[-1]
                whole = whole_length(last.read_bytes())
                assert (
                    ask.segments() == [] or ask.segments()[-1].number == len(segment_files(folder)) - (whole == 0) - 1
                )
        grow(folder, source, size_of(source))
        index.fill(folder, RULES)
        assert index.digest() == expected


def test_a_log_is_indexed_while_a_pool_appends_to_it(new_url, tmp_path):
    url = new_url()

    async def run() -> None:
        log = ShareLog(tmp_path, segment_bytes=100 * SLOT_SIZE)
        log.define_job(0, job_payload(0))
        log.define_worker(0, worker_payload(0))
        window = PplnsWindow(RULES.window)
        unit = share_unit(NETWORK_TARGET, nbits_to_target(SMALL))
        done = threading.Event()

        def follow() -> int:
            shares = 0
            with Index(url) as index:
                while not done.is_set():
                    shares += index.fill(tmp_path, RULES)
                return shares + index.fill(tmp_path, RULES)

        following = asyncio.create_task(asyncio.to_thread(follow))
        for i in range(2000):
            record = ShareRecord(i, 0, b"\x01" * 4, b"\x02" * 8, 1, i, 0x20000000, SMALL, 0, log.next_sequence)
            written = log.append(record, unit)
            window.add(i, payee(0), unit)
            if i % 50 == 0:
                await written
            if i % 700 == 699:
                writer_close = {"epoch": i // 700 + 1, "firstShare": window.first_sequence, "closingShare": i}
                await log.close_epoch(writer_close | {"t": str(window.t), "tip": "", "tipHeight": 1, "time": 60})
        await log.close()
        done.set()
        assert await following == 2000

    asyncio.run(run())
    with Index(url) as index:
        assert index.fill(tmp_path, RULES) == 0
        assert index.digest() == expected_digest(tmp_path)


def test_a_second_filler_finds_that_it_is_one_too_many(new_url, tmp_path):
    source, folder = tmp_path / "whole", tmp_path / "log"
    write_log(source, "ssssssss")
    url = new_url()
    with Index(url) as one, Index(url) as other:
        grow(folder, source, size_of(source) - 4 * SLOT_SIZE)
        one.fill(folder, RULES)
        other.fill(folder, RULES)
        grow(folder, source, size_of(source))
        one.fill(folder, RULES)
        with pytest.raises(LedgerError, match="another process fills this index"):
            other.fill(folder, RULES)
        assert other.digest() == expected_digest(source)
        assert other.fill(folder, RULES) == 0  # it takes up where the first is


def test_a_reader_sees_one_state_while_a_filler_goes_on(new_url, tmp_path):
    source, folder = tmp_path / "whole", tmp_path / "log"
    write_log(source, "sssssscssss")
    with Index(new_url()) as index:
        grow(folder, source, size_of(source) // 2)
        index.fill(folder, RULES)
        with index.reading() as ask:
            before = ask.totals()
            grow(folder, source, size_of(source))
            index.fill(folder, RULES)
            assert ask.totals() == before
        with index.reading() as ask:
            assert ask.totals().shares == 10


# Logs and databases that are not as they must be


def test_damage_in_the_log_is_named_and_what_was_before_it_stays_out_or_in_as_a_whole(new_url, tmp_path):
    log = write_log(tmp_path, "sscssss")
    path = segment_files(log.folder)[1]
    data = bytearray(path.read_bytes())
    at = len(data) - 3 * SLOT_SIZE
    data[at + 9] ^= 1
    path.write_bytes(data)
    with Index(new_url()) as index:
        for _ in range(2):
            with pytest.raises(CorruptLog, match=rf"shares-00000001\.log: the slot at offset {at} is damaged"):
                index.fill(log.folder, RULES)
        data[at + 9] ^= 1
        path.write_bytes(data)
        index.fill(log.folder, RULES)
        assert index.digest() == expected_digest(log.folder)


def test_damage_behind_the_cursor_is_named_with_its_offset_in_the_file(new_url, tmp_path):
    log = write_log(tmp_path / "whole", "ssssss")
    folder = tmp_path / "log"
    grow(folder, log.folder, size_of(log.folder) - 3 * SLOT_SIZE)
    with Index(new_url()) as index:
        index.fill(folder, RULES)
        data = bytearray(segment_files(log.folder)[0].read_bytes())
        at = len(data) - 2 * SLOT_SIZE
        data[at] ^= 1
        (folder / segment_name(0)).write_bytes(data)
        with pytest.raises(CorruptLog, match=rf"the slot at offset {at} is damaged"):
            index.fill(folder, RULES)


@pytest.mark.parametrize("change", ["other", "shorter", "missing"])
def test_an_index_of_another_log_is_refused_and_can_be_rebuilt(new_url, tmp_path, change):
    log = write_log(tmp_path / "log", "sssscss")
    url = new_url()
    digest_of(url, log.folder)
    shutil.rmtree(log.folder)
    write_log(log.folder, {"other": "SSSScSSS", "shorter": "sssscs", "missing": ""}[change])
    if change == "missing":
        (log.folder / segment_name(0)).unlink()
    with Index(url) as index, pytest.raises(LedgerError, match=r"does not follow from the log in .*ledger rebuild"):
        index.fill(log.folder, RULES)
    if change != "missing":
        with Index(url, fresh=True) as index:
            index.fill(log.folder, RULES)
            assert index.digest() == expected_digest(log.folder)


def test_another_log_that_ends_in_the_same_bytes_is_refused_too(new_url, tmp_path):
    one, other = LogWriter(tmp_path / "one"), LogWriter(tmp_path / "other")
    for log, bits in ((one, SMALL), (other, HALF)):
        log.share(0, bits=bits)
        log.share(1)
        log.finish()
    url = new_url()
    digest_of(url, one.folder)
    with Index(url) as index, pytest.raises(LedgerError, match="it has other shares"):
        index.fill(other.folder, RULES)


def test_an_index_of_another_policy_is_refused(new_url, tmp_path):
    log = write_log(tmp_path, "ssc")
    url = new_url()
    digest_of(url, log.folder)
    with Index(url) as index:
        for rules in (Rules(3, NETWORK_TARGET), Rules(2, None)):
            with pytest.raises(LedgerError, match=r"by other rules: .* instead of .*'pool-oracle ledger rebuild'"):
                index.fill(log.folder, rules)
        assert index.fill(log.folder, RULES) == 0


def test_a_close_is_compared_with_the_window_also_after_taking_up_in_a_later_segment(new_url, tmp_path):
    log = write_log(tmp_path / "log", "HHcHHcHHcHH")
    url = new_url()
    digest_of(url, log.folder)
    path = segment_files(log.folder)[-1]
    path.write_bytes(path.read_bytes() + encode_long(KIND_CLOSE, log.close_payload() | {"firstShare": 5}))
    with Index(url) as index, pytest.raises(CorruptLog, match="has first share 5; it should be 4"):
        index.fill(log.folder, RULES)


def test_a_worker_that_becomes_somebody_else_after_a_restart_is_a_corrupt_log(new_url, tmp_path):
    log = LogWriter(tmp_path / "log")
    log.share(0)
    log.close()
    log.finish()
    url = new_url()
    digest_of(url, log.folder)
    path = log.folder / segment_name(1)
    path.write_bytes(path.read_bytes() + encode_long(KIND_WORKER, worker_payload(1) | {"worker": 0}))
    with Index(url) as index, pytest.raises(CorruptLog, match="worker 0 at offset 64 is not who it was before"):
        index.fill(log.folder, RULES)


@pytest.mark.parametrize("url", ["mysql://host/pool", "sqlite://", "", "index.sqlite", "postgresql"])
def test_only_a_file_or_postgresql_is_taken(url):
    with pytest.raises(InputError, match=r"the index.*SQLite|the index's URL"):
        Index(url)


def test_a_missing_driver_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SetupError, match=r"pip install 'pool-oracle\[postgresql\]'"):
        Index("postgresql://pool@/pool")


def test_a_server_that_does_not_answer_is_an_error_that_hides_the_password(tmp_path):
    with pytest.raises(LedgerError, match=r"the index .*pool") as caught:
        Index(f"postgresql://pool:hush@/pool?host={tmp_path}")
    assert "hush" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error_and_stays(tmp_path):
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"my diary " * 1000)
    with pytest.raises(LedgerError, match="file is not a database"):
        Index(sqlite_url(path), fresh=True)
    assert path.read_bytes() == b"my diary " * 1000


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be created"):
        Index(sqlite_url(tmp_path / "file" / "index.sqlite"))


def test_sqlite_writes_ahead_and_checks_foreign_keys(tmp_path):
    database = Database(sqlite_url(tmp_path / "new folder" / "a % b.sqlite"))
    with database.reading() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    with (
        pytest.raises(LedgerError, match="FOREIGN KEY"),
        database.writing() as connection,
    ):
        connection.execute(text("INSERT INTO weights VALUES (1, 1, 1)"))
    database.close()


# Versions of the schema


def versions() -> list[str]:
    folder = Path(database_module.__file__).parent / "migrations"
    return [script.revision for script in reversed(list(ScriptDirectory(str(folder)).walk_revisions()))]


@contextlib.contextmanager
def bare(url: str) -> Iterator[Database]:
    """A database whose tables are all gone."""
    database = Database(url)
    with database.writing() as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
    try:
        yield database
    finally:
        database.close()


@pytest.mark.parametrize("version", [None, *versions()])
def test_migrations_lead_from_every_version_to_the_present_schema(new_url, version):
    with bare(new_url()) as database:
        if version is not None:
            with database.writing() as connection:
                upgrade(connection, version)
        with database.writing() as connection:
            upgrade(connection)
        with database.writing() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "version_table": VERSION_TABLE}
            )
            assert compare_metadata(context, metadata) == []
            assert context.get_current_revision() == versions()[-1]


def test_an_index_of_the_first_version_goes_on_being_filled(new_url, tmp_path):
    source, folder = tmp_path / "whole", tmp_path / "log"
    write_log(source, "ssscssbss")
    grow(folder, source, size_of(source) // 2)
    url = new_url()
    digest_of(url, folder)
    database = Database(url)
    exact, as_kept = ("NUMERIC", Decimal) if database.is_postgresql else ("TEXT", str)
    with database.writing() as connection:
        for table in ("claimed_payouts", "claims", "payouts", "chain_cursor", "window_credits"):
            connection.execute(text(f"DROP TABLE {table}"))
        for change in ("DROP COLUMN rules", 'ADD COLUMN "window" INTEGER', f"ADD COLUMN emulated_target {exact}"):
            connection.execute(text(f"ALTER TABLE log_cursor {change}"))
        kept = {"window": RULES.window, "target": as_kept(NETWORK_TARGET)}
        connection.execute(text('UPDATE log_cursor SET "window" = :window, emulated_target = :target'), kept)
        connection.execute(text("UPDATE index_version SET version_num = :version"), {"version": versions()[0]})
    database.close()
    assert digest_of(url, source) == expected_digest(source)


def test_an_index_of_a_later_version_is_refused_and_can_be_dropped(new_url):
    url = new_url()
    with Index(url):
        pass
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text("UPDATE index_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(LedgerError, match=r"schema that this version does not know .*9999.*ledger rebuild"):
        Index(url)
    with Index(url, fresh=True) as index, index.reading() as ask:
        assert ask.totals().shares == 0


def test_a_migration_that_fails_leaves_everything_as_it_was(new_url, monkeypatch):
    with bare(new_url()) as database:

        def failing(connection: Any, revision: str = "head") -> None:
            upgrade(connection, versions()[0])
            raise PowerCut

        monkeypatch.setattr(database_module, "upgrade", failing)
        with pytest.raises(PowerCut):
            database._migrate(fresh=False)
        with database.reading() as connection:
            assert inspect(connection).get_table_names() == []


def test_two_processes_may_open_an_empty_database_at_once(new_url):
    url = new_url()
    with bare(url):
        pass
    opened: list[Index] = []
    threads = [threading.Thread(target=lambda: opened.append(Index(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert len({index.digest() for index in opened}) == 1
    for index in opened:
        index.close()


# Payouts and claims


def payout(number: int, root: bytes, *, block: int, amount: int = 10**18 + 7, epoch: int | None = None) -> PayoutRow:
    where = block, block_hash(block), bytes((0xF0, number)) * 16
    return PayoutRow(number, root, epoch, Wei(amount), Wei(amount // 100), START + block, *where)


def claim(number: int, who: Payee, *payouts: int, block: int, amount: int = 5) -> ClaimRow:
    return ClaimRow(who, b"\x0a" * 20, payouts, Wei(amount), block, number, block_hash(block), bytes((number,)) * 32)


def block_hash(block: int) -> bytes:
    return block.to_bytes(32, "big")


def place(block: int, chain_id: int = 31337) -> ChainPlace:
    return ChainPlace(chain_id, b"\x0d" * 20, block, block_hash(block))


def test_a_payees_parts_are_what_the_contract_pays(new_url, tmp_path):
    log = write_log(tmp_path, "ssssscsSsSc")
    roots = {n: SumTree(weights.items()).root for n, weights in log.weights.items()}
    amount = 3 * 10**20 + 11  # more than 64 bits
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        index.record_chain(
            0,
            place(30),
            [
                payout(0, roots[1], block=10, amount=amount),
                payout(1, b"\x05" * 32, block=11),  # a stranger's root
                payout(2, roots[2], block=12, amount=amount, epoch=2),
            ],
            [claim(3, payee(1), 0, 2, block=20, amount=amount), claim(4, payee(2), 0, block=20)],
        )
        with index.reading() as ask:
            newest, oldest = ask.parts(payee(1))
            total = sum(log.weights[1].values())
            assert (oldest.payout, oldest.epoch, oldest.weight) == (0, 1, log.weights[1][payee(1)])
            assert oldest.part == amount * oldest.weight // total
            assert (newest.payout, newest.is_claimed, oldest.is_claimed) == (2, True, True)
            assert [row.is_claimed for row in ask.parts(payee(2))] == [False, True]
            assert ask.parts(payee(2), before=2) == ask.parts(payee(2))[1:]
            assert [(row.number, row.epoch) for row in ask.payouts()] == [(2, 2), (1, None), (0, 1)]
            assert ask.payouts(limit=1)[0].amount == amount
            assert [row.claimed for row in ask.payees()][:3] == [0, amount, 5]
            first, second = ask.claims()
            assert (second.payouts, second.amount) == ((0, 2), amount)
            assert ask.claims(payee(2)) == [first]
            assert ask.claims(payee(4)) == []
            assert (ask.totals().payouts, ask.totals().claims, ask.totals().chain_block) == (3, 2, 30)


def test_one_root_of_two_epochs_gives_a_payee_one_part(new_url, tmp_path):
    log = LogWriter(tmp_path)
    for _ in range(2):
        for _ in range(5):
            log.share(0, bits=HALF)
        log.close()
    log.finish()
    assert log.weights[1] == log.weights[2]
    with Index(new_url()) as index:
        index.fill(tmp_path, RULES)
        index.record_chain(0, place(1), [payout(0, SumTree(log.weights[1].items()).root, block=1)], [])
        with index.reading() as ask:
            (part,) = ask.parts(payee(0))
            assert (part.epoch, part.part) == (2, 10**18 + 7)


def test_a_reorganised_chain_is_read_again_from_the_fork(new_url):
    roots = [bytes((i,)) * 32 for i in range(4)]
    with Index(new_url()) as index, Index(new_url()) as straight:
        index.record_chain(
            1,
            place(10),
            [payout(0, roots[0], block=2), payout(1, roots[1], block=6)],
            [claim(1, payee(1), 0, 1, block=6)],
        )
        index.record_chain(6, place(12), [payout(1, roots[2], block=8)], [claim(0, payee(2), 1, block=12)])
        index.record_chain(13, place(12), [], [])
        straight.record_chain(1, place(5), [payout(0, roots[0], block=2)], [])
        straight.record_chain(6, place(12), [payout(1, roots[2], block=8)], [claim(0, payee(2), 1, block=12)])
        assert index.digest() == straight.digest()


def test_another_distributors_payouts_make_room(new_url):
    with Index(new_url()) as index, Index(new_url()) as straight:
        index.record_chain(1, place(10), [payout(0, b"r" * 32, block=2)], [claim(1, payee(1), 0, block=6)])
        index.record_chain(50, place(60, chain_id=30), [payout(0, b"q" * 32, block=55)], [])
        straight.record_chain(50, place(60, chain_id=30), [payout(0, b"q" * 32, block=55)], [])
        assert index.digest() == straight.digest()


def test_claims_come_in_pages(new_url):
    with Index(new_url()) as index:
        claims = [claim(n % 3, payee(n % 2), n, block=10 + n // 3, amount=n) for n in range(9)]
        index.record_chain(0, place(20), [payout(n, b"r" * 32, block=1) for n in range(9)], claims)
        with index.reading() as ask:
            newest = claims[::-1]
            assert ask.claims(limit=4) == newest[:4]
            assert ask.claims(before=(newest[3].block, newest[3].log_index), limit=4) == newest[4:8]
            assert ask.claims(payee(1), before=(11, 2)) == [row for row in newest if row.payee == payee(1)][2:]
            assert ask.chain_blocks() == [(block, block_hash(block)) for block in (1, 10, 11, 12)]
            assert ask.payout(4) == ask.payouts()[4]
            assert ask.payout(9) is None


def test_one_filler_at_a_time_has_its_turn(new_url, tmp_path):
    log = write_log(tmp_path, "sss")
    url = new_url()
    with Index(url) as one, Index(url, fresh=True) as rebuilding:
        with pytest.raises(LedgerError, match="another process fills this index"):
            one.fill(log.folder, RULES)
        assert rebuilding.fill(log.folder, RULES) == 3
        assert one.fill(log.folder, RULES) == 0


def test_blocks_of_the_chain_that_leave_a_gap_are_refused(new_url):
    with Index(new_url()) as index:
        index.record_chain(1, place(10), [], [])
        before = index.digest()
        with pytest.raises(LedgerError, match="blocks 12 to 13 of the chain do not follow block 10"):
            index.record_chain(12, place(13), [], [])
        with pytest.raises(LedgerError, match="block 14 is not in blocks 11 to 13"):
            index.record_chain(11, place(13), [payout(0, b"r" * 32, block=14)], [])
        with pytest.raises(LedgerError, match=r"(?i)foreign key"):
            index.record_chain(11, place(13), [], [claim(0, payee(1), 5, block=12)])
        assert index.digest() == before

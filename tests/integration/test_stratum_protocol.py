"""Stratum V1 as this pool speaks it, over TCP: each method, each message of the server, each refusal, each limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.errors import ConfigError, LedgerError
from pool_oracle.judge import MAX_NTIME_AHEAD
from pool_oracle.ledger.sharelog import replay
from pool_oracle.stratum import server as server_module
from pool_oracle.stratum.messages import VERSION_MASK
from pool_oracle.work.records import ShareRecord
from tests.integration.stratum_client import (
    ACCOUNT,
    NETWORK_TARGET,
    PATIENCE,
    SHARE_TARGET,
    Client,
    Job,
    Site,
    difficulty_of,
    run,
    serving,
    until,
)

NESTED = "2NAUYAHhujozruyzpsFRP63mbrdaU5wnEpN"
NO_BUDGET = {"cost_per_second": 1_000_000_000}
FAR_ABOVE = 1 << 256


# Subscribing and resuming


def test_a_subscription_names_a_session_and_extranonces_that_nobody_else_has(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            clients = [await site.connect() for _ in range(20)]
            for client in clients:
                await client.subscribe("test/1")
            assert len({client.extranonce1 for client in clients}) == len({c.session_id for c in clients}) == 20
            again = await clients[0].result("mining.subscribe", "test/1")
            assert again[1] == clients[0].extranonce1

    run(work())


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8])
def test_miners_roll_as_many_bytes_of_extranonce2_as_the_pool_says(tmp_path: Path, size: int) -> None:
    async def work() -> None:
        async with serving(tmp_path, extranonce2_size=size) as site:
            client = await site.connect()
            job = await client.sign_in()
            assert client.extranonce2_size == size
            assert (await client.mine(job))["result"] is True
            for wrong in ("00" * (size - 1), "00" * (size + 1)):
                code, text = await client.refusal("mining.submit", ACCOUNT, job.id, wrong, "00000000", "00000000")
                assert (code, text) == (
                    20,
                    f"extranonce2 must be {size} bytes ({2 * size} hex digits), not {len(wrong)} digits",
                )

    run(work())


async def resumed(site: Site, before: Client) -> tuple[Client, Job]:
    """Another connection that names the session of `before`."""
    client = await site.connect()
    return client, await client.sign_in(ACCOUNT, "x", before.session_id)


def test_a_miner_that_was_cut_off_has_its_extranonce1_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            before = await site.connect()
            await before.sign_in()
            before.writer.close()
            await until(lambda: not site.server.sessions)
            client, job = await resumed(site, before)
            assert client.extranonce1 == before.extranonce1
            assert client.session_id != before.session_id
            assert (await client.mine(job))["result"] is True
            stranger = await site.connect()
            await stranger.subscribe("test/1", before.session_id)
            assert stranger.extranonce1 != before.extranonce1, "a session is taken up once"

    run(work())


def test_a_share_that_was_found_while_the_line_was_down_is_taken_afterwards(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            before = await site.connect()
            old = await before.sign_in()
            share = before.share(old)
            before.writer.close()
            await until(lambda: not site.server.sessions)
            await site.pool.refresh()
            client, _ = await resumed(site, before)
            assert await client.result("mining.submit", ACCOUNT, *share) is True

    run(work())


def test_a_resumed_miner_that_starts_over_repeats_no_work(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            before = await site.connect()
            old = await before.sign_in()
            before.writer.close()
            await until(lambda: not site.server.sessions)
            _, job = await resumed(site, before)
            assert job.is_clean
            assert job.id != old.id
            assert job.ntime != old.ntime

    run(work())


def test_a_resumed_miner_goes_on_at_the_share_difficulty_that_it_had(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            before = await site.connect()
            await before.sign_in()
            await before.result("mining.suggest_target", f"{SHARE_TARGET // 8:064x}")
            await before.next_job()
            before.writer.close()
            await until(lambda: not site.server.sessions)
            client, job = await resumed(site, before)
            assert client.target == before.target
            assert (await client.mine(job))["result"] is True

    run(work())


def test_a_half_dead_connection_gives_its_extranonce1_back_and_goes_on_if_it_can_be_moved(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            before = await site.connect()
            assert await before.result("mining.extranonce.subscribe") is True
            old = await before.sign_in()
            extranonce1, stale_share = before.extranonce1, before.share(old)
            client, job = await resumed(site, before)
            assert client.extranonce1 == extranonce1
            before.extranonce1, size = await before.take("mining.set_extranonce")
            assert before.extranonce1 != extranonce1
            assert size == before.extranonce2_size
            moved = await before.next_job()
            assert moved.is_clean
            assert moved.id != old.id
            assert (await before.refusal("mining.submit", ACCOUNT, *stale_share))[0] == 21, "its extranonce1 is gone"
            for miner, its_job in ((before, moved), (client, job)):
                assert (await miner.mine(its_job))["result"] is True

    run(work())


def test_a_half_dead_connection_that_cannot_be_moved_is_cut(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            before = await site.connect()
            await before.sign_in()
            client, job = await resumed(site, before)
            assert client.extranonce1 == before.extranonce1
            assert await before.ended()
            assert (await client.mine(job))["result"] is True

    run(work())


def test_taking_sessions_over_uses_up_no_extranonces(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            await client.sign_in()
            for _ in range(5):
                client, _ = await resumed(site, client)
            await until(lambda: len(site.server.sessions) == 1)
            assert site.server.extranonces._used == {bytes.fromhex(client.extranonce1)}

    run(work())


@pytest.mark.parametrize("session_id", ["0123456789abcdef", "", None, 7, [], "1662637786319"])
def test_a_session_that_nobody_had_gets_an_extranonce1_of_its_own(tmp_path: Path, session_id: object) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client, other = await site.connect(), await site.connect()
            await client.sign_in()
            job = await other.sign_in(ACCOUNT, "x", session_id)  # type: ignore[arg-type]
            assert other.extranonce1 != client.extranonce1
            assert (await other.mine(job))["result"] is True

    run(work())


# What miners may ask for


def test_all_extensions_may_be_configured_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            client = await site.connect()
            wanted = ["version-rolling", "minimum-difficulty", "subscribe-extranonce", "info", "time-travel", 7]
            minimum = difficulty_of(SHARE_TARGET // 4)
            options = {
                "version-rolling.mask": "ffffffff",
                "version-rolling.min-bit-count": 16,
                "minimum-difficulty.value": float(minimum),
                "info.sw-version": "firmware 1.2",
            }
            assert await client.result("mining.configure", wanted, options) == {
                "version-rolling": True,
                "version-rolling.mask": f"{VERSION_MASK:08x}",
                "minimum-difficulty": True,
                "subscribe-extranonce": True,
                "info": True,
                "time-travel": False,
            }
            (session,) = site.server.sessions
            assert session.agent == "firmware 1.2"
            await client.subscribe()
            await client.result("mining.authorize", ACCOUNT, "x")
            assert await client.take("mining.set_version_mask") == [f"{VERSION_MASK:08x}"]
            await client.next_job()
            assert SHARE_TARGET // 8 < client.target <= SHARE_TARGET // 4

    run(work())


@pytest.mark.parametrize(
    ("mask", "least", "answer"),
    [
        ("00c00000", 2, {"version-rolling": True, "version-rolling.mask": "00c00000"}),
        ("e0001fff", 0, {"version-rolling": True, "version-rolling.mask": "00000000"}),
        ("0000e000", 4, {"version-rolling": "only 3 bits of the mask can be rolled here, not 4"}),
        (None, 2, {"version-rolling": True, "version-rolling.mask": f"{VERSION_MASK:08x}"}),
    ],
)
def test_version_rolling_is_granted_within_bip_320(
    tmp_path: Path, mask: str | None, least: int, answer: dict[str, Any]
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            options: dict[str, Any] = {"version-rolling.min-bit-count": least}
            if mask is not None:
                options["version-rolling.mask"] = mask
            assert await client.result("mining.configure", ["version-rolling"], options) == answer

    run(work())


def test_a_mask_that_is_none_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            code, text = await client.refusal(
                "mining.configure", ["version-rolling"], {"version-rolling.mask": "1fffe"}
            )
            assert code == 20
            assert "version-rolling.mask" in text
            assert (await client.mine(await client.sign_in()))["result"] is True

    run(work())


@pytest.mark.parametrize("value", [0, -1, "512", None, True, [], 1e300])
def test_a_minimum_difficulty_that_is_no_number_is_not_promised(tmp_path: Path, value: object) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            client = await site.connect()
            options = {"minimum-difficulty.value": value}
            assert await client.result("mining.configure", ["minimum-difficulty"], options) == {
                "minimum-difficulty": False
            }

    run(work())


def test_a_minimum_difficulty_is_promised_only_where_it_can_be_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:  # vardiff is off: every share has the same target
            client = await site.connect()
            for target, is_kept in ((SHARE_TARGET // 2, False), (SHARE_TARGET, True), (SHARE_TARGET * 2, True)):
                options = {"minimum-difficulty.value": float(difficulty_of(target))}
                answer = await client.result("mining.configure", ["minimum-difficulty"], options)
                assert answer == {"minimum-difficulty": is_kept}

    run(work())


def test_a_suggestion_before_the_first_job_decides_its_target(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            easy, hard = await site.connect(), await site.connect()
            wanted = SHARE_TARGET // 8
            assert await easy.result("mining.suggest_difficulty", float(difficulty_of(wanted))) is True
            assert await hard.result("mining.suggest_target", f"{wanted:064x}") is True
            for client in (easy, hard):
                job = await client.sign_in()
                assert wanted * 0.99 < client.target <= wanted
                assert (await client.mine(job))["result"] is True

    run(work())


def test_a_suggestion_after_it_gives_the_job_again_at_the_new_target(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            client = await site.connect()
            jobs = [await client.sign_in()]
            for method, parameter in (
                ("mining.suggest_difficulty", float(difficulty_of(SHARE_TARGET // 2))),
                ("mining.suggest_target", f"{SHARE_TARGET // 4:064x}"),
            ):
                assert await client.result(method, parameter) is True
                jobs.append(await client.next_job())
                assert not jobs[-1].is_clean
            assert len({job.id for job in jobs}) == len({job.ntime for job in jobs}) == 3, "no work is done twice"
            assert client.target <= SHARE_TARGET // 4
            assert await client.result("mining.submit", ACCOUNT, *client.share(jobs[0], SHARE_TARGET)) is True
            assert (await client.mine(jobs[2]))["result"] is True

    run(work())


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        ("mining.suggest_difficulty", [], "mining.suggest_difficulty takes a positive number"),
        ("mining.suggest_difficulty", ["512"], "mining.suggest_difficulty takes a positive number"),
        ("mining.suggest_difficulty", [-1], "mining.suggest_difficulty takes a positive number"),
        ("mining.suggest_target", ["ff"], "target must be 32 bytes (64 hex digits), not 2 digits"),
        ("mining.suggest_target", ["00" * 32], "target must be positive and below 2^256, not 0x0"),
        ("mining.suggest_target", [None], "target must be a hex string, not null"),
    ],
)
def test_a_suggestion_that_is_none_is_refused(tmp_path: Path, method: str, params: list[Any], text: str) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            client = await site.connect()
            assert await client.refusal(method, *params) == (20, text)

    run(work())


def test_the_password_sets_where_vardiff_begins_and_how_low_it_goes(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            start, minimum = float(difficulty_of(SHARE_TARGET // 8)), float(difficulty_of(SHARE_TARGET // 2))
            for password, least, most in (
                ("x", SHARE_TARGET // 2, SHARE_TARGET),
                (f"d={start:.9g}", SHARE_TARGET // 16, SHARE_TARGET // 8),
                (f"x,md={minimum:.9g}", SHARE_TARGET // 4, SHARE_TARGET // 2),
                (f"md={minimum:.9g};d={start:.9g}", SHARE_TARGET // 16, SHARE_TARGET // 8),
                ("d=0.000000000000001", SHARE_TARGET, FAR_ABOVE),
            ):
                client = await site.connect()
                await client.sign_in(ACCOUNT, password)
                assert least < client.target <= most, password

    run(work())


@pytest.mark.parametrize("password", ["", "x", None, 123, "d=", ["d=5"]])
def test_no_password_keeps_a_miner_out(tmp_path: Path, password: object) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            client = await site.connect()
            assert (await client.mine(await client.sign_in(ACCOUNT, password)))["result"] is True

    run(work())


def test_a_miner_is_told_of_password_options_that_say_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            await client.sign_in(ACCOUNT, "d=fast, md=0")
            (text,) = await client.take("client.show_message")
            assert text == "No share difficulty above zero in the password: d=fast, md=0"

    run(work())


def test_a_miner_that_does_not_say_what_it_is_is_asked(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            await client.subscribe()
            client.ask("mining.authorize", ACCOUNT, "x")
            while (question := await client.read()).get("method") != "client.get_version":
                pass
            # cgminer's send_version reads the id with json_integer_value and prints it with %d.
            assert isinstance(question["id"], int), "cgminer answers no other id"
            await client.result("mining.authorize", f"{ACCOUNT}.2", "x")
            assert not any(message.get("method") == "client.get_version" for message in client.pending), "once"
            client.send({"id": question["id"], "result": "cgminer/4.12.1", "error": None})
            (session,) = site.server.sessions
            await until(lambda: session.agent == "cgminer/4.12.1")
            client.send({"id": question["id"], "result": {"no": "text"}, "error": None})
            assert await client.result("mining.ping") == "pong"

    run(work())


def test_pings_are_answered_and_transactions_are_not_handed_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            assert await client.result("mining.ping") == "pong"
            code, text = await client.refusal("mining.get_transactions", job.id)
            assert code == 20
            assert text == "transactions are not handed out here; audit a job by its coinbase and merkle branch"
            assert await client.refusal("mining.multi_version", 1) == (
                20,
                "method 'mining.multi_version' is not offered here",
            )
            assert (await client.mine(job))["result"] is True

    run(work())


def test_a_request_without_an_id_is_done_and_not_answered(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8) as site:
            client = await site.connect()
            # BFGMiner sends this first, and takes the first line that comes for the answer to its mining.subscribe.
            client.send({"id": None, "method": "mining.suggest_target", "params": [f"{SHARE_TARGET // 8:064x}"]})
            client.send({"id": None, "method": "mining.capabilities", "params": [{"notify": []}]})
            client.send({"id": 0, "method": "mining.subscribe", "params": ["bfgminer/5.5.0"]})
            assert (await client.read())["id"] == 0
            await client.result("mining.authorize", ACCOUNT, "x")
            await client.next_job()
            assert client.target <= SHARE_TARGET // 8

    run(work())


@pytest.mark.parametrize("request_id", [0, -1, 1 << 40, "auth", "", "txlist1a", 1.5, True])
def test_a_request_is_answered_with_its_own_id(tmp_path: Path, request_id: object) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            client.send({"id": request_id, "method": "mining.ping", "params": [], "jsonrpc": "2.0", "worker": "rig"})
            answer = await client.read()
            assert answer == {"id": request_id, "result": "pong", "error": None}
            assert type(answer["id"]) is type(request_id)

    run(work())


# Shares: what is accepted, what is refused, and in which order


def test_a_share_is_taken_however_its_fields_are_written(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            for write in (
                lambda fields: fields,
                lambda fields: [*fields, "00000000"],
                lambda fields: [field.upper() for field in fields],
                lambda fields: [*fields[:3], fields[3].lstrip("0") or "0"],  # NerdMiner: String(nonce, HEX)
            ):
                assert await client.result("mining.submit", ACCOUNT, *write(client.share(job))) is True

    run(work())


def test_a_share_that_comes_twice_is_a_duplicate_however_it_is_written(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            share = client.share(job)
            assert await client.result("mining.submit", ACCOUNT, *share) is True
            await client.result("mining.authorize", f"{ACCOUNT}.other", "x")
            for user, fields in (
                (ACCOUNT, share),
                (f"{ACCOUNT}.other", share),
                (ACCOUNT, [field.upper() for field in share]),
                (ACCOUNT, [f"0{share[0]}", *share[1:]]),
                (ACCOUNT, [*share, "00000000"]),
            ):
                assert await client.refusal("mining.submit", user, *fields) == (22, "duplicate share")
            (worker,) = site.pool.workers.values()  # the other one has sent nothing that counts
            assert (worker.name, worker.accepted, worker.refused) == ("", 1, 4)
            assert site.server.counters.refused == {22: 5}

    run(work())


def test_each_refusal_has_its_code_and_a_text_that_says_what_to_do(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            nothing = ["0", "00" * 8, "00000000", "00000000"]
            assert await client.refusal("mining.submit", ACCOUNT, *nothing) == (
                25,
                "not subscribed: send mining.subscribe first",
            )
            await client.subscribe()
            assert await client.refusal("mining.submit", ACCOUNT, *nothing) == (
                24,
                f"worker {ACCOUNT!r} is not authorized on this connection",
            )
            await client.result("mining.authorize", ACCOUNT, "x")
            job = await client.next_job()
            share = client.share(job)
            assert site.pool.job is not None
            early, late = site.pool.job.template.mintime - 1, job.ntime + MAX_NTIME_AHEAD + 1
            form = "mining.submit takes worker, job, extranonce2, ntime, nonce and perhaps version bits"
            weak = next(job.solve(client.extranonce1, "00" * 8, FAR_ABOVE, SHARE_TARGET))
            rolled = client.share(job, version=job.work.version | 1 << 20)
            for fields, code, text in (
                (["fff", *share[1:]], 21, "job 'fff' is not known here (any more)"),
                (["nonsense", *share[1:]], 21, "job 'nonsense' is not known here (any more)"),
                ([job.id, "00" * 8, share[2], weak], 23, "low difficulty share"),
                (client.share(job, ntime=early), 20, f"ntime {early:08x} is out of range"),
                (client.share(job, ntime=late), 20, f"ntime {late:08x} is out of range"),
                (
                    [*rolled, "00100000"],
                    20,
                    f"version {job.work.version | 1 << 20:08x} differs from the job's outside the mask",
                ),
                (share[:3], 20, form),
                ([*share, "00000000", "00000000"], 20, form),
                ([*share[:3], 7], 20, form),
                ([share[0], "xy" * 8, *share[2:]], 20, f"extranonce2 must be hex digits: '{'xy' * 8}'"),
                ([*share[:2], share[2][1:], share[3]], 20, "ntime has an odd number of hex digits: "),
                ([*share[:3], f"0{share[3]}"], 20, "nonce has an odd number of hex digits: "),
                ([*share, "2000"], 20, "version bits must be 4 bytes (8 hex digits), not 4 digits"),
            ):
                got = await client.refusal("mining.submit", ACCOUNT, *fields)
                assert got[0] == code
                assert got[1].startswith(text)
            assert await client.result("mining.submit", ACCOUNT, *share) is True
            assert site.pool.scheme.share_count == 1

    run(work())


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (20, "is out of range"),
        (20, "differs from the job's outside the mask"),
        (20, "mining.submit takes"),
        (20, "is not offered here"),
        (20, "transactions are not handed out here"),
        (20, "the pool could not write its share log"),
        (21, "stale: the job's tip is gone"),
        (21, "is not known here (any more)"),
        (22, "duplicate share"),
        (23, "low difficulty share"),
        (24, "is not authorized on this connection"),
        (24, "workers already"),
        (25, "not subscribed"),
    ],
)
def test_the_page_for_miners_explains_each_refusal(code: int, text: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "miner.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {code} .*`[^`|]*{re.escape(text)}", page, re.MULTILINE)


def test_ntime_may_be_rolled_within_what_a_node_takes(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            assert site.pool.job is not None
            for ntime in (site.pool.job.template.mintime, job.ntime + 1, job.ntime + MAX_NTIME_AHEAD):
                assert await client.result("mining.submit", ACCOUNT, *client.share(job, ntime=ntime)) is True

    run(work())


def test_a_block_is_handed_to_the_node_first_whatever_becomes_of_its_share(tmp_path: Path) -> None:
    hard = NETWORK_TARGET >> 4

    async def work() -> None:
        async with serving(tmp_path, share_target=hard) as site:
            client = await site.connect()
            job = await client.sign_in()
            found = 0

            async def refused(code: int, *fields: str) -> None:
                """The share is refused, and its block is with the node all the same."""
                nonlocal found
                assert (await client.refusal("mining.submit", ACCOUNT, *fields))[0] == code
                found += 1
                assert len(site.pool.blocks) == found
                await site.pool.block_keeper.settle()
                assert site.pool.blocks[-1].state.value == "accepted"

            await refused(23, *client.share(job, NETWORK_TARGET, hard))
            await refused(20, *client.share(job, hard, 0, ntime=job.ntime + MAX_NTIME_AHEAD + 1))
            await refused(20, *client.share(job, hard, 0, version=job.work.version | 1 << 20), "00100000")
            block = client.share(job, hard, 0)
            assert await client.result("mining.submit", ACCOUNT, *block) is True
            found += 1
            await site.pool.block_keeper.settle()
            await site.pool.refresh()
            await refused(21, *client.share(job, hard, 0))

    run(work())


def test_a_block_whose_header_was_seen_before_is_handed_on_before_it_is_a_duplicate(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            handed_on: list[bytes] = []
            judge = site.pool.judge
            judge._on_block = lambda _submission, _header, digest: handed_on.append(digest)
            client = await site.connect()
            job = await client.sign_in()
            block = client.share(job, NETWORK_TARGET, 0)
            assert await client.result("mining.submit", ACCOUNT, *block) is True
            assert (await client.refusal("mining.submit", ACCOUNT, *block))[0] == 22
            assert len(handed_on) == 2
            assert len(set(handed_on)) == 1

    run(work())


# Jobs and targets


def test_a_job_is_known_until_its_tip_goes_and_stale_from_then_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            jobs = [await client.sign_in()]
            for _ in range(3):
                await site.pool.refresh()
                jobs.append(await client.next_job())
                assert not jobs[-1].is_clean
            for job in jobs:
                assert (await client.mine(job))["result"] is True
            await site.new_tip(client, jobs[-1])
            clean = await client.next_job()
            assert clean.is_clean
            for job in jobs:
                assert (await client.mine(job))["error"][:2] == [21, "stale: the job's tip is gone"]
            await site.new_tip(client, clean)
            for job in jobs:
                assert (await client.mine(job))["error"][0] == 21

    run(work())


def test_within_the_grace_shares_of_the_tip_before_are_taken_and_of_no_earlier_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, stale_grace=600) as site:
            client = await site.connect()
            first = await client.sign_in()
            await site.new_tip(client, first)
            second = await client.next_job()
            assert (await client.mine(first))["result"] is True
            await site.new_tip(client, second)
            third = await client.next_job()
            assert (await client.mine(first))["error"][0] == 21
            for job in (second, third):
                assert (await client.mine(job))["result"] is True

    run(work())


def test_a_change_of_target_refuses_nothing_that_was_begun_before_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8, network_target=1 << 236) as site:
            client = await site.connect()
            old = await client.sign_in()
            old_target = client.target
            while not any(message.get("method") == "mining.notify" for message in client.pending):
                assert (await client.mine(old))["result"] is True  # faster than 8 a minute on any machine
            new = await client.next_job()
            assert client.target < old_target
            assert not new.is_clean
            assert new.id != old.id
            between = client.share(old, old_target, client.target)
            assert await client.result("mining.submit", ACCOUNT, *between) is True
            assert (await client.mine(new))["result"] is True
            weak = client.share(new, old_target, client.target)
            assert await client.refusal("mining.submit", ACCOUNT, *weak) == (23, "low difficulty share")
            await site.log.flush()
            shares = [record for _, record in replay(site.log.folder) if isinstance(record, ShareRecord)]
            bits = [share.share_bits for share in shares]
            assert len(set(bits)) == 2
            assert bits == [*[bits[0]] * (len(bits) - 1), bits[-1]], "each was written with the target of its own job"
            assert site.server.counters.retargets == 1

    run(work())


def test_a_job_is_given_again_at_most_fifteen_times_and_the_next_job_brings_the_last_wish(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, shares_per_minute=8, network_target=1 << 200) as site:
            client = await site.connect()
            first = await client.sign_in()
            for halvings in range(1, 21):
                await client.result("mining.suggest_target", f"{SHARE_TARGET >> halvings:064x}")
            again = [await client.next_job() for _ in range(15)]
            assert len({first.id, *(job.id for job in again)}) == 16
            assert client.target > SHARE_TARGET >> 16
            await site.pool.refresh()
            job = await client.next_job()
            assert int(job.id, 16) > max(int(job.id, 16) for job in again)
            assert client.target <= SHARE_TARGET >> 20

    run(work())


def test_a_silent_miner_gets_easier_jobs_down_to_the_floor_and_is_told_that_it_is_slow(tmp_path: Path) -> None:
    async def work() -> None:
        floor = SHARE_TARGET * 4
        limits = {"idle_seconds": 1_000_000_000}
        settings: dict[str, Any] = {"shares_per_minute": 8, "min_share_difficulty": difficulty_of(floor)}
        async with serving(tmp_path, limits=limits, **settings) as site:
            client = await site.connect()
            first = await client.sign_in()
            old_target = client.target
            (session,) = site.server.sessions
            now = time.monotonic_ns()
            for minutes in range(60):
                session.sweep(now + minutes * 60 * 10**9)
            (text,) = await client.take("client.show_message")
            assert text.startswith("This miner is slow for the smallest share difficulty of this pool")
            while client.target < floor * 0.99:
                last = await client.next_job()
            assert client.target <= floor
            assert (await client.mine(last))["result"] is True
            assert await client.result("mining.submit", ACCOUNT, *client.share(first, old_target)) is True

    run(work())


# Durability


@contextlib.contextmanager
def disk_that_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """(set when something is to be synced, to be set when it may be)."""
    is_waiting, may_go = threading.Event(), threading.Event()
    sync = os.fdatasync

    def wait_and_sync(descriptor: int) -> None:
        is_waiting.set()
        assert may_go.wait(PATIENCE)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", wait_and_sync)
    try:
        yield is_waiting, may_go
    finally:
        may_go.set()


def test_a_share_is_accepted_only_when_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            with disk_that_waits(monkeypatch) as (is_waiting, may_go):
                request = client.ask("mining.submit", ACCOUNT, *client.share(job))
                assert await asyncio.to_thread(is_waiting.wait, PATIENCE)
                for _ in range(50):
                    assert await client.result("mining.ping") == "pong"
                assert not client.pending, "the pool goes on, and does not answer the share"
                may_go.set()
                assert (await client.answer(request))["result"] is True
            assert site.server.counters.accepted == 1

    run(work())


def test_a_share_that_could_not_be_written_is_refused_and_so_are_all_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError("disk full")

    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            monkeypatch.setattr(os, "fdatasync", fail)
            assert await client.refusal("mining.submit", ACCOUNT, *client.share(job)) == (
                20,
                "the pool could not write its share log; this share is not accepted",
            )
            assert await client.refusal("mining.submit", ACCOUNT, *client.share(job)) == (
                20,
                "the pool cannot write its share log; try again later",
            )
            assert site.server.counters.accepted == 0

    with pytest.raises(LedgerError, match="disk full"):
        run(work())


# Many workers, budgets, floods


class Clock:
    """The time for everything that looks after connections from outside; sessions keep the real one."""

    def __init__(self) -> None:
        self.ahead = 0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + self.ahead * 10**9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that a test puts forward, and sweeps that come all the time."""
    clock = Clock()
    monkeypatch.setattr(server_module, "time", clock)
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.01)
    return clock


def test_a_rental_proxy_may_have_thousands_of_workers_on_one_connection(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, extranonce2_size=4, limits=NO_BUDGET) as site:
            client = await site.connect()
            await client.subscribe("NiceHash/1.0.0", None)
            users = [f"{ACCOUNT}.{number}" for number in range(2_000)]
            requests = [client.ask("mining.authorize", user, "x") for user in users]
            for request in requests:
                assert (await client.answer(request))["result"] is True
            job = await client.next_job()
            shares = [client.ask("mining.submit", user, *client.share(job)) for user in users]
            for share in shares:
                assert (await client.answer(share))["result"] is True
            workers = site.pool.workers.values()
            assert [worker.name for worker in workers] == [str(number) for number in range(2_000)]
            assert {worker.accepted for worker in workers} == {1}
            assert not client.pending, "one job for all of them"

    run(work())


def test_above_the_limit_further_workers_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, limits={"max_workers_per_connection": 2}) as site:
            client = await site.connect()
            job = await client.sign_in(f"{ACCOUNT}.1")
            assert await client.result("mining.authorize", f"{ACCOUNT}.2", "x") is True
            assert await client.refusal("mining.authorize", f"{ACCOUNT}.3", "x") == (
                24,
                "this connection has 2 workers already; open another one",
            )
            assert await client.result("mining.authorize", f"{ACCOUNT}.1", "d=8") is True, "a known one may come again"
            assert (await client.mine(job, f"{ACCOUNT}.2"))["result"] is True

    run(work())


def test_who_overdraws_its_budget_is_read_later_and_loses_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, limits={"cost_per_second": 2_000, "cost_burst": 100}) as site:
            client, neighbour = await site.connect(), await site.connect()
            job = await client.sign_in()
            (session,) = [session for session in site.server.sessions if session.agent]
            shares = [client.ask("mining.submit", ACCOUNT, *client.share(job)) for _ in range(100)]
            pings = [client.ask("mining.ping") for _ in range(100)]
            await until(lambda: site.server.counters.pauses)
            assert await neighbour.result("mining.ping") == "pong"
            shares += [client.ask("mining.submit", ACCOUNT, *client.share(job)) for _ in range(100)]
            for request in shares:
                assert (await client.answer(request))["result"] is True
            for request in pings:
                assert (await client.answer(request))["result"] == "pong"
            assert session.waiting_for is None
            assert site.log.next_sequence == 200

    run(work())


def test_one_read_is_answered_only_as_far_as_the_budget_goes_and_the_rest_when_it_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, limits={"cost_per_second": 500, "cost_burst": 100}) as site:
            client = await site.connect()
            await client.sign_in()
            (session,) = site.server.sessions
            before = site.server.counters.pauses
            pings = [b'{"id":%d,"method":"mining.ping"}\n' % number for number in range(1000, 1100)]
            session.data_received(b"".join(pings) + b'{"id":1100,"method"')
            assert site.server.counters.pauses == before + 1
            assert 60 < len(session._unread) <= 100
            session.data_received(b':"mining.ping"}\n')  # as a transport may, once, after it was paused
            assert site.server.counters.pauses == before + 1
            assert 60 < len(session._unread) <= 101
            for number in range(1000, 1101):
                assert (await client.answer(number))["result"] == "pong"
            assert not session._unread
            assert site.server.counters.pauses > before + 1

    run(work())


def test_a_server_that_stood_still_lets_nobody_go_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.05)

    async def work() -> None:
        async with serving(tmp_path, limits={"idle_seconds": 1}) as site:
            client = await site.connect()
            await client.sign_in()
            time.sleep(1.5)  # noqa: ASYNC251 - the loop itself stands still
            assert await client.result("mining.ping") == "pong"
            assert site.server.counters.hang_ups == 0

    run(work())


FLOOD = {"share_patience_seconds": 1, "handshake_seconds": 1_000_000, "idle_seconds": 1_000_000, **NO_BUDGET}


def announced(address: str) -> bytes:
    """A PROXY header, version 1."""
    return f"PROXY TCP4 {address} 198.51.100.1 40000 3333\r\n".encode()


def announced_v2(address: str, *, command: int = 0x21) -> bytes:
    """A PROXY header, version 2, with an extra of no importance."""
    ends = socket.inet_aton(address) + socket.inet_aton("198.51.100.1") + struct.pack(">HH", 40000, 3333)
    body = ends + b"\x04\x00\x02xx"
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack(">BBH", command, 0x11, len(body)) + body


async def flood(client: Client, job: Job) -> None:
    """Hand in shares that are none until the pool has had enough."""
    weak = next(job.solve(client.extranonce1, "00" * 8, FAR_ABOVE, SHARE_TARGET))
    with contextlib.suppress(ConnectionError, EOFError):
        async with asyncio.timeout(PATIENCE):
            while True:
                assert (await client.refusal("mining.submit", ACCOUNT, job.id, "00" * 8, job_time(job), weak))[0] == 23


def job_time(job: Job) -> str:
    """The ntime of a job as a submission writes it."""
    return f"{job.ntime:08x}"


def test_a_flood_of_invalid_shares_bans_its_address_until_the_ban_expires(tmp_path: Path, clock: Clock) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("127.0.0.0/8",), limits=FLOOD) as site:
            neighbour = await site.connect(announced("203.0.113.8"))
            its_job = await neighbour.sign_in()
            client = await site.connect(announced("203.0.113.7"))
            await flood(client, await client.sign_in())
            assert site.server.counters.bans == 1
            client = await site.connect(announced("203.0.113.7"))
            assert await client.ended()
            assert site.server.counters.turned_away == 1
            assert (await neighbour.mine(its_job))["result"] is True
            clock.ahead = site.server.limits.ban_seconds
            client = await site.connect(announced("203.0.113.7"))
            assert (await client.mine(await client.sign_in()))["result"] is True

    run(work())


def test_what_is_no_stratum_bans_an_address_too_and_never_loopback(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("127.0.0.0/8",)) as site:
            for address, is_welcome in (("203.0.113.7", False), ("127.0.0.1", True)):
                client = await site.connect(announced(address))
                for _ in range(5):
                    client.send_line(b"GET / HTTP/1.1")
                assert await client.ended()
                assert [message["error"][0] for message in client.pending] == [20] * 5
                client = await site.connect(announced(address))
                if is_welcome:
                    assert await client.result("mining.ping") == "pong"
                else:
                    assert await client.ended()

    run(work())


def test_stale_shares_alone_ban_nobody(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("127.0.0.0/8",), limits=FLOOD) as site:
            client = await site.connect(announced("203.0.113.7"))
            job = await client.sign_in()
            async with asyncio.timeout(PATIENCE):
                loop = asyncio.get_running_loop()
                end = loop.time() + 2 * FLOOD["share_patience_seconds"]
                while loop.time() < end:
                    fields = ("fff", "00" * 8, job_time(job), "00000000")
                    assert (await client.refusal("mining.submit", ACCOUNT, *fields))[0] == 21
            assert (await client.mine(job))["result"] is True

    run(work())


# Connections that are in nobody's interest


@contextlib.asynccontextmanager
async def deaf_miner(site: Site, until: Callable[[], Any]) -> AsyncIterator[None]:
    """A connection that asks until something has happened, and reads no answer."""
    line = b'{"id":"%s","method":"mining.ping"}\n' % (b"x" * 120)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", site.port))
        connection.setblocking(False)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while not until():
                    with contextlib.suppress(BlockingIOError):
                        connection.send(line * 1_000)
                    await asyncio.sleep(0)
        yield


def test_a_miner_that_does_not_read_is_cut_and_its_neighbours_are_not(tmp_path: Path) -> None:
    async def work() -> None:
        limits = {"max_write_buffer_bytes": 4_096, **NO_BUDGET}
        async with serving(tmp_path, limits=limits) as site:
            neighbour = await site.connect()
            async with deaf_miner(site, lambda: site.server.counters.hang_ups):
                assert site.server.counters.hang_ups == 1
                assert await neighbour.result("mining.ping") == "pong"

    run(work())


def test_connections_that_never_authorize_end_and_miners_stay(tmp_path: Path, clock: Clock) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            miner = await site.connect()
            job = await miner.sign_in()
            silent, talking = await site.connect(), await site.connect()
            await talking.subscribe("test/1")
            clock.ahead = site.server.limits.handshake_seconds
            assert await silent.ended()
            assert await talking.ended()
            assert (await miner.mine(job))["result"] is True

    run(work())


def test_a_miner_that_says_nothing_any_more_ends(tmp_path: Path, clock: Clock) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            idle = await site.connect()
            await idle.sign_in()
            clock.ahead = site.server.limits.idle_seconds
            assert await idle.ended()

    run(work())


def test_a_proxy_that_does_not_say_for_whom_it_connects_is_cut(tmp_path: Path, clock: Clock) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("127.0.0.1",)) as site:
            client = await site.connect(b"PROXY TCP4 203.")
            await until(lambda: site.server.announced)
            clock.ahead = site.server.limits.proxy_header_seconds
            assert await client.ended()

    run(work())


def test_a_line_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, limits={"max_line_bytes": 512}) as site:
            for length, is_read in ((512, True), (513, False)):
                client = await site.connect()
                line = b'{"id":1,"method":"mining.ping","params":["%s"]}'
                client.send_line(line % (b"x" * (length - len(line) + 2)))
                if is_read:
                    assert (await client.read())["result"] == "pong"
                else:
                    assert await client.ended()
                    assert not client.pending
            client = await site.connect(b"x" * 513)
            assert await client.ended()

    run(work())


# Behind a proxy


@pytest.mark.parametrize("header", [announced, announced_v2])
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_behind_a_proxy_the_miners_own_address_counts(tmp_path: Path, header: Any, size: int) -> None:
    async def work() -> None:
        limits = {"max_connections_per_address": 1}
        async with serving(tmp_path, proxies=("127.0.0.0/8",), limits=limits) as site:
            first = await site.connect()
            data = header("203.0.113.7") + b'{"id":1,"method":"mining.ping"}\n'
            for start in range(0, len(data), size):
                first.writer.write(data[start : start + size])
                await asyncio.sleep(0)
            assert (await first.read())["result"] == "pong"
            (session,) = site.server.sessions
            assert (session.address, session.peer) == ("203.0.113.7", "203.0.113.7:40000")
            second, other = await site.connect(header("203.0.113.7")), await site.connect(header("203.0.113.8"))
            assert await second.ended()
            assert (await other.mine(await other.sign_in()))["result"] is True

    run(work())


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", announced_v2("203.0.113.7", command=0x20)])
def test_a_proxy_may_speak_for_itself(tmp_path: Path, header: bytes) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("127.0.0.0/8",)) as site:
            client = await site.connect(header)
            assert await client.result("mining.ping") == "pong"
            (session,) = site.server.sessions
            assert session.address == "127.0.0.1"

    run(work())


@pytest.mark.parametrize(
    "start",
    [
        b'{"id":1,"method":"mining.ping"}\n',
        b"PROXY TCP4 nowhere 198.51.100.1 1 2\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x31\x11",
    ],
)
def test_a_proxy_that_announces_nobody_is_cut(tmp_path: Path, start: bytes) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("127.0.0.0/8",)) as site:
            client = await site.connect(start + bytes(2))
            assert await client.ended()
            assert not client.pending

    run(work())


def test_who_is_no_proxy_cannot_announce_itself(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, proxies=("198.51.100.0/24",)) as site:
            client = await site.connect(announced("203.0.113.7"))
            assert (await client.read())["error"][0] == 20
            assert await client.result("mining.ping") == "pong"
            (session,) = site.server.sessions
            assert session.address == "127.0.0.1"

    run(work())


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    assert shutil.which("openssl"), "the tests of TLS need the openssl program: apt-get install openssl"
    folder = tmp_path_factory.mktemp("tls")
    names = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extras = ["-addext", "subjectAltName=DNS:localhost", "-out", str(names[0]), "-keyout", str(names[1])]
    subprocess.run([*command.split(), *extras], check=True, capture_output=True)
    return names


def test_miners_may_speak_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    async def work() -> None:
        async with serving(tmp_path, certificate=certificate[0], private_key=certificate[1]) as site:
            trust = ssl.create_default_context(cafile=str(certificate[0]))
            client = await site.connect(ssl=trust, server_hostname="localhost")
            assert (await client.mine(await client.sign_in()))["result"] is True
            many = [client.ask("mining.ping") for _ in range(1_000)]
            for request in many:
                assert (await client.answer(request))["result"] == "pong"

    run(work())


def test_a_port_with_tls_speaks_nothing_else(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    async def work() -> None:
        limits = {"tls_handshake_seconds": 1}
        async with serving(tmp_path, certificate=certificate[0], private_key=certificate[1], limits=limits) as site:
            plain, silent = await site.connect(b'{"id":1,"method":"mining.ping"}\n'), await site.connect()
            assert await plain.ended()
            assert await silent.ended()
            assert not plain.pending
            assert not site.server.sessions

    run(work())


def test_tls_and_a_balancers_header_on_one_port_are_refused(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    async def work() -> None:
        with pytest.raises(ConfigError, match="let the balancer end TLS"):
            async with serving(
                tmp_path, certificate=certificate[0], private_key=certificate[1], proxies=("127.0.0.1",)
            ):
                pass

    run(work())


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    async def work() -> None:
        with pytest.raises(ConfigError, match=r"TLS: .*missing\.pem or its key cannot be used"):
            async with serving(tmp_path, certificate=tmp_path / "missing.pem", private_key=certificate[1]):
                pass

    run(work())


# The end


def test_at_the_end_miners_are_sent_away_and_what_was_on_its_way_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LAST_WORDS_SECONDS", PATIENCE)

    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            end = asyncio.create_task(site.server.stop())
            assert await client.take("client.reconnect") == []
            assert (await client.mine(job))["result"] is True
            with pytest.raises(ConnectionRefusedError):
                await site.connect()
            client.writer.close()
            await end

    run(work())


def test_at_the_end_nothing_is_left_without_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", PATIENCE)

    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            with disk_that_waits(monkeypatch) as (is_waiting, may_go):
                requests = [client.ask("mining.submit", ACCOUNT, *client.share(job))]
                assert await asyncio.to_thread(is_waiting.wait, PATIENCE)
                requests.append(client.ask("mining.submit", ACCOUNT, *client.share(job)))
                await until(lambda: site.log.next_sequence == 2)
                end = asyncio.create_task(site.server.stop())
                (session,) = site.server.sessions
                await until(lambda: session._is_deaf)
                may_go.set()
                for request in requests:
                    assert (await client.answer(request))["result"] is True
            assert await client.ended()
            await end
            await site.log.flush()
            assert sum(isinstance(record, ShareRecord) for _, record in replay(site.log.folder)) == 2

    run(work())


def test_who_goes_on_sending_at_the_end_reads_all_that_it_was_sent_and_no_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", PATIENCE)

    async def work() -> None:
        async with serving(tmp_path) as site:
            client = await site.connect()
            job = await client.sign_in()
            (session,) = site.server.sessions
            end = asyncio.create_task(site.server.stop())
            assert await client.take("client.reconnect") == []
            assert (await client.mine(job))["result"] is True
            await until(lambda: session._is_deaf)
            client.ask("mining.submit", ACCOUNT, *client.share(job))
            assert await client.reader.read() == b""
            assert not end.done()  # it is the miner that closes
            client.writer.close()
            await end

    run(work())


def test_nobody_can_hold_up_the_end(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 0.2)

    async def work() -> None:
        async with serving(tmp_path / "deaf", limits={"max_write_buffer_bytes": 1 << 24, **NO_BUDGET}) as site:
            sessions = site.server.sessions
            async with deaf_miner(site, lambda: sum(s._transport.get_write_buffer_size() for s in sessions)):
                await site.server.stop()
        async with serving(tmp_path / "proxy", proxies=("127.0.0.1",)) as site:
            await site.connect()
            await until(lambda: site.server.announced)
        async with serving(tmp_path / "tls", certificate=certificate[0], private_key=certificate[1]) as site:
            await site.connect()

    run(work())

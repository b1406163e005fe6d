"""Nodes that lie, stutter, hang or are not nodes at all: a clear error each, and work goes on.

A relay between the pool and a real node spoils the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from pool_oracle import blocks, pool
from pool_oracle.chain.anvil import free_port
from pool_oracle.check import run_checks
from pool_oracle.config import load_config
from pool_oracle.errors import NodeError
from pool_oracle.logbook import BlockState
from pool_oracle.networks import network_named
from pool_oracle.node import core
from pool_oracle.node import group as group_module
from pool_oracle.node.core import CoreNode
from pool_oracle.node.group import NodeGroup
from pool_oracle.node.jsonrpc import MAX_REPLY_BYTES, Login
from tests.integration.litecoin import (
    GUARD_SECONDS,
    LITECOIN,
    NO_MWEB,
    Answer,
    Litecoind,
    LitecoinNetwork,
    Relay,
    hold,
    opened,
    pool_on,
    send,
    until,
)

SHORT = 0.5
"""A time limit for calls that are never answered."""

BLANK = bytes(64)

OPTIONS = (NO_MWEB, "-disablewallet", "-rpcthreads=64")
"""A node's thread stays with a long poll until there is a new tip, also where the pool of a test is long gone."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LitecoinNetwork]:
    with LitecoinNetwork(tmp_path_factory.mktemp("litecoin"), 2, *OPTIONS) as running:
        running.nodes[0].generate(3)
        running.sync()
        yield running


@pytest.fixture
def node(network: LitecoinNetwork) -> Litecoind:
    return network.nodes[0]


OpenRelay = Callable[[], AbstractAsyncContextManager[Relay]]


@pytest.fixture
def relay(node: Litecoind) -> OpenRelay:
    """Opens a relay to a node, for a test that does not take for ever."""

    @contextlib.asynccontextmanager
    async def open_relay() -> AsyncIterator[Relay]:
        async with asyncio.timeout(2 * GUARD_SECONDS), Relay(node) as opened_relay:
            yield opened_relay

    return open_relay


async def problem_of(call: Any) -> str:
    """What a call that must fail says: one line that names the node."""
    with pytest.raises(NodeError) as refusal:
        await call
    text = str(refusal.value)
    assert text.isprintable()
    assert text.startswith("bad: ") or text.startswith("bad is ")
    assert len(text) < 1000
    return text


# Replies that are no answers


def says(body: bytes, status: int = 200) -> Answer:
    async def answer(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
        await send(writer, body, status=status)

    return answer


def raw(*pieces: bytes, then_close: bool = True, again_and_again: bool = False) -> Answer:
    """Bytes as they are, and after them the end of the connection, silence, or the last piece for ever."""

    async def answer(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while again_and_again:
            writer.write(pieces[-1])
            await writer.drain()
            await asyncio.sleep(0)
        if then_close:
            raise ConnectionError
        await asyncio.Event().wait()

    return answer


ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


def slowly(writer_piece: bytes) -> Answer:
    """A reply that comes a byte at a time and has no end."""

    async def answer(writer: asyncio.StreamWriter, _request: dict[str, Any]) -> None:
        writer.write(ENDLESS)
        while True:
            writer.write(b"1\r\n" + writer_piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    return answer


NO_ANSWERS: dict[str, tuple[Answer, str]] = {
    "a web page": (says(b"<html>It works!</html>"), "the reply is not JSON (HTTP 200): '<html>It works!</html>'"),
    "nothing": (says(b""), "the reply is not JSON (HTTP 200)"),
    "half of a JSON text": (says(b'{"result": {"chain"'), "the reply is not JSON"),
    "JSON that is not UTF-8": (says(b'{"result": "\xff\xfe", "error": null}'), "the reply is not JSON"),
    "half a surrogate": (says(b'{"result": "\\ud800", "error": null}'), "the reply is not JSON"),
    "lines of control characters": (says(b"\x1b[31m\nINFO all is well\n" * 9), "the reply is not JSON"),
    "JSON nested 100,000 deep": (says(b'{"result":' * 100_000), "the reply is not JSON"),
    "lists nested 100,000 deep": (says(b"[" * 100_000 + b"]" * 100_000), "the reply is not JSON"),
    "a number beyond all bounds": (says(b'{"result": 1e99999, "error": null}'), "the reply is not JSON"),
    "a list": (says(b"[1, 2]"), "the reply is no JSON-RPC answer (HTTP 200)"),
    "null": (says(b"null"), "the reply is no JSON-RPC answer"),
    "an object of something else": (says(b'{"status": "ok"}'), "the reply is no JSON-RPC answer"),
    "an error object": (
        says(b'{"result": null, "error": {"code": -28, "message": "Loading block index..."}}', 500),
        "Loading block index...",
    ),
    "an error of several lines": (says(b'{"error": {"code": -1, "message": "one\\ntwo\\u001b[31m"}}'), "one"),
    "an error without a message": (says(b'{"error": {}}'), "getblockchaininfo: "),
    "an error of the wrong type": (says(b'{"error": [[7]]}'), "[[7]]"),
    "wrong password": (says(b"", 401), "user or password is wrong (HTTP 401)"),
    "forbidden": (says(b"", 403), "the node does not let this host in (HTTP 403; its setting rpcallowip)"),
    "too busy": (says(b"Work queue depth exceeded", 503), "not JSON (HTTP 503): 'Work queue depth exceeded'"),
    "a redirect": (
        raw(b"HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 0\r\n\r\n"),
        "HTTP 302",
    ),
    "20 MB": (says(b'{"error": null, "result": "' + bytes(20_000_000).replace(b"\0", b"a") + b'"}'), "than 16 MiB"),
    "20 MB of spaces": (says(b" " * 20_000_000), "the reply is longer than 16 MiB"),
    "a megabyte for ever": (
        raw(ENDLESS, b"100000\r\n" + b" " * 0x100000 + b"\r\n", again_and_again=True),
        "the reply is longer than 16 MiB",
    ),
    "a byte at a time for ever": (slowly(b" "), "was not answered within 0.5 s"),
    "silence": (hold, "was not answered within 0.5 s"),
    "a head and silence": (raw(HEAD, then_close=False), "was not answered within 0.5 s"),
    "half a reply and silence": (raw(HEAD + b'{"result"', then_close=False), "was not answered within 0.5 s"),
    "half a reply and the end": (raw(HEAD + b'{"result"'), "getblockchaininfo failed: "),
    "the end at once": (raw(), "getblockchaininfo failed: "),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "getblockchaininfo failed: "),
    "a length that is none": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), "getblockchaininfo failed: "),
    "endless headers": (raw(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000, again_and_again=True), "blockchaininfo failed"),
    "compression that nobody asked for": (
        raw(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n",
            gzip.compress(b'{"error": null, "result": "' + b"a" * 10_000_000 + b'"}'),
        ),
        "the reply is not JSON (HTTP 200)",
    ),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_a_reply_that_is_no_answer_is_an_error_that_names_the_node_and_the_problem(relay: OpenRelay, name: str) -> None:
    answer, problem = NO_ANSWERS[name]

    async def work() -> None:
        async with relay() as r, opened(r.source(seconds=SHORT)) as source:
            r.answers["getblockchaininfo"] = answer
            assert problem in await problem_of(source.check())
            assert problem in await problem_of(source.template())
            r.answers.clear()
            assert (await source.template()).height == (await source.tip()).height + 1

    asyncio.run(work())


def test_the_longest_template_of_an_honest_node_is_let_in(relay: OpenRelay) -> None:
    """Its transactions in hex, and for each of the smallest of them 300 bytes of names and hashes."""
    longest = 4_000_000 * 2 + 4_000_000 // (4 * 60) * 300
    assert longest < MAX_REPLY_BYTES

    async def work() -> None:
        async with relay() as r, opened(r.source()) as source:
            body = b'{"error": null, "result": "' + b"a" * (MAX_REPLY_BYTES - 30) + b'"}'
            r.answers["getblock"] = says(body)
            assert len(await source.block(1)) == (MAX_REPLY_BYTES - 30) // 2

    asyncio.run(work())


# Logging in, and places where no node is


def test_a_wrong_password_is_named_and_a_right_one_is_taken_without_a_restart(node: Litecoind, tmp_path: Path) -> None:
    user, _, password = node.cookie_file.read_text().partition(":")
    secret = tmp_path / "password"
    secret.write_text("wrong")

    async def work() -> None:
        login = Login(user=user, password_file=secret)
        async with opened(CoreNode(LITECOIN, node.url, login, name="bad")) as source:
            assert "user or password is wrong (HTTP 401)" in await problem_of(source.template())
            secret.write_text(password + "\n")
            await source.template()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read (No such file or directory); is the node running?"),
        (b"", "is no cookie file: it must hold user:password"),
        (b"no colon in here", "is no cookie file: it must hold user:password"),
        (b"\xff\xfe\x00", "cannot be read (not text)"),
    ],
)
def test_a_cookie_file_that_is_missing_or_none_is_named(
    node: Litecoind, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    cookie = tmp_path / ".cookie"
    if content is not None:
        cookie.write_bytes(content)

    async def work() -> None:
        async with opened(CoreNode(LITECOIN, node.url, Login(cookie_file=cookie), name="bad")) as source:
            text = await problem_of(source.template())
            assert problem in text
            assert str(cookie) in text
            cookie.write_bytes(node.cookie_file.read_bytes())
            await source.template()

    asyncio.run(work())


def test_a_folder_in_place_of_a_cookie_and_a_missing_password_are_named(node: Litecoind, tmp_path: Path) -> None:
    async def work() -> None:
        for login, problem in (
            (Login(cookie_file=tmp_path), "cannot be read (Is a directory)"),
            (Login(user="pool", password_file=tmp_path / "password"), "it must hold the node's RPC password"),
            (Login(), "user or password is wrong (HTTP 401)"),
        ):
            async with opened(CoreNode(LITECOIN, node.url, login, name="bad")) as source:
                assert problem in await problem_of(source.template())

    asyncio.run(work())


def test_a_place_where_nobody_listens_or_somebody_else_does_is_named(node: Litecoind) -> None:
    async def work() -> None:
        for url, problem in (
            (f"http://127.0.0.1:{free_port()}", "no connection; is the node running, and is the port right?"),
            (f"http://127.0.0.1:{node.port}", "failed: "),  # the port that nodes speak to each other on
            (f"https://127.0.0.1:{node.rpc_port}", "no connection"),
            ("http://no-such-host.invalid:8332", "no connection"),
        ):
            async with opened(CoreNode(LITECOIN, url, node.login, name="bad", seconds=20)) as source:
                assert problem in await problem_of(source.check())

    asyncio.run(work())


def test_a_port_that_takes_connections_and_never_answers_is_given_up(node: Litecoind) -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            async with opened(CoreNode(LITECOIN, url, node.login, name="bad", seconds=SHORT)) as source:
                assert "was not answered within 0.5 s" in await problem_of(source.check())

    asyncio.run(work())


def test_calls_that_are_given_up_leave_no_connection_behind(node: Litecoind) -> None:
    async def work() -> None:
        async with opened(node.source()) as source:
            for turns in range(200):
                call = asyncio.create_task(source.tip())
                for _ in range(turns % 50):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(work())
        gc.collect()
    assert [str(warning.message) for warning in told] == []


# The wrong node


def test_a_node_of_another_network_is_refused(node: Litecoind) -> None:
    """Litecoin's regtest is called as Bitcoin's is; block 0 tells them apart."""

    async def work() -> None:
        async with opened(CoreNode(network_named("regtest"), node.url, node.login, name="bad")) as source:
            for call in (source.check, source.template):
                text = await problem_of(call())
                assert "is on chain 'regtest' with block 0 530827f3" in text
                assert "and the pool mines regtest" in text
        async with opened(CoreNode(network_named("litecoin"), node.url, node.login, name="bad")) as source:
            assert "is on chain 'regtest'" in await problem_of(source.template())

    asyncio.run(work())


def test_a_node_that_has_no_recent_block_is_still_syncing(tmp_path: Path) -> None:
    fresh = Litecoind(tmp_path, NO_MWEB, "-disablewallet")

    async def work() -> None:
        async with opened(fresh.source("bad")) as source:
            assert "is still syncing: it has 0 of 0 blocks" in await problem_of(source.template())
            fresh.generate(1)
            assert "is not connected" in await problem_of(source.template())

    try:
        asyncio.run(work())
    finally:
        fresh.stop()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"chain": "main"}, "is on chain 'main' with block 0 530827f3"),
        ({"chain": ["regtest"]}, "is on chain "),
        ({"chain": {}}, "is on chain "),
        ({"chain": None}, "is on chain "),
        ({"chain": "x" * 10_000}, "is on chain 'xxxx"),
        ({"headers": 1_000_000}, "is still syncing: it has "),
        ({"headers": 10**30}, "headers must be 0 to 2^31 - 1, not 1000"),
        ({"headers": "many"}, "headers must be an integer"),
        ({"blocks": None}, "blocks must be an integer"),
        ({"blocks": 1.5}, "blocks must be an integer"),
        ({"blocks": -1, "headers": -1}, "blocks must be 0 to 2^31 - 1, not -1"),
        ({"initialblockdownload": True}, "is still syncing"),
    ],
)
def test_what_a_node_says_of_itself_is_checked(relay: OpenRelay, change: dict[str, Any], problem: str) -> None:
    async def work() -> None:
        async with relay() as r, opened(r.source()) as source:
            r.spoil("getblockchaininfo", lambda info: {**info, **change})
            assert problem in await problem_of(source.check())
            assert problem in await problem_of(source.template())

    asyncio.run(work())


@pytest.mark.parametrize("field", ["chain", "blocks", "headers"])
def test_what_a_node_does_not_say_of_itself_is_named(relay: OpenRelay, field: str) -> None:
    async def work() -> None:
        async with relay() as r, opened(r.source()) as source:
            r.spoil("getblockchaininfo", lambda info: {name: info[name] for name in info if name != field})
            assert f"field '{field}' is missing" in await problem_of(source.check())

    asyncio.run(work())


# Templates


BAD_TEMPLATES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown rule that must be known": (
        {"rules": ["!segwit", "!witchcraft"]},
        "the node demands rule '!witchcraft'",
    ),
    "a value of 0": ({"coinbasevalue": 0}, "coinbasevalue must be 1 to "),
    "a negative value": ({"coinbasevalue": -1}, "coinbasevalue must be 1 to "),
    "a value beyond all money": ({"coinbasevalue": 10**30}, "coinbasevalue must be 1 to "),
    "a height that is no number": ({"height": "high"}, "height must be an integer"),
    "transactions that are no list": ({"transactions": {}}, "transactions must be a list"),
    "a transaction without data": (
        {"transactions": [{"txid": "00" * 32}]},
        "transactions[0].data must be a hex string",
    ),
    "bits of another target": ({"bits": "1d00ffff"}, "is not that of bits 1d00ffff"),
    "no previous block": ({"previousblockhash": None}, "previousblockhash must be a hex string"),
    "a signature that is wanted": ({"signet_challenge": "5121"}, "it has a signet_challenge"),
    "an extension that is no hex": ({"mweb": 7}, "mweb must be a hex string"),
}


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_a_template_that_cannot_be_mined_is_refused_with_the_field_that_is_wrong(relay: OpenRelay, name: str) -> None:
    change, problem = BAD_TEMPLATES[name]

    async def work() -> None:
        async with relay() as r, opened(r.source()) as source:
            r.spoil("getblocktemplate", lambda template: {**template, **change})
            text = await problem_of(source.template())
            assert text.startswith("bad: the template cannot be mined: ")
            assert problem in text

    asyncio.run(work())


def test_each_field_that_a_template_lacks_is_named(relay: OpenRelay) -> None:
    async def work() -> None:
        async with relay() as r, opened(r.source()) as source:
            for field in (
                "version",
                "previousblockhash",
                "transactions",
                "coinbasevalue",
                "bits",
                "height",
                "curtime",
                "default_witness_commitment",
            ):
                r.spoil("getblocktemplate", lambda reply, gone=field: {n: reply[n] for n in reply if n != gone})
                assert f"field '{field}' is missing" in await problem_of(source.template())

    asyncio.run(work())


WEIRD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**30, -(10**30), "", "zz", "00", "ab" * 32, "x" * 5000, "\n\x1b"),
    *([], {}, [[]], {"": None}, ["ab" * 32], {"blocks": 1}, {"confirmations": []}, {"longpollid": [], "rules": 1}),
]


@pytest.mark.parametrize("weird", WEIRD, ids=lambda value: repr(value)[:20])
def test_a_result_of_any_kind_gives_an_answer_or_an_error_of_the_node_and_nothing_else(
    relay: OpenRelay, node: Litecoind, weird: Any
) -> None:
    async def work() -> None:
        async with relay() as r, opened(r.source()) as source:
            known = await source.template()
            tip = node.tip
            calls: list[Callable[[], Any]] = [
                source.check,
                source.template,
                source.tip,
                lambda: source.header(1),
                lambda: source.block(1),
                lambda: source.confirmations(tip),
                lambda: source.submit(BLANK),
                lambda: source.propose(BLANK),
                lambda: source.next_template(known),
            ]
            methods = ["getblockchaininfo", "getblocktemplate", "getblockhash", "getblockheader", "getblock"]
            for method in (*methods, "submitblock", "getbestblockhash", "*"):
                r.answers.clear()
                r.answers[method] = says(msgspec.json.encode({"result": weird, "error": None}))
                for call in calls:
                    with contextlib.suppress(NodeError, TimeoutError):
                        async with asyncio.timeout(0.02 if call is calls[-1] else GUARD_SECONDS):
                            await call()

    asyncio.run(work())


# A bad node beside a good one


def comes_back_with(relay: Relay, change: dict[str, Any]) -> None:
    """A node that was started again, and is not what it was."""
    relay.spoil("getblockchaininfo", lambda info: {**info, **change})
    relay.hang_up()


UNFIT: dict[str, Callable[[Relay], None]] = {
    "is silent": lambda r: r.answers.update({"*": hold}),
    "is no node": lambda r: r.answers.update({"*": says(b"<html>")}),
    "talks without end": lambda r: r.answers.update({"*": slowly(b" ")}),
    "sends 20 MB": lambda r: r.answers.update({"*": says(b" " * 20_000_000)}),
    "refuses us": lambda r: r.answers.update({"*": says(b"", 401)}),
    "is busy": lambda r: r.answers.update({"*": says(b"Work queue depth exceeded", 503)}),
    "hangs up": lambda r: r.answers.update({"*": raw()}),
    "is on another network": lambda r: comes_back_with(r, {"chain": "main"}),
    "is syncing": lambda r: comes_back_with(r, {"initialblockdownload": True}),
    "gives templates without a field": lambda r: r.spoil(
        "getblocktemplate", lambda reply: {name: reply[name] for name in reply if name != "curtime"}
    ),
    "gives templates with an unknown rule": lambda r: r.spoil(
        "getblocktemplate", lambda reply: {**reply, "rules": ["!witchcraft"]}
    ),
    "gives templates worth nothing": lambda r: r.spoil("getblocktemplate", lambda reply: {**reply, "coinbasevalue": 0}),
}


@pytest.mark.parametrize("how", UNFIT)
def test_work_goes_on_with_the_good_node_and_the_log_says_what_is_wrong_with_the_bad_one(
    relay: OpenRelay, network: LitecoinNetwork, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(group_module, "CLOSE_SECONDS", 0.1)
    first, second = network.nodes

    async def work() -> None:
        async with relay() as r:
            group = NodeGroup([r.source(seconds=SHORT), second.source("good")], look_seconds=0.1)
            with capture_logs() as log:
                async with pool_on(tmp_path, group) as rig:
                    assert group.active.name == "bad"
                    job = rig.job
                    await until(lambda: r.calls.count("getblocktemplate") == 2, "a long poll")
                    UNFIT[how](r)
                    for _ in range(2):  # what was asked for before the node turned bad is still answered well
                        first.generate(1)
                        network.sync()
                        await rig.job_on(second.tip)
                    await until(lambda: group.active.name == "good", "the good node to be used")
                    network.sync()
                    await rig.job_on(second.tip)
                    assert rig.job.number > job.number
                    await rig.mine(1)
                    block = await rig.find_block()
                    await rig.state(block, BlockState.BEST)
                    await rig.job_on(block.hash)
                    heard = len(rig.heard)
                    looks = r.calls.count("getblockchaininfo")
                    await until(lambda: r.calls.count("getblockchaininfo") > looks + 2, "the bad node's turn")
                    assert group.active.name == "good"
                    assert len(rig.heard) == heard
                    r.answers.clear()
                    await until(lambda: group.active.name == "bad", "the preferred node to be used again")
            problems = [
                str(entry.get("problem", "")) + str(entry.get("why", ""))
                for entry in log
                if entry["log_level"] in ("error", "warning")
            ]
            assert any("bad" in problem for problem in problems), log

    asyncio.run(work())


def test_a_node_in_reserve_that_would_not_work_is_reported_once(
    relay: OpenRelay, node: Litecoind, tmp_path: Path
) -> None:
    async def work() -> None:
        async with relay() as r:
            r.spoil("getblockchaininfo", lambda info: {**info, "chain": "main"})
            group = NodeGroup([node.source("good"), r.source()], look_seconds=0.05)
            with capture_logs() as log:
                async with pool_on(tmp_path, group):
                    await until(lambda: r.calls.count("getblockchaininfo") > 5, "several looks at the other node")
                    r.answers.clear()
                    calls = len(r.calls)
                    await until(lambda: len(r.calls) > calls + 5, "more looks at the other node")
            told = [entry for entry in log if entry.get("node") == "bad"]
            assert [entry["log_level"] for entry in told] == ["error", "info"]
            assert "is on chain 'main'" in told[0]["problem"]

    asyncio.run(work())


def test_miners_keep_valid_jobs_while_all_nodes_are_bad(
    relay: OpenRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "NODE_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(core, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(blocks, "RETRY_MAX_SECONDS", 0.1)

    async def work() -> None:
        async with relay() as one, relay() as other:
            group = NodeGroup([one.source("one", seconds=SHORT), other.source("two", seconds=SHORT)], look_seconds=0.1)
            with capture_logs() as log:
                async with pool_on(tmp_path, group) as rig:
                    job = rig.job
                    for r in (one, other):
                        r.answers["*"] = says(b"<html>")
                    await until(
                        lambda: [e["event"] for e in log].count("no new template") > 5, "the pool to try some times"
                    )
                    assert rig.job is job
                    await rig.mine(2)
                    block = await rig.find_block()
                    assert rig.job is job
                    assert block.state is BlockState.SUBMITTED
                    await rig.mine(2)
                    other.answers.clear()
                    await rig.state(block, BlockState.BEST)
                    await rig.job_on(block.hash)
            problem = next(e["problem"] for e in log if e["event"] == "no new template")
            assert "one: " in problem
            assert "two: " in problem
            assert "the reply is not JSON" in problem

    asyncio.run(work())


def test_a_node_that_answers_long_polls_at_once_does_not_flood_miners_with_jobs(
    relay: OpenRelay, network: LitecoinNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "MIN_REFRESH_SECONDS", 0.5)
    first, second = network.nodes

    async def work() -> None:
        async with relay() as r:

            async def at_once(writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
                request["params"][0].pop("longpollid", None)
                _, body = await r._forward(request)
                await send(writer, body)

            async with pool_on(tmp_path, r.source()) as rig:
                r.answers["getblocktemplate"] = at_once
                await asyncio.sleep(0.8)
                assert len(rig.heard) <= 2
                second.generate(1)
                network.sync()
                await rig.job_on(first.tip)

    asyncio.run(work())


def test_a_long_poll_whose_connection_died_in_silence_does_not_hide_a_new_tip(
    relay: OpenRelay, network: LitecoinNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "WATCH_SECONDS", 0.1)
    first, second = network.nodes

    async def work() -> None:
        async with relay() as r:

            async def deaf_to_polls(writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
                if "longpollid" in request["params"][0]:
                    await hold(writer, request)
                _, body = await r._forward(request)
                await send(writer, body)

            r.answers["getblocktemplate"] = deaf_to_polls
            async with pool_on(tmp_path, r.source()) as rig:
                for _ in range(3):
                    second.generate(1)
                    network.sync()
                    await rig.job_on(first.tip)
                assert [clean for _, clean in rig.heard] == [True] * 4

    asyncio.run(work())


def test_a_node_without_long_polls_is_asked_for_its_tip(
    relay: OpenRelay, network: LitecoinNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "POLL_SECONDS", 0.05)
    first, second = network.nodes

    async def work() -> None:
        async with relay() as r:
            r.spoil("getblocktemplate", lambda reply: {name: reply[name] for name in reply if name != "longpollid"})
            async with pool_on(tmp_path, r.source()) as rig:
                second.generate(1)
                network.sync()
                await rig.job_on(first.tip)

    asyncio.run(work())


@pytest.mark.parametrize("endpoint", ["tcp://nonsense", "nothing", "tcp://127.0.0.1:{port}"])
def test_an_endpoint_for_announcements_that_is_none_is_reported_and_the_long_poll_does_its_work(
    relay: OpenRelay, network: LitecoinNetwork, tmp_path: Path, endpoint: str
) -> None:
    first, second = network.nodes
    is_wrong = "{port}" not in endpoint
    endpoint = endpoint.format(port=free_port())

    async def work() -> None:
        async with relay() as r:
            with capture_logs() as log:
                async with pool_on(tmp_path, r.source(zmq_hashblock=endpoint)) as rig:
                    for _ in range(3):
                        second.generate(1)
                        network.sync()
                        await rig.job_on(first.tip)
            assert [e["endpoint"] for e in log if e["log_level"] == "error"] == [endpoint] * is_wrong

    asyncio.run(work())


# The operator's own look


CHECKED: dict[str, tuple[Callable[[Relay], None], str]] = {
    "is no node": (UNFIT["is no node"], "the reply is not JSON (HTTP 200): '<html>'"),
    "sends 20 MB": (UNFIT["sends 20 MB"], "the reply is longer than 16 MiB"),
    "refuses us": (UNFIT["refuses us"], "user or password is wrong (HTTP 401)"),
    "is on another network": (UNFIT["is on another network"], "is on chain 'main'"),
    "is syncing": (UNFIT["is syncing"], "is still syncing"),
    "lacks a field": (UNFIT["gives templates without a field"], "field 'curtime' is missing"),
    "has an unknown rule": (UNFIT["gives templates with an unknown rule"], "demands rule '!witchcraft'"),
    "gives templates worth nothing": (UNFIT["gives templates worth nothing"], "coinbasevalue must be 1 to"),
    "would refuse our block": (
        lambda r: r.spoil("getblocktemplate", lambda reply: reply or "bad-cb-amount"),
        "bad-cb-amount",
    ),
}


@pytest.mark.parametrize("how", CHECKED)
def test_check_says_what_is_wrong_with_a_node_and_that_the_other_is_fit(
    relay: OpenRelay, network: LitecoinNetwork, tmp_path: Path, how: str
) -> None:
    spoil, problem = CHECKED[how]
    first, second = network.nodes

    async def work() -> None:
        async with relay() as r:
            spoil(r)
            path = tmp_path / "pool-oracle.toml"
            path.write_text(
                CONFIG.format(url=r.url, cookie=first.cookie_file, port=free_port())
                + OTHER_NODE.format(url=second.url, cookie=second.cookie_file)
            )
            results = {check.name: check for check in await asyncio.to_thread(run_checks, load_config(path))}
            assert not results["node bad"].ok
            assert problem in results["node bad"].detail
            assert results["node good"].ok, results["node good"].detail
            assert "a block of ours with 1 transactions would be taken" in results["node good"].detail

    asyncio.run(work())


CONFIG = """
[pool]
name = "test"
network = "litecoin-regtest"
[stratum]
share_difficulty = "0.000001"
[policy]
genesis_payee = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
[chain]
rpc = "http://127.0.0.1:{port}"
distributor = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
route = "deposit"
deposit_address = "rltc1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqnmxrc5"
operator_key_file = "operator.key"
[api]
[[node]]
name = "bad"
url = "{url}"
cookie_file = "{cookie}"
"""

OTHER_NODE = """
[[node]]
name = "good"
url = "{url}"
cookie_file = "{cookie}"
"""

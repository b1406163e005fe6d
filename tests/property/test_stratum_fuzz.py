"""A stratum connection under arbitrary input.

`Sandbox.play` checks the rules: no exception, each request is answered once, the log grows by the shares that are
answered with true, a neighbour notices nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pool_oracle.errors import InputError
from pool_oracle.payout.addresses import encode_segwit
from pool_oracle.stratum.limits import LimitSettings
from pool_oracle.stratum.messages import accepted, parse_request, short_id
from pool_oracle.stratum.pipe import Pipe
from pool_oracle.stratum.requests import HANDLERS
from tests.benches import bench_module

target = bench_module("fuzz_stratum")
PATIENT = settings(max_examples=100, suppress_health_check=(HealthCheck.too_slow,))
"""Inputs are large, and the machine may be busy."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


def play(steps: Iterable[bytes | str], **options: Any) -> Any:
    sandbox = target.Sandbox(**options)
    asyncio.run(sandbox.play(steps))
    return sandbox


# What a connection may be sent

NESTED = "2NAUYAHhujozruyzpsFRP63mbrdaU5wnEpN"
TAPROOT = encode_segwit("bcrt", 1, bytes(range(32)))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(target.TOKENS),
    st.sampled_from(
        ["00" * 8, "00000000", "ffffffff", f"{target.USER}.rig", "20", " 2 0", "-1", "0x20", "\0", "é\U0001f600"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(target.TOKENS), inner, max_size=4),
    max_leaves=8,
)
ids = st.one_of(st.integers(5, 1 << 200), scalars, values)
methods = st.sampled_from(target.METHODS)


def line(**members: Any) -> bytes:
    return json.dumps(members).encode()


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


requests = st.builds(line, id=ids, method=methods, params=st.lists(values, max_size=6) | values)
submits = st.builds(
    lambda request_id, user, place, extranonce2, ntime, nonce, rest: line(
        id=request_id, method="mining.submit", params=[user, f"{place:x}", extranonce2, ntime, f"{nonce:08x}", *rest]
    ),
    ids,
    st.sampled_from([f"{target.USER}.rig", target.USER, "nobody"]),
    st.integers(14, 50),
    st.sampled_from(["00" * 8, "01" * 8, "00" * 7, "zz" * 8]),
    st.integers(target.CURTIME - 1002, target.CURTIME + 7002).map("{:08x}".format),
    st.integers(0, 30),
    st.sampled_from([[], ["00000000"], ["1fffe000"], ["ffffffff"], [""], [None]]),
)
authorizations = st.builds(
    lambda request_id, user, password: line(id=request_id, method="mining.authorize", params=[user, *password]),
    ids,
    st.sampled_from(
        [target.USER, f"{target.USER}_%C3%A9%0A", f" {target.USER}.\U0001f600\0", NESTED, TAPROOT, "", "x" * 300]
    ),
    st.lists(st.sampled_from(["x", "d=1e99", "d=0,md=1e-9", "md=1024;diff=.5", "d=" + "9" * 99]) | scalars, max_size=1),
)
oddities = st.sampled_from(
    [
        b"",
        b" \t\r",
        b"null",
        b"{}",
        b"[]",
        b"NaN",
        b'{"id":NaN,"method":"mining.ping"}',
        b'{"id":1,"method":"mining.ping","params":[Infinity]}',
        b'{"id":1,"id":2,"method":"mining.submit","method":"mining.ping","params":[],"params":{}}',
        b'{"id":6,"result":true}',
        b'{"id":"version","result":"\\u0000cgminer\\ud83d\\ude00","error":null}',
        b'{"id":"version","result":[],"error":null}',
        b'{"id":1,"method":"mining.ping"}{"id":2,"method":"mining.ping"}',
        b'\xef\xbb\xbf{"id":1,"method":"mining.ping"}',
        b'{"id":"\xed\xa0\x80","method":"mining.ping"}',
        b'{"id":1e400,"method":"mining.ping"}',
        b'{"id":' + b"7" * 400 + b',"method":"mining.ping"}',
        b'{"id":"' + b"7" * 400 + b'","method":"mining.subscribe"}',
        b'{"id":1,"method":"' + b"m" * 9000 + b'"}',
        b'{"id":8,"method":"mining.configure","params":[["info"],{"info.sw-version":%s}]}' % nested(500),
        b'{"id":%s,"method":"mining.ping"}' % nested(990),
        b'{"id":9,"method":"mining.authorize","params":%s}' % nested(900),
        b'{"id":9,"method":"mining.submit","params":%s}' % nested(7000),
        b'{"id":9,"method":"mining.submit","params":%s}' % nested(1500, b'{"a":[', b"]}"),
        b"GET / HTTP/1.1\r",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
)


pieces = st.binary(max_size=4) | st.sampled_from([b'"', b"[", b"}", b"\\", b"0"])


@st.composite
def mutated(draw: Any, lines: st.SearchStrategy[bytes]) -> bytes:
    """A line with a piece cut out, another put in, and perhaps its end missing."""
    data = draw(lines)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data = data[:start] + draw(pieces) + data[end:]
    return data


any_line = st.one_of(
    requests, submits, authorizations, oddities, mutated(st.one_of(requests, submits)), st.binary(max_size=40)
)
streams = st.lists(st.tuples(any_line, st.sampled_from([b"\n", b"\r\n"])), max_size=12).map(
    lambda parts: b"".join(text + end for text, end in parts)
)
openings = st.sampled_from([b"", target.HANDSHAKE, target.HANDSHAKE + target.SUBMIT])


@given(openings, st.binary(max_size=400), st.integers(0, 20))
def test_any_bytes_at_all_do_no_harm(opening: bytes, data: bytes, size: int) -> None:
    play([opening, *target.cut(data, size)])


@given(openings, st.lists(streams | st.sampled_from(["job", "tip", "stored", "lost"]), max_size=8))
@PATIENT
def test_whatever_is_said_each_request_is_answered_once_and_the_log_has_what_was_answered_with_true(
    opening: bytes, steps: list[bytes | str]
) -> None:
    play([opening, *steps])


@given(st.lists(st.tuples(submits, st.booleans()), min_size=1, max_size=30))
@PATIENT
def test_shares_good_and_bad_repeated_and_pipelined_are_counted_once(lines: list[tuple[bytes, bool]]) -> None:
    stream = b"".join((text + b"\n") * (1 + is_repeated) for text, is_repeated in lines)
    sandbox = play([target.HANDSHAKE, stream])
    log = sandbox.desk.log
    assert len(log) == len(set(log))
    trues = [answer["id"] for answer in sandbox.answers if answer["result"] is True]
    assert len(trues) - 1 == len(log) - 1, "without that the worker is authorized, without the neighbour's share"


@pytest.mark.parametrize("method", target.METHODS)
def test_no_method_stumbles_over_parameters_of_the_wrong_type(method: str) -> None:
    @given(st.lists(st.builds(line, id=ids, method=st.just(method), params=st.lists(values, max_size=7) | values)))
    @settings(PATIENT, max_examples=30)
    def run(lines: list[bytes]) -> None:
        play([target.HANDSHAKE, b"\n".join([*lines, b""])])

    run()


@given(openings, streams, st.lists(st.integers(0, 5000), max_size=10))
@PATIENT
def test_answers_do_not_depend_on_how_the_bytes_are_cut(opening: bytes, stream: bytes, places: list[int]) -> None:
    stream = opening + stream
    cuts = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    whole = play([stream], vardiff=False)
    for chunks in (target.cut(stream, 1), [stream[a:b] for a, b in pairwise(cuts)]):
        pieces = play(chunks, vardiff=False)
        assert pieces.transport.is_open == whole.transport.is_open
        assert pieces.desk.log == whole.desk.log
        assert [_nameless(a, pieces) for a in pieces.answers] == [_nameless(a, whole) for a in whole.answers]
        assert pieces.told == whole.told


PROXY_HEADERS = [
    b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 3333\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\2\1\x12\x67\x0d\x05",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
]


@given(st.sampled_from(PROXY_HEADERS), streams, st.integers(0, 40))
@PATIENT
def test_a_proxy_header_may_come_in_pieces(announcement: bytes, stream: bytes, size: int) -> None:
    options = {"proxies": ("203.0.113.0/24",), "announcement": announcement}
    sandbox = play(target.cut(announcement + target.HANDSHAKE + stream, size), **options)
    assert [answer["id"] for answer in sandbox.answers[:3]] == [1, 2, 3]
    assert sandbox.session.address == ("198.51.100.7" if len(announcement) in (28, 45) else "203.0.113.1")


@given(st.binary(min_size=1, max_size=300), st.integers(0, 20))
def test_what_comes_instead_of_a_proxy_header_is_never_answered(data: bytes, size: int) -> None:
    sandbox = target.Sandbox(proxies=("203.0.113.0/24",))
    for chunk in target.cut(data, size):
        if sandbox.transport.is_open:
            sandbox.session.data_received(chunk)
    assert sandbox.transport.take() == []


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))), st.integers(0, 9))
def test_frames_between_pool_and_processes_arrive_as_they_were_sent_however_they_are_cut(
    frames: list[tuple[int, bytes]], size: int
) -> None:
    arrived: list[tuple[int, bytes]] = []
    sender, receiver = (
        Pipe(lambda *_: None, lambda: None),
        Pipe(lambda kind, body: arrived.append((kind, bytes(body))), lambda: None),
    )
    transport = target.FuzzTransport(None)
    sender.connection_made(transport)
    for kind, body in frames:
        sender.send(kind, body)
    for chunk in target.cut(b"".join(transport.sent), size):
        receiver.data_received(chunk)
    assert arrived == frames


def _nameless(answer: dict[str, Any], sandbox: Any) -> str:
    """An answer without the session's id, which is random."""
    return json.dumps(answer).replace(sandbox.session.session_id or "-", "")


@given(st.integers(0, 1100), st.sampled_from([b"[]", b"{}"]))
def test_a_nested_id_of_any_depth_is_answered(depth: int, pair: bytes) -> None:
    opening, closing = (pair[:1], pair[1:]) if pair == b"[]" else (b'{"a":', b"}")
    inner = b"0" if pair == b"{}" else b""
    share = target.SUBMIT.replace(b'"id":4', b'"id":' + opening * depth + inner + closing * depth)
    sandbox = play([target.HANDSHAKE, share * 2])
    assert len(sandbox.answers) == 5


@given(st.dictionaries(st.sampled_from(["id", "method", "params", "result", "error", "jsonrpc", "é"]), values))
def test_a_request_is_read_as_any_json_parser_reads_it(members: dict[str, Any]) -> None:
    if not isinstance(members.get("method", ""), str):
        with pytest.raises(InputError):
            parse_request(line(**members))
        return
    request = parse_request(line(**members))
    assert request.method == members.get("method", "")
    assert (request.id, request.params or None) == (members.get("id"), members.get("params") or None)


@given(ids)
def test_an_accepted_share_is_answered_with_the_id_that_a_refusal_would_have(request_id: Any) -> None:
    answer = json.loads(accepted(request_id))
    assert answer == {"id": short_id(request_id), "result": True, "error": None}


@pytest.mark.parametrize("proxies", [(), ("192.0.2.0/24",)])
def test_a_connection_that_has_ended_before_it_is_accepted_is_turned_away(proxies: tuple[str, ...]) -> None:
    sandbox = target.Sandbox(proxies=proxies)
    session, transport = sandbox.connect(None)
    assert not transport.is_open
    assert sandbox.server.counters.turned_away == 1
    session.connection_lost(None)


@pytest.mark.parametrize(
    "wrong",
    [
        b"x",
        line(id=1),
        line(id=1, method="mining.nothing"),
        line(id=1, method="mining.authorize", params=["nobody"]),
        line(id=1, method="mining.suggest_target", params=["zz"]),
        target.SUBMIT.strip(),
    ],
)
def test_a_wrong_line_leaves_nothing_for_the_garbage_collector(wrong: bytes) -> None:
    async def work() -> int:
        sandbox = target.Sandbox()
        sandbox.session.data_received(target.HANDSHAKE)
        sandbox.desk.settle(stored=False)
        gc.collect()
        sandbox.session.data_received(wrong + b"\n")
        return gc.collect()

    gc.disable()
    try:
        assert asyncio.run(work()) == 0, "garbage in cycles holds the connection and all it was sent, for minutes"
    finally:
        gc.enable()


def test_a_connection_that_ends_while_it_must_wait_leaves_no_timer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[asyncio.TimerHandle] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def note(*arguments: Any) -> asyncio.TimerHandle:
            timers.append(call_later(*arguments))
            return timers[-1]

        monkeypatch.setattr(loop, "call_later", note)
        sandbox = target.Sandbox(limits=LimitSettings(cost_burst=10))
        sandbox.session.data_received(b"\n" * 1000)
        assert len(timers) == 1
        sandbox.session.connection_lost(None)
        assert timers[0].cancelled()

    asyncio.run(work())


def test_every_method_that_is_offered_is_fuzzed() -> None:
    assert set(target.METHODS) == {*HANDLERS, "mining.submit"}

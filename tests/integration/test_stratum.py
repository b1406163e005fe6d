"""Miners' connections over real TCP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from fractions import Fraction
from typing import Any

import pytest

from pool_oracle.errors import ConfigError
from pool_oracle.hashes import sha256d
from pool_oracle.networks import DIFFICULTY_1_TARGET
from pool_oracle.payout.addresses import encode_segwit
from pool_oracle.stratum.desk import LocalDesk
from pool_oracle.stratum.limits import LimitSettings
from pool_oracle.stratum.messages import REPEATS
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.work.share import StratumJob, hash_to_int, pack_header

EXTRANONCE2_SIZE = 8
MAX_LINE = LimitSettings().max_line_bytes

OpenRig = Callable[..., AbstractAsyncContextManager[Any]]
EASY = Fraction(DIFFICULTY_1_TARGET, 1 << 252)
ACCOUNT = "0x000000000000000000000000000000000000000A"
NESTED = "2NAUYAHhujozruyzpsFRP63mbrdaU5wnEpN"
TAPROOT = encode_segwit("bcrt", 1, bytes(range(32)))


class Miner:
    """A stratum client that a test drives line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.notifications: list[dict[str, Any]] = []
        self._id = 0

    async def call(self, method: str, *params: Any) -> dict[str, Any]:
        self._id += 1
        self.send({"id": self._id, "method": method, "params": list(params)})
        return await self.answer(self._id)

    def send(self, value: Any) -> None:
        self.writer.write(json.dumps(value).encode() + b"\n")

    async def answer(self, request_id: Any) -> dict[str, Any]:
        while True:
            message = await self.read()
            if message.get("method") is None and message["id"] == request_id:
                return message
            self.notifications.append(message)

    async def read(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.reader.readline(), 30)
        if not line:
            raise EOFError
        value: dict[str, Any] = json.loads(line)
        return value

    async def until(self, method: str) -> list[Any]:
        """The parameters of the latest notification of `method`, waiting for one if there is none yet."""
        while True:
            for message in reversed(self.notifications):
                if message.get("method") == method:
                    params: list[Any] = message["params"]
                    return params
            self.notifications.append(await self.read())


@asynccontextmanager
async def server(rig: OpenRig) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """A stratum server on a rig, and a way to connect to it."""
    async with rig() as r:
        stratum = StratumServer(LocalDesk(r.pool), StratumSettings(EASY, shares_per_minute=0))
        port = await stratum.start("127.0.0.1", 0)
        writers = []

        async def connect() -> Miner:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            return Miner(reader, writer)

        try:
            yield r, connect
        finally:
            for writer in writers:
                writer.close()
            await stratum.stop()


def solve(params: list[Any], extranonce1: str, target: int, version: int | None = None) -> tuple[str, str, str]:
    """(extranonce2, ntime, nonce) that meet `target` for a job as announced."""
    names = ("prevhash", "coinb1", "coinb2", "merkleBranch", "version", "nbits")
    job = StratumJob.from_wire(dict(zip(names, params[1:7], strict=True)))
    extranonce2 = bytes(EXTRANONCE2_SIZE)
    root = job.merkle_root(bytes.fromhex(extranonce1), extranonce2)
    ntime = int(params[7], 16)
    chosen = job.version if version is None else version
    for nonce in range(1 << 20):
        header = pack_header(chosen, job.prev_hash, root, ntime, job.nbits, nonce)
        if 1 << 248 < hash_to_int(sha256d(header)) <= target:
            return extranonce2.hex(), params[7], f"{nonce:08x}"
    raise AssertionError


def test_a_miner_subscribes_authorizes_gets_a_job_and_its_share_is_accepted(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (r, connect):
            miner = await connect()
            subscribed = await miner.call("mining.subscribe", "test/1")
            _, extranonce1, size = subscribed["result"]
            assert size == EXTRANONCE2_SIZE
            assert (await miner.call("mining.authorize", f"{ACCOUNT}.rig1", "x"))["result"] is True
            (share_difficulty,) = await miner.until("mining.set_difficulty")
            job = await miner.until("mining.notify")
            target = int(DIFFICULTY_1_TARGET / share_difficulty)
            assert target <= 1 << 252
            answer = await miner.call("mining.submit", f"{ACCOUNT}.rig1", job[0], *solve(job, extranonce1, target))
            assert (answer["result"], answer["error"]) == (True, None)
            (worker,) = r.pool.workers.values()
            assert (worker.name, worker.accepted, worker.refused) == ("rig1", 1, 0)

    asyncio.run(work())


def test_version_rolling_is_negotiated_and_judged_by_the_mask(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (_, connect):
            miner = await connect()
            options = {"version-rolling.mask": "00ffff00", "version-rolling.min-bit-count": 2}
            answer = await miner.call("mining.configure", ["version-rolling", "something-else"], options)
            assert answer["result"] == {
                "version-rolling": True,
                "version-rolling.mask": "00ffe000",
                "something-else": False,
            }
            extranonce1 = (await miner.call("mining.subscribe"))["result"][1]
            await miner.call("mining.authorize", ACCOUNT, "x")
            assert await miner.until("mining.set_version_mask") == ["00ffe000"]
            job = await miner.until("mining.notify")
            version = int(job[5], 16) | 0x00002000
            solved = solve(job, extranonce1, 1 << 251, version)
            assert (await miner.call("mining.submit", ACCOUNT, job[0], *solved, "00002000"))["result"] is True
            beyond = solve(job, extranonce1, 1 << 251, int(job[5], 16) | 0x01000000)
            outside = await miner.call("mining.submit", ACCOUNT, job[0], *beyond, "01000000")
            assert outside["error"][0] == 20
            assert "outside the mask" in outside["error"][1]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("worker1", "no address"),
        ("", "empty"),
        (TAPROOT, "Taproot"),
        ("0x0000000000000000000000000000000000000000", "zero address"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "address of main; this is regtest"),
        (7, "ADDRESS[.worker]"),
        ("0x" + "a" * 300, "at most"),
    ],
)
def test_a_user_name_that_is_no_payee_is_refused_with_a_reason(rig: OpenRig, user: object, reason: str) -> None:
    async def work() -> None:
        async with server(rig) as (_, connect):
            miner = await connect()
            answer = await miner.call("mining.authorize", user, "x")
            assert answer["error"][0] == 24
            assert reason in answer["error"][1]

    asyncio.run(work())


def test_names_are_understood_as_firmware_writes_them(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (r, connect):
            miner = await connect()
            for user in (f" {ACCOUNT}.a b ", f"{ACCOUNT}%2Erig", ACCOUNT.lower()):
                assert (await miner.call("mining.authorize", user, "x"))["result"] is True
            assert not r.pool.workers, "the pool learns of a worker by its first share"

    asyncio.run(work())


def test_a_p2sh_miner_is_warned_that_only_single_keys_can_claim(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (_, connect):
            miner = await connect()
            await miner.call("mining.authorize", NESTED, "x")
            assert "P2SH" in (await miner.until("client.show_message"))[0]

    asyncio.run(work())


def test_submits_out_of_order_are_refused_with_the_codes_of_the_field(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (_, connect):
            miner = await connect()
            fields = ("0", "00" * EXTRANONCE2_SIZE, "00000000", "00000000")
            assert (await miner.call("mining.submit", ACCOUNT, *fields))["error"][0] == 25
            await miner.call("mining.subscribe")
            assert (await miner.call("mining.submit", ACCOUNT, *fields))["error"][0] == 24
            await miner.call("mining.authorize", ACCOUNT, "x")
            job = (await miner.until("mining.notify"))[0]
            assert (await miner.call("mining.submit", ACCOUNT, "fff", *fields[1:]))["error"][0] == 21
            for spoilt in (
                (job, "00", "00000000", "00000000"),
                (job, "zz" * EXTRANONCE2_SIZE, "00000000", "00000000"),
                (job, fields[1], "0", "00000000"),
                (job, fields[1], "00000000", None),
                (job, fields[1], "00000000"),
            ):
                assert (await miner.call("mining.submit", ACCOUNT, *spoilt))["error"][0] == 20
            assert (await miner.call("mining.get_transactions", "0"))["error"][0] == 20
            assert (await miner.call("mining.ping"))["result"] == "pong"

    asyncio.run(work())


def test_lines_may_come_byte_by_byte_or_many_at_once(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (_, connect):
            miner = await connect()
            for byte in b'{"id":1,"method":"mining.ping","params":[]}\r\n':
                miner.writer.write(bytes((byte,)))
                await miner.writer.drain()
            assert (await miner.answer(1))["result"] == "pong"
            miner.writer.write(b"".join(b'{"id":%d,"method":"mining.ping"}\n' % i for i in range(2, 102)))
            for i in range(2, 102):
                assert (await miner.answer(i))["result"] == "pong"

    asyncio.run(work())


@pytest.mark.parametrize(
    "line",
    [b"\x00\xff\xfe", b"[]", b"{}", b'{"method":7}', b'"text"', b"NaN", b"[" * 5000, b'{"id":1,"method":"x","params"'],
)
def test_lines_that_are_no_stratum_are_answered_and_five_of_them_end_the_connection(rig: OpenRig, line: bytes) -> None:
    async def work() -> None:
        async with server(rig) as (r, connect):
            miner, neighbour = await connect(), await connect()
            for _ in range(5):
                miner.writer.write(line + b"\n")
            with pytest.raises((EOFError, ConnectionError)):
                while True:
                    assert (await miner.read())["error"][0] == 20
            assert (await neighbour.call("mining.ping"))["result"] == "pong"
            assert r.pool.scheme.share_count == 0

    asyncio.run(work())


def test_a_line_without_an_end_ends_the_connection(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (_, connect):
            miner = await connect()
            miner.writer.write(b"x" * (MAX_LINE + 2))
            with pytest.raises((EOFError, ConnectionError)):
                await miner.read()

    asyncio.run(work())


def test_a_new_tip_reaches_every_miner_as_a_clean_job(rig: OpenRig) -> None:
    async def work() -> None:
        async with server(rig) as (r, connect):
            miners = [await connect() for _ in range(5)]
            for miner in miners:
                await miner.call("mining.subscribe")
                await miner.call("mining.authorize", ACCOUNT, "x")
                await miner.until("mining.notify")
                miner.notifications.clear()
            await r.pool.submit(r.solve(wanted=lambda number: number <= r.pool.job.network_target))
            await r.pool.block_keeper.settle()
            await r.pool.refresh()
            for miner in miners:
                job = await miner.until("mining.notify")
                assert job[8] is True
                assert int(job[0], 16) == r.pool.job.number * REPEATS

    asyncio.run(work())


def test_a_share_difficulty_below_the_floor_is_refused_at_the_start(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            with pytest.raises(ConfigError, match="below the floor"):
                StratumServer(LocalDesk(r.pool), StratumSettings(Fraction(1, 1 << 40)))

    asyncio.run(work())


def test_a_port_that_is_taken_is_named(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            first, second = (StratumServer(LocalDesk(r.pool), StratumSettings(EASY)) for _ in range(2))
            port = await first.start("127.0.0.1", 0)
            with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
                await second.start("127.0.0.1", port)
            await first.stop()

    asyncio.run(work())

"""Miners' firmware against the pool: transcripts, played with shares that are really solved, and a miner of ours."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stratum_client import ACCOUNT, PATIENCE, Client, Job, Site, run, serving, target_of, until

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
NAMES = sorted(path.stem for path in TRANSCRIPTS.glob("*.json"))
PLACEHOLDER = re.compile("<([a-z0-9 ]+)>")


class Player:
    """Plays one transcript: writes what the client writes, and holds each line of the pool against what it expects."""

    def __init__(self, site: Site, transcript: dict[str, Any], chunk: int) -> None:
        """`chunk` is how many bytes are written at once."""
        self.site, self.chunk = site, chunk
        self.known: dict[str, Any] = {"user": transcript["user"]}
        self.solved = 0
        self.client: Client | None = None

    async def play(self, steps: list[dict[str, Any]]) -> None:
        await self.connect(None)
        actions: dict[str, Callable[[Any], Awaitable[None]]] = {
            "send": self.send,
            "expect": self.expect,
            "solve": self.solve,
            "connect": self.connect,
            "pool": self.change,
        }
        for step in steps:
            ((name, value),) = step.items()
            await actions[name](value)

    async def connect(self, _why: object) -> None:
        if self.client is not None:
            self.client.writer.close()
            await until(lambda: not self.site.server.sessions)
        self.client = await self.site.connect()

    async def send(self, line: str) -> None:
        assert self.client is not None
        data = PLACEHOLDER.sub(lambda match: str(self.known[match[1]]), line).encode() + b"\n"
        for start in range(0, len(data), self.chunk):
            self.client.writer.write(data[start : start + self.chunk])
            await asyncio.sleep(0)

    async def expect(self, wanted: dict[str, Any]) -> None:
        assert self.client is not None
        got = await self.client.read()
        self.match(wanted, got, got)

    def match(self, wanted: Any, got: Any, line: Any) -> None:
        """Hold a value against a pattern, and remember what its placeholders stand for."""
        if isinstance(wanted, dict) and isinstance(got, dict):
            assert wanted.keys() == got.keys(), line
            for key in wanted:
                self.match(wanted[key], got[key], line)
        elif isinstance(wanted, list) and isinstance(got, list):
            assert len(wanted) == len(got), line
            for one, other in zip(wanted, got, strict=True):
                self.match(one, other, line)
        elif isinstance(wanted, str) and (placeholder := PLACEHOLDER.fullmatch(wanted)):
            self.remember(placeholder[1], got, line)
        else:
            assert (type(wanted), wanted) == (type(got), got), line

    def remember(self, name: str, got: Any, line: Any) -> None:
        if name == "job":
            self.known["job"] = Job.of(got)
        elif name == "same extranonce1":
            assert got == self.known["extranonce1"], line
        elif name != "any":
            self.known[name] = got

    async def solve(self, bits: str | None) -> None:
        """Find a share as the client would: extranonce2 counted up little-endian, nonces from 0."""
        assert self.client is not None
        job, known = self.known["job"], self.known
        self.solved += 1
        extranonce2 = self.solved.to_bytes(self.site.pool.extranonce2_size, "little").hex()
        version = job.work.version if bits is None else job.work.version & ~0x1FFFE000 | int(bits, 16)
        nonce = next(job.solve(known["extranonce1"], extranonce2, target_of(known["difficulty"]), 0, version=version))
        known.update(
            {
                "job id": job.id,
                "extranonce2": extranonce2,
                "ntime": f"{job.ntime:08x}",
                "nonce": nonce,
                "short nonce": nonce.lstrip("0") or "0",
                "bits": bits,
            }
        )

    async def change(self, what: str) -> None:
        assert what == "new job"
        await self.site.pool.refresh()


@pytest.mark.parametrize("chunk", [1 << 20, 1], ids=["line by line", "byte by byte"])
@pytest.mark.parametrize("name", NAMES)
def test_firmware_is_understood_as_it_speaks(tmp_path: Path, name: str, chunk: int) -> None:
    transcript = json.loads((TRANSCRIPTS / f"{name}.json").read_text(encoding="utf-8"))

    async def work() -> None:
        size = transcript.get("extranonce2_size", 8)
        async with serving(tmp_path, extranonce2_size=size, shares_per_minute=8) as site:
            player = Player(site, transcript, chunk)
            await player.play(transcript["steps"])
            assert player.solved == site.log.next_sequence, "each share of the transcript is in the log"
            assert sum(worker.refused for worker in site.pool.workers.values()) == 0
            assert site.server.counters.refused.total() == 0
            assert all(session.agent for session in site.server.sessions), "the operator sees what it is"

    run(work())


@pytest.mark.parametrize("name", NAMES)
def test_a_transcript_says_where_its_lines_are_from(name: str) -> None:
    transcript = json.loads((TRANSCRIPTS / f"{name}.json").read_text(encoding="utf-8"))
    assert transcript.keys() - {"extranonce2_size"} == {"client", "source", "recorded", "user", "steps"}
    assert transcript["recorded"] is not transcript["source"].startswith("form after ")
    for line in (step["send"] for step in transcript["steps"] if "send" in step):
        request = json.loads(line)
        assert "id" in request
        assert request.keys() & {"method", "result"}


def test_a_miner_in_a_process_of_its_own_mines_until_it_is_sent_away(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as site:
            miner = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pool_oracle.simulated_miner",
                "127.0.0.1",
                str(site.port),
                f"{ACCOUNT}.cpu",
                "20000",
            )
            try:
                await until(lambda: site.server.counters.accepted >= 100)
                # Within the second the new job would be the old one again, and this miner starts each at its beginning.
                await until(lambda: time.time() >= site.pool.judge.job.curtime + 1)
                await site.pool.refresh()
                await until(lambda: site.server.counters.accepted >= 200)
                await site.server.stop()
                assert await asyncio.wait_for(miner.wait(), PATIENCE) == 0
            finally:
                if miner.returncode is None:
                    miner.kill()
                    await miner.wait()
            (worker,) = site.pool.workers.values()
            assert (worker.name, worker.refused) == ("cpu", 0)
            assert worker.accepted == site.log.next_sequence

    run(work())

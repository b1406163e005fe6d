"""A stratum session fed with whatever a fuzzer thinks of: atheris here, hypothesis in tests/property.

    make fuzz-stratum     or python bench/fuzz_stratum.py [--seconds N] [--input FILE] where atheris is installed

`Sandbox` is the target: real sessions on a real judge, without sockets, disk or clock; it raises `Broken` when a rule
does not hold. An input's first byte says how the connection stands and how the rest of the input is cut into chunks.
`--input` plays one input again, such as the file that a failed campaign leaves behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from msgspec import UNSET

from pool_oracle import judge, wire
from pool_oracle.errors import InputError, LedgerError
from pool_oracle.judge import Judge, LiveJob, Submission, Worker
from pool_oracle.logs import configure_logs
from pool_oracle.networks import network_named
from pool_oracle.stratum import connection, given, limits, messages, requests, server, session, users
from pool_oracle.stratum.desk import Extranonces
from pool_oracle.stratum.limits import LimitSettings
from pool_oracle.stratum.messages import REPEATS, parse_request, short_id
from pool_oracle.stratum.requests import HANDLERS
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.session import Session
from pool_oracle.stratum.settings import StratumSettings
from pool_oracle.units import Payee
from pool_oracle.work.share import StratumJob

USER = "0x000000000000000000000000000000000000000A"
CURTIME = 1_750_000_000
BLOCK_TARGET = 1 << 253
SHARE_DIFFICULTY = Fraction(1, 1 << 31)
"""Every second hash is a share, every eighth a block: chance finds all verdicts."""

NO_PAUSES = LimitSettings(cost_burst=10**9, cost_per_second=10**9)
"""Time stands still here."""

HANDSHAKE = b"".join(
    b'{"id":%d,"method":"mining.%s","params":%s}\n' % line
    for line in (
        (1, b"configure", b'[["version-rolling"],{"version-rolling.mask":"ffffffff"}]'),
        (2, b"subscribe", b'["fuzz/1"]'),
        (3, b"authorize", b'["%s.rig","x"]' % USER.encode()),
    )
)
SUBMIT = b'{"id":4,"method":"mining.submit","params":["%s.rig","%x","0000000000000001","%08x","00000001"]}\n' % (
    USER.encode(),
    2 * REPEATS,
    CURTIME,
)


class Broken(AssertionError):
    """A rule that does not hold."""


class FuzzDesk:
    """The pool as a session sees it, with a log that is a list. See Desk."""

    network = network_named("regtest")
    extranonce2_size = 8
    only_payees: tuple[Payee, ...] = ()

    def __init__(self) -> None:
        """With a job of a tip that is gone (number 1) and one of the present tip (number 2)."""
        self.judge = Judge(self.network, 0, lambda *_: None)
        self.log: list[bytes] = []
        self.refused: Counter[tuple[Payee, str]] = Counter()
        self._listeners: list[Callable[[LiveJob, bool], None]] = []
        self._group: asyncio.Future[None] | None = None
        self._shares: list[bytes] = []
        self._is_failed = False
        self._number = self._tip = 0
        self.new_job(clean=True)
        self.new_job(clean=True)

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        digest = self.judge.judge(submission)
        if self._is_failed:
            raise LedgerError("no space left")
        self._shares.append(digest)
        if self._group is None:
            self._group = asyncio.get_running_loop().create_future()
        return self._group

    def refuse(self, worker: Worker) -> None:
        self.refused[worker.payee, worker.name] += 1

    def on_job(self, listener: Callable[[LiveJob, bool], None]) -> None:
        self._listeners.append(listener)

    def new_job(self, *, clean: bool) -> None:
        """A job, on a new tip if it is clean."""
        self._tip += clean
        self._number += 1
        job = StratumJob(0x20000000, self._tip.to_bytes(32, "big"), b"\x01\x02", b"\x03\x04", (bytes(32),), 0x207FFFFF)
        self.judge.add_job(self._number, job, BLOCK_TARGET, CURTIME - 1000, CURTIME, self._number)
        assert self.judge.job is not None
        for listener in self._listeners:
            listener(self.judge.job, clean)

    def settle(self, *, stored: bool) -> int:
        """The disk has the shares that wait, or fails until it is asked again; returns how many there were."""
        group, shares = self._group, self._shares
        self._group, self._shares, self._is_failed = None, [], not stored
        if group is not None and stored:
            self.log += shares
            group.set_result(None)
        elif group is not None:
            group.set_exception(LedgerError("no space left"))
        return len(shares)


class FuzzTransport:
    """What a session writes to."""

    def __init__(self, address: str | None) -> None:
        """None: of a connection that ended before it was accepted."""
        self._address = address
        self.sent: list[bytes] = []
        self.is_open = True

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return (self._address, 4711) if name == "peername" and self._address is not None else None

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def pause_reading(self) -> None:
        pass

    def close(self) -> None:
        self.is_open = False

    abort = close

    def take(self) -> list[dict[str, Any]]:
        """The messages since the last call, each of which must be one line of JSON."""
        data, self.sent = b"".join(self.sent), []
        if data and not data.endswith(b"\n"):
            raise Broken(f"half a line was sent: {data[-80:]!r}")
        return [json.loads(line) for line in data.splitlines()]


class Sandbox:
    """A server with one connection that is fuzzed, and a neighbour.

    `vardiff` makes answers depend on the clock; `proxies` are networks whose connections begin with a PROXY header,
    203.0.113.1 that is fuzzed may be in one; then `announcement` is what its bytes begin with.
    """

    def __init__(
        self,
        *,
        vardiff: bool = True,
        proxies: tuple[str, ...] = (),
        announcement: bytes = b"",
        limits: LimitSettings = NO_PAUSES,
    ) -> None:
        self.desk = FuzzDesk()
        extranonces = Extranonces()
        extranonces._next = 0
        rate = 8 if vardiff else 0
        settings = StratumSettings(SHARE_DIFFICULTY, shares_per_minute=rate, limits=limits, proxies=proxies)
        self.server = StratumServer(self.desk, settings, extranonces)
        self.desk.on_job(self.server._spread)
        self.neighbour, self._neighbours_line = self.connect("198.51.100.1")
        self.session, self.transport = self.connect("203.0.113.1")
        self.answers: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        """What the connection was sent: answers, and everything else."""
        self._announcement = announcement
        self._received = bytearray()

    def connect(self, address: str | None) -> tuple[Session, FuzzTransport]:
        connection, transport = Session(self.server), FuzzTransport(address)
        connection.connection_made(transport)  # type: ignore[arg-type] # all that a session uses
        return connection, transport

    async def play(self, steps: Iterable[bytes | str]) -> None:
        """Chunks of bytes, and words: job, tip (what the pool does), stored, lost (what the disk does)."""
        for step in steps:
            if isinstance(step, bytes):
                if self.transport.is_open:
                    self._received += step
                    self.session.data_received(step)
                self._read()
            elif step in ("job", "tip"):
                self.desk.new_job(clean=step == "tip")
            else:
                await self._settle(stored=step == "stored")
        await self._settle(stored=True)
        self._check_answers()
        await self._check_neighbour()

    async def _settle(self, *, stored: bool) -> None:
        """Shares that were judged are answered now, not before, all with true or none."""
        self._read()
        known = len(self.desk.log)
        count = self.desk.settle(stored=stored)
        await asyncio.sleep(0)
        answers = self._read()
        verdicts = [answer["result"] is True and answer["error"] is None for answer in answers]
        if self.transport.is_open and verdicts != [stored] * count:
            raise Broken(f"{count} shares, stored: {stored}, were answered with {answers}")
        if len(self.desk.log) - known != (count if stored else 0):
            raise Broken("the log grew by something else")

    def _read(self) -> list[dict[str, Any]]:
        """The answers since the last time."""
        answers = []
        for message in self.transport.take():
            (self.told if "method" in message else answers).append(message)
        self.answers += answers
        return answers

    def _check_answers(self) -> None:
        """Each request that has an id, each share and each line that is no stratum is answered once.

        Unless the connection was cut.
        """
        expected: Counter[str] = Counter()
        for line in bytes(self._received).removeprefix(self._announcement).split(b"\n")[:-1]:
            try:
                request = parse_request(line)
            except InputError:
                expected["null"] += bool(line.strip())
                continue
            is_answer = not request.method and request.result is not UNSET
            is_notification = request.id is None and request.method not in ("", "mining.submit")
            if not is_answer and not is_notification:
                expected[json.dumps(short_id(request.id))] += 1
        answered = Counter(json.dumps(answer["id"]) for answer in self.answers)
        if answered - expected or (self.transport.is_open and answered != expected):
            raise Broken(f"answered {answered}, where {expected} was asked")

    async def _check_neighbour(self) -> None:
        """A neighbour works on as if nothing had happened."""
        nonce = 0
        self.neighbour.data_received(HANDSHAKE)
        job = self.desk.judge.job
        assert job is not None
        while nonce < 64:  # one hash in two is a share
            nonce += 1
            params = [f"{USER}.rig", f"{job.number * REPEATS:x}", "00" * 8, f"{CURTIME:08x}", f"{nonce:08x}"]
            line = json.dumps({"id": 4, "method": "mining.submit", "params": params})
            self.neighbour.data_received(line.encode() + b"\n")
            if self.desk.settle(stored=True):
                break
        await asyncio.sleep(0)
        answers = [message for message in self._neighbours_line.take() if "method" not in message]
        if [answer["id"] for answer in answers] != [1, 2, 3] + [4] * nonce or answers[-1]["result"] is not True:
            raise Broken(f"a neighbour was answered with {answers}")


def cut(data: bytes, size: int) -> list[bytes]:
    """`data` in chunks of `size` bytes; whole where it is 0."""
    size = size or len(data) or 1
    return [data[at : at + size] for at in range(0, len(data), size)]


def play_input(data: bytes, loop: asyncio.AbstractEventLoop) -> None:
    """One input of the fuzzer: the first byte's bits say what came before, how the rest is cut, what the disk does."""
    how, rest = data[0] if data else 0, data[1:]
    sandbox = Sandbox()
    before = [HANDSHAKE] if how & 1 else []
    if how & 2:
        before += [SUBMIT, "stored" if how & 4 else "lost"]
    sizes = (0, 1, 7, 64)
    loop.run_until_complete(sandbox.play([*before, *cut(rest, sizes[how >> 4 & 3]), "tip" if how & 8 else "job"]))


# The campaign

METHODS = [*HANDLERS, "mining.submit"]
TOKENS = [
    *METHODS,
    *("id", "method", "params", "result", "error", "null", "true", "NaN", "version-rolling", "version-rolling.mask"),
    *("version-rolling.min-bit-count", "minimum-difficulty", "minimum-difficulty.value", "subscribe-extranonce"),
    *("info", "info.sw-version", "version", "d=1", "md=1", USER, f"{2 * REPEATS:x}", f"{CURTIME:08x}", "1e308"),
]


def _instrument(modules: Iterable[types.ModuleType], instrument: Callable[[Any], Any]) -> None:
    """Let the fuzzer see which branches of these modules an input takes."""
    for module in modules:
        for holder in (module, *(value for value in vars(module).values() if isinstance(value, type))):
            for value in vars(holder).values():
                if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                    instrument(value)


def fuzz(seconds: int) -> None:
    """Fuzz for so long; ends the process, with status 77 if an input breaks a rule."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is missing: 'make fuzz-stratum' installs it (it has wheels for Linux on x86-64 only)")

    _instrument(
        (connection, session, requests, given, server, messages, limits, users, judge, wire), atheris.instrument_func
    )
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory() as folder:
        seeds, words = Path(folder) / "seeds", Path(folder) / "words"
        seeds.mkdir()
        for i, method in enumerate(METHODS):
            (seeds / str(i)).write_bytes(b'\x01{"id":5,"method":"%s","params":[]}\n' % method.encode())
        (seeds / "session").write_bytes(b"\0" + HANDSHAKE + SUBMIT)
        words.write_text("".join(f'"{token}"\n' for token in TOKENS))
        bounds = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"]
        options = [*bounds, f"-dict={words}", "-verbosity=0", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, str(seeds)], lambda data: play_input(data, loop))
        atheris.Fuzz()


def main() -> None:
    """Fuzz, or play one input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--input", type=Path)
    arguments = parser.parse_args()
    with Path(os.devnull).open("w") as nowhere:
        configure_logs(nowhere)  # log lines are made, and thrown away
        if arguments.input is not None:
            play_input(arguments.input.read_bytes(), asyncio.new_event_loop())
        else:
            fuzz(arguments.seconds)


if __name__ == "__main__":
    main()

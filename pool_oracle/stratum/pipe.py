"""What the pool and its stratum processes say to each other: frames on a socket pair, little-endian.

A frame is its length (4 bytes, without itself), its kind (1 byte) and its body. Shares go in rows of fixed size; all
else is MessagePack of the structures below. Both ends are of one version, started together.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import msgspec

from pool_oracle.errors import LedgerError

_FRAME = struct.Struct("<IB")

SETUP, JOB, STORED, DRAIN, LISTENING, FAILED, WORKER, SHARES, BLOCK, COUNTS = range(10)

SHARE_ROW = struct.Struct("<IIIIIIB8s8s32s")
"""Job, worker, ntime, nonce, version, share bits, sizes of the extranonces (a nibble each), both, the block hash."""


class Setup(msgspec.Struct, array_like=True):
    """To a process, first: what it serves, where, and which share of the extranonces is its own."""

    network: str
    stale_grace: float
    extranonce2_size: int
    settings: bytes
    host: str
    port: int
    process: int
    processes: int
    tip: bytes
    seen: list[bytes]
    only_payees: list[bytes]


class JobFrame(msgspec.Struct, array_like=True):
    """To a process: a new job. `network_target` is 32 bytes, big-endian."""

    number: int
    version: int
    prev_hash: bytes
    coinb1: bytes
    coinb2: bytes
    branch: list[bytes]
    nbits: int
    network_target: bytes
    mintime: int
    curtime: int
    height: int
    clean: bool


class Stored(msgspec.Struct, array_like=True):
    """To a process: group number `group` of its shares, counted from 0, is on disk, or `problem` says why it never is.

    A group that is refused is answered before those that wait for the disk.
    """

    group: int
    problem: str | None


class WorkerFrame(msgspec.Struct, array_like=True):
    """From a process: its worker number, and who that is; before the first share that names it."""

    number: int
    payee: bytes
    name: str


class BlockFrame(msgspec.Struct, array_like=True):
    """From a process: a submission that meets the network target."""

    job: int
    worker: int
    extranonce1: bytes
    extranonce2: bytes
    ntime: int
    nonce: int
    version: int
    share_bits: int


class Counts(msgspec.Struct, array_like=True):
    """From a process, now and then: its counters since the start, and refused shares by worker since the last time."""

    counters: dict[str, int]
    refused: dict[int, int]


class PipeClosed(LedgerError):
    """Raised when the other end is gone: what it was to write down is lost."""


class Pipe(asyncio.Protocol):
    """One end. `on_frame(kind, body)` is called for each frame, `on_close` once."""

    def __init__(self, on_frame: Callable[[int, memoryview], None], on_close: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_close = on_close
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._transport = None
        self._on_close()

    def data_received(self, data: bytes) -> None:
        """Hand on whole frames."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _FRAME.size:
            size, kind = _FRAME.unpack_from(buffer, at)
            if len(buffer) - at < _FRAME.size + size:
                break
            start = at + _FRAME.size
            at = start + size
            self._on_frame(kind, memoryview(bytes(buffer[start:at])))
        del buffer[:at]

    def send(self, kind: int, body: bytes) -> None:
        """Send a frame. Raises PipeClosed."""
        if self._transport is None:
            raise PipeClosed("the other process is gone")
        self._transport.write(_FRAME.pack(len(body), kind) + body)

    def send_value(self, kind: int, value: msgspec.Struct) -> None:
        """Send a structure. Raises PipeClosed."""
        self.send(kind, msgspec.msgpack.encode(value))

    def close(self) -> None:
        """Close after what is buffered was sent."""
        if self._transport is not None:
            self._transport.close()

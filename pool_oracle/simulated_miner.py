"""A miner that hashes for real, slowly, in a process of its own: a stratum client for the demo and for tests.

python -m pool_oracle.simulated_miner HOST PORT USER HASHES_PER_SECOND
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import struct
import sys
import time
from typing import Any

from pool_oracle.networks import DIFFICULTY_1_TARGET
from pool_oracle.work.share import StratumJob, pack_header

BATCH = 1000
_NONCE = struct.Struct("<I")


class SimulatedMiner:
    """One connection, one worker, one nonce after the other."""

    def __init__(self, host: str, port: int, user: str, hashes_per_second: int) -> None:
        """Connects. Raises OSError."""
        self._socket = socket.create_connection((host, port), timeout=10)
        self._socket.setblocking(False)
        self._user = user
        self._rate = hashes_per_second
        self._buffer = b""
        self._next_id = 0
        self._extranonce1 = b""
        self._extranonce2_size = 0
        self._extranonce2 = 0
        self._target = 0
        self._job: StratumJob | None = None
        self._job_id = ""
        self._ntime = 0
        self._nonce = 0
        self.accepted = 0
        self.refused = 0

    def run(self) -> None:
        """Mine until the pool closes the connection."""
        self._send("mining.subscribe", ["pool_oracle-simulated-miner/1"])
        self._send("mining.authorize", [self._user, "x"])
        pause = 0.0
        while self._receive(pause):
            if self._job is None or not self._extranonce1:
                pause = 0.05
                continue
            began = time.monotonic()
            self._hash_batch()
            pause = max(0.0, BATCH / self._rate - (time.monotonic() - began))

    def _send(self, method: str, params: list[Any]) -> None:
        self._next_id += 1
        line = json.dumps({"id": self._next_id, "method": method, "params": params}) + "\n"
        self._socket.sendall(line.encode())

    def _receive(self, seconds: float) -> bool:
        """Wait up to `seconds` and handle what came; False when the pool is gone."""
        deadline = time.monotonic() + seconds
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = self._socket.recv(65536)
            if not data:
                return False
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._handle(json.loads(line))
        return True

    def _handle(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params")
        if method == "mining.set_difficulty" and params:
            self._target = int(DIFFICULTY_1_TARGET / params[0])
        elif method == "mining.notify" and params:
            self._take_job(params)
        elif method is None and message["id"] == 1:
            self._extranonce1 = bytes.fromhex(message["result"][1])
            self._extranonce2_size = message["result"][2]
        elif method is None and message["id"] == 2 and message.get("error"):
            raise SystemExit(f"not authorized: {message['error'][1]}")
        elif method is None and message["id"] > 2:
            self.accepted += message.get("error") is None
            self.refused += message.get("error") is not None

    def _take_job(self, params: list[Any]) -> None:
        names = ("prevhash", "coinb1", "coinb2", "merkleBranch", "version", "nbits")
        self._job = StratumJob.from_wire(dict(zip(names, params[1:7], strict=True)))
        self._job_id = params[0]
        self._ntime = int(params[7], 16)
        self._begin_header()

    def _begin_header(self) -> None:
        """A new extranonce2, so a new merkle root and all nonces again."""
        assert self._job is not None  # noqa: S101 - run() waits for a job
        self._extranonce2 += 1
        root = self._job.merkle_root(self._extranonce1, self._extranonce2_bytes)
        job = self._job
        self._head = pack_header(job.version, job.prev_hash, root, self._ntime, job.nbits, 0)[:76]
        self._nonce = 0

    @property
    def _extranonce2_bytes(self) -> bytes:
        return self._extranonce2.to_bytes(self._extranonce2_size, "big")

    def _hash_batch(self) -> None:
        sha256, pack, target = hashlib.sha256, _NONCE.pack, self._target
        start = sha256(self._head[:64])
        tail = self._head[64:]
        for nonce in range(self._nonce, self._nonce + BATCH):
            inner = start.copy()
            inner.update(tail + pack(nonce))
            digest = sha256(inner.digest()).digest()
            if digest[31] == 0 and int.from_bytes(digest, "little") <= target:
                self._submit(nonce)
        self._nonce += BATCH

    def _submit(self, nonce: int) -> None:
        params = [self._user, self._job_id, self._extranonce2_bytes.hex(), f"{self._ntime:08x}", f"{nonce:08x}"]
        self._send("mining.submit", params)


def main() -> None:
    """Run a miner as the command line says."""
    host, port, user, rate = sys.argv[1:5]
    try:
        SimulatedMiner(host, int(port), user, int(rate)).run()
    except OSError as error:
        raise SystemExit(f"connection to {host}:{port}: {error.strerror or error}") from None


if __name__ == "__main__":
    main()

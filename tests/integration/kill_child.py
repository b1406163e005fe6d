"""A pool that a test starts and kills.

python tests/integration/kill_child.py FOLDER PROCESSES DESCRIPTOR     serves; says on DESCRIPTOR where
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from fractions import Fraction
from pathlib import Path

from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.logs import configure_logs
from pool_oracle.networks import DIFFICULTY_1_TARGET, network_named
from pool_oracle.node.embedded import EmbeddedRegtest
from pool_oracle.pool import Commitment, Pool
from pool_oracle.stratum.desk import LocalDesk
from pool_oracle.stratum.fleet import StratumFleet
from pool_oracle.stratum.server import StratumServer
from pool_oracle.stratum.settings import StratumSettings

SEGMENT_BYTES = 16 << 10
SHARE_TARGET = 1 << 252
BLOCK_TARGET = 1 << 244


async def serve(folder: Path, processes: int, descriptor: int) -> None:
    """The pool: serves until it is killed."""
    share_log = ShareLog(folder / "shares", segment_bytes=SEGMENT_BYTES)
    pool = Pool(
        network_named("regtest"),
        EmbeddedRegtest(folder / "node"),
        share_log,
        rules=Rules(8, BLOCK_TARGET),
        tag=b"/kill/",
        blocks_folder=folder / "blocks",
    )
    t = pool.scheme.t
    await pool.set_commitment(Commitment(0, bytes(32), b"\x51"))
    settings = StratumSettings(Fraction(DIFFICULTY_1_TARGET, SHARE_TARGET), shares_per_minute=0)
    server: StratumServer | StratumFleet
    server = StratumFleet(pool, settings, processes, 0) if processes else StratumServer(LocalDesk(pool), settings)
    port = await server.start("127.0.0.1", 0)
    pids = server.pids if isinstance(server, StratumFleet) else []
    with os.fdopen(descriptor, "w") as pipe:
        json.dump({"port": port, "pids": pids, "t": t}, pipe)
    await pool.follow_node()


if __name__ == "__main__":
    with Path(os.devnull).open("w") as nowhere:
        configure_logs(nowhere)
        asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

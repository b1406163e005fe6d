"""A process that writes a share log and indexes it until it is killed.

python tests/integration/indexing_child.py URL FOLDER     prints a line for every 20th share: its number, when it was
                                                           acknowledged, and how many are indexed
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from synthetic_log import NETWORK_TARGET, RULES, SMALL, START, job_payload, payee, worker_payload

from pool_oracle import indexing
from pool_oracle.errors import LedgerError
from pool_oracle.indexing import Indexing
from pool_oracle.ledger.index.reading import LogReader
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.logs import configure_logs
from pool_oracle.payout.window import share_unit
from pool_oracle.work.records import SLOT_SIZE, ShareRecord
from pool_oracle.work.targets import nbits_to_target

SHARES_A_CLOSE = 1500
WORKERS = 10


async def write_and_index(url: str, folder: Path) -> None:
    """Append shares and closes for ever, as a pool does."""
    log = ShareLog(folder, segment_bytes=2000 * SLOT_SIZE)
    log.policy = RULES.to_payload()
    replayed = LogReader(folder, RULES)
    for _ in replayed.read():
        pass
    accounts, epoch = replayed._accounts, replayed._epoch or 0
    log.t = accounts.scheme.t
    log.define_job(0, job_payload(0))
    for number in range(WORKERS):
        log.define_worker(number, worker_payload(number))
    filler = Indexing(url, folder, RULES, lambda: log.next_sequence, None)
    filler.start()
    unit = share_unit(NETWORK_TARGET, nbits_to_target(SMALL))
    while True:
        i = log.next_sequence
        time = START * 1_000_000 + i
        done = log.append(ShareRecord(i, 0, bytes(4), bytes(8), 1, i, 0x20000000, SMALL, i % WORKERS, time), unit)
        accounts.on_share(i, payee(i % 5), unit, 100)
        if i % 20 == 0:
            await done
            print(i, indexed_by(filler), flush=True)  # noqa: T201
        if i % SHARES_A_CLOSE == SHARES_A_CLOSE - 1:
            epoch += 1
            close = {"epoch": epoch, "firstShare": accounts.scheme.first_sequence, "closingShare": i, "time": START}
            log.close_epoch(close | {"t": str(accounts.scheme.t), "tip": "", "tipHeight": 1})
            accounts.on_close()


def indexed_by(filler: Indexing) -> int:
    """How many shares; 0 while the index is away."""
    try:
        with filler.reading() as ask:
            return ask.shares()
    except LedgerError:
        return 0


if __name__ == "__main__":
    configure_logs(sys.stderr)
    indexing.FILL_SECONDS = 0.01
    asyncio.run(write_and_index(sys.argv[1], Path(sys.argv[2])))

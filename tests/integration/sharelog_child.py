"""A process that writes a share log until it is killed, again and again, or until its disk is full.

python sharelog_child.py kill FOLDER    forks a writer for each line on standard input; prints its process id first,
                                        then one line for each share that was acknowledged
python sharelog_child.py full FOLDER    writes until the disk refuses, makes room, goes on; prints what it saw as JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from pool_oracle.errors import LedgerError
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.work.records import SLOT_SIZE, ShareRecord

JOB = {"job": 1, "version": "20000000"}
WORKER = {"worker": 2, "payee": "0x01" + "11" * 20}
SEGMENT_BYTES = 40 * SLOT_SIZE


def opened(folder: Path, segment_bytes: int = SEGMENT_BYTES) -> ShareLog:
    log = ShareLog(folder, segment_bytes=segment_bytes)
    log.define_job(1, JOB)
    log.define_worker(2, WORKER)
    return log


def share(sequence: int) -> ShareRecord:
    return ShareRecord(sequence, 1, b"\x01" * 4, b"\x02" * 8, 3, sequence, 4, 0x1F00FFFF, 2, 5)


async def write_for_ever(folder: Path) -> None:
    """Append, rotate and close at random; tell of each share that was acknowledged."""
    log = opened(folder)
    chance = random.Random()

    async def one() -> None:
        sequence = log.next_sequence
        await log.append(share(sequence), 1000)
        os.write(1, b"%d\n" % sequence)

    while True:
        tasks = [asyncio.ensure_future(one()) for _ in range(chance.randrange(1, 30))]
        await asyncio.sleep(0)
        if chance.random() < 0.3:
            log.close_epoch({"epoch": log.next_sequence})
        if chance.random() < 0.7:
            await asyncio.gather(*tasks)


async def write_until_full(folder: Path) -> None:
    """See above; `filler` takes room so that the disk is full soon, and is removed after the first failure."""
    filler = folder / "filler"
    filler.write_bytes(bytes(48 << 10))
    log = opened(folder / "log", 1 << 30)
    acknowledged, refused = 0, ""
    while not refused:
        batch = [log.append(share(log.next_sequence), 1000) for _ in range(20)]
        for result in await asyncio.gather(*batch, return_exceptions=True):
            if isinstance(result, LedgerError):
                refused = str(result)
            else:
                acknowledged += 1
    try:
        await log.close()
    except LedgerError as error:
        refused = str(error)
    filler.unlink()
    again = opened(folder / "log")
    kept = again.next_sequence
    await asyncio.gather(*[again.append(share(again.next_sequence), 1000) for _ in range(50)])
    await again.close()
    found = [record.sequence for _, record in replay(folder / "log") if isinstance(record, ShareRecord)]
    sys.stdout.write(json.dumps({"acknowledged": acknowledged, "refused": refused, "kept": kept, "found": found}))


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    if mode == "full":
        asyncio.run(write_until_full(folder))
        return
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            os.write(1, b"pid %d\n" % os.getpid())
            asyncio.run(write_for_ever(folder))
        os.waitpid(child, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()

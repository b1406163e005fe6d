"""A process that writes a log, publishes it or indexes it until it is killed, again and again, or its disk is full.

python tests/integration/sharelog_child.py write FOLDER
                                           publish FOLDER
                                           index FOLDER
    Each forks a process for each line on standard input. That prints its process id first, then a line for what it has
    done: a share acknowledged, a bundle published (round and epoch). "ended" follows when it was killed.

python tests/integration/sharelog_child.py full-log FOLDER
                                           full-publish FOLDER
                                           full-index FOLDER
    Each works until FOLDER/disk, which is small, refuses; makes room, goes on; prints what it saw as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_log import NETWORK_TARGET, RULES, SMALL, START, job_payload, payee, publish_segments, worker_payload

from pool_oracle.errors import LedgerError
from pool_oracle.ledger.bundle import bundle_folders, read_segment
from pool_oracle.ledger.index import filling
from pool_oracle.ledger.index.database import sqlite_url
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.sharelog import ShareLog, replay, segment_digest, segment_files
from pool_oracle.payout.window import PplnsWindow, share_unit
from pool_oracle.work.records import KIND_CLOSE, SLOT_SIZE, LongRecord, ShareRecord
from pool_oracle.work.targets import nbits_to_target

SEGMENT_BYTES = 40 * SLOT_SIZE
WORKERS = 7
UNIT = share_unit(NETWORK_TARGET, nbits_to_target(SMALL))


def opened(folder: Path, segment_bytes: int = SEGMENT_BYTES) -> ShareLog:
    log = ShareLog(folder, segment_bytes=segment_bytes)
    log.define_job(1, job_payload(1))
    for worker in range(WORKERS):
        log.define_worker(worker, worker_payload(worker))
    return log


def share(sequence: int) -> ShareRecord:
    time = START * 1_000_000 + sequence * 700_000
    return ShareRecord(sequence, 1, b"\x01" * 4, b"\x02" * 8, 3, sequence, 0x20000000, SMALL, sequence % WORKERS, time)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


# Until it is killed


async def write_for_ever(folder: Path) -> None:
    """Append, rotate and close at random; tell of each share that was acknowledged."""
    log = opened(folder)
    chance = random.Random()
    while True:
        tasks = [asyncio.ensure_future(acknowledged(log)) for _ in range(chance.randrange(1, 30))]
        await asyncio.sleep(0)
        if chance.random() < 0.3:
            log.close_epoch({"epoch": log.next_sequence})
        if chance.random() < 0.7:
            await asyncio.gather(*tasks)


async def acknowledged(log: ShareLog) -> None:
    sequence = log.next_sequence
    await log.append(share(sequence), UNIT)
    say(str(sequence))


def publish_for_ever(folder: Path) -> None:
    """Publish every segment of FOLDER/shares as an epoch, with the five before it; when all are, do it elsewhere.

    The last two that are there already are published once more, which changes nothing.
    """
    paths = segment_files(folder / "shares")
    for round_ in itertools.count(max(0, len(list(folder.glob("bundles-*"))) - 1)):
        root = folder / f"bundles-{round_}"
        for epoch in range(max(0, len(bundle_folders(root)) - 2), len(paths)):
            publish_segments(root, epoch, paths[max(0, epoch - 5) : epoch + 1])
            say(f"{round_} {epoch}")


def index_for_ever(folder: Path) -> None:
    """Write a log whose closes are right, and index it meanwhile in transactions of a few shares."""
    filling.BATCH_ROWS = 20
    threading.Thread(target=fill_for_ever, args=(folder,), daemon=True).start()
    asyncio.run(write_accounts(folder / "shares"))


def fill_for_ever(folder: Path) -> None:
    with Index(sqlite_url(folder / "index.sqlite")) as index:
        while True:
            index.fill(folder / "shares", RULES)


async def write_accounts(folder: Path) -> None:
    """Append and close at random; tell of each share that was acknowledged."""
    log = opened(folder)
    window = PplnsWindow(RULES.window)
    epochs = 0
    for _, record in replay(folder):
        if isinstance(record, ShareRecord):
            window.add(record.sequence, payee(record.worker % 5), UNIT)
        epochs += isinstance(record, LongRecord) and record.kind == KIND_CLOSE
    log.t = window.t
    chance = random.Random()
    while True:
        tasks = []
        for _ in range(chance.randrange(1, 30)):
            window.add(log.next_sequence, payee(log.next_sequence % WORKERS % 5), UNIT)
            tasks.append(asyncio.ensure_future(acknowledged(log)))
            await asyncio.sleep(0)
        if chance.random() < 0.2:
            epochs += 1
            log.close_epoch(
                {
                    "epoch": epochs,
                    "firstShare": window.first_sequence,
                    "closingShare": log.next_sequence - 1,
                    "t": str(window.t),
                    "tip": "ab" * 32,
                    "tipHeight": 6,
                    "time": START + epochs,
                }
            )
        await asyncio.gather(*tasks)


# Until the disk is full


async def write_until_full(folder: Path) -> dict[str, Any]:
    """The first failure refuses all that waits; the log goes on when it is opened again and there is room."""
    filler = folder / "disk" / "filler"
    filler.write_bytes(bytes(48 << 10))
    place = folder / "disk" / "log"
    log = opened(place, 1 << 30)
    count, refused = 0, ""
    while not refused:
        batch = [log.append(share(log.next_sequence), UNIT) for _ in range(20)]
        for result in await asyncio.gather(*batch, return_exceptions=True):
            if isinstance(result, LedgerError):
                refused = str(result)
            else:
                count += 1
    try:
        await log.close()
    except LedgerError as error:
        refused = str(error)
    filler.unlink()
    again = opened(place)
    kept = again.next_sequence
    await asyncio.gather(*[again.append(share(again.next_sequence), UNIT) for _ in range(50)])
    await again.close()
    found = [record.sequence for _, record in replay(place) if isinstance(record, ShareRecord)]
    return {"acknowledged": count, "refused": refused, "kept": kept, "found": found}


def publish_until_full(folder: Path) -> dict[str, Any]:
    """With ever more room for it, until a bundle finds its place; nothing of it appears before."""
    paths = segment_files(folder / "shares")
    root = folder / "disk" / "bundles"
    publish_segments(root, 0, paths[:1])
    filler = folder / "disk" / "filler"
    room = os.statvfs(root)
    size = room.f_bavail * room.f_frsize
    filler.write_bytes(bytes(size))
    refused = []
    while True:
        try:
            bundle = publish_segments(root, 1, paths)
            break
        except LedgerError as error:
            refused.append(str(error))
            assert [path.name for path in bundle_folders(root)] == ["epoch-000000"]
            size -= 4096
            os.truncate(filler, size)
    data = [read_segment(bundle, path.name, *named(path)) for path in paths]
    return {"refused": refused, "is_whole": data == [path.read_bytes() for path in paths]}


def named(path: Path) -> tuple[str, int]:
    digest, length = segment_digest(path)
    return f"0x{digest.hex()}", length


def index_until_full(folder: Path) -> dict[str, Any]:
    """What was indexed before stays; the same index goes on when there is room."""
    filling.BATCH_ROWS = 200
    url = sqlite_url(folder / "disk" / "index.sqlite")
    filler = folder / "disk" / "filler"
    with Index(url) as index:
        room = os.statvfs(folder / "disk")
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - (96 << 10)))
        refused = []
        for _ in range(3):
            try:
                index.fill(folder / "shares", RULES)
            except LedgerError as error:
                refused.append(str(error))
        with index.reading() as ask:
            indexed = ask.totals().shares
        filler.unlink()
        index.fill(folder / "shares", RULES)
        digest = index.digest().hex()
    return {"refused": refused, "indexed": indexed, "digest": digest}


LIVES: dict[str, Callable[[Path], Any]] = {
    "write": lambda folder: asyncio.run(write_for_ever(folder)),
    "publish": publish_for_ever,
    "index": index_for_ever,
}
FULL: dict[str, Callable[[Path], dict[str, Any]]] = {
    "full-log": lambda folder: asyncio.run(write_until_full(folder)),
    "full-publish": publish_until_full,
    "full-index": index_until_full,
}


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    if mode in FULL:
        sys.stdout.write(json.dumps(FULL[mode](folder)))
        return
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            say(f"pid {os.getpid()}")
            LIVES[mode](folder)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()

"""What log, bundles and index survive: being killed at any moment, a full disk, a bit that flips in an old segment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.errors import CorruptLog
from pool_oracle.ledger.bundle import bundle_folder, bundle_folders, read_leaves, read_manifest, read_segment
from pool_oracle.ledger.index.database import sqlite_url
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.packed import unpack_segment
from pool_oracle.ledger.sharelog import ShareLog, replay, segment_files
from pool_oracle.ledger.verify import verify_log
from pool_oracle.work.records import SLOT_SIZE, ShareRecord
from tests.integration.synthetic_log import RULES, write_log

CHILD = Path(__file__).with_name("sharelog_child.py")


@contextlib.contextmanager
def lives(mode: str, folder: Path, *, kills: int, longest: float) -> Iterator[Iterator[list[str]]]:
    """What each of `kills` processes has said before it was killed, after `longest` seconds at the most."""
    command = [sys.executable, str(CHILD), mode, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        stdin, stdout = zygote.stdin, zygote.stdout
        chance = random.Random(7)

        def all_lives() -> Iterator[list[str]]:
            for _ in range(kills):
                stdin.write(b"go\n")
                stdin.flush()
                pid = int(stdout.readline().split()[1])
                time.sleep(chance.random() ** 3 * longest)  # often soon, while it opens, sometimes late
                os.kill(pid, signal.SIGKILL)
                said = []
                while (line := stdout.readline()) != b"ended\n":
                    assert line, "the child ended by itself"
                    said.append(line.decode().strip())
                yield said

        try:
            yield all_lives()
        finally:
            stdin.close()


def sequences(folder: Path) -> list[int]:
    return [record.sequence for _, record in replay(folder) if isinstance(record, ShareRecord)]


def check_acknowledged(said: list[str], last: int) -> int:
    """The last acknowledged share, where `last` was it before."""
    for line in said:
        # Some were on disk and could not be acknowledged any more: those stay, so numbers may leap.
        assert int(line) > last, "acknowledged out of order, or twice"
        last = int(line)
    return last


def check_log(folder: Path, last: int) -> int:
    """Every share is there once, those that were acknowledged among them; returns how many."""

    async def reopen() -> int:
        log = ShareLog(folder)
        await log.close()
        return log.next_sequence

    count = asyncio.run(reopen())
    assert sequences(folder) == list(range(count))
    assert count > last
    return count


def test_no_share_is_lost_or_counted_twice_however_often_the_pool_is_killed(tmp_path: Path) -> None:
    """Killed while it opens, writes, rotates and closes."""
    kills = 120
    folder = tmp_path / "log"
    last = -1
    with lives("write", folder, kills=kills, longest=0.1) as ended:
        for said in ended:
            last = check_acknowledged(said, last)
    assert last > kills
    assert len(segment_files(folder)) > kills // 4
    check_log(folder, last)


def test_a_bundle_is_whole_or_absent_however_often_publishing_is_killed(tmp_path: Path) -> None:
    """Killed while it packs, links, writes and renames. What was published once stays as it was."""
    write_log(tmp_path / "shares", ("s" * 40 + "c") * 30)
    paths = segment_files(tmp_path / "shares")
    published: dict[tuple[int, int], int] = {}
    half_done = 0
    with lives("publish", tmp_path, kills=80, longest=0.12) as ended:
        for said in ended:
            for line in said:
                round_, epoch = map(int, line.split())
                folder = bundle_folder(tmp_path / f"bundles-{round_}", epoch)
                inode = (folder / "manifest.json").stat().st_ino
                assert published.setdefault((round_, epoch), inode) == inode
            half_done += any((*tmp_path.glob("bundles-*/.draft-*"), *tmp_path.glob("bundles-*/segments/*.part")))
    assert len(published) > 5
    assert half_done > 10, "hardly any kill came while a bundle was written"
    for round_, epoch in published:
        assert bundle_folder(tmp_path / f"bundles-{round_}", epoch).exists()
    contents = {path.name: path.read_bytes() for path in paths}
    for root in tmp_path.glob("bundles-*"):
        for packed in (root / "segments").glob("*.zst"):
            assert unpack_segment(packed) in contents.values()
        for folder in bundle_folders(root):
            manifest, _ = read_manifest(folder)
            assert len(read_leaves(folder)) == manifest.leaves
            for segment in manifest.segments:
                data = read_segment(folder, segment.name, segment.sha256, segment.length)
                assert data == contents[segment.name]


def test_the_index_counts_every_share_once_however_often_its_filling_is_killed(tmp_path: Path) -> None:
    """Killed while the log grows and the index is created, migrated and filled from it."""
    folder, url = tmp_path / "shares", sqlite_url(tmp_path / "index.sqlite")
    last = -1
    indexed = [0]
    with lives("index", tmp_path, kills=60, longest=0.4) as ended:
        for i, said in enumerate(ended):
            last = check_acknowledged(said, last)
            if i % 10 == 9:
                with Index(url) as index, index.reading() as ask:
                    indexed.append(ask.totals().shares)
    assert indexed == sorted(indexed)
    assert indexed[-1] > 100
    assert len(set(indexed)) > 2
    count = check_log(folder, last)
    with Index(url) as index, Index(sqlite_url(tmp_path / "anew.sqlite")) as anew:
        index.fill(folder, RULES)
        anew.fill(folder, RULES)
        assert index.digest() == anew.digest()
        with index.reading() as ask:
            assert ask.totals().shares == sum(row.shares for row in ask.workers()) == count
    assert verify_log(folder, RULES).passed


# A disk of its own


def on_a_small_disk(mode: str, folder: Path, kibibytes: int) -> dict[str, Any]:
    """What a child saw whose FOLDER/disk is so small: a mount that nobody else sees and that ends with the process."""
    (folder / "disk").mkdir()
    script = f"mount -t tmpfs -o size={kibibytes}k tmpfs {folder}/disk && exec {sys.executable} {CHILD} {mode} {folder}"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"a small disk needs user namespaces ('unshare', of util-linux): {done.stderr}"
    return dict(json.loads(done.stdout))


def test_a_full_disk_refuses_shares_loses_none_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    seen = on_a_small_disk("full-log", tmp_path, 96)
    assert "No space left on device" in seen["refused"]
    assert seen["acknowledged"] > 100
    assert seen["kept"] >= seen["acknowledged"]
    assert seen["found"] == list(range(seen["kept"] + 50))


def test_a_full_disk_publishes_no_part_of_a_bundle_and_all_of_it_when_there_is_room(tmp_path: Path) -> None:
    write_log(tmp_path / "shares", ("s" * 150 + "c") * 6)
    (tmp_path / "shares" / "shares-00000006.log").unlink()
    seen = on_a_small_disk("full-publish", tmp_path, 512)
    assert seen["is_whole"]
    assert len(seen["refused"]) > 5
    assert all("No space left on device" in text for text in seen["refused"])


def test_a_full_disk_stops_the_index_and_not_the_log_and_is_made_up_for_when_there_is_room(tmp_path: Path) -> None:
    log = write_log(tmp_path / "shares", ("s" * 500 + "c") * 6)
    seen = on_a_small_disk("full-index", tmp_path, 1536)
    assert len(seen["refused"]) == 3
    assert all("full" in text for text in seen["refused"])
    assert 0 < seen["indexed"] < log.sequence
    with Index(sqlite_url(tmp_path / "anew.sqlite")) as anew:
        anew.fill(log.folder, RULES)
        assert anew.digest().hex() == seen["digest"]


# A bit that flips


@pytest.fixture(scope="module")
def old_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several sealed segments."""
    return write_log(tmp_path_factory.mktemp("log"), ("s" * 60 + "c") * 5).folder


def test_a_bit_that_flips_anywhere_is_found_and_named_with_segment_and_offset(old_log: Path) -> None:
    chance = random.Random(11)
    for _ in range(300):
        path = chance.choice(segment_files(old_log))
        data = bytearray(path.read_bytes())
        at = chance.randrange(len(data))
        original = bytes(data)
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        slot = at // SLOT_SIZE * SLOT_SIZE
        with pytest.raises(CorruptLog, match=rf"{re.escape(path.name)}: the slot at offset {slot} is damaged"):
            for _ in replay(old_log):
                pass
        path.write_bytes(original)

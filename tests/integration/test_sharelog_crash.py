"""What the share log survives: being killed at any moment, a full disk, a bit that flips in an old segment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pool_oracle.errors import CorruptLog
from pool_oracle.ledger.sharelog import replay, segment_files
from pool_oracle.work.records import SLOT_SIZE, ShareRecord
from tests.integration.sharelog_child import opened, share

CHILD = Path(__file__).with_name("sharelog_child.py")
KILLS = 120


def sequences(folder: Path) -> list[int]:
    return [record.sequence for _, record in replay(folder) if isinstance(record, ShareRecord)]


def test_no_share_is_lost_or_counted_twice_however_often_the_pool_is_killed(tmp_path: Path) -> None:
    chance = random.Random(7)
    folder = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, str(CHILD), "kill", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        try:
            last, segments = -1, 0
            for _ in range(KILLS):
                zygote.stdin.write(b"go\n")
                zygote.stdin.flush()
                pid = int(zygote.stdout.readline().split()[1])
                time.sleep(chance.random() ** 3 * 0.1)  # often soon, while it opens, sometimes late
                os.kill(pid, signal.SIGKILL)
                while (line := zygote.stdout.readline()) != b"ended\n":
                    # Some were on disk and could not be acknowledged any more: those stay, so numbers may leap.
                    assert int(line) > last, "acknowledged out of order, or twice"
                    last = int(line)
                segments = len(segment_files(folder)) if folder.exists() else 0
            assert last > KILLS
            assert segments > KILLS // 4
        finally:
            zygote.stdin.close()

    async def reopen() -> int:
        log = opened(folder)
        await log.close()
        return log.next_sequence

    count = asyncio.run(reopen())
    assert sequences(folder) == list(range(count))
    assert count > last


def test_a_full_disk_refuses_shares_loses_none_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=96k tmpfs {tmp_path} && exec {sys.executable} {CHILD} full {tmp_path}"
    # A mount of its own, that nobody else sees and that ends with the process.
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"a small disk needs user namespaces ('unshare', of util-linux): {done.stderr}"
    seen = json.loads(done.stdout)
    assert "No space left on device" in seen["refused"]
    assert seen["acknowledged"] > 100
    assert seen["kept"] >= seen["acknowledged"]
    assert seen["found"] == list(range(seen["kept"] + 50))


@pytest.fixture(scope="module")
def old_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several sealed segments."""
    folder = tmp_path_factory.mktemp("log")

    async def write() -> None:
        log = opened(folder)
        for epoch in range(5):
            for _ in range(60):
                await log.append(share(log.next_sequence), 1000)
            log.close_epoch({"epoch": epoch})
        await log.close()

    asyncio.run(write())
    return folder


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

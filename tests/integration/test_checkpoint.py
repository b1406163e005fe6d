"""Checkpoints: used only while they and the log say the same, and never needed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pool_oracle.errors import CorruptLog, InputError, LedgerError, ManifestError
from pool_oracle.ledger.checkpoint import KEPT, Checkpoint, Checkpoints
from pool_oracle.ledger.sharelog import ShareLog, segment_name
from pool_oracle.ledger.tail import LogTail
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.schemes import Scheme, Terms, open_scheme, restore_scheme
from pool_oracle.payout.window import share_unit
from pool_oracle.work.records import SLOT_SIZE, ShareRecord
from pool_oracle.work.targets import nbits_to_target
from tests.streamed_log import BITS, HEIGHT, NBITS, PAYEES, StreamedLog, job_payload

CHILD = Path(__file__).with_name("checkpoint_child.py")
TERMS = Terms(window=2)
KILLS = 40


class Pool:
    """A log with a checkpoint at each close; `written` are all of them, `files` what is left of them."""

    def __init__(self, folder: Path, epochs: int = 6, seed: int = 1) -> None:
        chance = random.Random(seed)
        self.log = StreamedLog(folder, TERMS.window)
        self.scheme = open_scheme("pplns", TERMS, tail=self.log.tail(keep=0))
        self.checkpoints = Checkpoints(folder)
        self.written: list[Checkpoint] = []
        for epoch in range(epochs):
            for i in range(30):
                if i == 20:
                    self.log.next_segment()
                self.share(chance.randrange(6), chance.choice([BITS[2], *[BITS[3]] * 9]))
            self.close({"epoch was": epoch})

    def share(self, worker: int, bits: int) -> None:
        sequence, payee, unit = self.log.share(worker, bits)
        self.scheme.add(sequence, payee, unit, HEIGHT)

    def close(self, registers: object) -> None:
        self.log.close()
        self.scheme.close()
        self.log.flush()
        self.written.append(self.log.checkpoint(self.scheme.state(), registers))
        self.checkpoints.write(self.written[-1])

    @property
    def files(self) -> list[Path]:
        return self.checkpoints.files()

    def segment(self, number: int) -> Path:
        return self.log.folder / segment_name(number)

    def restore(self, checkpoint: Checkpoint) -> tuple[int, Scheme]:
        """Goes on from a checkpoint to the log's end; says which epoch it was of."""
        scheme = restore_scheme("pplns", TERMS, checkpoint.state, tail=self.log.tail(keep=0))
        return checkpoint.epoch, self.log.replay(scheme, checkpoint.segment + 1)

    def restarted(self) -> tuple[int, Scheme] | None:
        return Checkpoints(self.log.folder).newest(self.restore)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "log")


def said(scheme: Scheme) -> tuple[object, ...]:
    return scheme.weights, scheme.total, scheme.first_sequence, scheme.share_count, scheme.t, scheme.closed


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def epoch_used(pool: Pool) -> int | None:
    """Which checkpoint a restart uses; whichever it is, it comes to the same."""
    found = pool.restarted()
    if found is None:
        return None
    assert said(found[1]) == said(pool.log.replay(open_scheme("pplns", TERMS)))
    return found[0]


def test_a_restart_goes_on_from_the_newest_checkpoint_and_the_last_two_are_kept(pool: Pool) -> None:
    assert [path.name for path in pool.files] == ["checkpoint-00000005", "checkpoint-00000006"]
    assert epoch_used(pool) == 6
    pool.share(1, BITS[1])
    pool.log.flush()
    assert epoch_used(pool) == 6


def test_a_checkpoint_brings_back_what_it_was_given(pool: Pool) -> None:
    book = Checkpoints(pool.log.folder)
    assert [book.read(path) for path in pool.files] == pool.written[-KEPT:]
    assert book.read(pool.files[0]).registers == {"epoch was": 4}


def test_a_log_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest(lambda checkpoint: checkpoint) is None


def test_no_bit_of_a_checkpoint_can_flip_unseen_and_the_one_before_is_used(pool: Pool) -> None:
    chance = random.Random(3)
    newest = pool.files[-1]
    whole = newest.read_bytes()
    for _ in range(150):
        flip(newest, chance.randrange(len(whole)), chance.randrange(8))
        with pytest.raises(LedgerError, match=f"{newest.name}: is damaged or cut"):
            pool.checkpoints.read(newest)
        newest.write_bytes(whole)
    flip(newest, 200)
    assert epoch_used(pool) == 5


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 65, 66, 500, -1])
def test_a_checkpoint_that_was_cut_is_not_used(pool: Pool, keep: int) -> None:
    newest = pool.files[-1]
    newest.write_bytes(newest.read_bytes()[:keep])
    with pytest.raises(LedgerError, match=f"{newest.name}: is damaged or cut"):
        pool.checkpoints.read(newest)
    assert epoch_used(pool) == 5


def test_with_all_checkpoints_damaged_or_gone_the_log_is_replayed_from_its_beginning(pool: Pool) -> None:
    for path in pool.files:
        flip(path, 99)
    assert epoch_used(pool) is None
    for path in pool.files:
        path.unlink()
    assert epoch_used(pool) is None


def window_segments(pool: Pool, which: int = -1) -> range:
    """The segments that a checkpoint rests on."""
    checkpoint = pool.written[which]
    first = next(
        number
        for number in range(checkpoint.segment, -1, -1)
        if int.from_bytes(pool.segment(number).read_bytes()[20:28], "little") <= checkpoint.first_share
    )
    return range(first, checkpoint.segment + 1)


def test_no_bit_of_the_windows_segments_can_flip_unseen(pool: Pool) -> None:
    chance = random.Random(4)
    segments = window_segments(pool)
    assert len(segments) > 2
    for number in segments:
        path = pool.segment(number)
        whole = path.read_bytes()
        for _ in range(15):
            flip(path, chance.randrange(len(whole)), chance.randrange(8))
            with pytest.raises(LedgerError, match=path.name):
                pool.checkpoints.read(pool.files[-1])
        path.write_bytes(whole)
        pool.checkpoints.read(pool.files[-1])


def test_damage_behind_an_older_checkpoint_leaves_that_one_usable(pool: Pool) -> None:
    flip(pool.segment(pool.written[-1].segment), 100)
    book = Checkpoints(pool.log.folder)
    assert book.newest(lambda checkpoint: checkpoint.epoch) == 5


def test_what_left_the_window_before_does_not_matter(pool: Pool) -> None:
    assert 0 not in window_segments(pool)
    flip(pool.segment(0), 1000)
    found = pool.restarted()
    assert found is not None
    assert (found[0], said(found[1])) == (6, said(pool.scheme))


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_missing_segment_is_named(pool: Pool, place: int) -> None:
    path = pool.segment(window_segments(pool)[place])
    path.unlink()
    with pytest.raises(LedgerError) as raised:
        pool.checkpoints.read(pool.files[-1])
    assert pool.files[-1].name in str(raised.value) or path.name in str(raised.value)
    assert Checkpoints(pool.log.folder).newest(lambda checkpoint: checkpoint.epoch) in (None, 5)


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_segment_that_was_cut_or_grew_is_named(pool: Pool, place: int) -> None:
    path = pool.segment(window_segments(pool)[place])
    whole = path.read_bytes()
    for data in (whole[:-SLOT_SIZE], whole[:-1], whole + whole[-SLOT_SIZE:], b""):
        path.write_bytes(data)
        with pytest.raises(LedgerError) as raised:
            pool.checkpoints.read(pool.files[-1])
        assert path.name in str(raised.value) or "names other segments" in str(raised.value)


def test_a_checkpoint_of_another_log_is_not_used(pool: Pool, tmp_path: Path) -> None:
    other = Pool(tmp_path / "other", seed=2)
    for path in pool.files:
        path.write_bytes((other.log.folder / path.name).read_bytes())
    assert epoch_used(pool) is None


def test_a_log_that_goes_on_differently_behind_the_close_is_not_gone_on_with(pool: Pool, tmp_path: Path) -> None:
    other = Pool(tmp_path / "other", epochs=7, seed=2)
    number = pool.written[-1].segment + 1
    pool.segment(number).write_bytes(other.segment(number).read_bytes())
    with pytest.raises(LedgerError, match=f"{segment_name(number)} begins with share 180 at T = "):
        pool.checkpoints.read(pool.files[-1])


def test_checkpoints_of_epochs_that_the_log_does_not_have_go_with_the_next_one(pool: Pool) -> None:
    """A log that was brought back from an older copy, without its last epochs."""
    pool.checkpoints.write(pool.written[2])
    assert [path.name for path in pool.files] == ["checkpoint-00000003"]


def test_a_state_that_does_not_fit_is_not_used(pool: Pool) -> None:
    """Its own hash and the log's are right: whoever wrote it was wrong."""
    wrong = asdict(pool.written[-1])
    wrong["state"]["window"]["credits"][PAYEES[0].hex()] = "1"
    pool.checkpoints.write(Checkpoint(**wrong))
    assert epoch_used(pool) == 5
    with pytest.raises(InputError, match="in sum"):
        pool.restore(pool.checkpoints.read(pool.files[-1]))


def test_a_checkpoint_cannot_be_written_before_the_log_has_its_close(pool: Pool) -> None:
    pool.share(0, BITS[1])
    pool.log.close()
    pool.scheme.close()
    with pytest.raises(LedgerError):
        pool.checkpoints.write(pool.log.checkpoint(pool.scheme.state()))
    assert epoch_used(pool) == 6


def test_registers_are_canonical_json(pool: Pool) -> None:
    for registers in (0.5, 1 << 60, b"bytes"):
        with pytest.raises(ManifestError):
            pool.checkpoints.write(pool.log.checkpoint(pool.scheme.state(), registers))
    assert epoch_used(pool) == 6


def test_another_version_is_not_read(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool_oracle.ledger.checkpoint.VERSION", 2)
    with pytest.raises(LedgerError, match="has version 1; this reads 2"):
        pool.checkpoints.read(pool.files[-1])


def test_a_disk_that_refuses_leaves_the_checkpoints_that_there_are(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    pool.share(0, BITS[1])
    monkeypatch.setattr("pool_oracle.ledger.checkpoint.write_file", refuse)
    with pytest.raises(LedgerError, match="No space left"):
        pool.close(None)
    monkeypatch.undo()
    assert epoch_used(pool) == 6


def test_a_kill_while_checkpoints_are_written_leaves_two_that_can_be_used(tmp_path: Path) -> None:
    chance = random.Random(7)
    pool = Pool(tmp_path / "log", epochs=12)
    values = tmp_path / "checkpoints.json"
    values.write_text(json.dumps([asdict(checkpoint) for checkpoint in pool.written[-4:]]))
    epochs = [checkpoint.epoch for checkpoint in pool.written[-4:]]
    interrupted = 0
    command = [sys.executable, str(CHILD), str(pool.log.folder), str(values)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        try:
            for _ in range(KILLS):
                zygote.stdin.write(b"go\n")
                zygote.stdin.flush()
                pid = int(zygote.stdout.readline().split()[1])
                for _ in range(chance.randrange(1, 6)):
                    zygote.stdout.readline()
                time.sleep(chance.random() * 0.004)
                os.kill(pid, signal.SIGKILL)
                while zygote.stdout.readline() != b"ended\n":
                    pass
                interrupted += (pool.log.folder / "checkpoint.part").exists()
                book = Checkpoints(pool.log.folder)
                assert len(pool.files) >= 1
                for path in pool.files:
                    assert book.read(path).epoch in epochs
                assert epoch_used(pool) in epochs
        finally:
            zygote.stdin.close()
    assert interrupted, "no kill came while one was being written"


def test_a_window_lives_on_a_log_that_is_being_written(tmp_path: Path) -> None:
    """The pool's own writer, groups and all: what leaves is read while the rest is on its way to the disk."""

    async def run() -> None:
        share_log = ShareLog(tmp_path, segment_bytes=50 * SLOT_SIZE)
        plain = open_scheme("pplns", TERMS)
        streamed = open_scheme("pplns", TERMS, tail=LogTail(tmp_path, keep=4))
        checkpoints = Checkpoints(tmp_path)
        unit = share_unit(nbits_to_target(NBITS[0]), nbits_to_target(BITS[3]))
        bits = [BITS[1], *[BITS[3]] * 50]
        share_log.define_job(0, job_payload(0, NBITS[0]))
        for number, payee in enumerate(PAYEES):
            share_log.define_worker(number, {"worker": number, "payee": format_payee(payee), "name": ""})
        for sequence in range(2000):
            worker, own = sequence % 4, bits[sequence % 51]
            unit = share_unit(nbits_to_target(NBITS[0]), nbits_to_target(own))
            record = ShareRecord(sequence, 0, b"\1" * 4, b"\2" * 8, 1, 2, 3, own, worker, 4)
            done = share_log.append(record, unit)
            for scheme in (plain, streamed):
                scheme.add(sequence, PAYEES[worker], unit, HEIGHT)
            if sequence % 100 == 99:
                assert said(streamed) == said(plain)
                await done
            if sequence % 500 == 499:
                first, segment = plain.first_sequence, share_log.segment
                payload = {
                    "epoch": plain.closed + 1,
                    "firstShare": first,
                    "closingShare": sequence,
                    "t": str(plain.t),
                }
                closed = share_log.close_epoch(payload)
                assert plain.close() == streamed.close()
                state = streamed.state()
                await closed
                assert first is not None
                checkpoint = Checkpoint(plain.closed, first, sequence, plain.t, segment, state, None)
                await asyncio.to_thread(checkpoints.write, checkpoint)
        await share_log.close()
        again = Checkpoints(tmp_path).newest(
            lambda found: restore_scheme("pplns", TERMS, found.state, tail=LogTail(tmp_path))
        )
        assert again is not None
        assert said(again) == said(plain)

    asyncio.run(run())


def test_a_log_that_is_damaged_where_the_window_reads_next_is_found_on_the_way(pool: Pool) -> None:
    """Segments are verified when the checkpoint is loaded; what happens to them later shows when they are read."""
    found = pool.restarted()
    assert found is not None
    path = pool.segment(window_segments(pool)[1])
    flip(path, path.stat().st_size // 2)
    _, scheme = found
    for _ in range(2):
        sequence, payee, unit = pool.log.share(0, BITS[0])
        scheme.add(sequence, payee, unit, HEIGHT)
    with pytest.raises(CorruptLog, match=path.name):
        scheme.close()

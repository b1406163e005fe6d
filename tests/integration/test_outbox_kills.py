"""What the outbox survives: being killed at every single step, a torn or damaged journal, a full disk."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pool_oracle.chain import journal
from pool_oracle.chain.anvil import Anvil
from pool_oracle.chain.journal import Begun, Journal, Opened
from pool_oracle.errors import ChainError, OutboxError
from tests.integration.outbox_rig import OutboxRig, close, root_of

CHILD = Path(__file__).with_name("outbox_child.py")

FIRST = Opened(1, 31337, "0xf39F")


def entry(number: int) -> Begun:
    return Begun(f"commit:{number}", "commit", "0xaa", "0xbb", "0", asks=True)


@pytest.fixture
def rig(anvil: Anvil, tmp_path: Path) -> OutboxRig:
    return OutboxRig(anvil.url, tmp_path)


@pytest.mark.timeout(290)
@pytest.mark.parametrize("is_mined_at_once", [True, False])
def test_killed_at_any_step_and_started_again_it_ends_as_if_undisturbed(
    rig: OutboxRig, tmp_path: Path, is_mined_at_once: bool
) -> None:
    """Where blocks come only after the restart, too: then the transaction is in the pool all the while."""
    begin = rig.nonce()
    command = [sys.executable, str(CHILD), rig.url, rig.address, root_of(1).hex()]
    killed: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        while "done" not in killed and (is_mined_at_once or len(killed) < 90):
            snapshot = rig.chain.rpc("evm_snapshot")
            rig.folder = tmp_path / str(len(killed))
            rig.chain.rpc("evm_setAutomine", is_mined_at_once)
            zygote.stdin.write(f"{rig.folder} {len(killed)}\n")
            zygote.stdin.flush()
            killed.append(zygote.stdout.readline().strip())
            assert zygote.stdout.readline() == "ended\n"
            rig.chain.rpc("evm_setAutomine", True)
            rig.mine()
            sender = rig.open()
            assert rig.commit(sender, 1)["status"] == 1, killed
            assert rig.commit(sender, 2)["status"] == 1, killed
            close(sender)
            rig.expect(2)
            assert rig.nonce() == begin + 2, killed
            rig.chain.rpc("evm_revert", snapshot)
        zygote.stdin.close()
    sends = [step for step in killed if "eth_sendRawTransaction" in step]
    assert sends == ["before call eth_sendRawTransaction", "after call eth_sendRawTransaction"]
    assert killed.count("within write") >= 3
    assert len(killed) > 40


@pytest.mark.timeout(290)
def test_killed_at_any_moment_on_a_chain_that_turns_back_it_commits_every_epoch_once(
    rig: OutboxRig, tmp_path: Path
) -> None:
    """Reorganisations, forgotten transactions, held blocks and jumping fees, between and during its lives."""
    chance = random.Random(5)
    rig.mine(20)  # no reorganisation reaches the deployment
    roots = [root_of(number).hex() for number in range(1, 400)]
    command = [sys.executable, str(CHILD), rig.url, rig.address, *roots]
    chaos = [
        lambda: rig.reorganise(chance.randrange(1, 13)),
        rig.hold,
        lambda: rig.chain.rpc("evm_setAutomine", True),
        lambda: rig.mine(chance.randrange(1, 5)),
        lambda: rig.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(10 ** chance.randrange(8, 11))),
        lambda: rig.chain.rpc("anvil_dropAllTransactions"),
    ]
    dropped = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        for _ in range(40):
            zygote.stdin.write(f"{tmp_path} 0\n")
            zygote.stdin.flush()
            pid = int(zygote.stdout.readline())
            try:
                for _ in range(chance.randrange(1, 5)):
                    time.sleep(chance.random() * 0.3)
                    # Anvil itself does not survive a reorganisation while it makes a block for somebody.
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(0.05)
                    before = rig.latest()
                    chance.choice(chaos)()
                    dropped += rig.latest() < before
                    os.kill(pid, signal.SIGCONT)
            finally:
                os.kill(pid, signal.SIGKILL)
            assert zygote.stdout.readline() == "ended\n"
        zygote.stdin.close()
    rig.chain.rpc("evm_setIntervalMining", 1)
    rig.mine(20)
    sender = rig.open(patience_seconds=60)
    last = rig.latest() + 3
    while rig.latest() < last:
        with contextlib.suppress(ChainError):
            rig.commit(sender, rig.latest() + 1)
    close(sender)
    rig.expect(last)
    assert last > 8
    assert dropped > 3


def test_a_torn_tail_is_cut_at_every_length(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    for item in (FIRST, entry(1), entry(2)):
        log.append(item)
    log.close()
    data = log.path.read_bytes()
    last = data[:-1].rfind(b"\n") + 1
    for length in range(last, len(data)):
        for tail in (data[last:length], data[last:length] + bytes(40), bytes(length - last) + data[length:]):
            if tail == data[last:]:
                continue
            log.path.write_bytes(data[:last] + tail)
            again = Journal(tmp_path)
            assert list(again.entries) == [FIRST, entry(1)]
            again.append(entry(3))
            again.close()
            final = Journal(tmp_path)
            assert list(final.entries) == [FIRST, entry(1), entry(3)]
            final.close()


def test_a_flipped_bit_anywhere_else_is_named_with_its_line(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    for item in (FIRST, entry(1), entry(2)):
        log.append(item)
    log.close()
    data = log.path.read_bytes()
    for at in range(0, len(data) - 1, 3):
        if data[at] == 0x0A:
            continue
        spoilt = bytearray(data)
        spoilt[at] ^= 4
        log.path.write_bytes(spoilt)
        line = data[:at].count(b"\n") + 1
        with pytest.raises(OutboxError, match=rf"outbox.jsonl is damaged at line {line}; look in a block explorer"):
            Journal(tmp_path)


def test_a_full_disk_sends_nothing_and_is_over_when_there_is_room(
    rig: OutboxRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = rig.open()
    rig.commit(sender, 1)
    whole = (rig.folder / "outbox" / "outbox.jsonl").read_bytes()
    nonce = rig.nonce()
    real = os.write

    class FullDisk:
        """Takes half of a line, then nothing."""

        def write(self, descriptor: int, data: bytes) -> int:
            return real(descriptor, data[: len(data) // 2])

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FullDisk())
        for _ in range(2):
            with pytest.raises(ChainError, match=r"outbox.jsonl cannot be written: the disk is full"):
                rig.commit(sender, 2)
        assert rig.nonce() == nonce
        assert (rig.folder / "outbox" / "outbox.jsonl").read_bytes() == whole
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)

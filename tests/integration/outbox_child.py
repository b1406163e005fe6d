"""A process that commits an epoch and kills itself at a given step: before or after it, or in the middle of a write.

python tests/integration/outbox_child.py URL DISTRIBUTOR ROOT
    For each line on standard input, FOLDER STEP: forks a process that works in FOLDER and is killed at its step number
    STEP. Prints what step that was, or "done" when the work ended before it; then "ended".

python tests/integration/outbox_child.py URL DISTRIBUTOR ROOT ROOT ...
    Commits one epoch after the other until it is killed by somebody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pool_oracle.chain import endpoint, journal
from pool_oracle.chain.keys import LocalSigner
from pool_oracle.chain.outbox import Outbox, SendSettings
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.chain.sending import OutboxSender
from pool_oracle.demo.scenario import OPERATOR, demo_accounts
from pool_oracle.errors import ChainError
from pool_oracle.logs import configure_logs


class Steps:
    """Counts everything that leaves a trace, and kills the process at one of them."""

    def __init__(self, last: int) -> None:
        self._left = last

    def at(self, name: str) -> None:
        """A moment at which the process may be killed."""
        if self._left == 0:
            os.write(1, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            what = f"{name} {args[1] if name == 'call' else ''}"
            self.at(f"before {what}")
            result = function(*args, **kwargs)
            self.at(f"after {what}")
            return result

        return stepped

    def write(self, descriptor: int, data: bytes) -> int:
        """The journal's write, which may end in the middle."""
        self.at("before write")
        half = os.write(descriptor, data[: len(data) // 2])
        self.at("within write")
        rest = os.write(descriptor, data[half:])
        self.at("after write")
        return half + rest


class SteppedOs:
    """What the journal uses of `os`."""

    def __init__(self, steps: Steps) -> None:
        self.write = steps.write
        self.fsync = steps.around("fsync", os.fsync)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Keeper:
    """Commits epochs as a pool's keeper does: by what the distributor has, not by memory."""

    def __init__(self, url: str, distributor: str, folder: Path) -> None:
        chain = QuorumChain([url])
        self._contract = chain.precompiled("NativeDistributor", distributor)
        signer = LocalSigner(demo_accounts(1)[OPERATOR])
        settings = SendSettings(poll_seconds=0.05, resend_seconds=0.2, stuck_blocks=3)
        self.outbox = Outbox(chain, signer, folder / "outbox", settings)

    def latest(self) -> int:
        return int(self._contract.functions.activeEpoch().call()[2])

    def commit(self, number: int, root: str) -> None:
        call = self._contract.functions.commit(bytes.fromhex(root), bytes(32))
        OutboxSender(self.outbox).send(call, intent=f"commit:{number}", done=lambda: self.is_done(number))

    def is_done(self, number: int) -> bool:
        latest = self.latest()
        if latest < number - 1:
            raise ChainError(f"epoch {number - 1} is not there any more")
        return latest >= number


def work(url: str, distributor: str, root: str, folder: Path, last: int) -> None:
    """Commit epoch 1."""
    steps = Steps(last)
    journal.os = SteppedOs(steps)  # type: ignore[attr-defined]
    endpoint.Endpoint._post = steps.around("call", endpoint.Endpoint._post)  # type: ignore[method-assign]
    keeper = Keeper(url, distributor, folder)
    keeper.commit(1, root)
    keeper.outbox.close()
    os.write(1, b"done\n")


def work_on(url: str, distributor: str, roots: list[str], folder: Path) -> None:
    """Commit every epoch that is missing, again and again: what is there may be gone a moment later."""
    while True:
        with contextlib.suppress(ChainError):
            keeper = Keeper(url, distributor, folder)
            break
    while True:
        with contextlib.suppress(ChainError):
            number = keeper.latest() + 1
            keeper.outbox.tend()
            keeper.commit(number, roots[number - 1])


def main() -> None:
    url, distributor, *roots = sys.argv[1:]
    for line in sys.stdin:
        folder, last = line.split()
        child = os.fork()
        if child == 0:
            with Path(os.devnull).open("w") as nowhere:
                configure_logs(nowhere)
                if len(roots) == 1:
                    work(url, distributor, roots[0], Path(folder), int(last))
                else:
                    os.write(1, f"{os.getpid()}\n".encode())
                    work_on(url, distributor, roots, Path(folder))
            os._exit(0)
        os.waitpid(child, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()

"""Child processes that never outlive us: they die with their parent, and `stop_child` waits until they are gone."""

from __future__ import annotations

import ctypes
import gc
import signal
import subprocess
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_SECONDS = 5

SWITCH_SECONDS = 0.0005
COLLECT_AFTER = 100_000


def tune_for_serving() -> None:
    """Settings of a process that serves miners, for even answers.

    The thread that has synced the share log should not wait Python's usual 5 ms for its turn to say so; and the cycle
    collector should not walk through a window of millions of shares every few thousand of them.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 50, 1000)


def start_child(
    command: Sequence[str], *, descriptors: Sequence[int] = (), keep_errors: bool = False
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that a Ctrl-C goes to us alone, without input or output.

    It inherits `descriptors`; with `keep_errors` its log goes where ours goes. Call it from the main thread: on Linux
    the child is killed when the thread that started it ends.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if keep_errors else subprocess.DEVNULL,
        pass_fds=tuple(descriptors),
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def stop_child(process: subprocess.Popen[bytes]) -> None:
    """End a child and wait for it. Calling it again does nothing."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

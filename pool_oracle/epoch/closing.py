"""When an epoch closes: by time, by the number of its shares, or with a new tip."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_SECONDS = 1.0
"""How often shares are counted."""


@dataclass(frozen=True, slots=True)
class ClosingPolicy:
    """After `seconds`, after `shares` (0: however many), with each new tip: what is first, where there are shares."""

    seconds: float
    shares: int = 0
    at_tip: bool = False


class ClosingTime:
    """Waits for the end of one epoch after the other."""

    def __init__(self, policy: ClosingPolicy, share_count: Callable[[], int]) -> None:
        """`share_count` says how many shares came since the last close."""
        self._policy = policy
        self._share_count = share_count
        self._tip = asyncio.Event()

    def on_tip(self) -> None:
        """There is a new tip."""
        self._tip.set()

    async def wait(self) -> None:
        """Until the epoch that begins now should close."""
        policy = self._policy
        self._tip.clear()
        ends = time.monotonic() + policy.seconds
        while (left := ends - time.monotonic()) > 0:
            if policy.shares and self._share_count() >= policy.shares:
                return
            if policy.at_tip and self._tip.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends_early(), min(left, LOOK_SECONDS) if policy.shares else left)

    async def _ends_early(self) -> None:
        await (self._tip.wait() if self._policy.at_tip else asyncio.Event().wait())

"""When epochs close."""

from __future__ import annotations

import asyncio

import pytest

from pool_oracle.epoch import closing as module
from pool_oracle.epoch.closing import ClosingPolicy, ClosingTime

FOREVER = 10**6


def ends(closing: ClosingTime, *, within: float = 20) -> None:
    """The epoch ends before the test's patience does."""
    asyncio.run(asyncio.wait_for(closing.wait(), within))


def lasts(closing: ClosingTime, seconds: float = 0.2) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(closing.wait(), seconds))


def test_an_epoch_closes_by_time():
    ends(ClosingTime(ClosingPolicy(0.01), lambda: 0))
    lasts(ClosingTime(ClosingPolicy(FOREVER), lambda: 10**9))


def test_an_epoch_closes_by_shares_if_that_is_sooner(monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    counts = iter(range(100))
    ends(ClosingTime(ClosingPolicy(FOREVER, shares=20), lambda: next(counts)))
    assert next(counts) == 21
    lasts(ClosingTime(ClosingPolicy(FOREVER, shares=20), lambda: 19))
    ends(ClosingTime(ClosingPolicy(0.05, shares=20), lambda: 19))


@pytest.mark.parametrize("shares", [0, 1000])
def test_an_epoch_closes_with_a_tip_that_comes_while_it_lasts(shares):
    async def work() -> None:
        closing = ClosingTime(ClosingPolicy(FOREVER, shares=shares, at_tip=True), lambda: 0)
        closing.on_tip()  # of the epoch before
        waiting = asyncio.create_task(closing.wait())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        closing.on_tip()
        await asyncio.wait_for(waiting, 20)

    asyncio.run(work())


def test_a_tip_closes_nothing_where_the_policy_does_not_say_so():
    async def work() -> None:
        closing = ClosingTime(ClosingPolicy(FOREVER), lambda: 0)
        waiting = asyncio.create_task(closing.wait())
        await asyncio.sleep(0.05)
        closing.on_tip()
        await asyncio.sleep(0.1)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(work())

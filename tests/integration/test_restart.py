"""A restart from a checkpoint: the same state as a replay of the whole log, and no share twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pool_oracle import restoring
from pool_oracle.errors import ShareRefused
from pool_oracle.ledger.checkpoint import Checkpoints
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, replay, segment_name
from pool_oracle.payout.payee import payee_of_account
from pool_oracle.payout.schemes import SCHEMES
from pool_oracle.restoring import PoolState, restore_state

OpenRig = Callable[..., AbstractAsyncContextManager[Any]]
ALICE = payee_of_account(b"\xa1" * 20)
BOB = payee_of_account(b"\xb2" * 20)
WITHOUT_FEES = [name for name, scheme in SCHEMES.items() if not scheme.needs_fees]


async def close(rig: Any, number: int, *, checkpoint: bool = True) -> None:
    """Close an epoch as the keeper does: it is published, then there is a checkpoint."""
    assert rig.pool.close_epoch("aa" * 32, number, number).epoch == number
    await rig.log.flush()
    if checkpoint:
        await asyncio.to_thread(rig.pool.write_checkpoint)


def summary(state: PoolState) -> dict[str, Any]:
    """What must not depend on where the replay began."""
    scheme = state.accounts.scheme
    return {
        "rules": state.accounts.rules,
        "may_change": state.accounts.may_change,
        "weights": scheme.weights,
        "scheme": scheme.state(),
        "workers": state.workers,
        "close": state.closes[-1],
        "blocks": [(b.hash, b.coinbase, b.state, b.detail, b.worker) for b in state.blocks],
        "next_job": state.next_job,
        "seen": {tip: state.seen.of(tip) for tip in state.tip_segments},
    }


async def restored(folder: Path, rules: Rules, published: int, *, from_checkpoint: bool) -> dict[str, Any]:
    log = ShareLog(folder)
    try:
        checkpoints = Checkpoints(folder) if from_checkpoint else None
        return summary(restore_state(log, rules, published=published, checkpoints=checkpoints))
    finally:
        await log.close()


@pytest.mark.parametrize("scheme", WITHOUT_FEES)
def test_a_checkpoint_and_the_log_behind_it_give_what_the_whole_log_gives(
    rig: OpenRig, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"scheme": scheme, "fee_bps": 200, "payee": ALICE if scheme == "solo" else None}
    began: list[int] = []

    def watched(folder: Path, *, first: int = 0) -> Any:
        began.append(first)
        return replay(folder, first=first)

    async def work() -> None:
        async with rig(window=1, **options) as r:
            for number in (1, 2, 3):
                await r.mine(9, ALICE)
                await r.mine(6, BOB)
                await r.pool.submit(r.solve(BOB, wanted=lambda n: n <= r.pool.job.network_target))
                await r.pool.block_keeper.settle()
                await close(r, number)
                await r.pool.refresh()
            await r.mine(4, ALICE)
            folder, rules = r.log.folder, r.pool.accounts.rules
        assert [path.name for path in Checkpoints(folder).files()] == ["checkpoint-00000002", "checkpoint-00000003"]
        whole = await restored(folder, rules, 3, from_checkpoint=False)
        monkeypatch.setattr(restoring, "replay", watched)
        short = await restored(folder, rules, 3, from_checkpoint=True)
        assert short == whole
        assert began[-1] == 3  # the segment behind the last close
        later = await restored(folder, rules, 2, from_checkpoint=True)  # epoch 3 has to be published still
        assert later == whole
        assert began[-1] == 2
        (folder / "checkpoint-00000003").write_bytes(b"damaged")
        with capture_logs() as log:
            assert await restored(folder, rules, 3, from_checkpoint=True) == whole
        assert [entry["checkpoint"] for entry in log] == ["checkpoint-00000003"]

    asyncio.run(work())


def test_a_share_from_before_the_checkpoint_is_still_a_duplicate(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig(published=1) as r:
            known = r.solve(BOB)
            await r.pool.submit(known)
            await close(r, 1)
        async with rig(published=1) as r:
            assert r.pool.closed_epochs == 1
            again = known._replace(terms=r.pool.judge.job.terms(known.terms.bits))
            with pytest.raises(ShareRefused, match="duplicate"):
                r.pool.submit(again)
            await r.mine(3)
            assert r.pool.close_epoch("bb", 1, 2).epoch == 2

    asyncio.run(work())


def test_over_a_damaged_segment_of_the_window_no_checkpoint_is_used_and_the_damage_is_named(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig(window=8) as r:
            await r.mine(5)
            await close(r, 1)
            await r.mine(5)
            await close(r, 2)
            await r.mine(1)
            folder, rules = r.log.folder, r.pool.accounts.rules
        path = folder / segment_name(0)
        data = bytearray(path.read_bytes())
        data[-200] ^= 1
        path.write_bytes(data)
        log = ShareLog(folder)
        try:
            with pytest.raises(Exception, match=r"shares-00000000\.log"):
                restore_state(log, rules, published=2, checkpoints=Checkpoints(folder))
        finally:
            await log.close()

    asyncio.run(work())

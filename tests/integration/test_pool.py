"""Shares, blocks and epochs through a pool on a real node and a real log."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pool_oracle import pool as pool_module
from pool_oracle.errors import ConfigError, CorruptLog, LedgerError, ShareRefused
from pool_oracle.hashes import sha256d
from pool_oracle.judge import LiveJob
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog, replay
from pool_oracle.logbook import close_payload
from pool_oracle.payout.payee import payee_of_account
from pool_oracle.payout.window import S
from pool_oracle.pool import Commitment
from pool_oracle.restoring import restore_state
from pool_oracle.work.records import KIND_BLOCK, KIND_POLICY, LongRecord, ShareRecord
from pool_oracle.work.share import hash_to_int, pack_header
from pool_oracle.work.targets import target_to_nbits

OpenRig = Callable[..., AbstractAsyncContextManager[Any]]
ALICE = payee_of_account(b"\xa1" * 20)
BOB = payee_of_account(b"\xb2" * 20)
SHARE_BITS = target_to_nbits(1 << 252)
"""As the rig's: a share target that 16 hashes meet on average."""

if TYPE_CHECKING:
    from pool_oracle.judge import Submission


def is_block(rig: Any) -> Callable[[int], bool]:
    return lambda number: number <= rig.pool.job.network_target


def refusal_of(rig: Any, submission: Submission) -> tuple[int, str]:
    with pytest.raises(ShareRefused) as refused:
        rig.pool.submit(submission)
    return refused.value.code, refused.value.reason


def test_an_accepted_share_is_on_disk_when_its_future_is_done(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            await r.pool.submit(r.solve())
            on_disk = [record for _, record in replay(r.log.folder) if isinstance(record, ShareRecord)]
            assert [record.sequence for record in on_disk] == [0]
            assert r.pool.scheme.weights == {ALICE: S // 16}

    asyncio.run(work())


def test_every_kind_of_bad_share_is_refused_with_its_code(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            good = r.solve()
            code, reason = refusal_of(r, good._replace(in_mask=False))
            assert code == 20
            assert "outside the mask" in reason
            low = r.solve(wanted=lambda number: number > good.terms.target)
            assert refusal_of(r, low) == (23, "low difficulty share")
            await r.pool.submit(good)
            assert refusal_of(r, good) == (22, "duplicate share")
            late = next(s for n in range(100_000) if _would_pass(s := good._replace(ntime=good.ntime + 8000, nonce=n)))
            assert refusal_of(r, late)[0] == 20
            assert r.pool.scheme.share_count == 1

    asyncio.run(work())


def _would_pass(submission: Submission) -> bool:
    job = submission.terms.job
    header = pack_header(
        submission.version,
        job.stratum.prev_hash,
        submission.merkle_root,
        submission.ntime,
        job.stratum.nbits,
        submission.nonce,
    )
    return job.network_target < hash_to_int(sha256d(header)) <= submission.terms.target


def test_a_found_block_reaches_the_node_and_counts_as_a_share(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            following = asyncio.create_task(r.pool.follow_node())
            first = r.pool.job
            await r.pool.submit(r.solve(wanted=is_block(r)))
            await r.pool.block_keeper.settle()
            (block,) = r.pool.blocks
            assert (block.state, block.height) == ("accepted", 1)
            assert (await r.node.tip()).hash == block.hash
            while r.pool.job is first:
                await asyncio.sleep(0.01)
            assert r.pool.job.template.prev_hash == block.hash
            assert r.pool.scheme.share_count == 1
            following.cancel()
            await r.log.flush()
            kinds = [rec.kind for _, rec in replay(r.log.folder) if isinstance(rec, LongRecord)]
            assert KIND_BLOCK in kinds

    asyncio.run(work())


def test_a_block_on_a_stale_job_is_handed_in_before_the_share_is_refused(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            old = r.pool.job
            late_block = r.solve(job=old, wanted=lambda number: number <= old.network_target)
            late_share = r.solve(job=old)
            await r.pool.submit(r.solve(wanted=is_block(r)))
            await r.pool.block_keeper.settle()
            await r.pool.refresh()
            assert refusal_of(r, late_share) == (21, "stale: the job's tip is gone")
            assert refusal_of(r, late_block)[0] == 21
            await r.pool.block_keeper.settle()
            assert [block.state for block in r.pool.blocks] == ["accepted", "accepted"]
            assert r.pool.scheme.share_count == 1

    asyncio.run(work())


def test_a_share_stays_a_duplicate_when_a_reorganisation_brings_its_tip_back(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            template = await r.node.template()
            share = r.solve()
            await r.pool.submit(share)
            elsewhere = replace(template, prev_hash=b"\x07" * 32)
            for back_and_forth in (elsewhere, template):

                async def pretended(answer: Any = back_and_forth) -> Any:
                    return answer

                r.node.template = pretended
                await r.pool.refresh()
            assert r.pool.job.stratum.prev_hash == template.prev_hash
            again = share._replace(terms=r.pool.judge.job.terms(share.terms.bits))
            assert refusal_of(r, again) == (22, "duplicate share")

    asyncio.run(work())


def test_a_block_whose_share_is_refused_still_names_its_worker_in_the_log(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            old = r.pool.job
            late_block = r.solve(BOB, job=old, wanted=lambda number: number <= old.network_target)
            await r.pool.submit(r.solve(wanted=is_block(r)))
            await r.pool.block_keeper.settle()
            await r.pool.refresh()
            assert refusal_of(r, late_block)[0] == 21
            await r.pool.block_keeper.settle()
            await r.log.flush()
            state = restore_state(r.log, Rules(2, old.network_target))
            assert state.workers[BOB, "rig"] == state.blocks[-1].worker == late_block.worker.number

    asyncio.run(work())


def test_a_new_commitment_gives_a_job_that_is_not_clean_and_old_jobs_stay_good(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            heard: list[bool] = []
            r.pool.on_job.append(lambda _job, clean: heard.append(clean))
            old = r.solve()
            await r.pool.set_commitment(Commitment(1, b"\x01" * 32, b"\x52"))
            assert heard == [False]
            assert r.pool.job.epoch == 1
            await r.pool.submit(old)

    asyncio.run(work())


def test_a_restart_brings_back_window_workers_numbers_and_duplicates(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            await r.mine(30, ALICE)
            await r.mine(20, BOB)
            known = r.solve(BOB)
            await r.pool.submit(known)
            before = (r.pool.scheme.weights, r.pool.scheme.t, r.pool.scheme.first_sequence, r.log.next_sequence)
            job = r.pool.job
        async with rig() as r:
            after = (r.pool.scheme.weights, r.pool.scheme.t, r.pool.scheme.first_sequence, r.log.next_sequence)
            assert after == before
            assert r.pool.job.number > job.number
            assert r.pool.worker(BOB, "rig") == known.worker.number
            again = known._replace(terms=r.pool.judge.job.terms(known.terms.bits))
            assert refusal_of(r, again) == (22, "duplicate share")

    asyncio.run(work())


def test_a_worker_is_registered_by_its_first_share_that_counts_and_a_refused_one_leaves_nothing(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            target = r.pool.judge.job.terms(SHARE_BITS).target
            for _ in range(3):
                share = r.solve(BOB, wanted=lambda number: number > target)
                assert refusal_of(r, share) == (23, "low difficulty share")
                assert r.pool.workers == {}
                assert share.worker.number == -1
            good = r.solve(BOB)
            await r.pool.submit(good)
            assert r.pool.workers[good.worker.number].refused == 0
            assert refusal_of(r, good) == (22, "duplicate share")
            assert [(w.accepted, w.refused) for w in r.pool.workers.values()] == [(1, 1)]

    asyncio.run(work())


def test_jobs_of_tips_that_are_gone_leave_memory_without_a_collector(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            gc.collect()
            others = {id(thing) for thing in gc.get_objects() if isinstance(thing, LiveJob)}  # of tests before
            gc.disable()
            try:
                for _ in range(5):
                    await r.mine(1)
                    await r.pool.submit(r.solve(wanted=is_block(r)))
                    await r.pool.block_keeper.settle()
                    await r.pool.refresh()
                alive = [thing for thing in gc.get_objects() if isinstance(thing, LiveJob)]
                assert len([job for job in alive if id(job) not in others]) <= 2
            finally:
                gc.enable()

    asyncio.run(work())


def test_a_workers_number_is_nobody_elses_after_a_restart_although_others_left_no_record(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig() as r:
            assert [r.pool.worker(ALICE, name) for name in "abc"] == [0, 1, 2]
            r.pool.worker(BOB, "rig")
            await r.mine(1, BOB)
        async with rig() as r:
            numbers = [r.pool.worker(ALICE, name) for name in "defg"]
            assert len({*numbers, r.pool.worker(BOB, "rig")}) == 5

    asyncio.run(work())


def test_an_epoch_closes_once_and_a_restart_finds_the_same_close(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig(window=1) as r:
            assert r.pool.close_epoch("aa", 0, 1) is None
            await r.mine(25, ALICE)
            first = r.pool.close_epoch("aa", 0, 1)
            assert first is not None
            assert (first.epoch, first.closing_share, sum(r.pool.weights_of(1).values())) == (1, 24, S)
            assert r.pool.close_epoch("aa", 0, 1) is None
            await r.mine(3, BOB)
            second = r.pool.close_epoch("bb", 0, 2)
            assert second is not None
            assert r.pool.weights_of(2)[BOB] == 3 * S // 16
            assert second.first_share == first.first_share + 3
            closes, weights = r.pool.closes, [r.pool.weights_of(epoch) for epoch in (1, 2)]
            assert [close.first_segment for close in closes] == [0, 1]
        async with rig(window=1) as r:
            assert r.pool.closes == closes
            assert [r.pool.weights_of(epoch) for epoch in (1, 2)] == weights

    asyncio.run(work())


def test_a_log_whose_close_does_not_fit_its_shares_is_refused(rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with rig(window=1) as r:
            await r.mine(5)
            with monkeypatch.context() as patch:
                patch.setattr(pool_module, "close_payload", lambda close: close_payload(close) | {"t": "1"})
                r.pool.close_epoch("aa", 0, 1)
            await r.log.flush()
            with pytest.raises(CorruptLog, match=r"shares-00000000\.log: the close of epoch 1 does not fit"):
                restore_state(r.log, Rules(1))

    asyncio.run(work())


def test_a_new_window_holds_from_the_next_close_on_and_a_restart_knows_it(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig(window=1) as r:
            await r.mine(24, ALICE)
        async with rig(window=2) as r:  # there are shares since the last close: not yet
            assert r.pool.accounts.rules.window == 1
            await r.mine(2, BOB)
            assert r.pool.close_epoch("aa", 0, 1).rules.window == 1
            assert r.pool.weights_of(1) == {ALICE: 14 * S // 16, BOB: 2 * S // 16}
            assert r.pool.accounts.rules.window == 2
            await r.mine(8, BOB)
            # 8/16 of a block under X = 2 are a quarter of the window; 12/16 of the old one stay.
            assert r.pool.close_epoch("aa", 0, 2).rules.window == 2
            weights = r.pool.weights_of(2)
            assert weights == {ALICE: 10 * S // 16, BOB: (2 + 8) * S // 16}
        for window in (2, 2, 4):  # after a close a change holds at once
            async with rig(window=window) as r:
                assert r.pool.accounts.rules.window == window
                assert [close.rules.window for close in r.pool.closes] == [1, 2]
                assert r.pool.weights_of(2) == r.pool.scheme.weights == weights
        async with rig(window=4) as r:
            await r.mine(1, BOB)
        log = [record for _, record in replay(r.log.folder) if getattr(record, "kind", 0) == KIND_POLICY]
        assert [record.payload["window"] for record in log] == [1, 2, 4]

    asyncio.run(work())


def test_a_log_keeps_its_scheme_for_life(rig: OpenRig) -> None:
    async def work() -> None:
        async with rig(window=1) as r:
            await r.mine(1)
        with pytest.raises(ConfigError, match="needs a data folder and a distributor"):
            async with rig(window=1, scheme="prop"):
                pass

    asyncio.run(work())


@pytest.mark.parametrize("scheme", ["prop", "solo", "pps", "pps+"])
def test_every_scheme_closes_in_the_pool_and_a_restart_finds_the_same(rig: OpenRig, scheme: str) -> None:
    options = {"scheme": scheme, "fee_bps": 200, "payee": ALICE if scheme == "solo" else None}

    async def work() -> None:
        async with rig(**options) as r:
            await r.mine(9, ALICE)
            first = r.pool.close_epoch("aa", 0, 1)
            assert first.rules.scheme == scheme
            await r.pool.submit(r.solve(ALICE, wanted=is_block(r)))
            await r.pool.block_keeper.settle()
            await r.mine(9, ALICE)
            assert r.pool.close_epoch("aa", 0, 2).first_segment == 1
            await r.mine(2, ALICE)
            state, weights = r.pool.scheme.state(), [r.pool.weights_of(epoch) for epoch in (1, 2)]
            assert all(weights)
        async with rig(**options) as r:
            assert r.pool.scheme.state() == state
            assert [r.pool.weights_of(epoch) for epoch in (1, 2)] == weights

    asyncio.run(work())


def test_a_disk_that_fails_makes_the_pool_refuse_shares_rather_than_lose_them(
    rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    async def work() -> None:
        async with rig() as r:
            await r.mine(1)
            monkeypatch.setattr("os.fdatasync", broken)
            with pytest.raises(LedgerError, match="Input/output error"):
                await r.pool.submit(r.solve())
            with pytest.raises(LedgerError, match="accepts nothing"):
                r.pool.submit(r.solve())
            monkeypatch.undo()
            with pytest.raises(LedgerError, match="could not be written"):
                await r.log.flush()

    with pytest.raises(LedgerError):
        asyncio.run(work())


def test_the_data_folder_belongs_to_one_process(rig: OpenRig, tmp_path: Path) -> None:
    async def work() -> None:
        async with rig():
            with pytest.raises(LedgerError, match="in use by another process"):
                ShareLog(tmp_path / "shares")

    asyncio.run(work())

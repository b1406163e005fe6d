"""Real parts for the rooms above the pure ones: a regtest node, a share log, a pool, a stratum server, an anvil."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.client import Chain
from pool_oracle.config import Config
from pool_oracle.demo.scenario import demo_accounts, deploy_demo
from pool_oracle.hashes import sha256d
from pool_oracle.judge import Submission, Worker
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.networks import network_named
from pool_oracle.node.embedded import EmbeddedRegtest
from pool_oracle.payout.payee import payee_of_account
from pool_oracle.pool import Commitment, Pool
from pool_oracle.units import Payee
from pool_oracle.work.share import hash_to_int, pack_header
from pool_oracle.work.targets import target_to_nbits
from pool_oracle.work.template import Job
from tests.integration.databases import new_url, postgresql

__all__ = ["new_url", "postgresql"]

EASY_TARGET = 1 << 248
"""An emulated network target that 256 hashes meet on average."""
SHARE_BITS = target_to_nbits(1 << 252)
"""A share target that 16 hashes meet on average."""

ALICE: Payee = payee_of_account(b"\xa1" * 20)
BOB: Payee = payee_of_account(b"\xb2" * 20)


class Rig:
    """A pool on real parts, and a miner in the same process."""

    def __init__(self, folder: Path, rules: Rules, published: int) -> None:
        self.node = EmbeddedRegtest(folder / "node")
        self.log = ShareLog(folder / "shares")
        self.pool = Pool(
            network_named("regtest"),
            self.node,
            self.log,
            rules=rules,
            published=published,
            tag=b"/test/",
            blocks_folder=folder / "blocks",
        )
        self._nonce = secrets.randbelow(1 << 30)  # a rig that is opened again must not find the same shares

    async def start(self) -> None:
        """Give the pool a commitment, and with it a first job."""
        await self.pool.set_commitment(Commitment(0, bytes(32), b"\x51"))

    async def close(self) -> None:
        """Settle and let go of everything."""
        await self.pool.block_keeper.close()
        await self.log.close()
        await self.node.close()

    def solve(
        self,
        payee: Payee = ALICE,
        *,
        job: Job | None = None,
        wanted: Callable[[int], bool] | None = None,
        share_bits: int = SHARE_BITS,
    ) -> Submission:
        """Hash until `wanted` likes the number; by default a share that is no block."""
        job = job or self.pool.job
        assert job is not None
        live = self.pool.judge.find(job.number)
        assert live is not None
        terms = live.terms(share_bits)
        wanted = wanted or (lambda number: job.network_target < number <= terms.target)
        worker = Worker(payee, "rig")
        extranonce1, extranonce2 = b"\x00\x00\x00\x01", bytes(8)
        root = job.stratum.merkle_root(extranonce1, extranonce2)
        version = job.stratum.version
        while True:
            self._nonce += 1
            header = pack_header(
                version, job.stratum.prev_hash, root, job.template.curtime, job.stratum.nbits, self._nonce
            )
            if wanted(hash_to_int(sha256d(header))):
                break
        return Submission(terms, worker, extranonce1, extranonce2, job.template.curtime, self._nonce, version, root)

    async def mine(self, count: int, payee: Payee = ALICE) -> None:
        """Hand in `count` shares and wait until they are durable."""
        done = [self.pool.submit(self.solve(payee)) for _ in range(count)]
        await asyncio.gather(*done)


@contextlib.asynccontextmanager
async def open_rig(
    folder: Path, *, window: int = 2, emulated_target: int = EASY_TARGET, published: int = 0, **rules: Any
) -> AsyncIterator[Rig]:
    """A rig that is started, and closed at the end."""
    halving_interval = network_named("regtest").halving_interval
    rig = Rig(folder, Rules(window, emulated_target, halving_interval=halving_interval, **rules), published)
    try:
        await rig.start()
        yield rig
    finally:
        await rig.close()


@pytest.fixture
def rig(tmp_path: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Rig]]:
    """Opens a rig in this test's folder; a second call finds what the first left there."""
    return lambda **settings: open_rig(tmp_path, **settings)


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    """A local EVM chain."""
    with Anvil(find_project_root()) as running:
        yield running


@pytest.fixture
def deployed(anvil: Anvil, tmp_path: Path) -> Config:
    """Contracts on a fresh chain, and a configuration for a pool on them: small targets, no epoch by itself."""
    config = deploy_demo(find_project_root(), tmp_path, Chain(anvil.url), demo_accounts())
    return msgspec.structs.replace(
        config,
        policy=msgspec.structs.replace(config.policy, epoch_seconds=1 << 20),
    )


@pytest.fixture(scope="session")
def rig_at() -> Callable[[Path], contextlib.AbstractAsyncContextManager[Rig]]:
    """Opens a rig in a folder of the caller's."""
    return open_rig

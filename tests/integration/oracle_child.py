"""A pool that goes on with what it finds until a round of everything is done, and kills itself on the way if told to.

    python -m tests.integration.oracle_child CONFIG [STEP NUMBER before|after]

A round: two epochs closed, published and committed, a block found, matured and registered, everything claimed. STEP is
a name of `STEPS`; the process dies before or after its call number NUMBER. At the end it prints what there is, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pool_oracle.app import PoolApp
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.flyover import CONFIRMATIONS, FlyoverRouteClient
from pool_oracle.chain.journal import Journal
from pool_oracle.chain.keys import LocalSigner
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.config import Config
from pool_oracle.demo.scenario import network_block
from pool_oracle.epoch import keeper as keeper_module
from pool_oracle.ledger import bundle as bundle_module
from pool_oracle.ledger.bundle import read_leaves
from pool_oracle.ledger.checkpoint import Checkpoints
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.logs import configure_logs
from pool_oracle.payout.sumtree import SumTree
from tests.integration.test_oracle import ALICE, mine

STEPS: dict[str, tuple[Any, str]] = {
    "log": (ShareLog, "_write"),
    "publish": (keeper_module, "write_bundle"),
    "file": (bundle_module, "write_file"),
    "checkpoint": (Checkpoints, "write"),
    "commit": (DistributorClient, "commit"),
    "sign": (LocalSigner, "sign"),
    "journal": (Journal, "append"),
    "send": (QuorumChain, "broadcast"),
    "register": (FlyoverRouteClient, "register"),
    "claim": (DistributorClient, "claim"),
}
"""What is done, by name: where it is, and what it is called."""


def die_at(step: str, number: int, *, before: bool) -> None:
    """Let this process be killed at a call of a step."""
    holder, name = STEPS[step]
    original: Callable[..., Any] = getattr(holder, name)
    calls = 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, deadly)


async def play(app: PoolApp) -> None:
    """One round, from wherever it stands."""
    for _ in range(2):
        await mine(app, ALICE, 4)
        await app.keeper.close()
    await app.pool.refresh()
    await mine(app, ALICE, 1, block=True)
    await app.pool.refresh()
    while (await app.node.tip()).height < max(block.height for block in app.pool.blocks) + CONFIRMATIONS - 1:
        await app.node.submit(network_block(await app.node.template()))
    await app.header_relay.relay()
    await app.pool.block_keeper.look()
    await app.rewards.register_due()
    payouts = await asyncio.to_thread(app.distributor.payouts)
    for payout in payouts:
        epoch = app.keeper.epoch_of_root(payout.root)
        assert epoch is not None
        tree = SumTree(read_leaves(epoch.folder))
        if ALICE in dict(tree.leaves):
            if await asyncio.to_thread(app.distributor.is_claimed, ALICE, payout.id):
                continue
            proof = tree.proof(ALICE)
            await asyncio.to_thread(app.distributor.claim, app.operator, ALICE, [(payout.id, proof)])


async def work(config: Config) -> None:
    """Start, play, tell, stop."""
    app = PoolApp(config, register_rewards=False)
    await app.start()
    try:
        await play(app)
        facts = {
            "epochs": len(app.keeper.epochs),
            "closes": app.pool.closed_epochs,
            "shares": app.log.next_sequence,
            "blocks": sum(block.was_accepted for block in app.pool.blocks),
            "payouts": len(await asyncio.to_thread(app.distributor.payouts)),
        }
        sys.stdout.write(json.dumps(facts))
    finally:
        await app.stop()


def main() -> None:
    """See above."""
    path, *death = sys.argv[1:]
    config = msgspec.json.decode(Path(path).read_bytes(), type=Config)
    with Path(os.devnull).open("w") as nowhere:
        configure_logs(nowhere)
        if death:
            step, number, when = death
            die_at(step, int(number), before=when == "before")
        asyncio.run(work(config))


if __name__ == "__main__":
    main()

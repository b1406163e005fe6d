"""The pool's state as JSON values: one place that names the fields."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pool_oracle.chain.distributor import DistributorClient, part_of
from pool_oracle.epoch.keeper import Epoch, EpochKeeper
from pool_oracle.epoch.rewards import Reward
from pool_oracle.errors import InputError
from pool_oracle.ledger.bundle import bundle_file, read_leaves
from pool_oracle.payout.manifest import cid
from pool_oracle.payout.payee import address_of, format_payee, parse_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.pool import Pool
from pool_oracle.work.share import display


class Views:
    """Reads the rooms below; every method returns something JSON can say. Big integers are decimal strings.

    What reads the pool's memory is asynchronous, so that it runs in the pool's event loop; what asks the chain is not,
    so that it runs in a thread.
    """

    def __init__(
        self,
        name: str,
        pool: Pool,
        keeper: EpochKeeper,
        rewards: Mapping[bytes, Reward],
        distributor: DistributorClient,
    ) -> None:
        """`name` is the pool's."""
        self._name = name
        self._pool = pool
        self._keeper = keeper
        self._rewards = rewards
        self._distributor = distributor
        self._started = time.time()

    async def pool(self) -> dict[str, Any]:
        """The pool at a glance."""
        workers = self._pool.workers.values()
        job = self._pool.job
        return {
            "name": self._name,
            "network": self._pool.network.name,
            "uptimeSeconds": int(time.time() - self._started),
            "accepted": sum(worker.accepted for worker in workers),
            "refused": sum(worker.refused for worker in workers),
            "windowShares": self._pool.scheme.share_count,
            "windowFill": str(self._pool.scheme.total),
            "unit": str(S),
            "height": job.template.height if job else None,
            "jobEpoch": job.epoch if job else None,
            "jobCommitment": f"0x{job.commitment.hex()}" if job else None,
            "blocks": len(self._pool.blocks),
            "epochs": len(self._keeper.epochs),
            "chainId": self._distributor.chain.chain_id,
            "distributor": self._distributor.address,
        }

    async def workers(self) -> list[dict[str, Any]]:
        """Every worker since the start, with its payee's credit in the window."""
        weights = self._pool.scheme.weights
        return [
            {
                "payee": format_payee(worker.payee),
                "address": address_of(worker.payee, self._pool.network),
                "worker": worker.name,
                "accepted": worker.accepted,
                "refused": worker.refused,
                "weight": str(weights.get(worker.payee, 0)),
            }
            for worker in self._pool.workers.values()
        ]

    async def epochs(self) -> list[dict[str, Any]]:
        """Every published epoch, newest first."""
        return [
            {
                "epoch": epoch.number,
                "root": f"0x{epoch.root.hex()}",
                "manifestHash": f"0x{epoch.manifest_hash.hex()}",
                "cid": cid(epoch.manifest_hash),
                "commitment": f"0x{epoch.commitment.hex()}",
                "leaves": epoch.manifest.leaves,
                "total": epoch.manifest.total,
            }
            for epoch in reversed(self._keeper.epochs)
        ]

    async def file(self, number: int, name: str) -> Path | None:
        """A file of an epoch's bundle, if there is one of that name."""
        if not 0 <= number < len(self._keeper.epochs):
            return None
        epoch = self._keeper.epochs[number]
        return bundle_file(epoch.folder, epoch.manifest, name)

    async def blocks(self) -> list[dict[str, Any]]:
        """Every block that miners of this pool found, newest first."""
        rows = []
        for block in reversed(self._pool.blocks):
            reward = self._rewards.get(block.hash)
            rows.append(
                {
                    "height": block.height,
                    "hash": display(block.hash),
                    "epoch": block.epoch,
                    "worker": self._pool.workers[block.worker].name,
                    "payee": format_payee(self._pool.workers[block.worker].payee),
                    "state": block.state.value,
                    "depth": block.depth,
                    "detail": block.detail,
                    "payout": reward.registration.payout_id if reward else None,
                }
            )
        return rows

    def payouts(self) -> list[dict[str, Any]]:
        """Every payout of the contract, oldest first."""
        return [
            {"payout": payout.id, "root": f"0x{payout.root.hex()}", "amount": str(payout.amount), "time": payout.time}
            for payout in self._distributor.payouts()
        ]

    def proof(self, payout: int, payee: str) -> dict[str, Any]:
        """A payee's part of a payout, ready to claim. Raises InputError when there is none, ChainError."""
        who = parse_payee(payee, self._pool.network)
        source = self._distributor.payout(payout)
        epoch = self._keeper.epoch_of_root(source.root)
        if epoch is None:
            raise InputError(f"payout {payout} was funded with a root that this pool did not publish")
        proof = _tree(epoch).proof(who)
        return {
            "payout": payout,
            "epoch": epoch.number,
            "payee": format_payee(who),
            "weight": str(proof.weight),
            "index": proof.index,
            "proof": [f"0x{word.hex()}" for word in proof.siblings],
            "root": f"0x{epoch.root.hex()}",
            "amount": str(part_of(source, proof.weight)),
            "claimed": self._distributor.is_claimed(who, payout),
        }


@lru_cache(maxsize=16)
def _tree(epoch: Epoch) -> SumTree:
    return SumTree(read_leaves(epoch.folder))

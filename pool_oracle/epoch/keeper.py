"""The epochs of a pool: close, publish, commit, and only then let jobs carry the commitment.

A close is a record of the share log, and everything in the manifest follows from that record, the log before it, and
the manifest before: a restart in the middle makes the same bytes again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from pool_oracle.chain.client import Sender
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.errors import ChainError, CorruptLog, ManifestError
from pool_oracle.ledger.bundle import bundle_folders, read_leaves, read_manifest, write_bundle
from pool_oracle.ledger.sharelog import ShareLog, segment_digest, segment_files
from pool_oracle.logbook import EpochClose
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.payout.manifest import PROTOCOL_VERSION, Manifest, Policy, SegmentRef, cid
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.pool import Commitment, Pool
from pool_oracle.units import Payee
from pool_oracle.work.records import SLOT_SIZE, SegmentHeader, read_records
from pool_oracle.work.share import display

log = structlog.get_logger("epoch")


class RewardScripts(Protocol):
    """What the keeper needs of a route."""

    name: str

    def reward_script(self, commitment: bytes) -> bytes:
        """The output script that rewards of a commitment are paid to."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What every manifest of a pool repeats. `distributor` is 20 bytes."""

    pool: str
    network: str
    chain_id: int
    distributor: bytes
    route: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Epoch:
    """A closed and published epoch."""

    number: int
    root: bytes
    manifest_hash: bytes
    commitment: bytes
    folder: Path
    manifest: Manifest


def genesis_manifest(identity: Identity, genesis_payee: Payee) -> tuple[Manifest, SumTree]:
    """Epoch 0: one leaf, the policy's genesis payee. The distributor is deployed with its root."""
    tree = SumTree([(genesis_payee, 1)])
    manifest = _manifest(identity, 0, None, tree, None, ())
    return manifest, tree


def _manifest(
    identity: Identity,
    number: int,
    previous: str | None,
    tree: SumTree,
    close: EpochClose | None,
    segments: tuple[SegmentRef, ...],
) -> Manifest:
    return Manifest(
        version=PROTOCOL_VERSION,
        pool=identity.pool,
        network=identity.network,
        chain_id=identity.chain_id,
        distributor=f"0x{identity.distributor.hex()}",
        route=identity.route,
        epoch=number,
        previous=previous,
        policy=identity.policy,
        closing_share=close.closing_share if close else None,
        closing_t=str(close.t if close else 0),
        first_share=close.first_share if close else None,
        segments=segments,
        leaves=len(tree),
        total=str(tree.total),
        root=f"0x{tree.root.hex()}",
        tip=close.tip if close else "",
        tip_height=close.tip_height if close else 0,
    )


class EpochKeeper:
    """Closes, publishes and commits the epochs of one pool."""

    def __init__(
        self,
        pool: Pool,
        share_log: ShareLog,
        folder: Path,
        identity: Identity,
        distributor: DistributorClient,
        route: RewardScripts,
        operator: Sender,
    ) -> None:
        """`folder` is where bundles are published."""
        self._pool = pool
        self._log = share_log
        self._folder = folder
        self._identity = identity
        self._distributor = distributor
        self._route = route
        self._digests: dict[Path, tuple[bytes, int]] = {}
        self._operator = operator
        self._closing = asyncio.Lock()
        self.epochs: list[Epoch] = []

    async def start(self, genesis_payee: Payee) -> None:
        """Load what is published, publish epoch 0, finish what was interrupted, and give the pool its commitment.

        Raises ManifestError when disk and chain do not tell the same story.
        """
        for folder in bundle_folders(self._folder):
            self.epochs.append(self._load(folder))
        if not self.epochs:
            manifest, tree = genesis_manifest(self._identity, genesis_payee)
            self._publish(0, manifest, tree, [])
        await self._publish_due()

    async def close(self) -> Epoch | None:
        """Close the present epoch, publish and commit it. None when no share came since the last close."""
        async with self._closing:
            tip, height = self._pool.tip
            if self._pool.close_epoch(display(tip), height, int(time.time())) is None:
                return None
            await self._log.flush()
            await self._publish_due()
            return self.epochs[-1]

    async def _publish_due(self) -> None:
        """Publish every close that is not published yet, in order, and commit. Raises CorruptLog for a damaged log."""
        for close in self._pool.closes[len(self.epochs) - 1 :]:
            await asyncio.to_thread(self._publish_close, close)
        await self._commit_due()

    async def run(self, seconds: float) -> None:
        """For ever: close every `seconds`. A chain that fails is tried again at the next close.

        Over a damaged log nothing is published or committed; miners go on with the last commitment.
        """
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.close()
            except (ChainError, CorruptLog) as error:
                log.error("epoch not committed", problem=str(error))

    def _publish_close(self, close: EpochClose) -> Epoch:
        number = close.epoch
        tree = SumTree(close.weights.items())
        paths = self._segments_of(close)
        refs = []
        for path, first in paths:
            digest, length = self._digest(path)
            refs.append(SegmentRef(path.name, f"0x{digest.hex()}", length, first))
        previous = f"0x{self.epochs[-1].manifest_hash.hex()}"
        manifest = _manifest(self._identity, number, previous, tree, close, tuple(refs))
        return self._publish(number, manifest, tree, [path for path, _ in paths])

    def _digest(self, path: Path) -> tuple[bytes, int]:
        """SHA-256 and length of a sealed segment, which is checked and hashed once. Raises CorruptLog."""
        known = self._digests.get(path)
        if known is None:
            known = self._digests[path] = segment_digest(path)
        return known

    def _publish(self, number: int, manifest: Manifest, tree: SumTree, segments: list[Path]) -> Epoch:
        """Write the bundle and read it back: what cannot be fetched is not committed."""
        folder = write_bundle(self._folder, number, manifest.to_bytes(), tree.leaves, segments)
        epoch = self._load(folder)
        if SumTree(read_leaves(folder)).root != epoch.root:
            raise ManifestError(f"{folder} does not read back as it was written")
        self.epochs.append(epoch)
        log.info("epoch published", epoch=number, leaves=len(tree), cid=cid(epoch.manifest_hash))
        return epoch

    def _load(self, folder: Path) -> Epoch:
        manifest, digest = read_manifest(folder)
        root = bytes.fromhex(manifest.root[2:])
        commitment = epoch_commitment(self._identity.chain_id, self._identity.distributor, root, digest)
        return Epoch(manifest.epoch, root, digest, commitment, folder, manifest)

    def _segments_of(self, close: EpochClose) -> list[tuple[Path, int]]:
        """(path, first share) of every segment with a share of the window, up to the one that the close sealed."""
        found: list[tuple[Path, int]] = []
        for path in segment_files(self._log.folder)[: close.segment + 1]:
            with path.open("rb") as file:
                (_, header), *_ = read_records(file.read(SLOT_SIZE), path.name)
            assert isinstance(header, SegmentHeader)  # noqa: S101 - read_records begins with it
            if header.first_sequence <= close.first_share:
                found.clear()
            found.append((path, header.first_sequence))
        return found

    async def _commit_due(self) -> None:
        """Commit every published epoch that the distributor does not have yet, in order, and use the last one.

        What it has is asked, not remembered: an earlier attempt may have failed, or have gone through unnoticed.
        Raises ChainError, ManifestError when disk and chain do not tell the same story.
        """
        latest = await asyncio.to_thread(self._distributor.latest_epoch)
        mine = self.epochs[latest.number] if latest.number < len(self.epochs) else None
        if mine is None or (mine.root, mine.manifest_hash) != (latest.root, latest.manifest_hash):
            raise ManifestError(
                f"the distributor's epoch {latest.number} (root 0x{latest.root.hex()}) is not the one published in "
                f"{self._folder}; is it the right distributor, with the policy it was deployed with?"
            )
        for epoch in self.epochs[latest.number + 1 :]:
            number, receipt = await asyncio.to_thread(
                self._distributor.commit, self._operator, epoch.root, epoch.manifest_hash
            )
            if number != epoch.number:
                raise ManifestError(f"the distributor counts epoch {number} where the log counts {epoch.number}")
            log.info("epoch committed", epoch=number, gas=receipt["gasUsed"], root=f"0x{epoch.root.hex()}")
        await self._use(self.epochs[-1])

    async def _use(self, epoch: Epoch) -> None:
        script = await asyncio.to_thread(self._route.reward_script, epoch.commitment)
        await self._pool.set_commitment(Commitment(epoch.number, epoch.commitment, script))

    def epoch_of_root(self, root: bytes) -> Epoch | None:
        """The published epoch with this root; the latest where several have it."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.root == root), None)

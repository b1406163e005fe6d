"""The epochs of a pool: close, publish, commit, and only then let jobs carry the commitment.

A close is a record of the share log, and everything in the manifest follows from that record, the log before it, and
the manifest before: a restart in the middle makes the same bytes again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from pool_oracle.chain.client import Sending
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.epoch.closing import ClosingPolicy, ClosingTime
from pool_oracle.epoch.publishing import Publishing
from pool_oracle.errors import AlreadyDone, ChainError, CorruptLog, LedgerError, ManifestError, PublishError
from pool_oracle.ledger.bundle import bundle_folders, read_leaves, read_manifest, write_bundle
from pool_oracle.ledger.sharelog import ShareLog, segment_digest, segment_files
from pool_oracle.logbook import EpochClose
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.payout.manifest import PROTOCOL_VERSION, Manifest, Policy, SegmentRef, cid
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.schemes import PaidBy
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.pool import Commitment, Pool
from pool_oracle.units import Payee, Satoshi
from pool_oracle.work.records import SLOT_SIZE, SegmentHeader, read_records
from pool_oracle.work.share import display

RETRY_SECONDS = 60
"""How soon an epoch that could not be published or committed is tried again."""

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
    """As configured: what does not change is taken from here, the terms of an epoch from its close."""


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
        policy=_policy_of(identity.policy, close),
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


def _policy_of(configured: Policy, close: EpochClose | None) -> Policy:
    """The policy that an epoch's shares were accounted by."""
    if close is None:
        return configured
    rules = close.rules
    payee = None if rules.payee is None else format_payee(rules.payee)
    return replace(configured, scheme=rules.scheme, window=rules.window, fee_bps=rules.fee_bps, payee=payee)


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
        operator: Sending,
        *,
        publishing: Publishing | None = None,
        is_lazy: bool = False,
    ) -> None:
        """`folder` is where bundles are published, `publishing` brings them elsewhere, too.

        `is_lazy`: only epochs that a block pays are committed.
        """
        self._pool = pool
        self._log = share_log
        self._folder = folder
        self._identity = identity
        self._distributor = distributor
        self._route = route
        self._digests: dict[Path, tuple[bytes, int]] = {}
        self._operator = operator
        self._closing = asyncio.Lock()
        self._publishing = publishing or Publishing()
        self._is_lazy = is_lazy
        self._in_use: Epoch | None = None
        self._published = -1
        """The last epoch that every publisher gave back."""
        self._settled = 0
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
        try:
            await self._publish_due()
        except (ChainError, PublishError) as error:
            if self._in_use is None:
                raise
            log.error("epoch not committed; jobs carry the last one that is", problem=str(error))

    async def close(self) -> Epoch | None:
        """Close the present epoch, publish and commit it. None when no share came since the last close."""
        async with self._closing:
            tip, height = self._pool.tip
            close = self._pool.close_epoch(display(tip), height, int(time.time()))
            await self._log.flush()
            await self._publish_due()
            return self.epochs[-1] if close is not None else None

    async def _publish_due(self) -> None:
        """Publish every close that is not published yet, in order, and commit. Raises CorruptLog for a damaged log."""
        due = [close for close in self._pool.closes if close.epoch >= len(self.epochs)]
        for close in due:
            await asyncio.to_thread(self._publish_close, close)
        if due:
            try:
                await asyncio.to_thread(self._pool.write_checkpoint)
            except (LedgerError, ManifestError) as error:
                log.warning("no checkpoint; a restart reads more of the log", problem=str(error))
        await self._commit_due()

    async def run(self, policy: ClosingPolicy) -> None:
        """For ever: close when the policy says so. What a chain or a publisher delays, `retry` makes up for.

        Over a damaged log nothing is published or committed; miners go on with the last commitment.
        """
        closing = ClosingTime(policy, self._pool.shares_since_close)
        self._pool.on_job.append(lambda _job, clean: closing.on_tip() if clean else None)
        while True:
            await closing.wait()
            try:
                await self.close()
            except (ChainError, CorruptLog, PublishError) as error:
                log.error("epoch not committed", problem=str(error))

    def _publish_close(self, close: EpochClose) -> Epoch:
        number = close.epoch
        tree = SumTree(self._pool.weights_of(number).items())
        paths = self._segments_of(close)
        refs = []
        for path, first in paths:
            digest, length = self._digest(path)
            refs.append(SegmentRef(path.name, f"0x{digest.hex()}", length, first))
        previous = f"0x{self.epochs[-1].manifest_hash.hex()}"
        manifest = _manifest(self._identity, number, previous, tree, close, tuple(refs))
        epoch = self._publish(number, manifest, tree, [path for path, _ in paths])
        self._pool.forget_weights(number)
        return epoch

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
        """(path, first share) of every segment that the epoch's accounting needs, up to the one that the close sealed.

        Those with a share of the window; under another scheme all since the close before, too, because it goes on from
        the accounts as they were then.
        """
        found: list[tuple[Path, int]] = []
        for path in reversed(segment_files(self._log.folder)[: close.segment + 1]):
            with path.open("rb") as file:
                (_, header), *_ = read_records(file.read(SLOT_SIZE), path.name)
            assert isinstance(header, SegmentHeader)  # noqa: S101 - read_records begins with it
            found.append((path, header.first_sequence))
            is_enough = close.rules.is_window or header.segment <= close.first_segment
            if header.first_sequence <= close.first_share and is_enough:
                break
        return found[::-1]

    async def _commit_due(self) -> None:
        """Publish elsewhere, then commit, every epoch that is due and that the distributor does not have yet, in order.

        Then let jobs carry the newest of them. What the distributor has is asked, not remembered: an earlier attempt
        may have failed, or have gone through unnoticed. Raises PublishError, ChainError, ManifestError when disk and
        chain do not tell the same story.
        """
        latest = await asyncio.to_thread(self._distributor.latest_epoch)
        mine = next((e for e in self.epochs if (e.root, e.manifest_hash) == (latest.root, latest.manifest_hash)), None)
        if mine is None or mine.number < latest.number:
            raise ManifestError(
                f"the distributor's epoch {latest.number} (root 0x{latest.root.hex()}) is not the one published in "
                f"{self._folder}; is it the right distributor, with the policy it was deployed with?"
            )
        usable, count = mine, latest.number
        try:
            # Epoch 0 is committed by the deployment; it is published elsewhere with the first that is not.
            for epoch in self.epochs[mine.number + 1 if mine.number else 0 :]:
                if epoch.number > self._published:
                    await self._publishing.publish(epoch.folder, epoch.manifest_hash)
                    self._published = epoch.number
                if epoch is not mine and self._is_due(epoch):
                    count += 1
                    await self._commit(epoch, count)
                usable = epoch
        finally:
            pays_treasury = self._pool.scheme.paid_by is PaidBy.TREASURY
            await self._use(self.epochs[0] if pays_treasury else usable)
            self._settled = usable.number

    @property
    def waiting(self) -> int:
        """How many closed epochs are not published everywhere, or due and not committed."""
        return self._pool.closed_epochs - self._settled

    async def retry(self, seconds: float = RETRY_SECONDS) -> None:
        """For ever: try again what a publisher, a disk or the chain has delayed, not only at the next close."""
        while True:
            await asyncio.sleep(seconds)
            if not self.waiting:
                continue
            async with self._closing:
                try:
                    await self._publish_due()
                except (ChainError, CorruptLog, PublishError) as error:
                    log.error("epoch not committed", problem=str(error))

    async def _commit(self, epoch: Epoch, count: int) -> None:
        """Commit an epoch, which becomes number `count` on the chain."""
        try:
            number, receipt = await asyncio.to_thread(
                self._distributor.commit, self._operator, epoch.root, epoch.manifest_hash, count
            )
        except AlreadyDone:
            latest = await asyncio.to_thread(self._distributor.latest_epoch)
            if latest.number == count and latest.manifest_hash != epoch.manifest_hash:
                raise ManifestError(f"commit {count} of the distributor is not epoch {epoch.number}") from None
            log.info("epoch was committed", epoch=epoch.number)
            return
        if number != count:
            raise ManifestError(f"the distributor counts commit {number} where commit {count} was due")
        log.info("epoch committed", epoch=epoch.number, gas=receipt["gasUsed"], root=f"0x{epoch.root.hex()}")

    def _is_due(self, epoch: Epoch) -> bool:
        """Whether an epoch is to be committed: each is, but where the pool is lazy one that a block of ours pays."""
        return not self._is_lazy or any(b.was_accepted and b.epoch == epoch.number for b in self._pool.blocks)

    async def _use(self, epoch: Epoch) -> None:
        """Let jobs carry an epoch's commitment: the newest, or epoch 0's where every block pays the treasury."""
        if epoch is self._in_use:
            return
        script = await asyncio.to_thread(self._route.reward_script, epoch.commitment)
        await self._pool.set_commitment(Commitment(epoch.number, epoch.commitment, script))
        self._in_use = epoch

    def owed(self) -> Satoshi:
        """What a treasury owes: the totals of closed epochs, in satoshis, that no payout has brought yet.

        For schemes that pay from a treasury. Raises ChainError.
        """
        funded = {payout.root for payout in self._distributor.payouts()}
        return Satoshi(sum(int(epoch.manifest.total) for epoch in self.epochs[1:] if epoch.root not in funded))

    def epoch_of_root(self, root: bytes) -> Epoch | None:
        """The published epoch with this root; the latest where several have it."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.root == root), None)

"""What a job on the wire commits to: a miner's own check, before it mines for anybody.

A job shows its whole coinbase. It must carry the commitment of a published epoch, whose leaves make its root, and pay
what that commitment fixes. Then a block that is found pays those leaves, whatever the operator does afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from pool_oracle.errors import InputError, JobError, ManifestError, SetupError
from pool_oracle.ledger.bundle import bundle_folders, parse_leaves, read_leaves, read_manifest
from pool_oracle.payout.commitment import epoch_commitment, find_commitment
from pool_oracle.payout.manifest import MAX_MANIFEST_SIZE, Manifest, manifest_hash
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import Payee
from pool_oracle.work.coinbase import check_extranonce_place
from pool_oracle.work.scripts import FlyoverTerms, flyover_script
from pool_oracle.work.share import StratumJob
from pool_oracle.work.transaction import parse_transaction

MAX_LEAVES_SIZE = 1 << 28
HTTP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class PublishedEpoch:
    """An epoch as published, unchecked but for the form."""

    manifest: Manifest
    leaves: list[tuple[Payee, int]]


class Published(Protocol):
    """Where epochs are published."""

    def find(self, commitment: bytes) -> PublishedEpoch | None:
        """The epoch with this commitment. Raises ManifestError, SetupError where nothing can be had."""


@dataclass(slots=True)
class JobVerdict:
    """Whether to mine on a job: not if there is anything in `problems`."""

    job: str
    epoch: int | None = None
    weight: int = 0
    total: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems

    def __str__(self) -> str:
        if not self.is_good:
            return f"DO NOT MINE on job {self.job}: {'; '.join(self.problems)}"
        hundredths = self.weight * 10_000 // self.total if self.total else 0
        part = f"{hundredths // 100}.{hundredths % 100:02d} % of it is yours"
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"mine on job {self.job}: a block pays epoch {self.epoch}, {part}{notes}"

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON value."""
        return {
            "verdict": "PASS" if self.is_good else "FAIL",
            "job": self.job,
            "epoch": self.epoch,
            "weight": str(self.weight),
            "total": str(self.total),
            "problems": self.problems,
            "notes": self.notes,
        }


class FolderEpochs:
    """A folder of bundles."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet."""
        self._folder = folder

    def find(self, commitment: bytes) -> PublishedEpoch | None:
        """See Published; the newest first."""
        for folder in reversed(bundle_folders(self._folder)):
            manifest, digest = read_manifest(folder)
            if _commitment_of(manifest, digest) == commitment:
                return PublishedEpoch(manifest, read_leaves(folder))
        return None


class PoolEpochs:
    """A pool's API."""

    def __init__(self, url: str) -> None:
        """`url` is the address of the pool's page."""
        self._url = url

    def find(self, commitment: bytes) -> PublishedEpoch | None:
        """See Published; the newest first."""
        with httpx.Client(base_url=self._url, timeout=HTTP_SECONDS) as client:
            return self._find(client, commitment)

    def _find(self, client: httpx.Client, commitment: bytes) -> PublishedEpoch | None:
        listed = _get(client, "/api/v1/epochs", MAX_LEAVES_SIZE).json()
        numbers = [epoch.get("epoch") for epoch in listed] if isinstance(listed, list) else []
        for number in sorted((n for n in numbers if isinstance(n, int)), reverse=True):
            data = _get(client, f"/api/v1/epochs/{number}/manifest.json", MAX_MANIFEST_SIZE).content
            manifest = Manifest.from_bytes(data)
            if _commitment_of(manifest, manifest_hash(data)) == commitment:
                leaves = _get(client, f"/api/v1/epochs/{number}/leaves.json", MAX_LEAVES_SIZE).content
                return PublishedEpoch(manifest, parse_leaves(leaves, f"epoch {number}"))
        return None


def _get(client: httpx.Client, path: str, limit: int) -> httpx.Response:
    """An answer of the pool's API. Raises SetupError, ManifestError for one that is too long."""
    try:
        answer = client.get(path)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise SetupError(f"the pool's API does not give {path}: {error}") from None
    if len(answer.content) > limit:
        raise ManifestError(f"{path} has {len(answer.content)} bytes, more than {limit}")
    return answer


def _commitment_of(manifest: Manifest, digest: bytes) -> bytes:
    root = bytes.fromhex(manifest.root[2:])
    return epoch_commitment(manifest.chain_id, bytes.fromhex(manifest.distributor[2:]), root, digest)


def judge_job(
    params: list[Any],
    extranonce1: bytes,
    extranonce2_size: int,
    published: Published,
    payee: Payee | None,
    terms: FlyoverTerms | None,
) -> JobVerdict:
    """Whether to mine on the job of a `mining.notify`.

    `payee` is who the miner mines for, `terms` those of the flyover route where they are known. Raises ManifestError,
    SetupError where the published epochs cannot be had.
    """
    verdict = JobVerdict(str(params[0])[:40] if params else "")
    try:
        names = ("prevhash", "coinb1", "coinb2", "merkleBranch", "version", "nbits")
        job = StratumJob.from_wire(dict(zip(names, params[1:7], strict=True)))
        check_extranonce_place(job.coinb1, len(extranonce1) + extranonce2_size)
        coinbase = parse_transaction(job.coinbase(extranonce1, bytes(extranonce2_size)))
    except (JobError, ValueError) as error:
        verdict.problems.append(f"its coinbase cannot be read: {error}")
        return verdict
    found = find_commitment(output.script for output in coinbase.outputs)
    if found is None:
        verdict.problems.append("its coinbase carries no commitment, or several")
        return verdict
    epoch = published.find(found[1])
    if epoch is None:
        verdict.problems.append(f"its commitment 0x{found[1].hex()} is that of no published epoch")
        return verdict
    _check_epoch(verdict, epoch, payee)
    paid = {output.script for output in coinbase.outputs if output.value}
    if terms is None:
        verdict.notes.append(f"where the reward goes was not checked (route {epoch.manifest.route})")
    elif paid != {flyover_script(found[1], terms)}:
        verdict.problems.append("its reward does not go where the commitment says")
    return verdict


def _check_epoch(verdict: JobVerdict, epoch: PublishedEpoch, payee: Payee | None) -> None:
    manifest = epoch.manifest
    tree = SumTree(epoch.leaves)
    verdict.epoch, verdict.total = manifest.epoch, tree.total
    if f"0x{tree.root.hex()}" != manifest.root or tree.leaves != epoch.leaves:
        verdict.problems.append(f"the leaves of epoch {manifest.epoch} do not make its root")
        return
    weights = dict(epoch.leaves)
    verdict.weight = weights.get(payee, 0) if payee is not None else 0
    if manifest.policy.scheme == "pplns" and manifest.epoch and payee is not None and not verdict.weight:
        verdict.notes.append(f"{format_payee(payee)} has no share in its window yet")


def payee_of_user(user: str) -> Payee | None:
    """Who a stratum user name mines for; None for one that is no payee by itself."""
    try:
        return parse_payee(user.partition(".")[0])
    except InputError:
        return None

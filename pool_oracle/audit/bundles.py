"""The audit of published bundles: every share's proof of work, the window, the weights, the roots, the chain of epochs.

Nothing of the pool's own state is read: only bundles, and on request what the contract says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pool_oracle.errors import InputError, LedgerError, ManifestError
from pool_oracle.hashes import sha256d
from pool_oracle.ledger.bundle import MANIFEST_FILE, bundle_folders, read_leaves, read_manifest, read_segment
from pool_oracle.networks import Network, network_named
from pool_oracle.payout.commitment import epoch_commitment, find_commitment
from pool_oracle.payout.manifest import Manifest
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import PplnsWindow, S, share_unit
from pool_oracle.units import Payee
from pool_oracle.work.coinbase import check_extranonce_place
from pool_oracle.work.records import KIND_JOB, KIND_WORKER, LongRecord, SegmentHeader, ShareRecord, read_records
from pool_oracle.work.scripts import FlyoverTerms, flyover_script
from pool_oracle.work.share import StratumJob, check_header
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.transaction import parse_transaction

Progress = Callable[[int], None]

SCHEME = "pplns"
ERROR, NOTE = "error", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be."""

    what: str
    expected: str
    found: str
    where: str
    severity: str = ERROR

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found} ({self.where})"


@dataclass(slots=True)
class EpochAudit:
    """What was recomputed of one epoch."""

    epoch: int
    root: str
    shares: int
    leaves: int


@dataclass(slots=True)
class AuditReport:
    """The verdict.

    `shares` counts headers that were rebuilt and hashed, over all epochs; `chain_checked` tells whether the contract
    was compared too.
    """

    epochs: list[EpochAudit] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    shares: int = 0
    chain_checked: bool = False

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be; notes do not count against it."""
        return not any(finding.severity == ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON value."""
        return {"verdict": "PASS" if self.passed else "FAIL"} | asdict(self)


@dataclass(slots=True)
class _Segments:
    """What the definitions of the segments read so far say."""

    jobs: dict[int, tuple[StratumJob, int]] = field(default_factory=dict)  # job, size of its extranonces
    payees: dict[int, Payee] = field(default_factory=dict)


class BundleAudit:
    """Audits the epochs of a folder, oldest first, each against the ones before."""

    def __init__(self, folder: Path, *, terms: FlyoverTerms | None = None, progress: Progress | None = None) -> None:
        """`terms` is what reward scripts are checked by, where known; `progress` is told of every hundred shares."""
        self._folder = folder
        self._terms = terms
        self._progress = progress or (lambda _count: None)
        self._commitments: dict[int, bytes] = {}
        self._closings: dict[int, int] = {}  # closing share -> T, of the epochs before
        self._previous: Manifest | None = None
        self._previous_hash: bytes | None = None
        self.report = AuditReport()
        self.manifests: list[tuple[Manifest, bytes]] = []

    def run(self) -> AuditReport:
        """Audit every bundle. Raises ManifestError only where there is none."""
        folders = bundle_folders(self._folder)
        if not folders:
            raise ManifestError(f"{self._folder} holds no bundle (epoch-NNNNNN/{MANIFEST_FILE})")
        for folder in folders:
            try:
                self._audit_epoch(folder)
            except (InputError, LedgerError) as error:
                self.find("bundle cannot be read", "a complete bundle", str(error), folder.name)
        return self.report

    def find(self, what: str, expected: object, found: object, where: str, severity: str = ERROR) -> None:
        """Add a finding."""
        self.report.findings.append(Finding(what, str(expected), str(found), where, severity))

    def expect(self, what: str, expected: object, found: object, where: str) -> None:
        """Note a finding unless the two are equal."""
        if expected != found:
            self.find(what, expected, found, where)

    def _audit_epoch(self, folder: Path) -> None:
        manifest, digest = read_manifest(folder)
        where = folder.name
        self._check_succession(manifest, where)
        leaves = read_leaves(folder)
        tree = SumTree(leaves)
        self.expect("leaves in ascending order", tree.leaves, leaves, where)
        self.expect("scheme", SCHEME, manifest.policy.scheme, where)
        self.expect("unit", str(S), manifest.policy.unit, where)
        root = f"0x{tree.root.hex()}"
        self.expect("root of the leaves", manifest.root, root, where)
        self.expect("number of leaves", manifest.leaves, len(tree), where)
        self.expect("total weight", manifest.total, str(tree.total), where)
        shares = 0
        if manifest.epoch == 0:
            genesis = [(parse_payee(manifest.policy.genesis_payee), 1)]
            self.expect("leaves of epoch 0", genesis, tree.leaves, where)
        else:
            shares = self._check_window(folder, manifest, tree)
        distributor = bytes.fromhex(manifest.distributor[2:])
        self._commitments[manifest.epoch] = epoch_commitment(manifest.chain_id, distributor, tree.root, digest)
        self._previous, self._previous_hash = manifest, digest
        self.manifests.append((manifest, digest))
        self.report.epochs.append(EpochAudit(manifest.epoch, root, shares, len(tree)))
        self.report.shares += shares

    def _check_succession(self, manifest: Manifest, where: str) -> None:
        """Each manifest names the one before, counts on by one, and keeps the policy."""
        previous, previous_hash = self._previous, self._previous_hash
        if previous is None or previous_hash is None:
            if manifest.epoch == 0:
                self.expect("previous manifest of epoch 0", None, manifest.previous, where)
            else:
                self.find("first bundle", "epoch 0, or bundles back to it", f"epoch {manifest.epoch}", where)
            return
        self.expect("epoch number", previous.epoch + 1, manifest.epoch, where)
        self.expect("previous manifest", f"0x{previous_hash.hex()}", manifest.previous, where)
        for name in ("pool", "network", "chain_id", "distributor", "route", "policy"):
            self.expect(f"{name} unchanged", getattr(previous, name), getattr(manifest, name), where)

    def _check_window(self, folder: Path, manifest: Manifest, tree: SumTree) -> int:
        """Rebuild every share of the window; returns how many."""
        where = folder.name
        network = network_named(manifest.network)
        emulated = self._emulated_target(manifest, network, where)
        window: PplnsWindow | None = None
        known = _Segments()
        checked_jobs: set[int] = set()
        seen: set[bytes] = set()
        count = 0
        last = -1
        for place, record in self._records(folder, manifest):
            if isinstance(record, SegmentHeader):
                if window is None:
                    window = PplnsWindow(manifest.policy.window, t=record.t)
                else:
                    self.expect("T at the segment's start", window.t, record.t, place)
                    self.expect("first share of the segment", last + 1, record.first_sequence, place)
            elif isinstance(record, LongRecord):
                self._define(record, known, place)
            elif window is not None and record.sequence <= (manifest.closing_share or 0):
                unit = self._check_share(record, known, network, emulated, seen, checked_jobs, manifest, place)
                payee = known.payees.get(record.worker)
                if payee is not None:
                    window.add(record.sequence, payee, unit)
                last = record.sequence
                if last in self._closings:
                    self.expect("T at the previous close", self._closings[last], window.t, place)
                count += 1
                if count % 100 == 0:
                    self._progress(100)
        self._progress(count % 100)
        self._check_result(manifest, window, last, tree, where)
        return count

    def _check_result(
        self, manifest: Manifest, window: PplnsWindow | None, last: int, tree: SumTree, where: str
    ) -> None:
        if window is None:
            self.find("segments", "at least one", "none", where)
            return
        self.expect("closing share", manifest.closing_share, last, where)
        self.expect("T at the close", manifest.closing_t, str(window.t), where)
        self.expect("first share of the window", manifest.first_share, window.first_sequence, where)
        self.expect("total by T and X", min(window.t, manifest.policy.window * S), window.total, where)
        self._closings[last] = window.t
        weights, leaves = window.weights, dict(tree.leaves)
        for payee in sorted(weights.keys() | leaves.keys()):
            self.expect(f"weight of {format_payee(payee)}", weights.get(payee, 0), leaves.get(payee, 0), where)

    def _emulated_target(self, manifest: Manifest, network: Network, where: str) -> int | None:
        text = manifest.policy.emulated_network_target
        if text is None:
            return None
        if not network.may_emulate_target:
            self.find("emulated network target", f"none on {network.name}", text, where)
        return int(text, 16)

    def _records(
        self, folder: Path, manifest: Manifest
    ) -> Iterator[tuple[str, SegmentHeader | ShareRecord | LongRecord]]:
        for segment in manifest.segments:
            data = read_segment(folder, segment.name, segment.sha256, segment.length)
            for offset, record in read_records(data, segment.name):
                if isinstance(record, SegmentHeader):
                    self.expect("first share of the segment", segment.first, record.first_sequence, segment.name)
                yield f"{folder.name}/{segment.name} offset {offset}", record

    def _define(self, record: LongRecord, known: _Segments, place: str) -> None:
        """Note a definition. One number stands for one job or worker, however often it is defined."""
        try:
            if record.kind == KIND_JOB:
                job = (StratumJob.from_wire(record.payload), int(record.payload["extranonceSize"]))
                self.expect("job defined again", known.jobs.setdefault(int(record.payload["job"]), job), job, place)
            elif record.kind == KIND_WORKER:
                payee = parse_payee(str(record.payload["payee"]))
                number = int(record.payload["worker"])
                self.expect("worker defined again", known.payees.setdefault(number, payee), payee, place)
        except (InputError, KeyError, ValueError, TypeError, OverflowError) as error:
            self.find("definition in the log", "a job or a worker", repr(error), place)

    def _check_share(
        self,
        share: ShareRecord,
        known: _Segments,
        network: Network,
        emulated: int | None,
        seen: set[bytes],
        checked_jobs: set[int],
        manifest: Manifest,
        place: str,
    ) -> int:
        """A share's proof of work, its uniqueness, its job; returns its unit, 0 for one that does not count."""
        if share.job not in known.jobs or share.worker not in known.payees:
            self.find("job and worker of the share", "defined before it", f"share {share.sequence}", place)
            return 0
        job, extranonce_size = known.jobs[share.job]
        self.expect("extranonces", extranonce_size, len(share.extranonce1) + len(share.extranonce2), place)
        if share.job not in checked_jobs:
            checked_jobs.add(share.job)
            self._check_job(job, share, manifest, place)
        share_target = nbits_to_target(share.share_bits)
        network_target = emulated or nbits_to_target(job.nbits)
        root = job.merkle_root(share.extranonce1, share.extranonce2)
        checked = check_header(share.header(job), root, share_target, network_target, network.pow_hash)
        if not checked.meets_share_target:
            self.find("proof of work", f"a hash up to {share_target:#x}", checked.pow_hash[::-1].hex(), place)
            return 0
        header_hash = sha256d(checked.header)
        if header_hash in seen:
            self.find("share counted once", "a new header", header_hash[::-1].hex(), place)
            return 0
        seen.add(header_hash)
        return share_unit(network_target, share_target)

    def _check_job(self, job: StratumJob, share: ShareRecord, manifest: Manifest, place: str) -> None:
        """The coinbase carries the commitment of an epoch before this one, and pays what that epoch fixes."""
        check_extranonce_place(job.coinb1, len(share.extranonce1) + len(share.extranonce2))
        coinbase = parse_transaction(job.coinbase(share.extranonce1, share.extranonce2))
        found = find_commitment(output.script for output in coinbase.outputs)
        earlier = {c: n for n, c in self._commitments.items() if n < manifest.epoch}
        if found is None or found[1] not in earlier:
            text = f"0x{found[1].hex()}" if found else "none, or several"
            self.find("commitment in the coinbase", "that of an earlier epoch", text, f"{place}, job {share.job}")
            return
        if self._terms is not None:
            paid = {output.script.hex() for output in coinbase.outputs if output.value}
            expected = {flyover_script(found[1], self._terms).hex()}
            self.expect("reward script of the coinbase", expected, paid, f"{place}, job {share.job}")

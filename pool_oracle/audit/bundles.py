"""The audit of published bundles: every share's proof of work, the window, the weights, the roots, the chain of epochs.

Nothing of the pool's own state is read: only bundles, and on request what the contract says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pool_oracle.audit.shares import EpochShares, JobRules
from pool_oracle.errors import InputError, LedgerError, ManifestError
from pool_oracle.ledger.accounts import Accounts
from pool_oracle.ledger.bundle import MANIFEST_FILE, bundle_folders, read_leaves, read_manifest, read_segment
from pool_oracle.ledger.rules import Rules
from pool_oracle.networks import Network, network_named
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.payout.manifest import Manifest
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.work.records import (
    LongRecord,
    SegmentHeader,
    ShareRecord,
    read_records,
)
from pool_oracle.work.scripts import FlyoverTerms

Progress = Callable[[int], None]

ERROR, NOTE = "error", "note"
TELL = 100
"""Shares after which progress is told."""


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


class BundleAudit:
    """Audits the epochs of a folder, oldest first, each against the ones before."""

    def __init__(self, folder: Path, *, terms: FlyoverTerms | None = None, progress: Progress | None = None) -> None:
        """`terms` is what reward scripts are checked by, where known; `progress` is told now and then."""
        self._folder = folder
        self._terms = terms
        self._progress = progress or (lambda _count: None)
        self._commitments: dict[int, bytes] = {}
        self._closings: dict[int, int] = {}  # closing share -> T, of the epochs before
        self._accounts: Accounts | None = None  # of a scheme that goes on from epoch to epoch
        self._accounted = -1  # the last segment that is in them
        self._seen: set[bytes] = set()  # headers of the shares that are in them
        self._told = 0  # shares of this epoch that progress was told of
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
            shares = self._check_shares(folder, manifest, tree)
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
        for name in ("pool", "network", "chain_id", "distributor", "route"):
            self.expect(f"{name} unchanged", getattr(previous, name), getattr(manifest, name), where)
        before, now = previous.policy, manifest.policy
        kept = replace(before, window=now.window, fee_bps=now.fee_bps, payee=now.payee)
        self.expect("policy unchanged, but for its terms", kept, now, where)
        for name in ("window", "fee_bps", "payee"):
            if getattr(before, name) != getattr(now, name):
                self.find(f"{name} of the policy", getattr(before, name), getattr(now, name), where, NOTE)

    def _check_shares(self, folder: Path, manifest: Manifest, tree: SumTree) -> int:
        """Rebuild every share that the weights rest on and that was not accounted before; returns how many."""
        where = folder.name
        network = network_named(manifest.network)
        rules = self._rules(manifest, network, where)
        is_carried = range(1) if rules.pays_from_treasury else range(manifest.epoch)
        carried = {commitment for number, commitment in self._commitments.items() if number in is_carried}
        jobs = JobRules(frozenset(carried), self._terms)
        shares = EpochShares(self.expect, self.find, network, rules, jobs, closing_share=manifest.closing_share or 0)
        shares.go_on(self._accounts, self._accounted, self._seen)
        for place, record in self._records(folder, manifest):
            shares.take(record, place)
            if isinstance(record, ShareRecord) and record.sequence in self._closings and not shares.skips:
                self.expect("T at the previous close", self._closings[record.sequence], shares.t, place)
            if shares.count - self._told >= TELL:
                self._tell(shares.count)
        self._tell(shares.count)
        self._told = 0
        self._check_result(manifest, shares, tree, where)
        return shares.count

    def _tell(self, count: int) -> None:
        self._progress(count - self._told)
        self._told = count

    def _rules(self, manifest: Manifest, network: Network, where: str) -> Rules:
        """What the manifest's policy says that shares are accounted by. Raises InputError."""
        policy = manifest.policy
        return Rules(
            window=policy.window,
            emulated_target=self._emulated_target(manifest, network, where),
            scheme=policy.scheme,
            fee_bps=policy.fee_bps,
            halving_interval=network.halving_interval,
            payee=None if policy.payee is None else parse_payee(policy.payee),
        )

    def _check_result(self, manifest: Manifest, shares: EpochShares, tree: SumTree, where: str) -> None:
        accounts = shares.accounts
        if accounts is None:
            self.find("segments", "at least one", "none", where)
            return
        scheme, rules = accounts.scheme, shares.rules
        self.expect("policy in the log", rules, accounts.rules, where)
        self.expect("closing share", manifest.closing_share, shares.last, where)
        self.expect("T at the close", manifest.closing_t, str(scheme.t), where)
        self.expect("first share that is paid", manifest.first_share, scheme.first_sequence, where)
        if not rules.is_window:
            self._accounts, self._accounted, self._seen = accounts, shares.last_segment, shares.seen
        elif shares.windows == {rules.window}:
            self.expect("total by T and X", min(scheme.t, rules.window * S), scheme.total, where)
        self._closings[shares.last] = scheme.t
        weights, leaves = accounts.on_close(), dict(tree.leaves)
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

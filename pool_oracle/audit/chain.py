"""The audit of what the contract holds, against bundles that were recomputed."""

from __future__ import annotations

from pool_oracle.audit.bundles import ERROR, NOTE, BundleAudit
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.events import NO_EPOCH
from pool_oracle.payout.sumtree import sum_of


def audit_chain(audit: BundleAudit, distributor: DistributorClient) -> None:
    """Compare commits and payouts of `distributor` with the audited epochs; adds findings to the audit's report."""
    report = audit.report
    where = f"distributor {distributor.address}"
    for manifest, _ in audit.manifests[-1:]:
        audit.expect("chain id", manifest.chain_id, distributor.chain.chain_id, where)
        audit.expect("distributor", manifest.distributor, distributor.address.lower(), where)
    published = {digest: (m.epoch, bytes.fromhex(m.root[2:])) for m, digest in audit.manifests}
    last = -1
    for i, commit in enumerate(distributor.committed_epochs()):
        where = f"distributor {distributor.address}, block {commit.block}"
        audit.expect("order of commits", i, commit.number, where)
        if commit.manifest_hash not in published:
            found = f"0x{commit.manifest_hash.hex()}"
            audit.find(f"manifest of commit {commit.number}", "that of a published bundle", found, where)
            continue
        epoch, root = published[commit.manifest_hash]  # a pool may commit only epochs that found a block
        audit.expect(f"root of epoch {epoch}", f"0x{root.hex()}", f"0x{commit.root.hex()}", where)
        if epoch <= last:
            audit.find("order of committed epochs", f"one after {last}", epoch, where)
        last = epoch
    roots = {root for _, root in published.values()}
    open_amount = 0
    for payout in distributor.payouts():
        where = f"payout {payout.id}"
        if payout.root not in roots:
            # Anybody may fund a payout with a root of their own; what was attributed to an epoch has that epoch's.
            severity = NOTE if payout.epoch == NO_EPOCH else ERROR
            audit.find("root of the payout", "a published epoch's", f"0x{payout.root.hex()}", where, severity)
        if sum_of(payout.root) == 0:
            audit.find("total weight of the payout", "more than 0", 0, where)
        open_amount += payout.amount
    paid = sum(distributor.claimed_amounts().values())
    if paid > open_amount:
        audit.find("sum of all claims", f"at most {open_amount}", paid, distributor.address)
    report.chain_checked = True

"""The audit of what the contract holds, against bundles that were recomputed."""

from __future__ import annotations

from pool_oracle.audit.bundles import ERROR, NOTE, BundleAudit
from pool_oracle.chain.distributor import NO_EPOCH, DistributorClient
from pool_oracle.payout.sumtree import sum_of


def audit_chain(audit: BundleAudit, distributor: DistributorClient) -> None:
    """Compare commits and payouts of `distributor` with the audited epochs; adds findings to the audit's report."""
    report = audit.report
    where = f"distributor {distributor.address}"
    for manifest, _ in audit.manifests[-1:]:
        audit.expect("chain id", manifest.chain_id, distributor.chain.chain_id, where)
        audit.expect("distributor", manifest.distributor, distributor.address.lower(), where)
    published = {m.epoch: (bytes.fromhex(m.root[2:]), digest) for m, digest in audit.manifests}
    committed = distributor.committed_epochs()
    for i, epoch in enumerate(committed):
        where = f"distributor {distributor.address}, block {epoch.block}"
        audit.expect("order of commits", i, epoch.number, where)
        if epoch.number not in published:
            audit.find(f"bundle of committed epoch {epoch.number}", "published", "missing", where)
            continue
        root, digest = published[epoch.number]
        audit.expect(f"root of epoch {epoch.number}", f"0x{root.hex()}", f"0x{epoch.root.hex()}", where)
        audit.expect(f"manifest of epoch {epoch.number}", f"0x{digest.hex()}", f"0x{epoch.manifest_hash.hex()}", where)
    roots = {root for root, _ in published.values()}
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

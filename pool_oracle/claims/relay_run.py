"""One run of a relay, wired together: payouts, trees, the ledger, and what is told of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.fees import FeeSettings
from pool_oracle.chain.keys import Signer
from pool_oracle.chain.outbox import Outbox, SendSettings
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.claims.proofs import BundleProofs, download_bundles
from pool_oracle.claims.reading import asset_of, read_payouts
from pool_oracle.claims.relaying import Relay, RelayPlan, RelayPolicy, RelayResult, plan_relay
from pool_oracle.errors import InputError
from pool_oracle.payout.payee import format_payee
from pool_oracle.terminal import progress

SHOWN_PAYEES = 10


def relay_once(
    client: DistributorClient,
    pool: str | None,
    bundle: Path | None,
    policy: RelayPolicy,
    signer: Signer | None,
    ledger: Path | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Look at everything once, and send what the policy allows; without a signer only look.

    Raises InputError, SourceError, ChainError, OutboxError where another process uses the ledger.
    """
    if (pool is None) == (bundle is None):
        raise InputError("trees come from --pool URL or from --bundle FOLDER; give one of them")
    if signer is None or ledger is None:
        return _relay(client, pool, bundle, policy, None, tell)
    settings = SendSettings(fees=FeeSettings(max_fee=policy.max_gas_price))
    outbox = Outbox(QuorumChain([client.chain.url]), signer, ledger, settings)
    try:
        return _relay(client, pool, bundle, policy, Relay(client, outbox, policy, tell), tell)
    finally:
        outbox.close()


def _relay(
    client: DistributorClient,
    pool: str | None,
    bundle: Path | None,
    policy: RelayPolicy,
    relay: Relay | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    if relay is not None:
        if problem := relay.too_expensive():
            tell(f"nothing is sent: {problem}")
            return _value(RelayPlan(), RelayResult(stopped=problem))
        relay.finish()
    payouts = read_payouts(client, progress)
    with tempfile.TemporaryDirectory(prefix="pool-oracle-relay-") as scratch:
        if pool is not None:
            download_bundles(pool, Path(scratch), {payout.root for payout in payouts}, progress)
        if not payouts:
            tell("there is no payout yet")
            return _value(RelayPlan(), RelayResult())
        epochs = BundleProofs(bundle or Path(scratch), client.chain.chain_id, client.address_bytes, progress)
        plan = plan_relay(client, epochs, payouts, policy, progress)
        _tell_plan(client, plan, tell)
        result = RelayResult() if relay is None else relay.run(plan, epochs)
    for line in result.failed:
        tell(f"refused by the contract: {line}")
    if result.stopped:
        tell(f"ended early: {result.stopped}")
    return _value(plan, result)


def _tell_plan(client: DistributorClient, plan: RelayPlan, tell: Callable[[str], None]) -> None:
    parts = sum(len(batch.payees) for batch in plan.batches)
    tell(f"{parts} parts can be claimed, {asset_of(client).show(plan.amount)}, in {len(plan.batches)} transactions")
    if plan.without_recipient:
        names = [format_payee(payee) for payee in sorted(plan.without_recipient)]
        more = f" and {len(names) - SHOWN_PAYEES} more" if len(names) > SHOWN_PAYEES else ""
        tell(f"left, since they have no recipient ('pool-oracle link'): {', '.join(names[:SHOWN_PAYEES])}{more}")
    if plan.too_small:
        tell(f"left, since they are too small: {plan.too_small} parts")
    if plan.unknown:
        tell(f"left, since no published epoch has their root: payouts {', '.join(map(str, plan.unknown))}")


def _value(plan: RelayPlan, result: RelayResult) -> dict[str, Any]:
    return {
        "planned": [
            {"payout": b.payout.id, "payees": [format_payee(p) for p in b.payees], "amount": str(b.amount)}
            for b in plan.batches
        ],
        "withoutRecipient": [format_payee(payee) for payee in sorted(plan.without_recipient)],
        "tooSmall": plan.too_small,
        "unknownPayouts": plan.unknown,
        "sent": [
            {
                "transaction": relayed.transaction,
                "payout": relayed.payout,
                "paid": relayed.paid,
                "amount": str(relayed.amount),
                "gas": relayed.gas,
            }
            for relayed in result.sent
        ],
        "failed": result.failed,
        "stopped": result.stopped or None,
    }

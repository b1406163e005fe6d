"""Claims as people and programs read them. Big integers are decimal strings in JSON."""

from __future__ import annotations

from typing import Any

from pool_oracle.claims.claiming import Part, Plan, Receipt, Survey
from pool_oracle.claims.reading import Asset
from pool_oracle.payout.payee import format_payee
from pool_oracle.units import Wei


def survey_text(survey: Survey) -> str:
    """A table of the payee's parts, and what is known of the rest."""
    recipient = survey.recipient or "nobody yet: the payee's key has to be linked first ('pool-oracle link')"
    lines = [f"payee      {format_payee(survey.payee)}", f"paid to    {recipient}", ""]
    if survey.parts:
        rows = [("payout", "epoch", "amount", "state")]
        rows += [(str(p.payout.id), _epochs(p), survey.asset.show(p.amount), _state(p)) for p in survey.parts]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines += [f"{a:>{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows]
    reasons: dict[str, list[int]] = {}
    for number, reason in survey.without:
        reasons.setdefault(reason, []).append(number)
    lines += [f"no part of {'payout' if len(n) == 1 else 'payouts'} {_numbers(n)}: {why}" for why, n in reasons.items()]
    total = Wei(sum(part.amount for part in survey.claimable))
    lines.append(f"claimable: {survey.asset.show(total)} in {len(survey.claimable)} of {_payouts(len(survey.parts))}")
    return "\n".join(lines)


def plan_text(plan: Plan, coin: Asset) -> str:
    """What a claim costs."""
    count = len(plan.batches)
    share = "" if plan.share_bps is None else f", {percent(plan.share_bps)} of it"
    return (
        f"gas: {plan.gas} in {count} transaction{'' if count == 1 else 's'}, at {plan.gas_price} wei "
        f"{coin.show(plan.cost)}{share}"
    )


def receipt_text(receipt: Receipt, asset: Asset) -> str:
    """What a claim's transaction did."""
    text = f"claimed {asset.show(receipt.amount)} of payouts {_numbers(receipt.payouts)}: {receipt.transaction}"
    if receipt.owed:
        text += f"; {asset.show(receipt.owed)} was refused by the recipient and waits for its withdrawOwed"
    return text


def claim_json(survey: Survey, plan: Plan | None, receipts: list[Receipt]) -> dict[str, Any]:
    """Survey, plan and what was sent."""
    return {
        "payee": format_payee(survey.payee),
        "recipient": survey.recipient,
        "asset": survey.asset.symbol,
        "payouts": [
            {
                "payout": part.payout.id,
                "epochs": list(part.epochs),
                "weight": str(part.proof.weight),
                "amount": str(part.amount),
                "state": _state(part),
            }
            for part in survey.parts
        ],
        "without": [{"payout": number, "reason": reason} for number, reason in survey.without],
        "claimable": str(sum(part.amount for part in survey.claimable)),
        "plan": None if plan is None else plan_json(plan),
        "transactions": [
            {
                "transaction": receipt.transaction,
                "payouts": receipt.payouts,
                "amount": str(receipt.amount),
                "owed": str(receipt.owed),
                "gas": receipt.gas,
            }
            for receipt in receipts
        ],
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """The transactions that would be sent."""
    return {
        "batches": [
            {"payouts": [part.payout.id for part in batch.parts], "amount": str(batch.amount), "gas": batch.gas}
            for batch in plan.batches
        ],
        "gas": plan.gas,
        "gasPrice": str(plan.gas_price),
        "cost": str(plan.cost),
        "shareBasisPoints": plan.share_bps,
    }


def percent(bps: int) -> str:
    """Basis points for people."""
    return f"{bps // 100}.{bps % 100:02d} %"


def _state(part: Part) -> str:
    if part.is_claimed:
        return "claimed"
    return "claimable" if part.amount else "too small"


def _epochs(part: Part) -> str:
    return ", ".join(str(number) for number in part.epochs)


def _payouts(count: int) -> str:
    return f"{count} payout{'' if count == 1 else 's'}"


def _numbers(numbers: list[int]) -> str:
    """Ascending numbers, runs of them as 3-7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)

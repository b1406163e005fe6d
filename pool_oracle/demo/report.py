"""What the demo ends with: a line for every miner, the sums, and what did not hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from pool_oracle.units import Wei, format_wei

NARROW = 150
"""Columns of a terminal below which addresses and transactions are shortened in the table; JSON has them whole."""


@dataclass(slots=True)
class Row:
    """A line of the final table. Amounts in wei, as decimal strings in JSON."""

    name: str
    address: str
    payee: str
    shares: int
    weight: str
    percent: str
    paid: str
    claim_transactions: list[str]


@dataclass(slots=True)
class DemoReport:
    """How the demo ended. Amounts are wei as decimal strings."""

    rows: list[Row] = field(default_factory=list)
    epochs: int = 0
    shares: int = 0
    blocks: int = 0
    registered: str = "0"
    paid: str = "0"
    fee: str = "0"
    dust: str = "0"
    audit: str = ""
    seconds: float = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that the demo promises held."""
        return not self.failures


def show_report(report: DemoReport, console: Console) -> None:
    """The table and the sums, for people."""
    short = _shorten if console.width < NARROW else str
    table = Table(title="What every miner got", title_justify="left")
    for heading in ("miner", "payee", "shares", "weight", "weight %", "paid", "claim transaction"):
        table.add_column(
            heading, justify="left" if heading in ("miner", "payee", "claim transaction") else "right", no_wrap=True
        )
    for row in report.rows:
        transactions = ", ".join(short(transaction) for transaction in row.claim_transactions)
        paid = format_wei(Wei(int(row.paid)))
        table.add_row(row.name, short(row.address), str(row.shares), row.weight, row.percent, paid, transactions)
    console.print(table)
    registered = format_wei(Wei(int(report.registered)))
    paid, fee = (format_wei(Wei(int(amount)), "").rstrip() for amount in (report.paid, report.fee))
    line = f"paid {paid} + fee {fee} + dust {report.dust} wei = registered {registered} ({report.blocks} rewards)"
    console.print(line if report.passed else "", highlight=False, soft_wrap=True)
    for failure in report.failures:
        console.print(f"[red]FAILED[/red] {failure}", highlight=False, soft_wrap=True)
    verdict = "[green]PASS[/green]" if report.passed else "[red]FAIL[/red]"
    console.print(f"{verdict} in {report.seconds} s: {report.epochs} epochs, auditor {report.audit}", highlight=False)


def _shorten(text: str) -> str:
    return f"{text[:8]}..{text[-6:]}"


def report_to_json(report: DemoReport) -> dict[str, Any]:
    """The report as a JSON value."""
    return {"passed": report.passed} | asdict(report)

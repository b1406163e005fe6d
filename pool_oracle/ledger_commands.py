"""The ledger's commands from a terminal: check the share log, index it anew, export it; with progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pool_oracle.errors import InputError
from pool_oracle.ledger.export import export_log
from pool_oracle.ledger.index.meter import Progress as Told
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import SEGMENT_GLOB
from pool_oracle.ledger.verify import VerifyReport, verify_log


def run_verify(folder: Path, rules: Rules, bundles: Path | None) -> VerifyReport:
    """Check a log, and its closes against published bundles. Raises InputError where there is no log."""
    _check_folder(folder)
    with _progress("verify", folder) as progress:
        return verify_log(folder, rules, bundles=bundles, progress=progress)


def run_rebuild(folder: Path, rules: Rules, url: str) -> dict[str, Any]:
    """Drop the index and fill it from the log; returns what there is then, and its digest. Raises CorruptLog.

    Payouts and claims come back when a pool runs: they are not in the log.
    """
    _check_folder(folder)
    with Index(url, fresh=True) as index:
        with _progress("rebuild", folder) as progress:
            index.fill(folder, rules, progress)
        with index.reading() as queries:
            totals = queries.totals()
        facts = asdict(totals) | {"t": str(totals.t)}
        return {"index": index.name, **facts, "digest": f"0x{index.digest().hex()}"}


def run_export(folder: Path, rules: Rules, target: Path, *, packed: bool) -> dict[str, Any]:
    """Export a log to Parquet files; `packed` adds sealed segments. Raises CorruptLog, InputError, SetupError."""
    _check_folder(folder)
    with _progress("export", folder) as progress:
        return {"folder": str(target), **asdict(export_log(folder, target, rules, packed=packed, progress=progress))}


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} holds no share log; is pool.data in the configuration right?")


class _SharesColumn(ProgressColumn):
    """How many shares, and how many a second."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        shares = task.fields["shares"]
        rate = f", {shares / task.elapsed:,.0f} a second" if task.elapsed else ""
        return Text(f"{shares:,} shares{rate}")


@contextlib.contextmanager
def _progress(what: str, folder: Path) -> Iterator[Told]:
    """A bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), _SharesColumn(), TimeRemainingColumn())
    total = sum(path.stat().st_size for path in folder.glob(SEGMENT_GLOB))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, shares=0)
        counted = 0

        def tell(size: int, shares: int) -> None:
            nonlocal counted
            counted += shares
            bar.update(task, advance=size, shares=counted)

        yield tell

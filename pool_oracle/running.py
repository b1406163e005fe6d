"""Running pool, demo and audit from a terminal: event loop, signals, logs, progress."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from pool_oracle.app import PoolApp
from pool_oracle.audit.bundles import AuditReport, BundleAudit
from pool_oracle.audit.chain import audit_chain
from pool_oracle.audit.jobs import JobVerdict, Published, judge_job, payee_of_user
from pool_oracle.audit.miner import JobReader
from pool_oracle.chain.client import Chain
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.flyover import FlyoverRouteClient
from pool_oracle.config import Config
from pool_oracle.demo.report import report_to_json, show_report
from pool_oracle.demo.run import Demo
from pool_oracle.demo.scenario import DEMO_SCHEMES
from pool_oracle.errors import InputError, SetupError
from pool_oracle.logs import configure_logs
from pool_oracle.processes import tune_for_serving
from pool_oracle.work.scripts import FlyoverTerms

JOB_SECONDS = 60
"""How long a pool is given for its first job."""
WIDE = 200
"""Columns where output is not a terminal, so that nothing in a log is shortened."""

T = TypeVar("T")


def run_pool(config: Config, on_start: Callable[[dict[str, Any]], None], *, is_dry: bool) -> None:
    """Run a pool until SIGINT or SIGTERM. Raises KeyboardInterrupt then, or the error that ended it.

    `is_dry`: it sends nothing to the chain.
    """
    configure_logs(sys.stderr)

    async def work() -> None:
        app = PoolApp(config, is_dry=is_dry)
        await app.start()
        try:
            on_start(
                {
                    "stratum": f"{config.stratum.host}:{app.stratum_port}",
                    "api": f"http://{config.api.host}:{app.api_port}/",
                    "distributor": app.distributor.address,
                }
            )
            if app.failure is not None:
                await app.failure
        finally:
            await app.stop()

    _run(work())


def run_demo(*, keep: bool, data: Path | None, scheme: str, as_json: bool) -> bool:
    """Run the demo; returns whether all of it held. Raises what its parts raise."""
    if scheme not in DEMO_SCHEMES:
        raise InputError(f"the demo shows schemes without a treasury: {', '.join(DEMO_SCHEMES)}; not {scheme!r}")
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = WIDE
    configure_logs(sys.stderr, level=logging.ERROR)
    with _demo_folder(data) as folder:
        demo = Demo(folder, console, scheme)

        async def work() -> bool:
            try:
                report = await demo.run()
                if as_json:
                    print(json.dumps(report_to_json(report)), flush=True)
                else:
                    show_report(report, console)
                if keep:
                    console.print(f"It keeps running: {demo.page} (Ctrl-C ends it)", highlight=False)
                    await demo.wait()
                return report.passed
            finally:
                await demo.stop()

        try:
            demo.prepare()
            return _run(work())
        finally:
            demo.close()


def run_audit(bundles: Path, rpc: str | None, flyover_route: str | None) -> AuditReport:
    """Audit a folder of bundles, and the contracts where a node is given."""
    terms = _flyover_terms(rpc, flyover_route)
    console = Console(stderr=True)
    columns = (TextColumn("shares checked: {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("audit", total=None)
        audit = BundleAudit(bundles, terms=terms, progress=lambda count: bar.advance(task, count))
        report = audit.run()
    if rpc is not None and audit.manifests:
        audit_chain(audit, DistributorClient(Chain(rpc), audit.manifests[-1][0].distributor))
    return report


def run_job_audit(
    url: str,
    user: str,
    published: Published,
    rpc: str | None,
    flyover_route: str | None,
    *,
    watch: bool,
    on_verdict: Callable[[JobVerdict], None],
) -> bool:
    """Look at the pool's present job, with `watch` at each until one is bad; returns whether all were good."""
    terms = _flyover_terms(rpc, flyover_route)
    payee = payee_of_user(user)
    with JobReader(url, user) as pool:
        for params in pool.jobs(wait=None if watch else JOB_SECONDS):
            verdict = judge_job(params, pool.extranonce1, pool.extranonce2_size, published, payee, terms)
            on_verdict(verdict)
            if not verdict.is_good or not watch:
                return verdict.is_good
    raise SetupError("the pool has closed the connection")


def _flyover_terms(rpc: str | None, flyover_route: str | None) -> FlyoverTerms | None:
    """What reward scripts depend on, from the route's contract. Raises InputError without a node, ChainError."""
    if flyover_route is None:
        return None
    if rpc is None:
        raise InputError("--flyover-route needs --rpc: the route's terms are read from its contract")
    return FlyoverRouteClient(Chain(rpc), flyover_route, nested=True).terms()


@contextlib.contextmanager
def _demo_folder(data: Path | None) -> Iterator[Path]:
    """The folder that was asked for, which must be empty, or one that goes away again."""
    if data is None:
        with tempfile.TemporaryDirectory(prefix="pool-oracle-demo-") as scratch:
            yield Path(scratch)
        return
    data.mkdir(parents=True, exist_ok=True)
    if any(data.iterdir()):
        raise InputError(f"{data} is not empty; the demo begins with an empty folder")
    yield data


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM and SIGINT cancel it, so that everything is stopped in order."""

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    tune_for_serving()
    return uvloop.run(guarded())

"""Publish before commit, always: through the whole application, with servers that are not always there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pool_oracle.app import PoolApp
from pool_oracle.audit.bundles import BundleAudit
from pool_oracle.config import Config, PublishSection
from pool_oracle.epoch import publishing as publishing_room
from pool_oracle.epoch.publishing import PublishSettings
from pool_oracle.epoch.remote import Patience
from pool_oracle.errors import PublishError
from pool_oracle.payout.manifest import cid
from tests.integration.conftest import ALICE
from tests.integration.publish_servers import FileServer, KuboServer
from tests.integration.test_oracle import mine


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is down is given up at once."""
    patience = Patience(attempts=2, wait_seconds=0.01, max_wait_seconds=0.01)
    defaults = publishing_room.PutPublisher.__init__
    monkeypatch.setattr(
        publishing_room.PutPublisher,
        "__init__",
        lambda self, url, credentials: defaults(self, url, credentials, patience),
    )


def publishing_to(config: Config, *urls: tuple[str, str]) -> Config:
    return msgspec.structs.replace(config, publish=tuple(PublishSection(kind, url) for kind, url in urls))


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[PoolApp]:
    app = PoolApp(config, register_rewards=False)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def job_epoch(app: PoolApp) -> int:
    assert app.pool.job is not None
    return app.pool.job.epoch


def test_an_epoch_is_at_its_publishers_before_it_is_committed(deployed: Config, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    files, node = FileServer(tmp_path / "site"), KuboServer()

    async def work() -> None:
        async with (
            files.serve() as files_url,
            node.serve() as node_url,
            running(publishing_to(deployed, ("put", files_url), ("kubo", node_url))) as app,
        ):
            for _ in range(3):
                await mine(app, ALICE, 2)
                await app.keeper.close()
            assert app.distributor.latest_epoch().number == job_epoch(app) == 3
            for epoch in app.keeper.epochs:
                assert cid(epoch.manifest_hash) in node.store.pins

    asyncio.run(work())
    audit = BundleAudit(tmp_path / "site")
    report = audit.run()
    assert report.passed, report.findings
    assert len(audit.manifests) == 4, "the mirror alone is enough for an auditor"


def test_a_publisher_that_is_down_delays_the_commit_and_loses_no_close(deployed: Config, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()

    async def work() -> None:
        async with FileServer(tmp_path / "site").serve() as url:
            pass
        config = publishing_to(deployed, ("put", url))
        async with running(config) as app:
            for _ in range(2):
                await mine(app, ALICE, 2)
                with pytest.raises(PublishError, match="no connection"):
                    await app.keeper.close()
            assert len(app.keeper.epochs) == 3
            assert app.keeper.waiting == 2
            assert app.distributor.latest_epoch().number == job_epoch(app) == 0
        async with running(config) as app:  # a restart does not help, and does not hurt
            assert app.distributor.latest_epoch().number == job_epoch(app) == 0
            async with FileServer(tmp_path / "site").serve(int(url.rpartition(":")[2])):
                retrying = asyncio.create_task(app.keeper.retry(0.05))
                while job_epoch(app) < 2:
                    await asyncio.sleep(0.02)
                retrying.cancel()
                assert app.keeper.waiting == 0
                assert app.distributor.latest_epoch().number == 2
                assert [epoch.number for epoch in app.keeper.epochs] == [0, 1, 2]

    asyncio.run(asyncio.wait_for(work(), 60))
    assert len(list((tmp_path / "site").glob("epoch-*/manifest.json"))) == 3


def test_bytes_that_come_back_wrong_are_not_committed(deployed: Config, tmp_path: Path) -> None:
    server = FileServer(tmp_path)
    server.fault = lambda method, path: "flip" if method == "GET" and path == "epoch-000001/leaves.json" else None

    async def work() -> None:
        async with server.serve() as url, running(publishing_to(deployed, ("put", url))) as app:
            await mine(app, ALICE, 2)
            with pytest.raises(PublishError, match="cannot be fetched back as it was sent"):
                await app.keeper.close()
            assert app.distributor.latest_epoch().number == job_epoch(app) == 0
            server.fault = lambda _method, _path: None
            assert await app.keeper.close() is None
            assert app.distributor.latest_epoch().number == job_epoch(app) == 1

    asyncio.run(work())


def test_what_a_lazy_pool_has_not_committed_is_published_once(deployed: Config, tmp_path: Path) -> None:
    lazy = msgspec.structs.replace(deployed, policy=msgspec.structs.replace(deployed.policy, commit="found"))
    server = FileServer(tmp_path)

    async def work() -> None:
        async with server.serve() as url, running(publishing_to(lazy, ("put", url))) as app:
            for number in (1, 2, 3):
                await mine(app, ALICE, 2)
                await app.keeper.close()
                assert (app.distributor.latest_epoch().number, job_epoch(app), app.keeper.waiting) == (0, number, 0)

    asyncio.run(work())
    asked = [path for method, path in server.requests if method in ("GET", "HEAD") and "epoch-000001/" in path]
    assert len(asked) == 4, "manifest and leaves, before and after they are sent"


def test_the_settings_of_a_publisher_reach_it(deployed: Config) -> None:
    (settings,) = publishing_to(deployed, ("kubo", "http://127.0.0.1:5001")).publishers
    assert settings == PublishSettings("kubo", "http://127.0.0.1:5001", settings.credentials)

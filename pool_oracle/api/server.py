"""FastAPI's routes over `Views`, and the server that runs in the pool's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from importlib.resources import files

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from pool_oracle.api.lookups import Lookups
from pool_oracle.api.metrics import metrics_text
from pool_oracle.api.problems import handle_problems
from pool_oracle.api.views import Views
from pool_oracle.errors import ConfigError, InputError

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"


DESCRIPTION = """\
What a mining pool shows to its miners, its operator and its auditors. Everything can be read, nothing written.

Routes below `/api/v1/index` are answered from an SQL index of the share log and of the distributor's events, which may
be some seconds behind, and says so; the others from the pool's memory, its published files and the chain itself.
Integers that may pass 2^53 are decimal strings.
"""


def build_api(views: Views, collector: Collector, lookups: Lookups | None = None) -> FastAPI:
    """The application: every route reads, none writes. Without `lookups` nothing is answered from the index."""
    api = FastAPI(
        title="pool_oracle",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    handle_problems(api)
    for path, view in (
        ("/healthz", _healthz),
        ("/api/v1/pool", views.pool),
        ("/api/v1/workers", views.workers),
        ("/api/v1/epochs", views.epochs),
        ("/api/v1/blocks", views.blocks),
        ("/api/v1/payouts", views.payouts),
        ("/api/v1/proof/{payout}/{payee}", views.proof),
    ):
        api.add_api_route(path, view, methods=["GET"])
    api.add_api_route("/api/v1/epochs/{number}/{name}", _bundle_files(views), methods=["GET"])
    if lookups is not None:
        api.include_router(lookups.router())
    api.add_api_route("/metrics", _metrics(collector), methods=["GET"], include_in_schema=False)
    api.add_api_route("/", _page, methods=["GET"], include_in_schema=False)
    api.add_api_route("/page.js", _script, methods=["GET"], include_in_schema=False)
    return api


def _bundle_files(views: Views) -> Callable[[int, str], Awaitable[FileResponse]]:
    async def bundle_file(number: int, name: str) -> FileResponse:
        """A file of an epoch's bundle: manifest.json, leaves.json, or a segment of the share log."""
        path = await views.file(number, name)
        if path is None:
            raise InputError(f"epoch {number} has no file {name!r}")
        return FileResponse(path)

    return bundle_file


def _metrics(collector: Collector) -> Callable[[], Awaitable[Response]]:
    async def metrics() -> Response:
        return Response(metrics_text(collector), media_type=CONTENT_TYPE_LATEST)

    return metrics


async def _healthz() -> dict[str, str]:
    """Whether the pool's process answers."""
    return {"status": "ok"}


async def _page() -> HTMLResponse:
    return HTMLResponse(_asset("index.html"), headers={"Content-Security-Policy": PAGE_POLICY})


async def _script() -> Response:
    return Response(_asset("page.js"), media_type="text/javascript")


@lru_cache
def _asset(name: str) -> str:
    return (files("pool_oracle.api") / "page" / name).read_text(encoding="utf-8")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the application's own decide when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """Serves the API until it is stopped."""

    def __init__(self, views: Views, collector: Collector, lookups: Lookups | None = None) -> None:
        """`views` is what there is to see, `collector` what there is to count, `lookups` what the index answers."""
        self._api = build_api(views, collector, lookups)
        self._lookups = lookups
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses where `port` is 0. Raises ConfigError if it is taken."""
        config = uvicorn.Config(self._api, host=host, port=port, log_config=None, access_log=False, lifespan="off")
        try:
            socket = config.bind_socket()
        except SystemExit:
            raise ConfigError(f"the API cannot listen on {host}:{port}: the port is taken or not allowed") from None
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[socket]), name="api")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn offers no event for it
            await asyncio.sleep(0.01)
        return int(socket.getsockname()[1])

    async def stop(self) -> None:
        """Finish open requests and stop."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
        if self._lookups is not None:
            self._lookups.close()

"""A miner looks at the jobs of a real pool before it mines on them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.audit.jobs import FolderEpochs, JobVerdict, PoolEpochs
from pool_oracle.config import Config
from pool_oracle.errors import InputError, SetupError
from pool_oracle.ledger.bundle import bundle_folder
from pool_oracle.payout.manifest import canonical_json
from pool_oracle.pool import Commitment
from pool_oracle.running import run_job_audit
from tests.integration.test_oracle import ALICE, BOB, mine, running

USER = f"0x{ALICE[1:].hex()}.rig"


def looked(url: str, published: Any, user: str = USER, **options: Any) -> list[JobVerdict]:
    verdicts: list[JobVerdict] = []
    options = {"rpc": None, "flyover_route": None, "watch": False} | options
    good = run_job_audit(url, user, published, **options, on_verdict=verdicts.append)
    assert good == verdicts[-1].is_good
    return verdicts


def test_an_honest_job_pays_an_epoch_that_has_ones_own_leaf(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 3)
            await mine(app, BOB, 1)
            await app.keeper.close()
            url = f"stratum+tcp://127.0.0.1:{app.stratum_port}"
            options = {"rpc": deployed.chain.rpc, "flyover_route": deployed.chain.flyover_route}
            for published in (FolderEpochs(deployed.bundles), PoolEpochs(f"http://127.0.0.1:{app.api_port}")):
                (verdict,) = await asyncio.to_thread(looked, url, published, **options)
                assert str(verdict).startswith("mine on job ")
                assert "pays epoch 1, 75.00 % of it is yours" in str(verdict)
                assert verdict.to_json()["verdict"] == "PASS"
                assert not verdict.notes
            stranger = "0x" + "77" * 20
            (verdict,) = await asyncio.to_thread(looked, url, FolderEpochs(deployed.bundles), stranger)
            assert verdict.is_good
            assert any("has no share in its window yet" in note for note in verdict.notes)
            assert any("was not checked (route flyover)" in note for note in verdict.notes)

    asyncio.run(work())


def test_jobs_that_pay_something_else_are_found(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 3)
            await app.keeper.close()
            url = f"stratum+tcp://127.0.0.1:{app.stratum_port}"
            published = FolderEpochs(deployed.bundles)
            options = {"rpc": deployed.chain.rpc, "flyover_route": deployed.chain.flyover_route}
            good = app.keeper.epochs[-1]
            await app.pool.set_commitment(Commitment(1, good.commitment, b"\x51"))
            (verdict,) = await asyncio.to_thread(looked, url, published, **options)
            assert verdict.problems == ["its reward does not go where the commitment says"]
            await app.pool.set_commitment(Commitment(1, b"\x11" * 32, b"\x51"))
            (verdict,) = await asyncio.to_thread(looked, url, published)
            assert "is that of no published epoch" in str(verdict)
            assert str(verdict).startswith("DO NOT MINE")
            await app.keeper._use(app.keeper.epochs[0])
            await app.pool.set_commitment(Commitment(1, good.commitment, b"\x51"))
            leaves = bundle_folder(deployed.bundles, 1) / "leaves.json"
            rows = json.loads(leaves.read_text())
            leaves.unlink()
            leaves.write_bytes(canonical_json([[rows[0][0], "1"]]))
            (verdict,) = await asyncio.to_thread(looked, url, published)
            assert verdict.problems == ["the leaves of epoch 1 do not make its root"]

    asyncio.run(work())


def test_watching_ends_with_the_first_bad_job(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            url = f"stratum+tcp://127.0.0.1:{app.stratum_port}"
            verdicts: list[JobVerdict] = []
            seen = threading.Semaphore(0)

            def on_verdict(verdict: JobVerdict) -> None:
                verdicts.append(verdict)
                seen.release()

            arguments = (url, USER, FolderEpochs(deployed.bundles), None, None)
            watching = asyncio.create_task(
                asyncio.to_thread(run_job_audit, *arguments, watch=True, on_verdict=on_verdict)
            )
            assert await asyncio.to_thread(seen.acquire, timeout=30)
            await mine(app, ALICE, 2)
            await app.keeper.close()
            assert await asyncio.to_thread(seen.acquire, timeout=30)
            await app.pool.set_commitment(Commitment(1, b"\x11" * 32, b"\x51"))
            assert await watching is False
            assert [verdict.is_good for verdict in verdicts] == [True, True, False]

    asyncio.run(work())


@pytest.mark.parametrize("url", ["127.0.0.1:3333", "http://127.0.0.1:3333", "stratum+tcp://", "stratum+tcp://h:x"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stratum\+tcp://HOST:PORT"):
        looked(url, FolderEpochs(tmp_path))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "sends what is not JSON"),
        (b'{"id":1,"result":null,"error":[20,"go away",null]}\n', "refuses"),
        (b'{"id":1,"result":"no","error":null}\n', "answers mining.subscribe with no"),
        (b"", "has closed the connection"),
    ],
)
def test_a_server_that_is_no_pool_is_an_error_that_names_it(said: bytes, problem: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port}.*{problem}"):
            looked(f"stratum+tcp://127.0.0.1:{port}", FolderEpochs(tmp_path))
        thread.join()

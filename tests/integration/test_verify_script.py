"""The small verifier, which shares no code with the rest, comes to the same root, and finds what is wrong."""

from __future__ import annotations

import ast
import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zstandard

from pool_oracle.config import Config
from pool_oracle.ledger.bundle import bundle_folder
from pool_oracle.payout.manifest import canonical_json
from tests.integration.test_oracle import ALICE, BOB, mine, running

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "verify_epoch.py"
ALLOWED = {"Crypto", *sys.stdlib_module_names}


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


@pytest.fixture
def published(deployed: Config) -> Path:
    """Bundles of a pool whose window runs over."""

    async def work() -> None:
        async with running(msgspec.structs.replace(deployed)) as app:
            for _ in range(3):
                await mine(app, ALICE, 14)
                await mine(app, BOB, 9)
                await app.keeper.close()

    asyncio.run(work())
    assert shutil.which("zstd"), "the program zstd is missing: apt-get install zstd"
    return deployed.bundles


def test_it_comes_to_the_same_root_from_packed_and_from_plain_segments(published: Path) -> None:
    for epoch in range(4):
        folder = bundle_folder(published, epoch)
        done = verify(folder)
        assert done.returncode == 0, done.stdout + done.stderr
        root = json.loads((folder / "manifest.json").read_text())["root"]
        assert f"PASS           epoch {epoch}: root {root}" in done.stdout
    for path in folder.glob("*.zst"):
        plain = zstandard.ZstdDecompressor().decompress(path.read_bytes())
        path.unlink()
        path.with_suffix("").write_bytes(plain)
    assert verify(folder).returncode == 0


def test_it_finds_a_root_that_does_not_follow_from_the_shares(published: Path) -> None:
    path = bundle_folder(published, 3) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.unlink()
    path.write_bytes(canonical_json(manifest | {"root": "0x" + "11" * 32}))
    done = verify(path.parent)
    assert done.returncode == 1
    assert "FAIL           root: computed 0x" in done.stdout


def test_it_finds_a_segment_that_is_not_the_manifests_and_one_that_is_missing(published: Path) -> None:
    folder = bundle_folder(published, 3)
    path = max(folder.glob("*.zst"))
    data = bytearray(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(data)))
    assert "SHA-256 of shares-" in verify(folder).stdout
    path.unlink()
    done = verify(folder)
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "Traceback" not in done.stderr


def test_it_stays_small_and_stands_alone() -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 200
    imports = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imports <= ALLOWED

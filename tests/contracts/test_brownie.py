"""brownie, with the project's own configuration, makes the same contracts as the package's build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_without_metadata(bytecode: str) -> str:
    """Runtime code without the trailing CBOR, in which paths and settings are hashed."""
    raw = bytes.fromhex(bytecode.removeprefix("0x"))
    return raw[: -2 - int.from_bytes(raw[-2:], "big")].hex()


def test_brownie_compiles_the_same_code(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    for name in ("contracts", "scripts"):
        shutil.copytree(ROOT / name, project / name)
    shutil.copyfile(ROOT / "brownie-config.yaml", project / "brownie-config.yaml")
    (project / "node_modules").symlink_to(ROOT / "node_modules")
    # brownie writes into the home folder, so it gets one of its own.
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "SOLCX_BINARY_PATH": str(project / "scripts" / "solc")}
    brownie = Path(sys.executable).with_name("brownie")
    done = subprocess.run(
        [str(brownie), "compile"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("NativeDistributor", "FlyoverRoute"):
        theirs = json.loads((project / "build" / "contracts" / f"{name}.json").read_text())["deployedBytecode"]
        ours = json.loads((ROOT / "build" / "artifacts" / f"{name}.json").read_text())["deployedBytecode"]
        assert code_without_metadata(theirs) == code_without_metadata(ours)

"""The ABI files that the package ships are those of the contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_abi_files_have_not_drifted_from_the_contracts() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compile.py"), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr

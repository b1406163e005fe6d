"""The ABI files that the package ships are those of the contracts."""

from __future__ import annotations

from tests.contracts.programs import run_program


def test_the_shipped_abi_files_have_not_drifted_from_the_contracts() -> None:
    run_program("scripts/compile.py", "--check")

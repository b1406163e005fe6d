"""halmos: what holds for all arguments, not only for those that a fuzzer tries. Bounds stand beside each check."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

CHECKS = "tests/contracts/forge/SumTree.t.sol"
AGREE, BEYOND = "check_bothVersionsAgree", "check_anIndexBeyondTheProofNeverVerifies"

BOUNDS = {AGREE: "0, 1, 2, 3, 4", BEYOND: "0, 1, 2, 3, 4, 8, 16, 32"}  # the lengths of a proof


def halmos(project: Any, *arguments: str) -> tuple[dict[str, Any], str]:
    """Runs the checks; returns ({name: what halmos says of it}, all that it printed)."""
    terms = ("--contract", "SumTreeTest", "--forge-build-out", "build/forge/out", "--json-output", "halmos.json")
    done = project.run("halmos", *terms, *arguments, timeout=840)
    printed = done.stdout + done.stderr
    report = project.folder / "halmos.json"
    assert report.exists(), printed
    results = json.loads(report.read_text())["test_results"]
    assert list(results) == [f"{CHECKS}:SumTreeTest"], printed
    return {result["name"].split("(")[0]: result for result in results[f"{CHECKS}:SumTreeTest"]}, printed


@pytest.mark.timeout(900)
def test_assembly_and_plain_version_of_verify_agree_on_all_arguments(make_project: Any) -> None:
    project = make_project()
    project.add(CHECKS)
    results, printed = halmos(project)
    assert set(results) == set(BOUNDS), printed
    for result in results.values():
        assert (result["exitcode"], result["num_models"]) == (0, 0), printed
        assert result["num_bounded_loops"] == 0, f"a loop ended before its end, so nothing is proven:\n{printed}"
    assert "WARNING" not in printed
    bounds = dict(re.findall(r"(check_\w+)\(.*bounds: \[proof=\[(.*?)\]\]\)", printed))
    assert bounds == BOUNDS


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("check", "length", "guard", "broken"),
    [
        pytest.param(AGREE, 1, "iszero(shr(64, sum))", "1", id="overflow is not looked at"),
        pytest.param(AGREE, 1, "add(sum, and(sibling, mask))", "and(add(sum, sibling), mask)", id="sums are cut"),
        pytest.param(BEYOND, 0, "|| index >> proof.length != 0", "", id="index is not looked at"),
    ],
)
def test_halmos_refutes_a_verify_without_a_guard(
    make_project: Any, check: str, length: int, guard: str, broken: str
) -> None:
    """So that a halmos which looks at nothing does not pass for a proof."""
    project = make_project()
    project.add(CHECKS)
    project.replace("contracts/libraries/SumTree.sol", guard, broken)
    for lengths in BOUNDS.values():
        project.replace(CHECKS, f"proof={{{lengths.replace(' ', '')}}}", f"proof={{{length}}}")
    results, printed = halmos(project, "--function", check)
    assert (results[check]["exitcode"], results[check]["num_models"] > 0) == (1, True), printed

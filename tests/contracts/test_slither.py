"""slither: no finding of high or medium impact that is not explained here. Why in two forms: README.md beside this."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("slither_report.py")

DISTRIBUTOR = "contracts/Distributor.sol"
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "contracts").rglob("*.sol")
    if not path.is_relative_to(ROOT / "contracts" / "mocks")
)

# OpenZeppelin's re-entrance guard calls functions of a user-defined value type (`slot.asBoolean().tstore(true)`), which
# slither does not resolve. Each contract that inherits them counts.
GUARDED = ("Distributor", "NativeDistributor", "TokenDistributor")
NOT_READ = {
    f"{contract}.{function}"
    for contract in GUARDED
    for function in ("_nonReentrantBefore", "_nonReentrantAfter", "_reentrancyGuardEntered")
}

# The readable form: the same guard in storage instead of transient storage, and in the place of the functions that
# differ between the assets what the native one does, as a call that slither sees as one.
READABLE = (
    ("utils/ReentrancyGuardTransient.sol", "utils/ReentrancyGuard.sol"),
    ("{ReentrancyGuardTransient}", "{ReentrancyGuard}"),
    ("EIP712, ReentrancyGuardTransient {", "EIP712, ReentrancyGuard {"),
    (
        "_balance() internal view virtual returns (uint256);",
        "_balance() internal view virtual returns (uint256) { return address(this).balance; }",
    ),
    (
        "_send(address to, uint256 amount, uint256 gasCap) internal virtual returns (bool);",
        "_send(address to, uint256 amount, uint256 gasCap) internal virtual returns (bool sent) "
        '{ (sent,) = to.call{value: amount, gas: gasCap}(""); }',
    ),
    (
        "_sendGas() internal view virtual returns (uint256);",
        "_sendGas() internal view virtual returns (uint256) { return 50_000; }",
    ),
)

# (check, function, statements): why it stays.
EXPLAINED = {
    (
        "arbitrary-send-eth",
        "Distributor._send",
        "(sent,None) = to.call{gas: gasCap,value: amount}()",
    ): "Paying others is its purpose: the recipient of a proven claim, a creditor, the fee's recipient.",
    (
        "reentrancy-eth",
        "Distributor.claimMany",
        "claimedWord[item.payee][word] = bits | bit",
    ): "An item's bit is set after the payment of the item before, but before its own. The guard turns back whoever "
    "wants to write, and what a view shows is true.",
    (
        "incorrect-equality",
        "Distributor._attribute",
        "arrived == 0 || arrived < minimum",
    ): "Nothing came, so no payout. Whoever sends a wei to change that gives it to the miners.",
    (
        "incorrect-equality",
        "Distributor.payout",
        "_payouts[payoutId].root == 0",
    ): "A recorded root has a sum, so root 0 means that there is none.",
    (
        "incorrect-equality",
        "TokenDistributor.fund",
        "received == 0",
    ): "The token moved nothing; what else it holds is not asked.",
}

# The readable form with the order of record and payment turned round, in a contract of its own.
BROKEN = "contracts/Broken.sol"
TURNED = (
    (
        "withdrawFee",
        "        feeOwed = 0;\n",
        "        if (!_send(feeRecipient, amount, gasleft())) revert SendFailed(feeRecipient);\n",
    ),
    (
        "_sendOwed",
        "        owed[creditor] = 0;\n",
        "        if (!_send(to, amount, gasleft())) revert SendFailed(to);\n",
    ),
    (
        "claim",
        "        claimed[word] = bits;\n        emit",
        "        _pay(recipient, amount);\n",
    ),
)


# (names of the contracts, what slither could not read, {(check, function, statements): text of the finding})
Report = tuple[set[str], set[str], dict[tuple[str, str, str], str]]


def contract_names() -> set[str]:
    """Names of all contracts, interfaces and libraries that we ship."""
    text = "\n".join((ROOT / source).read_text(encoding="utf-8") for source in SOURCES)
    return set(re.findall(r"^(?:abstract contract|contract|interface|library) (\w+)", text, re.MULTILINE))


def slither(project: Any) -> Report:
    """Run it, and read its report."""
    done = project.run("python", str(SCRIPT), timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    not_read = {re.sub(r"(?s)^Impossible to generate IR for (\S+) \(.*", r"\1", text) for text in report["complaints"]}
    findings = {(f["check"], f["place"], f["statements"]): f["text"] for f in report["findings"]}
    return set(report["contracts"]), not_read, findings


@pytest.fixture(scope="module")
def readable(make_project: Any) -> Report:
    """What slither says of the readable form, with the broken one beside it."""
    project = make_project()
    project.add(*SOURCES)
    for old, new in READABLE:
        project.replace(DISTRIBUTOR, old, new)
    (project.folder / BROKEN).write_bytes((project.folder / DISTRIBUTOR).read_bytes())
    project.replace(BROKEN, "abstract contract Distributor is", "abstract contract Broken is")
    for _, record, payment in TURNED:
        line = record.removesuffix("        emit")
        project.replace(BROKEN, record, record.removeprefix(line))
        project.replace(BROKEN, payment, payment + line)
    return slither(project)


def test_slither_finds_nothing_in_the_contracts_as_they_are(make_project: Any) -> None:
    project = make_project()
    project.add(*SOURCES)
    contracts, not_read, findings = slither(project)
    assert contracts >= contract_names() >= {"FlyoverRoute", "SumTree", *GUARDED}
    assert not_read == NOT_READ, "the functions that slither cannot read are others than those that are explained"
    assert not findings, "\n".join(findings.values())


def test_slither_finds_only_what_is_explained_where_it_can_read_everything(readable: Report) -> None:
    contracts, not_read, findings = readable
    assert contracts >= contract_names()
    assert not_read == set()
    ours = {what: text for what, text in findings.items() if not what[1].startswith("Broken.")}
    assert set(ours) == set(EXPLAINED), "\n".join(ours.values())


@pytest.mark.parametrize("function", [function for function, _, _ in TURNED])
def test_slither_finds_a_payment_that_is_made_before_it_is_recorded(readable: Report, function: str) -> None:
    """So that a slither which looks away, as it does from the payments of the contracts as they are, does not pass."""
    _, _, findings = readable
    assert ("reentrancy-eth", f"Broken.{function}") in {what[:2] for what in findings}

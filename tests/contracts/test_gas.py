"""The gas table in the documentation is what the contracts cost now."""

from __future__ import annotations

import json

from tests.contracts.programs import ROOT, run_program


def test_the_gas_table_is_up_to_date() -> None:
    run_program("bench/gas.py", "--check")


def test_a_commit_a_batch_and_a_relayed_claim_stay_within_what_was_promised() -> None:
    figures = json.loads((ROOT / "bench" / "results" / "gas.json").read_text())
    assert figures["commit"] <= 45_000
    assert figures["claim_24_payouts"]["16"] < 24 * figures["peers"]["@uniswap/merkle-distributor"]["claim_later"]["16"]
    assert figures["relay_50_per_payee"]["16"] < figures["claim_later"]["16"]

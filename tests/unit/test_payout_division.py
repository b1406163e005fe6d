"""The division of one payout, against payout.json, and amounts as people read them."""

from __future__ import annotations

import pytest

from pool_oracle.payout.sumtree import divide
from pool_oracle.units import format_coins, format_wei


@pytest.mark.cases("payout", "cases")
def test_a_payout_is_divided_as_the_contract_does(case):
    amount, total = int(case["amount"]), int(case["total"])
    amounts = [divide(amount, int(weight), total) for weight in case["weights"]]
    assert [str(part) for part in amounts] == case["amounts"]
    assert sum(amounts) == int(case["paid"])
    assert amount - sum(amounts) == int(case["dust"])


@pytest.mark.cases("payout", "cases")
def test_the_dust_is_less_than_one_for_each_payee_of_the_whole_tree(case):
    weights = [int(weight) for weight in case["weights"]]
    if sum(weights) == int(case["total"]):
        assert 0 <= int(case["dust"]) < len(weights)
    assert sum(weights) <= int(case["total"])


@pytest.mark.parametrize(
    ("satoshi", "text"),
    [(0, "0.00000000 BTC"), (1, "0.00000001 BTC"), (150_000_000, "1.50000000 BTC"), (-1, "-0.00000001 BTC")],
)
def test_satoshis_are_shown_to_the_last_one(satoshi, text):
    assert format_coins(satoshi) == text


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0.00000000 RBTC"),
        (1, "0.000000000000000001 RBTC"),
        (10**10, "0.00000001 RBTC"),
        (15 * 10**17, "1.50000000 RBTC"),
        (-(10**18) - 1, "-1.000000000000000001 RBTC"),
    ],
)
def test_wei_are_shown_to_the_last_one_without_trailing_zeros(wei, text):
    assert format_wei(wei) == text

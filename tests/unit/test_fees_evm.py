"""What a transaction offers per gas."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_oracle.chain.fees import (
    GWEI,
    MIN_BUMP_PERMILLE,
    Fees,
    FeeSettings,
    bump_fees,
    gwei,
    suggest_fees,
    usual_tip,
)
from pool_oracle.errors import ChainError, ChainRefused, FeesTooHigh

SETTINGS = FeeSettings(max_fee=100 * GWEI, max_tip=5 * GWEI, min_tip=7)


class Node:
    """Answers as a node of a chain does."""

    def __init__(self, chain_id: int = 1, **answers: Any) -> None:
        self.chain_id = chain_id
        self._answers = answers

    def ask(self, method: str, *params: Any) -> Any:
        if method not in self._answers:
            raise ChainRefused(f"the method {method} does not exist")
        return self._answers[method]

    def ask_number(self, method: str, *params: Any) -> int:
        return int(self.ask(method, *params), 16)


def modern(base: int, *tips: int, ratios: tuple[float, ...] | None = None, **changes: Any) -> Node:
    history = {
        "baseFeePerGas": [hex(base)] * (len(tips) + 1),
        "gasUsedRatio": list(ratios or (0.5,) * len(tips)),
        "reward": [[hex(tip)] for tip in tips],
    }
    block = {"baseFeePerGas": hex(base)}
    return Node(**({"eth_getBlockByNumber": block, "eth_feeHistory": history, "eth_gasPrice": hex(base)} | changes))


def test_fees_are_twice_the_next_base_fee_and_the_median_tip() -> None:
    node = modern(10 * GWEI, GWEI, 3 * GWEI, 2 * GWEI)
    assert suggest_fees(node, SETTINGS) == Fees(22 * GWEI, 2 * GWEI)


def test_empty_blocks_tell_nothing_about_tips_and_tips_have_bounds() -> None:
    assert suggest_fees(modern(GWEI, 0, 0, GWEI, ratios=(0, 0, 0.1)), SETTINGS).tip == GWEI
    assert suggest_fees(modern(GWEI, 0, 0, ratios=(0, 0)), SETTINGS).tip == SETTINGS.min_tip
    assert suggest_fees(modern(GWEI, 90 * GWEI), SETTINGS).tip == SETTINGS.max_tip
    assert usual_tip({"gasUsedRatio": [1]}, SETTINGS) == SETTINGS.min_tip


def test_the_cap_holds_and_fees_above_it_are_an_error_that_names_both() -> None:
    assert suggest_fees(modern(60 * GWEI, GWEI), SETTINGS) == Fees(100 * GWEI, GWEI)
    with pytest.raises(FeesTooHigh, match=r"the base fee is 99\.5 gwei per gas, the settings allow 100 with the tip"):
        suggest_fees(modern(99 * GWEI + GWEI // 2, GWEI), SETTINGS)


def test_a_gas_price_is_offered_where_there_is_no_base_fee() -> None:
    price = {"eth_gasPrice": hex(8 * GWEI)}
    for node in (
        Node(eth_getBlockByNumber={}, **price),
        Node(eth_getBlockByNumber={"baseFeePerGas": "0x1"}, **price),
        Node(eth_getBlockByNumber={"baseFeePerGas": "0x1"}, eth_feeHistory=None, **price),
        modern(GWEI, GWEI, chain_id=30, **price),
    ):
        assert suggest_fees(node, SETTINGS) == Fees(9 * GWEI, None)
    assert Fees(9, None).fields() == {"gasPrice": 9}
    with pytest.raises(FeesTooHigh, match="the gas price is 101 gwei, the settings allow 100"):
        suggest_fees(Node(eth_getBlockByNumber={}, eth_gasPrice=hex(101 * GWEI)), SETTINGS)


@pytest.mark.parametrize("fee", [None, "many", [], {}])
def test_a_history_that_cannot_be_read_is_named(fee: Any) -> None:
    node = modern(GWEI, GWEI)
    history = node.ask("eth_feeHistory")
    for spoilt in ({"baseFeePerGas": [fee]}, {"reward": [[fee]]}, {"reward": [7]}, {"gasUsedRatio": 7}):
        with pytest.raises(ChainError, match="the node's fee"):
            suggest_fees(modern(GWEI, GWEI, eth_feeHistory=history | spoilt), SETTINGS)


amounts = st.integers(0, 10**12)


@given(
    old=st.builds(Fees, amounts, st.none() | amounts),
    now=st.builds(Fees, amounts, st.none() | amounts),
    permille=st.integers(MIN_BUMP_PERMILLE, 1000),
)
def test_a_replacement_offers_enough_more_or_there_is_none(old: Fees, now: Fees, permille: int) -> None:
    new = bump_fees(old, now, SETTINGS, permille)
    if new is None:
        assert old.max_fee * (1000 + permille) > 1000 * SETTINGS.max_fee - 1000 or (
            old.tip is not None and old.tip * (1000 + permille) > 1000 * SETTINGS.max_tip - 1000
        )
        return
    assert old.max_fee < new.max_fee <= SETTINGS.max_fee
    assert new.max_fee * 1000 >= old.max_fee * (1000 + permille)
    assert new.max_fee >= min(now.max_fee, SETTINGS.max_fee)
    if new.tip is not None and old.tip is not None:
        assert new.tip * 1000 >= old.tip * (1000 + permille) or new.tip == new.max_fee
        assert new.tip <= new.max_fee


def test_gwei_for_people() -> None:
    assert [gwei(amount) for amount in (0, 1, GWEI, 1_500_000_000)] == ["0", "0.000000001", "1", "1.5"]

"""The PPLNS window, against pplns.json."""

from __future__ import annotations

import pytest

from pool_oracle.errors import InputError, WindowError
from pool_oracle.formats import window_weights
from pool_oracle.payout.payee import format_payee, parse_payee
from pool_oracle.payout.window import MAX_WINDOW, PplnsWindow, S, check_window, share_unit
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import nbits_to_target

A, B, C = (bytes((1,)) * 21, bytes((2,)) * 21, b"\x01" + b"\x03" * 20)


def unit_of(share):
    target = nbits_to_target(int(share["nbits"], 16))
    return share_unit(target, target_from_wire(share["shareTarget"], "shareTarget"))


def texts(window):
    return {format_payee(payee): str(weight) for payee, weight in window.weights.items()}


@pytest.mark.cases("pplns", "cases")
def test_a_log_of_shares_has_the_units_and_weights_of_the_vectors(case):
    window = PplnsWindow(case["window"])
    units = [unit_of(share) for share in case["shares"]]
    if "units" in case:
        assert [str(unit) for unit in units] == case["units"]
    for sequence, (share, unit) in enumerate(zip(case["shares"], units, strict=True)):
        window.add(sequence, parse_payee(share["payee"]), unit)
    assert str(window.t) == case["T"]
    assert str(window.total) == case["total"]
    assert texts(window) == case["weights"]


@pytest.mark.cases("pplns", "cases")
def test_a_log_can_be_closed_at_any_share(case):
    window = PplnsWindow(case["window"])
    closings = {closing["shares"]: closing for closing in case.get("closings", [])}
    seen = set()
    for sequence, share in enumerate(case["shares"]):
        window.add(sequence, parse_payee(share["payee"]), unit_of(share))
        assert window.total == min(window.t, case["window"] * S) == sum(window.weights.values())
        closing = closings.get(sequence + 1)
        if closing:
            seen.add(sequence + 1)
            assert str(window.total) == closing["total"]
            assert texts(window) == closing["weights"]
    assert seen == closings.keys()


@pytest.mark.cases("pplns", "invalid")
def test_a_window_or_a_share_out_of_range_is_refused(case):
    with pytest.raises(WindowError):
        window_weights(case)


@pytest.mark.parametrize("window", [1, 8, MAX_WINDOW])
def test_windows_from_1_to_127_are_windows(window):
    assert check_window(window) == window


@pytest.mark.parametrize("window", [0, -1, 128, True, 1.0, "8", None])
def test_nothing_else_is_a_window(window):
    with pytest.raises(WindowError, match="1 to 127"):
        PplnsWindow(window)


def test_the_oldest_share_keeps_the_part_that_the_window_still_covers():
    window = PplnsWindow(1)
    window.add(10, A, S // 2)
    window.add(11, B, S // 4)
    window.add(12, C, S // 2)
    assert window.weights == {A: S // 4, B: S // 4, C: S // 2}
    assert (window.first_sequence, window.share_count) == (10, 3)


def test_a_share_that_the_window_just_left_has_no_credit():
    window = PplnsWindow(1)
    window.add(10, A, S // 2)
    window.add(11, B, S // 2)
    window.add(12, C, S // 2)
    assert window.weights == {B: S // 2, C: S // 2}
    assert (window.first_sequence, window.share_count) == (11, 2)


def test_one_great_share_pushes_many_small_ones_out():
    window = PplnsWindow(1)
    for sequence in range(100):
        window.add(sequence, A, S // 100)
    window.add(100, B, S)
    assert window.weights == {B: S}
    assert window.first_sequence == 100


def test_a_share_of_unit_0_changes_nothing():
    window = PplnsWindow(2)
    window.add(0, A, 0)
    assert (window.t, window.total, window.weights, window.first_sequence, window.share_count) == (0, 0, {}, None, 0)


def test_the_weights_are_a_copy():
    window = PplnsWindow(2)
    window.add(0, A, 5)
    window.weights[A] = 0
    assert window.weights == {A: 5}


def test_a_window_may_begin_in_the_middle_of_the_timeline():
    window = PplnsWindow(2, t=10 * S)
    window.add(7, A, 5)
    assert (window.t, window.total) == (10 * S + 5, 5)


def test_a_wrong_share_is_named_by_its_place(vectors):
    case = vectors("pplns")["cases"][1]
    shares = [dict(share) for share in case["shares"]]
    shares[1]["nbits"] = "zz"
    with pytest.raises(InputError, match=r"shares\[1\]: nbits"):
        window_weights({"window": 1, "shares": shares})

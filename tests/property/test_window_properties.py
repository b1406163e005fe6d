"""The PPLNS window against the half-open interval of protocol.md, computed share by share."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle.payout.window import MAX_WINDOW, PplnsWindow, S, share_unit

PAYEES = [b"\x00" + bytes((i,)) * 20 for i in range(1, 6)]

units = st.one_of(st.sampled_from([0, 1, S // 3, S // 2, S - 1, S]), st.integers(0, S))
logs = st.lists(st.tuples(st.sampled_from(PAYEES), units), max_size=40)
windows = st.one_of(st.integers(1, 4), st.integers(1, MAX_WINDOW))


def slow_weights(log, window):
    """The overlap of each share's (T_i - u_i, T_i] with (T_b - X*S, T_b], summed by payee."""
    end = sum(unit for _, unit in log)
    begin = end - window * S
    weights, first = {}, None
    t = 0
    for sequence, (payee, unit) in enumerate(log):
        t += unit
        credit = max(0, min(t, end) - max(t - unit, begin))
        if credit:
            weights[payee] = weights.get(payee, 0) + credit
            first = sequence if first is None else first
    return weights, first


def window_of(log, window):
    result = PplnsWindow(window)
    for sequence, (payee, unit) in enumerate(log):
        result.add(sequence, payee, unit)
    return result


@given(logs, windows)
@settings(max_examples=250)
def test_weights_are_the_overlap_of_the_shares_with_the_half_open_window(log, size):
    window = window_of(log, size)
    weights, first = slow_weights(log, size)
    assert window.weights == weights
    assert window.first_sequence == first


@given(logs, windows)
@settings(max_examples=150)
def test_weights_sum_to_the_lesser_of_all_work_and_the_window_at_every_share(log, size):
    window = PplnsWindow(size)
    t = 0
    for sequence, (payee, unit) in enumerate(log):
        window.add(sequence, payee, unit)
        t += unit
        assert window.t == t
        assert window.total == min(t, size * S) == sum(window.weights.values())
        assert all(weight > 0 for weight in window.weights.values())


@given(logs, windows, st.data())
@settings(max_examples=100)
def test_a_miner_who_splits_into_two_payees_gets_the_same_in_sum(log, size, data):
    whole, half, other = PAYEES[0], PAYEES[1], b"\x00" + b"\xee" * 20
    log = [(whole if payee == half else payee, unit) for payee, unit in log]
    split = [(other if payee == whole and data.draw(st.booleans()) else payee, unit) for payee, unit in log]
    before, after = window_of(log, size).weights, window_of(split, size).weights
    assert after.get(whole, 0) + after.get(other, 0) == before.get(whole, 0)
    for payee in PAYEES[2:]:
        assert after.get(payee, 0) == before.get(payee, 0)


@given(logs, windows, st.integers(2, 5))
@settings(max_examples=100)
def test_a_share_cut_into_smaller_ones_of_the_same_work_changes_nothing(log, size, pieces):
    cut = []
    for payee, unit in log:
        part = unit // pieces
        cut += [(payee, part)] * (pieces - 1) + [(payee, unit - part * (pieces - 1))]
    assert window_of(cut, size).weights == window_of(log, size).weights


@given(logs, logs, windows)
@settings(max_examples=100)
def test_what_lies_before_a_full_window_does_not_matter(before, log, size):
    full = [*log, *[(PAYEES[0], S)] * size]
    assert window_of([*before, *full], size).weights == window_of(full, size).weights == {PAYEES[0]: size * S}


@given(st.integers(1, (1 << 256) - 1), st.integers(1, (1 << 256) - 1))
@settings(max_examples=200)
def test_a_unit_is_a_part_of_one_block_rounded_down(network_target, share_target):
    unit = share_unit(network_target, share_target)
    assert 0 <= unit <= S
    if unit < S:
        assert unit * share_target <= network_target * S < (unit + 1) * share_target
    else:
        assert network_target * S >= S * share_target

"""Every scheme on small logs whose numbers can be checked by hand; those of docs/payouts.md are among them."""

from __future__ import annotations

import json
from decimal import Context, Decimal
from math import exp

import pytest

from pool_oracle.errors import ConfigError, InputError, PayeeError, WindowError
from pool_oracle.payout.payee import parse_payee
from pool_oracle.payout.schemes import SCHEMES, Fate, Found, PaidBy, Terms, open_scheme, restore_scheme
from pool_oracle.payout.schemes.base import block_subsidy
from pool_oracle.payout.schemes.fpps import FEE_BLOCKS, FeeHistory, trimmed_mean
from pool_oracle.payout.schemes.reserve import Reserve
from pool_oracle.payout.window import PplnsWindow, S, share_unit
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import nbits_to_target

ANN, BOB, CEM = (b"\x00" + bytes((i,)) * 20 for i in (1, 2, 3))
HEIGHT = 900_000
SUBSIDY = 312_500_000
BLOCK = bytes(32)


def fed(name, *shares, **terms):
    """A scheme with shares of (payee, blocks' worth of work)."""
    scheme = open_scheme(name, Terms(**terms))
    feed(scheme, *shares)
    return scheme


def feed(scheme, *shares):
    for payee, blocks in shares:
        scheme.add(int(scheme.t * 1000 // S), payee, int(blocks * S), HEIGHT)


def parts(scheme):
    """Weights in blocks' worth of work."""
    return {payee: weight / S for payee, weight in scheme.weights.items()}


# The registry


def test_the_schemes_are_these():
    assert list(SCHEMES) == ["pplns", "pps", "fpps", "pps+", "prop", "solo"]


@pytest.mark.parametrize("name", ["PPLNS", "dgm", "", None, ["pplns"]])
def test_another_word_is_no_scheme_and_the_known_ones_are_named(name):
    with pytest.raises(InputError, match=r"is not known; use one of pplns, pps, fpps, pps\+, prop, solo"):
        open_scheme(name, Terms())


def test_pps_and_its_kin_are_paid_by_the_treasury_and_all_others_by_blocks():
    treasury = [name for name, scheme in SCHEMES.items() if scheme.paid_by is PaidBy.TREASURY]
    assert treasury == ["pps", "fpps", "pps+"]


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"window": 0}, WindowError),
        ({"window": 128}, WindowError),
        ({"fee_bps": -1}, InputError),
        ({"fee_bps": 10_001}, InputError),
        ({"halving_interval": 0}, InputError),
        ({"payee": bytes(21)}, PayeeError),
    ],
)
def test_terms_out_of_range_are_refused(terms, error):
    with pytest.raises(error):
        Terms(**terms)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("state", [{}, None, {"t": "x"}, {"t": "1", "closed": 0, "window": {"eras": []}}])
def test_what_is_no_state_of_a_scheme_is_refused(name, state):
    with pytest.raises(InputError, match="no state of the scheme"):
        restore_scheme(name, Terms(payee=ANN), state)


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "solo"])
def test_whoever_has_a_payee_may_work(name):
    assert open_scheme(name, Terms()).admits(ANN)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_share_of_unit_0_is_counted_by_nobody(name):
    scheme = open_scheme(name, Terms(payee=ANN))
    scheme.add(0, ANN, 0, HEIGHT)
    assert (scheme.weights, scheme.total, scheme.first_sequence, scheme.share_count) == ({}, 0, None, 0)
    assert scheme.close() == {}
    assert scheme.closed == 0


# PPLNS


@pytest.mark.cases("pplns", "cases")
def test_pplns_has_the_weights_of_the_vectors(case):
    scheme = open_scheme("pplns", Terms(window=case["window"]))
    for sequence, share in enumerate(case["shares"]):
        target = nbits_to_target(int(share["nbits"], 16))
        unit = share_unit(target, target_from_wire(share["shareTarget"], "shareTarget"))
        scheme.add(sequence, parse_payee(share["payee"]), unit, HEIGHT)
    assert str(scheme.t) == case["T"]
    assert str(scheme.total) == case["total"]
    assert {f"0x{payee.hex()}": str(weight) for payee, weight in scheme.weights.items()} == case["weights"]


def test_pplns_pays_the_newest_x_blocks_of_work():
    scheme = fed("pplns", (ANN, 0.5), (BOB, 1), (ANN, 0.25), (CEM, 0.75), window=2)
    assert parts(scheme) == {BOB: 1, ANN: 0.25, CEM: 0.75}
    net = 320_000_000 * 99 // 100
    assert {p: net * w // scheme.total for p, w in scheme.close().items()} == {
        BOB: 158_400_000,
        ANN: 39_600_000,
        CEM: 118_800_000,
    }


def test_a_pplns_window_that_is_not_full_divides_among_those_who_are_there():
    scheme = fed("pplns", (ANN, 0.25), (BOB, 0.125), window=8)
    assert parts(scheme) == {ANN: 0.25, BOB: 0.125}
    assert scheme.total == S * 3 // 8


def test_a_share_of_a_whole_block_fills_a_window_of_one():
    scheme = fed("pplns", (ANN, 0.5), (BOB, 1), window=1)
    assert parts(scheme) == {BOB: 1}


def test_closing_takes_nothing_from_a_pplns_window():
    scheme = fed("pplns", (ANN, 0.5), window=2)
    assert scheme.close() == scheme.close() == {ANN: S // 2}
    assert scheme.closed == 2


def test_a_greater_window_takes_in_new_work_faster_than_it_lets_old_work_go():
    scheme = fed("pplns", (ANN, 0.5), (BOB, 1), (ANN, 0.25), (CEM, 0.75), window=2)
    scheme.change(Terms(window=4))
    assert parts(scheme) == {BOB: 1, ANN: 0.25, CEM: 0.75}
    feed(scheme, (ANN, 1))
    assert parts(scheme) == {BOB: 0.5, ANN: 1.25, CEM: 0.75}
    feed(scheme, (ANN, 3))
    assert parts(scheme) == {ANN: 4}


def test_a_smaller_window_lets_old_work_go_faster_than_it_takes_in_new_work():
    scheme = fed("pplns", (ANN, 2), (BOB, 2), window=4)
    scheme.change(Terms(window=2))
    assert parts(scheme) == {ANN: 2, BOB: 2}
    feed(scheme, (CEM, 0.5))
    assert parts(scheme) == {ANN: 1, BOB: 2, CEM: 0.5}
    feed(scheme, (CEM, 1.5))
    assert parts(scheme) == {CEM: 2}


def test_a_window_that_was_not_full_stays_as_empty_as_it_was_when_x_changes():
    scheme = fed("pplns", (ANN, 3), window=8)
    scheme.change(Terms(window=2))
    feed(scheme, (BOB, 1.25))
    assert parts(scheme) == {ANN: 3, BOB: 1.25}
    feed(scheme, (BOB, 0.25))
    assert parts(scheme) == {ANN: 2, BOB: 1.5}


def test_a_share_that_is_inside_by_less_than_a_unit_has_a_unit_of_credit():
    window = PplnsWindow(3)
    window.add(0, ANN, 3 * S - S)
    window.add(1, BOB, S)
    window.change(2)
    window.add(2, CEM, 1)
    assert window.weights == {ANN: 2 * S - 1, BOB: S, CEM: 1}
    window.add(3, CEM, 1)
    assert window.weights == {ANN: 2 * S - 3, BOB: S, CEM: 2}
    assert window.total == 3 * S - 1


def test_a_share_enters_the_window_once_and_leaves_it_once_and_a_close_moves_none(monkeypatch):
    drops = []
    shrink = PplnsWindow._shrink
    monkeypatch.setattr(PplnsWindow, "_shrink", lambda *args: drops.append(shrink(*args)) or drops[-1])
    scheme = open_scheme("pplns", Terms(window=1))
    left = 0
    for sequence in range(3000):
        before = scheme.share_count
        scheme.add(sequence, ANN if sequence % 3 else BOB, S // (5 + sequence % 400), HEIGHT)
        left += before + 1 - scheme.share_count
        assert sum(drops) <= left + sequence + 1
        if sequence % 10 == 0:
            seen = sum(drops)
            scheme.close()
            assert sum(drops) == seen


def test_pplns_starts_where_the_timeline_is():
    scheme = open_scheme("pplns", Terms(window=2), t=5 * S)
    feed(scheme, (ANN, 1))
    assert (scheme.t, scheme.total) == (6 * S, S)


@pytest.mark.parametrize(
    "spoil",
    [
        {"gone": str(S)},
        {"gone": "-1"},
        {"eras": [[2, 2, str(3 * S // 2)]]},
        {"eras": [[2, 3, str(3 * S // 2 - 1)]], "t": str(3 * S // 2 - 1)},
        {"eras": [[0, 3, str(3 * S // 2)]]},
        {"eras": [[3, 3, str(3 * S // 2)]]},
        {"eras": [[2, 0, "0"], [2, 3, str(3 * S // 2)]]},
        {"eras": [[2, 3]]},
        {"grid": "0"},
        {"start": "1"},
        {"t": str(2 * S)},
        {"shares": [[0, ANN.hex(), "0"]] * 3},
        {"shares": [[0, ANN.hex(), str(S)]] * 3},
    ],
)
def test_a_state_that_no_window_has_is_refused(spoil):
    state = fed("pplns", (ANN, 0.5), (BOB, 0.5), (CEM, 0.5), window=2).state()
    restore_scheme("pplns", Terms(window=2), state)
    state["window"] |= spoil
    with pytest.raises(InputError):
        restore_scheme("pplns", Terms(window=2), state)


# PPS


def test_the_subsidy_halves_until_nothing_is_left():
    assert block_subsidy(0, 210_000) == 5_000_000_000
    assert block_subsidy(209_999, 210_000) == 5_000_000_000
    assert block_subsidy(210_000, 210_000) == 2_500_000_000
    assert block_subsidy(HEIGHT, 210_000) == SUBSIDY
    assert block_subsidy(33 * 210_000, 210_000) == 0
    assert block_subsidy(150, 150) == 2_500_000_000


def test_pps_pays_a_share_its_part_of_the_subsidy_after_the_fee():
    scheme = fed("pps", (ANN, 1 / 1024), fee_bps=200)
    assert scheme.weights == {ANN: SUBSIDY * 98 // 100 // 1024}
    scheme = open_scheme("pps", Terms(fee_bps=200))
    scheme.add(0, ANN, S // 1000, HEIGHT)
    scheme.add(1, BOB, S, HEIGHT)
    assert scheme.close() == {ANN: 306_249, BOB: 306_250_000}


def test_pps_carries_what_is_less_than_a_satoshi():
    scheme = open_scheme("pps", Terms(fee_bps=200))
    small = S // 10**9  # 0.30625 satoshi
    paid = []
    for epoch in range(32):
        for _ in range(10):
            scheme.add(0, ANN, small, HEIGHT)
        scheme.add(0, BOB, S, HEIGHT)
        paid.append(scheme.close()[ANN])
        assert scheme.closed == epoch + 1
    assert paid[:17] == [3] * 16 + [4]
    assert sum(paid) == 320 * 306_250_000 * small // S == 97


def test_pps_keeps_an_epoch_open_in_which_nobody_has_a_satoshi():
    scheme = open_scheme("pps", Terms())
    scheme.add(0, ANN, S // 10**9, HEIGHT)
    assert scheme.close() == {}
    assert (scheme.closed, scheme.first_sequence, scheme.share_count) == (0, 0, 1)
    for sequence in range(1, 4):
        scheme.add(sequence, ANN, S // 10**9, HEIGHT)
    assert scheme.close() == {ANN: 1}
    assert (scheme.closed, scheme.first_sequence, scheme.share_count) == (1, None, 0)


def test_pps_pays_by_the_height_of_the_shares_job():
    scheme = open_scheme("pps", Terms())
    scheme.add(0, ANN, S, 839_999)
    scheme.add(1, BOB, S, 840_000)
    assert scheme.close() == {ANN: 625_000_000, BOB: 312_500_000}


def test_a_new_pps_fee_holds_from_the_next_share_on():
    scheme = fed("pps", (ANN, 1))
    scheme.change(Terms(fee_bps=10_000))
    feed(scheme, (BOB, 1))
    assert scheme.close() == {ANN: SUBSIDY}


# FPPS


def test_the_trimmed_mean_leaves_out_a_tenth_at_either_end_and_rounds_down():
    day = [0] * 14 + [5_000_000] * 116 + [100_000_000] * 14
    assert trimmed_mean(day) == 5_000_000
    assert sum(day) // 144 == 13_750_000
    assert trimmed_mean(day[::-1]) == 5_000_000
    assert trimmed_mean([1, 2, 4]) == 2
    assert trimmed_mean([0] + [10] * 8 + [1000]) == 10
    assert trimmed_mean([]) == 0


def told(fees, upto=HEIGHT):
    """A history of a day of blocks below `upto`."""
    history = FeeHistory()
    for i, fee in enumerate(fees):
        history.add(upto - len(fees) + i, fee)
    return history


def test_the_mean_is_of_the_144_blocks_before_the_shares():
    history = told([1000] * 144 + [2000] * 144, HEIGHT)
    assert history.mean_before(HEIGHT) == 2000
    assert history.mean_before(HEIGHT - 144) == 1000
    assert history.mean_before(HEIGHT - 72) == 1500


def test_a_share_whose_day_is_not_known_is_refused_with_the_heights():
    history = told([1] * 100)
    with pytest.raises(InputError, match=rf"fees of blocks {HEIGHT - 144} to {HEIGHT - 101}"):
        history.mean_before(HEIGHT)
    with pytest.raises(InputError, match=rf"fees of blocks {HEIGHT} to {HEIGHT}"):
        told([1] * 144).mean_before(HEIGHT + 1)


def test_a_gap_in_the_blocks_is_refused():
    history = told([1] * 144)
    with pytest.raises(InputError, match=f"the newest known is block {HEIGHT - 1}"):
        history.add(HEIGHT + 1, 5)
    with pytest.raises(InputError, match="cannot have fees"):
        history.add(HEIGHT, -1)


def test_a_reorganisation_replaces_what_was_said_of_its_heights():
    history = told([1000] * 144 + [9000] * 3)
    assert history.mean_before(HEIGHT) == 1000
    for height in range(HEIGHT - 3, HEIGHT):
        history.add(height, 2000)
    assert history.state()[str(HEIGHT - 1)] == "2000"
    history.add(HEIGHT - 3, 7)
    with pytest.raises(InputError, match=f"blocks {HEIGHT - 2} to {HEIGHT - 1}"):
        history.mean_before(HEIGHT)


def test_a_young_chain_has_fewer_than_144_blocks():
    history = FeeHistory()
    assert history.mean_before(0) == 0
    history.add(0, 0)
    history.add(1, 300)
    assert history.mean_before(2) == 150


def test_only_two_days_of_fees_are_kept():
    history = told([1] * 1000)
    assert len(history.state()) == 2 * FEE_BLOCKS


def fpps(fee_bps=200):
    scheme = open_scheme("fpps", Terms(fee_bps=fee_bps))
    for i, fee in enumerate([0] * 14 + [5_000_000] * 116 + [100_000_000] * 14):
        scheme.on_tip(HEIGHT - 144 + i, fee)
    return scheme


def test_fpps_pays_subsidy_and_mean_fee():
    scheme = fpps()
    feed(scheme, (ANN, 1))
    assert scheme.close() == {ANN: 317_500_000 * 98 // 100}
    assert scheme.guaranteed(HEIGHT) == 317_500_000


def test_fpps_follows_the_fees_as_the_tip_moves():
    scheme = fpps(0)
    for height in range(HEIGHT, HEIGHT + 144):
        scheme.on_tip(height, 20_000_000)
    scheme.add(0, ANN, S, HEIGHT)
    scheme.add(1, BOB, S, HEIGHT + 144)
    assert scheme.close() == {ANN: 317_500_000, BOB: 332_500_000}


# PPS+


def test_pps_plus_divides_the_fees_of_a_mature_block_by_the_window_of_the_last_close():
    scheme = fed("pps+", (ANN, 0.75), (BOB, 0.25), window=1, fee_bps=200)
    assert scheme.close() == {ANN: 229_687_500, BOB: 76_562_500}
    feed(scheme, (CEM, 1))  # after the close: it divides no block that is found before the next
    scheme.on_block(Found(BLOCK, 1, HEIGHT, SUBSIDY + 10_000_000))
    assert scheme.weights == {CEM: 306_250_000}
    scheme.on_fate(BLOCK, Fate.MATURE)
    assert scheme.close() == {CEM: 306_250_000, ANN: 7_350_000, BOB: 2_450_000}
    scheme.on_fate(BLOCK, Fate.MATURE)  # once is enough
    assert scheme.weights == {}


def test_the_fees_of_a_lost_block_are_credited_only_if_it_comes_back():
    scheme = fed("pps+", (ANN, 1), window=1)
    scheme.close()
    scheme.on_block(Found(BLOCK, 1, HEIGHT, SUBSIDY + 1000))
    scheme.on_fate(BLOCK, Fate.LOST)
    assert scheme.weights == {}
    scheme.on_fate(BLOCK, Fate.ALIVE)
    assert scheme.weights == {}
    scheme.on_fate(BLOCK, Fate.MATURE)
    assert scheme.weights == {ANN: 1000}


def test_fees_that_come_before_anybody_has_a_weight_go_to_the_next_block():
    scheme = open_scheme("pps+", Terms(window=1))
    scheme.on_block(Found(BLOCK, 0, HEIGHT, SUBSIDY + 500))
    scheme.on_fate(BLOCK, Fate.MATURE)
    feed(scheme, (ANN, 1))
    assert scheme.close() == {ANN: SUBSIDY}
    scheme.on_block(Found(b"\x01" * 32, 1, HEIGHT, SUBSIDY + 200))
    scheme.on_fate(b"\x01" * 32, Fate.MATURE)
    assert scheme.close() == {ANN: 700}


def test_a_coinbase_that_claims_less_than_the_subsidy_has_no_fees():
    scheme = fed("pps+", (ANN, 1), window=1)
    scheme.close()
    scheme.on_block(Found(BLOCK, 1, HEIGHT, SUBSIDY - 1))
    scheme.on_fate(BLOCK, Fate.MATURE)
    assert scheme.weights == {}


def test_the_fees_of_pps_plus_follow_a_changed_window():
    scheme = fed("pps+", (ANN, 1), (BOB, 1), window=2)
    scheme.close()
    scheme.change(Terms(window=1))
    feed(scheme, (CEM, 0.5))
    scheme.close()
    scheme.on_block(Found(BLOCK, 2, HEIGHT, SUBSIDY + 300))
    scheme.on_fate(BLOCK, Fate.MATURE)
    assert scheme.weights == {BOB: 200, CEM: 100}
    assert scheme.first_sequence == 1000


# PROP


def test_prop_pays_the_work_of_the_round_up_to_the_close():
    scheme = fed("prop", (ANN, 0.25), (BOB, 0.5))
    assert scheme.close() == {ANN: S // 4, BOB: S // 2}
    feed(scheme, (ANN, 0.125))
    scheme.on_block(Found(BLOCK, 1, HEIGHT, SUBSIDY))
    assert parts(scheme) == {ANN: 0.125}
    feed(scheme, (CEM, 0.5))
    assert scheme.close() == {ANN: S // 8, CEM: S // 2}
    assert scheme.first_sequence == 750


def test_a_prop_round_goes_on_over_closes_until_a_block_is_found():
    scheme = fed("prop", (ANN, 0.25))
    scheme.close()
    feed(scheme, (BOB, 0.25))
    assert scheme.close() == {ANN: S // 4, BOB: S // 4}
    assert (scheme.first_sequence, scheme.share_count) == (0, 2)


def test_a_second_block_with_the_same_root_begins_no_other_round():
    scheme = fed("prop", (ANN, 0.25))
    scheme.close()
    for block in (BLOCK, b"\x01" * 32):
        scheme.on_block(Found(block, 1, HEIGHT, SUBSIDY))
        feed(scheme, (BOB, 0.25))
    assert parts(scheme) == {BOB: 0.5}


def test_a_lost_block_gives_its_round_back():
    scheme = fed("prop", (ANN, 0.25))
    scheme.close()
    feed(scheme, (BOB, 0.5))
    scheme.on_block(Found(BLOCK, 1, HEIGHT, SUBSIDY))
    scheme.on_fate(BLOCK, Fate.LOST)
    assert parts(scheme) == {ANN: 0.25, BOB: 0.5}
    scheme.on_fate(BLOCK, Fate.ALIVE)
    assert parts(scheme) == {BOB: 0.5}
    scheme.on_fate(BLOCK, Fate.MATURE)
    scheme.on_fate(BLOCK, Fate.LOST)
    assert parts(scheme) == {BOB: 0.5}


def test_a_block_of_epoch_0_pays_the_genesis_payee_and_ends_no_round():
    scheme = fed("prop", (ANN, 0.25))
    scheme.on_block(Found(BLOCK, 0, HEIGHT, SUBSIDY))
    assert parts(scheme) == {ANN: 0.25}


# SOLO


def test_solo_pays_the_policys_payee_and_admits_nobody_else():
    scheme = fed("solo", (ANN, 0.25), payee=ANN)
    assert scheme.admits(ANN)
    assert not scheme.admits(BOB)
    assert (scheme.first_sequence, scheme.share_count) == (0, 1)
    assert scheme.close() == {ANN: 1}
    assert scheme.close() == {}
    feed(scheme, (ANN, 0.5))
    assert (scheme.first_sequence, scheme.close()) == (250, {ANN: 1})


def test_solo_may_change_its_payee():
    scheme = fed("solo", (ANN, 0.25), payee=ANN)
    scheme.change(Terms(payee=BOB))
    assert scheme.close() == {BOB: 1}


def test_solo_needs_a_payee():
    with pytest.raises(InputError, match="needs the payee"):
        open_scheme("solo", Terms())
    with pytest.raises(InputError, match="needs the payee"):
        fed("solo", (ANN, 0.25), payee=ANN).change(Terms())


# Checkpoints


@pytest.mark.parametrize("name", SCHEMES)
def test_the_state_right_after_a_close_is_json_of_plain_values(name):
    scheme = open_scheme(name, Terms(payee=ANN))
    for height in range(HEIGHT - 144, HEIGHT):
        scheme.on_tip(height, 1000)
    feed(scheme, (ANN, 0.25), (BOB, 0.5))
    scheme.close()
    text = json.dumps(scheme.state(), sort_keys=True)
    assert json.dumps(restore_scheme(name, Terms(payee=ANN), json.loads(text)).state(), sort_keys=True) == text


def test_the_state_of_pps_after_a_close_is_as_small_as_its_fractions():
    scheme = fed("pps", *[(ANN, 1 / 1024)] * 500)
    scheme.close()
    assert scheme.state() | {"t": ""} == {
        "t": "",
        "closed": 1,
        "earned": {},
        "carried": {ANN.hex(): str(SUBSIDY * 500 * 10_000 * S // 1024 % (S * 10_000))},
        "first": None,
        "count": 0,
    }


# The reserve


def test_the_reserve_of_the_example():
    reserve = Reserve(SUBSIDY, 1000, 200)
    assert reserve.amount == 53_966_838_118


@pytest.mark.parametrize("odds", [2, 3, 10, 1000, 10**6, 10**18, 2**64])
@pytest.mark.parametrize("fee_bps", [1, 7, 200, 333, 10_000])
@pytest.mark.parametrize("reward", [0, 1, SUBSIDY, 21 * 10**14])
def test_the_reserve_is_the_formula_rounded_up_never_below_it(reward, odds, fee_bps):
    precise = Context(prec=120)
    true = precise.divide(
        precise.multiply(precise.multiply(Decimal(reward), precise.ln(Decimal(odds))), Decimal(10_000)),
        Decimal(2 * fee_bps),
    )
    amount = Reserve(reward, odds, fee_bps).amount
    assert true <= amount < true + 1


@pytest.mark.parametrize("fee", [0.01, 0.02, 0.05, 0.2, 0.5])
def test_the_formula_lies_on_the_safe_side_of_the_exact_ruin(fee):
    low, high = 2 * fee, 40.0  # theta of the module's docstring, by bisection
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 - fee) * middle > 1 - exp(-middle) else (middle, high)
    reserve = Reserve(10**8, 1000, int(fee * 10_000)).amount / 10**8
    assert exp(-low * reserve) <= 1 / 1000


def test_a_treasury_that_covers_the_reserve_is_accepted():
    reserve = Reserve(SUBSIDY, 1000, 200)
    reserve.check("pps", reserve.amount, 0)
    reserve.check("pps", reserve.amount + 5, 5)


def test_a_treasury_that_does_not_is_refused_with_both_numbers():
    reserve = Reserve(SUBSIDY, 1000, 200)
    with pytest.raises(ConfigError) as refusal:
        reserve.check("pps", reserve.amount - 1, 0)
    assert str(refusal.value) == (
        "scheme 'pps' needs a treasury of 539.66838118 BTC (reward 3.12500000 BTC, fee 2 %, ruin one time in 1000), "
        "and it holds 539.66838117 BTC; fund it, take a higher fee, or use 'pplns'"
    )
    with pytest.raises(ConfigError, match=r"needs a treasury of 539\.66838123 LTC .* 0\.00000005 LTC of it owed"):
        reserve.check("fpps", reserve.amount, 5, "LTC")


@pytest.mark.parametrize(("reward", "odds", "fee_bps"), [(1, 1, 200), (1, 1000, 0), (1, 1000, 10_001), (-1, 1000, 200)])
def test_a_reserve_that_cannot_be_is_refused(reward, odds, fee_bps):
    with pytest.raises(InputError):
        Reserve(reward, odds, fee_bps)

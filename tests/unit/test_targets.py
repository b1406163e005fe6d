"""Targets, nbits and share difficulty, against share_unit.json and Bitcoin's own rules."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pool_oracle.errors import TargetError
from pool_oracle.networks import DIFFICULTY_1_TARGET, NETWORKS
from pool_oracle.payout.window import S, share_unit
from pool_oracle.work.share import target_from_wire
from pool_oracle.work.targets import (
    MAX_TARGET,
    check_target,
    difficulty_to_target,
    nbits_to_target,
    target_to_difficulty,
    target_to_nbits,
)


def test_constants_are_those_of_the_vectors(vectors):
    assert int(vectors("share_unit")["S"]) == S
    assert int(vectors("share_unit")["difficulty1Target"], 16) == DIFFICULTY_1_TARGET


@pytest.mark.cases("share_unit", "targets")
def test_a_share_difficulty_gives_its_target(case):
    difficulty = Fraction(int(case["numerator"]), int(case["denominator"]))
    assert difficulty_to_target(difficulty) == int(case["target"], 16)


@pytest.mark.cases("share_unit", "invalid_targets")
def test_a_share_difficulty_without_a_target_is_refused(case):
    with pytest.raises(TargetError):
        difficulty_to_target(Fraction(int(case["numerator"]), int(case["denominator"])))


@pytest.mark.cases("share_unit", "nbits")
def test_nbits_give_their_target(case):
    assert nbits_to_target(int(case["nbits"], 16)) == int(case["target"], 16)


@pytest.mark.cases("share_unit", "invalid_nbits")
def test_nbits_that_a_node_refuses_are_refused_for_its_reason(case):
    with pytest.raises(TargetError) as caught:
        nbits_to_target(int(case["nbits"], 16))
    assert case["nbits"] in str(caught.value)
    assert case["error"].removeprefix("nbits: ") in str(caught.value)


@pytest.mark.parametrize("nbits", [0x1D800000, 0x00800000, 0x01800000])
def test_the_sign_of_a_zero_says_nothing(nbits):
    with pytest.raises(TargetError, match="zero"):
        nbits_to_target(nbits)


@pytest.mark.cases("share_unit", "units")
def test_a_unit_is_the_share_of_a_block_that_a_share_proves(case):
    assert share_unit(int(case["networkTarget"], 16), int(case["shareTarget"], 16)) == int(case["unit"])


@pytest.mark.cases("share_unit", "invalid_units")
def test_a_unit_of_a_zero_target_is_refused(case):
    with pytest.raises(TargetError):
        share_unit(int(case["networkTarget"], 16), int(case["shareTarget"], 16))


@pytest.mark.parametrize("nbits", [0x1D00FFFF, 0x207FFFFF, 0x1702068F, 0x03123456, 0x02123400, 0x01120000])
def test_canonical_nbits_survive_the_way_to_a_target_and_back(nbits):
    assert target_to_nbits(nbits_to_target(nbits)) == nbits


def test_target_to_nbits_takes_the_shortest_form_of_a_number():
    assert target_to_nbits(0x80) == 0x02008000
    assert target_to_nbits(0x7F) == 0x017F0000
    assert target_to_nbits(MAX_TARGET) == 0x2100FFFF


@pytest.mark.parametrize("target", [0, -1, MAX_TARGET + 1])
def test_a_number_outside_1_to_2_to_the_256_minus_1_is_no_target(target):
    with pytest.raises(TargetError, match="the share target"):
        check_target(target, "the share target")
    with pytest.raises(TargetError):
        target_to_nbits(target)


def test_the_greatest_target_is_one():
    assert check_target(MAX_TARGET, "target") == MAX_TARGET
    assert difficulty_to_target(Fraction(1, 1 << 64)) == MAX_TARGET


def test_scrypt_networks_count_share_difficulty_from_a_target_65536_times_easier():
    litecoin = NETWORKS["litecoin"]
    assert difficulty_to_target(65536, litecoin.difficulty_1_target) == DIFFICULTY_1_TARGET


def test_the_displayed_share_difficulty_is_the_ratio_to_difficulty_1():
    assert target_to_difficulty(DIFFICULTY_1_TARGET) == 1.0
    assert target_to_difficulty(difficulty_to_target(1024)) == 1024.0


@pytest.mark.parametrize("text", [None, 5, "", "0x", "0x00", "00" * 32, "0x" + "0" * 63 + "g", "0x" + "0" * 64])
def test_a_target_from_the_wire_must_be_0x_and_64_digits_and_not_zero(text):
    with pytest.raises(Exception, match="shareTarget") as caught:
        target_from_wire(text, "shareTarget")
    assert caught.type.__name__ in ("InputError", "TargetError")


def test_a_share_that_is_harder_than_the_network_counts_as_one_block():
    assert share_unit(MAX_TARGET, 1) == S
    assert share_unit(1, MAX_TARGET) == 0

"""Retargets of the main chain, with our target arithmetic: regtest has none, so real headers have to show it.

The data (tests/vectors/headers.json) name their sources and prove themselves: every header meets its own target, and
the first of a period names the last of the one before. The rule: CalculateNextWorkRequired of Bitcoin Core (pow.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pool_oracle.hashes import sha256d
from pool_oracle.networks import DIFFICULTY_1_TARGET
from pool_oracle.payout.window import S, share_unit
from pool_oracle.work.share import HEADER_SIZE, check_header, pack_header
from pool_oracle.work.targets import difficulty_to_target, nbits_to_target, target_to_nbits

PERIOD = 2016
TWO_WEEKS = 14 * 24 * 3600
EASIEST = 0x1D00FFFF


@dataclass(frozen=True)
class Header:
    """A header's bytes and its fields."""

    raw: bytes
    version: int
    prev_hash: bytes
    merkle_root: bytes
    time: int
    nbits: int
    nonce: int


def read(text: str) -> Header:
    raw = bytes.fromhex(text)
    assert len(raw) == HEADER_SIZE
    version, time, nbits, nonce = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 68, 72, 76))
    return Header(raw, version, raw[4:36], raw[36:68], time, nbits, nonce)


def next_nbits(nbits: int, seconds: int) -> int:
    """The nbits of the period after one that took so many seconds from its first block to its last."""
    timespan = min(max(seconds, TWO_WEEKS // 4), TWO_WEEKS * 4)
    return target_to_nbits(min(nbits_to_target(nbits) * timespan // TWO_WEEKS, DIFFICULTY_1_TARGET))


@pytest.mark.cases("headers", "retargets")
@pytest.mark.parametrize("which", ["first", "last", "next"])
def test_a_main_chain_header_is_rebuilt_from_its_fields_and_meets_the_target_of_its_nbits(case, which):
    header = read(case[which])
    rebuilt = pack_header(header.version, header.prev_hash, header.merkle_root, header.time, header.nbits, header.nonce)
    assert rebuilt == header.raw
    target = nbits_to_target(header.nbits)
    assert target_to_nbits(target) == header.nbits
    assert check_header(rebuilt, header.merkle_root, target, target).meets_network_target


@pytest.mark.cases("headers", "retargets")
def test_the_nbits_of_a_period_follow_from_the_one_before(case):
    first, last, following = (read(case[which]) for which in ("first", "last", "next"))
    assert case["height"] % PERIOD == 0
    assert first.nbits == last.nbits
    assert following.prev_hash == sha256d(last.raw)
    assert next_nbits(last.nbits, last.time - first.time) == following.nbits


def test_the_cases_hold_every_branch_of_the_rule(vectors):
    seen = set()
    for case in vectors("headers")["retargets"]:
        first, last, following = (read(case[which]) for which in ("first", "last", "next"))
        if following.nbits == EASIEST:
            seen.add("not easier than the easiest")
        elif last.time - first.time < TWO_WEEKS // 4:
            seen.add("not more than four times as hard")
        else:
            seen.add("harder" if nbits_to_target(following.nbits) < nbits_to_target(last.nbits) else "easier")
    assert seen == {"not easier than the easiest", "not more than four times as hard", "harder", "easier"}


def test_a_period_of_more_than_eight_weeks_makes_blocks_four_times_as_easy():
    # Never seen on the main chain. pow_tests.cpp has it (get_next_work_upper_limit_actual) with an invented time.
    assert next_nbits(0x1C387F6F, 1269211443 - 1263163443) == 0x1D00E1FD


@pytest.mark.cases("headers", "retargets")
def test_a_share_of_the_same_share_difficulty_counts_by_the_target_of_its_own_side_of_a_retarget(case):
    before, after = (nbits_to_target(read(case[which]).nbits) for which in ("last", "next"))
    share = difficulty_to_target(1)
    units = share_unit(before, share), share_unit(after, share)
    assert units == (before * S // share, after * S // share)
    # A harder block is worth more shares: units are as the targets, but for the rounding of less than one unit each.
    assert abs(units[0] * after - units[1] * before) < max(before, after)

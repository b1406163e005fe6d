"""Limits: budgets, floods of invalid shares, and who may connect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pool_oracle.errors import ConfigError, InputError
from pool_oracle.stratum.limits import (
    SECOND,
    AddressSet,
    Bucket,
    Budget,
    Gate,
    InvalidShares,
    LimitSettings,
    cost_of,
    why_overdue,
)

MINUTE = 60 * SECOND
DEFAULTS = LimitSettings()
MINER, NEIGHBOUR = "203.0.113.7", "203.0.113.8"
LOW_DIFFICULTY, DUPLICATE, STALE = 23, 22, 21


def settings_with(**changes: object) -> LimitSettings:
    return replace(DEFAULTS, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_connections": 0}, "max_connections must be 1 to"),
        ({"cost_per_second": -1}, "cost_per_second must be 1 to"),
        ({"cost_per_second": SECOND + 1}, "cost_per_second must be 1 to"),
        ({"share_window": 49}, "share_window must be 50 to 10000, not 49"),
        ({"share_window": 10_001}, "share_window must be 50 to 10000"),
        ({"ban_seconds": 600, "max_ban_seconds": 300}, "max_ban_seconds is 300, below ban_seconds, 600"),
        ({"exempt_networks": ("10.0.0.1/8",)}, "'10.0.0.1/8' is no network .* has host bits set"),
        ({"exempt_networks": ("farm.example",)}, "'farm.example' is no network"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        settings_with(**changes)


# Budgets


def test_costs_follow_the_method_and_the_length_of_its_line() -> None:
    costs = [cost_of(f"mining.{name}", 200) for name in ("submit", "ping", "subscribe", "authorize")]
    assert costs == [1, 5, 10, 20]
    assert cost_of("mining.submit", 16_384) == 17


def test_a_budget_lets_a_burst_through_and_then_its_rate() -> None:
    budget = Budget(settings_with(cost_per_second=10, cost_burst=100), now=5)
    assert budget.spend(100, now=5) == 0
    assert budget.spend(1, now=5) == SECOND // 10
    assert budget.wait_ns(now=5) == SECOND // 10
    now = 5
    for _ in range(50):
        now += SECOND // 10
        assert budget.spend(1, now) == SECOND // 10
    assert now == 5 + 5 * SECOND


def test_a_budget_is_full_again_after_silence_and_never_fuller() -> None:
    budget = Budget(settings_with(cost_per_second=10, cost_burst=100), now=0)
    budget.spend(100, now=0)
    assert budget.spend(100, now=10 * SECOND) == 0
    assert budget.spend(100, now=10**6 * SECOND) == 0
    assert budget.spend(1, now=10**6 * SECOND) == SECOND // 10


def test_a_debt_is_what_was_spent_and_waiting_for_it_clears_it() -> None:
    bucket = Bucket(unit_ns=7, burst=0, now=0)
    wait = bucket.spend(50, now=0)
    assert wait == 350
    assert bucket.wait_ns(now=wait - 1) == 1
    assert bucket.wait_ns(now=wait) == 0


def test_a_rental_proxy_with_thousands_of_workers_signs_in_within_two_minutes() -> None:
    budget, now = Budget(DEFAULTS, now=0), 0
    for _ in range(5_000):
        now += budget.spend(cost_of("mining.authorize", 150), now)
    assert now <= 2 * MINUTE


# Floods of invalid shares


def run(meter: InvalidShares, codes: list[int | None], seconds_apart: int = 1, start: int = 0) -> str | None:
    """What the meter says after shares with these codes."""
    said = None
    for number, code in enumerate(codes):
        said = meter.add(code, start + number * seconds_apart * SECOND)
    return said


def test_a_flood_of_invalid_shares_is_told_with_its_numbers() -> None:
    said = run(InvalidShares(DEFAULTS), [LOW_DIFFICULTY, LOW_DIFFICULTY, None] * 20)
    assert said == "33 of the last 50 shares were refused, 0 of them stale, and so for 10 s"


def test_fewer_than_fifty_shares_are_never_a_flood() -> None:
    assert run(InvalidShares(DEFAULTS), [DUPLICATE] * 49, seconds_apart=60) is None


def test_a_miner_whose_every_share_is_late_is_never_a_flood() -> None:
    meter = InvalidShares(DEFAULTS)
    for number in range(1_000):
        assert meter.add(STALE, number * MINUTE) is None


def test_a_bad_line_with_late_shares_and_some_duplicates_is_no_flood() -> None:
    codes: list[int | None] = [STALE] * 7 + [DUPLICATE] * 3
    meter = InvalidShares(DEFAULTS)
    for number, code in enumerate(codes * 50):
        assert meter.add(code, number * SECOND) is None


def test_stale_shares_still_count_with_worse_ones() -> None:
    said = run(InvalidShares(DEFAULTS), ([LOW_DIFFICULTY] * 4 + [STALE] * 6) * 10)
    assert said is not None
    assert said.startswith("50 of the last 50 shares were refused, 30 of them stale")


def test_half_of_the_shares_may_be_refused() -> None:
    meter = InvalidShares(DEFAULTS)
    for number in range(500):
        assert meter.add(LOW_DIFFICULTY if number % 2 else None, number * SECOND) is None


def test_hundreds_of_refused_shares_in_one_second_are_forgiven_when_good_ones_follow() -> None:
    meter = InvalidShares(DEFAULTS)
    for _ in range(500):
        assert meter.add(LOW_DIFFICULTY, SECOND) is None
    for number in range(26):
        assert meter.add(None, (2 + number // 5) * SECOND) is None
    assert meter.add(LOW_DIFFICULTY, 60 * SECOND) is None


def test_old_shares_fall_out_of_the_window() -> None:
    meter = InvalidShares(DEFAULTS)
    run(meter, [None] * 10_000)
    assert run(meter, [LOW_DIFFICULTY] * 50, start=10_000 * SECOND) is not None


# Waiting


def overdue(*, opened: int = 0, last_line: int = 0, is_authorized: bool = True, now: int) -> str | None:
    return why_overdue(DEFAULTS, opened=opened, last_line=last_line, is_authorized=is_authorized, now=now)


def test_a_half_open_connection_ends_after_the_handshake_time_however_much_it_talks() -> None:
    assert overdue(last_line=29 * SECOND, is_authorized=False, now=30 * SECOND - 1) is None
    said = overdue(last_line=29 * SECOND, is_authorized=False, now=30 * SECOND)
    assert said == "no worker was authorized within 30 s (handshake_seconds)"


def test_an_idle_miner_ends_after_the_idle_time() -> None:
    assert overdue(last_line=SECOND, now=601 * SECOND - 1) is None
    assert overdue(last_line=SECOND, now=601 * SECOND) == "the miner has said nothing for 10 min (idle_seconds)"


# Addresses


def test_an_address_set_holds_networks_and_single_addresses() -> None:
    known = AddressSet(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])
    for address in ("10.1.2.3", "192.0.2.1", "2001:db8::7", "::ffff:10.1.2.3"):
        assert address in known
    for address in ("11.0.0.1", "192.0.2.2", "2001:db9::"):
        assert address not in known
    with pytest.raises(InputError, match="'/run/x' is no IP address"):
        assert "/run/x" in known


def test_connections_of_an_address_are_limited_and_its_neighbours_are_not() -> None:
    gate = Gate(settings_with(max_connections_per_address=2))
    assert [gate.admit(MINER, 0) for _ in range(2)] == [None, None]
    refused = gate.admit(MINER, 0)
    assert refused is not None
    assert "203.0.113.7 has as many connections as an address may have, 2" in refused
    assert "max_connections_per_address" in refused
    assert gate.admit(NEIGHBOUR, 0) is None
    gate.release(MINER)
    assert gate.admit(MINER, 0) is None
    assert gate.connections == 3


def test_ipv6_is_counted_by_its_64_bit_network_and_mapped_ipv4_as_ipv4() -> None:
    gate = Gate(settings_with(max_connections_per_address=1))
    assert gate.admit("2001:db8:0:1::1", 0) is None
    refused = gate.admit("2001:db8:0:1:ffff::2", 0)
    assert refused is not None
    assert refused.startswith("2001:db8:0:1::/64 has as many")
    assert gate.admit("2001:db8:0:2::1", 0) is None
    assert gate.admit(f"::ffff:{MINER}", 0) is None
    assert gate.admit(MINER, 0) is not None
    gate.release(MINER)
    assert gate.admit(f"::ffff:{MINER}", 0) is None


def test_all_connections_together_are_limited_even_exempt_ones() -> None:
    gate = Gate(settings_with(max_connections=2))
    assert gate.admit(MINER, 0) is None
    assert gate.admit("127.0.0.1", 0) is None
    assert gate.admit(NEIGHBOUR, 0) == "all 2 connections are taken (max_connections)"
    assert gate.admit("127.0.0.1", 0) is not None
    gate.release("127.0.0.1")
    assert gate.admit(NEIGHBOUR, 0) is None


def test_a_farm_may_come_back_at_once_but_not_again_and_again() -> None:
    gate = Gate(settings_with(openings_per_minute_per_address=60))
    for _ in range(60):
        assert gate.admit(MINER, 0) is None
        gate.release(MINER)
    refused = gate.admit(MINER, 0)
    assert refused is not None
    assert "connects more than 60 times a minute (openings_per_minute_per_address)" in refused
    assert gate.admit(MINER, SECOND) is None
    assert gate.admit(MINER, SECOND) is not None


def test_loopback_and_configured_networks_are_neither_counted_nor_banned() -> None:
    gate = Gate(settings_with(max_connections_per_address=1, exempt_networks=("10.0.0.0/8",)))
    for address in ("127.0.0.9", "::1", "10.9.8.7"):
        assert [gate.admit(address, 0) for _ in range(5)] == [None] * 5
        assert gate.strike(address, "noise", 0) == f"{address} is exempt from bans: noise"
        assert gate.admit(address, 0) is None
        gate.release(address)
    assert gate.connections == 15


def test_a_lone_offender_is_banned_until_its_ban_expires() -> None:
    gate = Gate(DEFAULTS)
    gate.admit(MINER, 0)
    assert gate.strike(MINER, "40 bad shares", 0) == "203.0.113.7 is banned for 5 min, ban 1 in a row: 40 bad shares"
    gate.release(MINER)
    assert gate.admit(MINER, MINUTE) == "203.0.113.7 is banned for another 4 min: 40 bad shares"
    assert gate.admit(MINER, 5 * MINUTE - 1) is not None
    assert gate.admit(MINER, 5 * MINUTE) is None


def test_bans_double_up_to_a_maximum_and_are_forgotten_after_good_behaviour() -> None:
    gate = Gate(settings_with(max_ban_seconds=1_000))
    now, lengths = 0, []
    for _ in range(4):
        gate.strike(MINER, "noise", now)
        before = now
        while gate.admit(MINER, now) is not None:
            now += 50 * SECOND
        gate.release(MINER)
        lengths.append((now - before) // SECOND)
    assert lengths == [300, 600, 1_000, 1_000]
    assert "ban 1 in a row" in gate.strike(MINER, "noise", now + DEFAULTS.ban_memory_seconds * SECOND)


def test_strikes_during_a_ban_do_not_lengthen_it() -> None:
    gate = Gate(DEFAULTS)
    gate.strike(MINER, "noise", 0)
    assert "is banned for another 4 min already" in gate.strike(MINER, "noise", MINUTE)
    assert gate.admit(MINER, 5 * MINUTE) is None


def test_a_farm_is_not_banned_for_one_broken_miner_in_it() -> None:
    gate = Gate(DEFAULTS)
    for _ in range(100):
        gate.admit(MINER, 0)
    for number in range(50):
        assert "is not banned" in gate.strike(MINER, "noise", number * SECOND)
        gate.release(MINER)
        gate.admit(MINER, number * SECOND)
    assert "not banned, strike 1 with 100 connections" in gate.strike(MINER, "noise", 11 * MINUTE)


def test_a_farm_that_mostly_misbehaves_is_banned() -> None:
    gate = Gate(DEFAULTS)
    for _ in range(10):
        gate.admit(MINER, 0)
    said = [gate.strike(MINER, "noise", 0) for _ in range(6)]
    assert "not banned, strike 5 with 10 connections" in said[4]
    assert "is banned for 5 min" in said[5]
    assert "not banned, strike 1 with 10 connections" in gate.strike(MINER, "noise", 5 * MINUTE)


def test_the_addresses_longest_unseen_are_forgotten_first() -> None:
    gate = Gate(settings_with(max_remembered_addresses=3))
    for last in range(3):
        gate.strike(f"198.51.100.{last}", "noise", 0)
    assert gate.admit("198.51.100.0", 0) is not None
    gate.strike("198.51.100.3", "noise", 0)
    assert [gate.admit(f"198.51.100.{last}", 0) is None for last in (0, 1)] == [False, True]


def test_what_is_no_address_is_refused_by_name() -> None:
    gate = Gate(DEFAULTS)
    for call in (gate.admit, lambda address, now: gate.strike(address, "noise", now)):
        with pytest.raises(InputError, match=r"'\?' is no IP address"):
            call("?", 0)


def test_a_release_without_an_admission_is_a_mistake_that_changes_nothing() -> None:
    gate = Gate(DEFAULTS)
    with pytest.raises(KeyError):
        gate.release(MINER)
    assert gate.connections == 0

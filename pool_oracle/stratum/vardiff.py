"""One connection's share target, steered so that its shares come at a wanted rate. Pure: the caller brings the time.

Shares come at random, as a Poisson process: a target that follows their number closely follows noise. So each
connection has two one-sided CUSUM tests, one for a rate that is too high and one for a rate that is too low, and its
target stays until one of them is sure. A CUSUM of Poisson arrivals is a leaky bucket, and a leaky bucket is a single
time: each share pushes it ahead by a constant, the clock runs after it, and the distance is the evidence.

    test    each share adds             and it is    sure when it is    it tells the wanted rate from
    ahead   ln r / (r - 1) intervals    >= now       far ahead of now   one that is r times higher
    heard   ln r / (1 - 1/r) intervals  <= now       far behind now     one that is r times lower

Sources: E. S. Page, Continuous inspection schemes (1954); J. M. Lucas, Counted data CUSUM's (1985); J. M. Lucas and
R. B. Crosier, Fast initial response for CUSUM quality-control schemes (1982), for the lead that a new target's tests
get, since it is likelier wrong than an old one.

A connection goes through four rules, so that a start that is 1,000 times off is put right in a minute:

    search    Nothing is known of the miner. After 17 shares or more, their rate sets the target: hold.
              Silence for three intervals: the share difficulty goes down 32-fold: descent.
    descent   Silence for another interval: down again. The first share allows a guess at the miner's rate: measure.
    measure   At up to 16 times the wanted rate, since information costs shares; again for 17 or more: hold.
    hold      Both tests with r = 2 and a likelihood ratio of e^10. What they estimate is drawn towards "right as it is"
              by a gamma prior.

Times are monotonic nanoseconds; a share weighs as much as its own target's work, in units of the target in force; all
are integers, and no float is used. Targets are in compact form, as the share log keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from pool_oracle.errors import ConfigError
from pool_oracle.work.targets import MAX_TARGET, check_target, nbits_to_target, target_to_nbits

SECOND = 10**9
MAX_SHARES_PER_MINUTE = 600

DESCENT_BITS = 5
"""Log2 of the step down while nothing has been heard of a new miner."""

MEASURE_RATE = 16
"""At how many times the wanted rate a miner is measured that a descent has found."""

SILENCE_BITS = 6
"""Log2 of how far silence alone lowers the share difficulty of a miner whose shares were seen: it has more likely
paused than shrunk, and when it comes back it should not flood the pool."""

RAISE_BITS = 12
"""Log2 of the largest step up."""

MAX_GAP = 16
"""Intervals: shares that come at once after a silence were perhaps held up by the network for so long."""

PRIOR = 2
"""How many shares the prior "right as it is" is worth."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """The constants of both tests, in nanoseconds: what a share adds, how far away is sure, and the lead.

    `max_gap`: how much of a silence before the first shares counts into the time that they took.
    """

    ahead: int
    ahead_limit: int
    ahead_lead: int
    heard: int
    heard_limit: int
    heard_lead: int
    max_gap: int


@dataclass(frozen=True, slots=True)
class VardiffSettings:
    """What all connections share.

    `floor_target`: the easiest target that the pool gives (that of the network's `min_share_difficulty`).
    `start_target`: for a miner of whom nothing is known. Both are rounded down to compact form. Raises TargetError, and
    ConfigError for a rate that is not above 0 and at most 600, or a start that is easier than the floor.
    """

    floor_target: int
    start_target: int
    shares_per_minute: Fraction | int = 8
    interval: int = field(init=False)
    """The mean time between shares at the wanted rate."""
    floor_bits: int = field(init=False)
    start_bits: int = field(init=False)
    search: _Rule = field(init=False, repr=False)
    descent: _Rule = field(init=False, repr=False)
    measure: _Rule = field(init=False, repr=False)
    hold: _Rule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out the constants."""
        if not 0 < self.shares_per_minute <= MAX_SHARES_PER_MINUTE:
            raise ConfigError(
                f"shares a minute must be above 0 and at most {MAX_SHARES_PER_MINUTE}, not {self.shares_per_minute}"
            )
        floor_bits, start_bits = target_to_nbits(self.floor_target), target_to_nbits(self.start_target)
        if start_bits > floor_bits:
            raise ConfigError(f"the start target {start_bits:08x} is easier than the floor {floor_bits:08x}")
        interval = int(60 * SECOND / Fraction(self.shares_per_minute))
        # The thousandths are the table's, for r = 4 (1848) and 2. At three intervals a share, the bucket of a search
        # fills at any rate above a third of the wanted one: with 17 shares at once, 25 at the wanted rate. The seconds
        # are there because a pool that wants few shares should not wait longer to see whether there are any.
        fast = interval * 3, interval * 49, 0
        heard = interval * 1848 // 1000
        first_wait = min(3 * interval, 20 * SECOND)
        values = {
            "interval": interval,
            "floor_bits": floor_bits,
            "start_bits": start_bits,
            "search": _Rule(*fast, heard, 5 * interval, 5 * interval - first_wait, 0),
            "descent": _Rule(interval, 0, 0, heard, min(interval, 8 * SECOND), 0, MAX_GAP * interval),
            "measure": _Rule(*fast, heard, interval * 3 // 2, 0, 0),
            "hold": _Rule(
                interval * 693 // 1000, 10 * interval, 5 * interval,
                interval * 1386 // 1000, 20 * interval, 10 * interval, MAX_GAP * interval,
            ),
        }  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)


class Vardiff:
    """The share target of one connection. Methods return whether they changed it.

    `bits` is the target of jobs from now on, in compact form; jobs that the miner has keep theirs. When a method
    returns True, the caller tells the miner and gives it a job at once; where that takes longer, it calls `restart`
    when the job is given. `is_below_floor` says that the evidence is that the miner does not reach the wanted rate at
    the pool's floor: it is too small for this pool, or does not mine at all.

    Invariant: the target is never easier than the floor and the miner's own minimum, and never harder than the
    network's; where the two exclude each other, the latter holds.
    """

    __slots__ = (
        "_ahead",
        "_ahead_base",
        "_ahead_since",
        "_easiest_bits",
        "_hardest_bits",
        "_heard",
        "_heard_base",
        "_heard_since",
        "_proven_bits",
        "_rule",
        "_settings",
        "bits",
        "is_below_floor",
    )

    def __init__(self, settings: VardiffSettings, network_target: int, now: int) -> None:
        """A miner that is about to get its first job. Raises TargetError."""
        self._settings = settings
        self._rule = settings.search
        self._easiest_bits = settings.floor_bits
        self._hardest_bits = _nbits_not_below(network_target)
        self._proven_bits = 0
        self.bits = self._bounded(settings.start_bits)
        self.is_below_floor = False
        self.restart(now)

    def restart(self, now: int) -> None:
        """Count from now: only now has the miner a job of the target in force."""
        rule = self._rule
        self._ahead_since = self._heard_since = now
        self._ahead = self._ahead_base = now + rule.ahead_lead
        self._heard = self._heard_base = now - rule.heard_lead

    # Evidence

    def on_share(self, now: int, bits: int) -> bool:
        """A share was accepted that was judged by the target of `bits`, now or before in force here."""
        rule = self._rule
        if bits == self.bits:
            ahead, heard = rule.ahead, rule.heard
        else:
            ahead, heard = self._weigh(bits)
        heard += self._heard
        if heard > now:
            self._heard_since = heard = now
            self._heard_base = now - rule.heard
        self._heard = heard
        before = self._ahead
        if before < now:
            # The silence since then counts as well: a burst is no higher rate if it only makes up for a gap.
            gap_limit = now - rule.max_gap
            self._ahead_since = before if before > gap_limit else gap_limit
            self._ahead_base = before = now
        self._ahead = ahead = before + ahead
        return ahead - now > rule.ahead_limit and self._on_fast(now)

    def on_idle(self, now: int) -> bool:
        """A sweep over all connections came by, as it does every few seconds."""
        return now - self._heard > self._rule.heard_limit and self._on_slow(now)

    def _weigh(self, bits: int) -> tuple[int, int]:
        """What a share of another target adds to the tests: in proportion to its work.

        Nothing to `ahead` until a share of the target in force shows that the miner works at it, and not more than one
        share after that: a single lucky one is not 32.
        """
        rule, target, own = self._rule, nbits_to_target(self.bits), nbits_to_target(bits)
        works_at_it = self._ahead > self._ahead_base
        return rule.ahead * min(target, own) // own if works_at_it else 0, rule.heard * target // own

    def _on_fast(self, now: int) -> bool:
        """Enough shares for an estimate, or for the certainty that they come too fast."""
        rule, settings = self._rule, self._settings
        interval = settings.interval
        target = nbits_to_target(self.bits)
        work = (self._ahead - self._ahead_base) * interval // rule.ahead  # intervals that the shares should have taken
        time = now - self._ahead_since
        if rule is settings.descent:
            self._rule = settings.measure
            return self._retarget(now, _measurable(target, time, interval))
        if rule is settings.hold:
            work, time = work + PRIOR * interval, time + PRIOR * interval
        else:
            self._rule = settings.hold
            work -= interval  # (n - 1) / t is the unbiased estimate of a rate
        return self._retarget(now, max(target * time // work, target >> RAISE_BITS, 1))

    def _on_slow(self, now: int) -> bool:
        """Too little was heard for too long."""
        rule, settings = self._rule, self._settings
        interval = settings.interval
        target = nbits_to_target(self.bits)
        work = (self._heard - self._heard_base) * interval // rule.heard
        time = now - self._heard_since
        is_silent = work == 0
        has_paused = is_silent and self._proven_bits != 0
        if rule is settings.hold:
            wanted = target * (time + PRIOR * interval) // (work + PRIOR * interval)
        elif is_silent:
            wanted = target << DESCENT_BITS
        else:
            wanted = _measurable(target, time, work)
        if has_paused:
            wanted = max(target, min(wanted, nbits_to_target(self._proven_bits) << SILENCE_BITS))
        if self.bits < self._easiest_bits:
            if rule is not settings.hold:
                self._rule = settings.descent if is_silent else settings.measure
        elif rule is not settings.hold:
            self._rule = settings.hold
        elif not has_paused and self._heard_base == self._heard_since - rule.heard_lead:
            self.is_below_floor = True  # since the restart it has never caught up: it has not merely stopped
        return self._retarget(now, wanted)

    def _retarget(self, now: int, target: int) -> bool:
        """Put `target` in force if it is another by a quarter or more. The evidence is used up in any case."""
        old = nbits_to_target(self.bits)
        if 4 * old < 5 * target and 4 * target < 5 * old:
            target = old
        return self._put(now, target_to_nbits(min(target, MAX_TARGET)))

    # Wishes and bounds

    def suggest(self, now: int, target: int) -> bool:
        """The miner names its start (mining.suggest_difficulty, password d=), until its first share. TargetError."""
        bits = target_to_nbits(target)
        if self._proven_bits or self._heard > self._heard_base:
            return False
        self._rule = self._settings.search
        return self._put(now, bits)

    def set_minimum(self, now: int, target: int) -> bool:
        """The miner wants no target that is easier than this (password md=). Raises TargetError."""
        self._easiest_bits = min(target_to_nbits(target), self._settings.floor_bits)
        return self._bounded(self.bits) != self.bits and self._put(now, self.bits)

    def set_network_target(self, now: int, target: int) -> bool:
        """Jobs from now on have this network target. Raises TargetError."""
        self._hardest_bits = _nbits_not_below(target)
        return self._bounded(self.bits) != self.bits and self._put(now, self.bits)

    def _bounded(self, bits: int) -> int:
        return max(min(bits, self._easiest_bits), self._hardest_bits)  # compact forms sort as their targets do

    def _put(self, now: int, bits: int) -> bool:
        if self._heard > self._heard_base:
            self._proven_bits = self.bits
        bits = self._bounded(bits)
        is_new = bits != self.bits
        self.bits = bits
        self.is_below_floor = self.is_below_floor and bits >= self._settings.floor_bits
        self.restart(now)
        return is_new


def _measurable(target: int, time: int, work: int) -> int:
    """The target at which a miner's shares come at `MEASURE_RATE`, if `work` took it `time`; not a harder one."""
    return max(target, min(target * time * MEASURE_RATE // work, target << DESCENT_BITS))


def _nbits_not_below(target: int) -> int:
    """The compact bits of `target`, rounded up; where none are above it, rounded down. Raises TargetError."""
    bits = target_to_nbits(check_target(target, "the network target"))
    rest = target - nbits_to_target(bits)
    if rest == 0:
        return bits
    return target_to_nbits(min(target - rest + (1 << 8 * ((bits >> 24) - 3)), MAX_TARGET))

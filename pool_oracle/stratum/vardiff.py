"""One connection's share target, steered so that its shares arrive at a wanted rate. Pure: the caller brings the time.

Shares arrive as a Poisson process, so their number says little for a long time and a target that follows it closely
only follows noise. Two one-sided CUSUM tests watch each connection: one for a rate that is too high, one for a rate
that is too low, and the target stays until one of them is sure. A CUSUM of Poisson arrivals is a leaky bucket, so each
is a single time: a share pushes it ahead by a constant, the clock runs after it, and the distance is the evidence.

    ahead:  a share adds ln(r)/(r-1) intervals; more than `patience_fast` ahead of now: faster than wanted, r = 2
    heard:  a share adds ln(r)/(1-1/r) intervals, up to now; more than `patience_slow` behind now: slower, r = 2 (4)

Sources: E. S. Page, Continuous inspection schemes (1954); J. M. Lucas, Counted data CUSUM's (1985).

A connection is first searched for: nothing is known of the miner, so silence soon lowers its share difficulty 16-fold
(shares that come too fast for a moment are what measures it), until about 14 shares give an estimate. From then on it
is held: changes need evidence that chance gives about once in several hours, and an estimate is drawn towards "as it
is" by a gamma prior, which is worth two shares.

Times are monotonic nanoseconds. A share weighs what its own target's work is to the work of the target in force; both
are integers, and no float is used. Targets in force are in compact form, in which the share log keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from pool_oracle.errors import ConfigError
from pool_oracle.work.targets import MAX_TARGET, check_target, nbits_to_target, target_to_nbits

SECOND = 10**9
MAX_SHARES_PER_MINUTE = 600

DESCENT_BITS = 4
"""Log2 of the step down, while nothing was heard of a new miner."""

PROBE = 8
SILENCE_BITS = 6
"""Log2 of how far mere silence lowers the share difficulty of a miner whose shares were seen: it has more likely paused
than shrunk, and comes back."""

RAISE_BITS = 12
"""Log2 of the largest step up."""

MAX_GAP = 8
"""Intervals. Shares that come at once after a silence were perhaps held up by the network for so long."""

PRIOR = 2
"""Shares that the prior "the target is right" is worth."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """How the two tests weigh a share, and when they are sure; nanoseconds."""

    ahead: int
    patience_fast: int
    lead_fast: int
    heard: int
    patience_slow: int
    lead_slow: int
    max_gap: int


@dataclass(frozen=True, slots=True)
class VardiffSettings:
    """What all connections share. Raises ConfigError for a rate or a start that makes no sense, and TargetError.

    `floor_target`: the easiest target that the pool gives (of the network's `min_share_difficulty`). `start_target`:
    what a miner gets of whom nothing is known. Both are rounded down to compact form.
    """

    floor_target: int
    start_target: int
    shares_per_minute: Fraction | int = 8
    interval: int = field(init=False)
    """Nanoseconds between two shares, on average."""
    floor_bits: int = field(init=False)
    start_bits: int = field(init=False)
    search: _Rule = field(init=False, repr=False)
    descent: _Rule = field(init=False, repr=False)
    measure: _Rule = field(init=False, repr=False)
    hold: _Rule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out the constants of the tests."""
        if not 0 < self.shares_per_minute <= MAX_SHARES_PER_MINUTE:
            raise ConfigError(f"shares a minute must be above 0 and at most 600, not {self.shares_per_minute}")
        floor_bits, start_bits = target_to_nbits(self.floor_target), target_to_nbits(self.start_target)
        if start_bits > floor_bits:
            raise ConfigError(f"start target {start_bits:08x} is easier than the floor, {floor_bits:08x}")
        interval = int(60 * SECOND / Fraction(self.shares_per_minute))

        def rule(*mills: int) -> _Rule:
            return _Rule(*(interval * mill // 1000 for mill in mills))

        values = {
            "interval": interval,
            "floor_bits": floor_bits,
            "start_bits": start_bits,
            # A search ends with the estimate: the bucket fills at any rate above half of the wanted one.
            "search": rule(2000, 28_000, 0, 1848, 6000, 3000, 8000),
            "descent": rule(2000, 28_000, 0, 1848, 6000, 4750, 8000),
            "measure": rule(2000, 28_000, 0, 1848, 3000, 0, 8000),
            "hold": rule(693, 10_000, 5_000, 1386, 20_000, 10_000, 8000),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


class Vardiff:
    """The share target of one connection. Methods that may change it return whether they did.

    `bits` is the target for new jobs. A caller whose call returned True tells the miner and gives it a job at once;
    where that takes longer, it calls `restart` when the job is given. Shares of earlier jobs keep their target.

    Invariant: the target is never harder than the network's, and never easier than the floor and the miner's own
    minimum, unless the network's is.
    """

    __slots__ = (
        "_ahead",
        "_ahead_base",
        "_ahead_since",
        "_heard",
        "_heard_base",
        "_heard_since",
        "_is_silent",
        "_minimum_bits",
        "_network_bits",
        "_proven_bits",
        "_rule",
        "_settings",
        "bits",
        "is_below_floor",
    )

    def __init__(self, settings: VardiffSettings, network_target: int, now: int) -> None:
        """A miner that gets its first job now. Raises TargetError."""
        self._settings = settings
        self._rule = settings.search
        self._minimum_bits = settings.floor_bits
        self._network_bits = _nbits_not_below(network_target)
        self._proven_bits = 0
        self.bits = self._bounded(settings.start_bits)
        self.is_below_floor = False
        """Whether the evidence is that this miner does not reach the wanted rate even at the pool's floor."""
        self.restart(now)

    def restart(self, now: int) -> None:
        """What was counted so far says nothing about the target in force: the miner has it only from now on."""
        rule = self._rule
        self._is_silent = True
        self._ahead_since = self._heard_since = now
        self._ahead = self._ahead_base = now + rule.lead_fast
        self._heard = self._heard_base = now - rule.lead_slow

    # Evidence

    def on_share(self, now: int, bits: int) -> bool:
        """A share was accepted that was judged by the target `bits`."""
        rule = self._rule
        if bits == self.bits:
            ahead, heard = rule.ahead, rule.heard
        else:
            ahead, heard = self._weigh(rule, bits)
        self._is_silent = False
        heard += self._heard
        if heard >= now:
            self._heard_since = self._heard_base = heard = now
        self._heard = heard
        level = self._ahead
        if level < now:
            self._ahead_since = max(level, now - rule.max_gap)
            self._ahead_base = level = now
        self._ahead = level = level + ahead
        return level - now > rule.patience_fast and self._raise(now)

    def on_idle(self, now: int) -> bool:
        """A sweep came by; every few seconds, whether or not there were shares."""
        return now - self._heard > self._rule.patience_slow and self._lower(now)

    def _weigh(self, rule: _Rule, bits: int) -> tuple[int, int]:
        """What a share of an earlier, or later, target adds to the tests: in proportion to its work.

        As evidence for a higher rate it counts once at the most: a single lucky share is not sixteen.
        """
        target, share_target = nbits_to_target(self.bits), nbits_to_target(bits)
        heard = rule.heard * target // share_target
        return rule.ahead * min(target, share_target) // share_target, heard

    def _raise(self, now: int) -> bool:
        """Shares come too fast, or a search has seen enough of them."""
        rule, settings = self._rule, self._settings
        interval = settings.interval
        work = (self._ahead - self._ahead_base) * interval // rule.ahead
        time = now - self._ahead_since
        target = nbits_to_target(self.bits)
        if rule is settings.descent:
            self._rule = settings.measure
            return self._retarget(now, self._probe(target, time, interval))
        if rule is settings.hold:
            work += PRIOR * interval
            time += PRIOR * interval
        else:
            self._rule = settings.hold
            work -= interval  # (n - 1) / t is the unbiased estimate of a rate
        return self._retarget(now, max(target * time // work, target >> RAISE_BITS, 1))

    def _probe(self, target: int, time: int, work: int) -> int:
        return max(min(target * PROBE * time // work, target << DESCENT_BITS), target)

    def _lower(self, now: int) -> bool:
        """Shares come too slowly, or not at all."""
        rule, settings = self._rule, self._settings
        interval = settings.interval
        target = nbits_to_target(self.bits)
        is_paused = self._is_silent and self._proven_bits > 0
        work = (self._heard - self._heard_base) * interval // rule.heard
        time = now - self._heard_since
        if rule is settings.hold:
            wanted = target * (time + PRIOR * interval) // (work + PRIOR * interval)
        elif self._is_silent:
            wanted = target << DESCENT_BITS
        else:
            wanted = self._probe(target, time, work + interval)
        if is_paused:
            wanted = max(min(wanted, nbits_to_target(self._proven_bits) << SILENCE_BITS), target)
        at_floor = self.bits >= self._minimum_bits
        if rule is settings.hold:
            if at_floor and not is_paused and self.bits >= settings.floor_bits:
                self.is_below_floor = True
        elif at_floor:
            self._rule = settings.hold
        else:
            self._rule = settings.descent if self._is_silent else settings.measure
        return self._retarget(now, wanted)

    def _retarget(self, now: int, target: int) -> bool:
        """Put `target` in force where it is different enough; what was counted is used up either way."""
        old = nbits_to_target(self.bits)
        if not self._is_silent:
            self._proven_bits = self.bits
        if 4 * old < 5 * target and 4 * target < 5 * old:
            target = old
        if target < old:
            self.is_below_floor = False
        return self._put(now, target_to_nbits(min(target, MAX_TARGET)))

    # Bounds and wishes

    def suggest(self, now: int, target: int) -> bool:
        """The miner says where to start (mining.suggest_difficulty, password d=). Once it was measured, that counts."""
        bits = target_to_nbits(target)
        if self._rule is self._settings.hold:
            return False
        self._rule = self._settings.search
        return self._put(now, bits)

    def set_minimum(self, now: int, target: int) -> bool:
        """The miner wants no easier target than this (password md=)."""
        self._minimum_bits = min(target_to_nbits(target), self._settings.floor_bits)
        bits = self._bounded(self.bits)
        return bits != self.bits and self._put(now, bits)

    def set_network_target(self, now: int, target: int) -> bool:
        """New jobs have this network target; no share target is harder."""
        self._network_bits = _nbits_not_below(target)
        bits = self._bounded(self.bits)
        return bits != self.bits and self._put(now, bits)

    def _bounded(self, bits: int) -> int:
        # Compact forms are in the order of their targets.
        return max(min(bits, self._minimum_bits), self._network_bits)

    def _put(self, now: int, bits: int) -> bool:
        bits = self._bounded(bits)
        changed = bits != self.bits
        self.bits = bits
        self.restart(now)
        return changed


def _nbits_not_below(target: int) -> int:
    """The compact bits of `target`, rounded up; of the easiest target that has any, where there is none above."""
    bits = target_to_nbits(check_target(target, "the network target"))
    rest = target - nbits_to_target(bits)
    if rest == 0:
        return bits
    unit = 1 << 8 * ((bits >> 24) - 3)
    return target_to_nbits(min(target - rest + unit, MAX_TARGET))

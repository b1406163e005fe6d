"""What one connection, one address and all of them together may cost the pool, and why one was sent away.

Pure: the caller says what time it is, in nanoseconds of a clock that never goes back (`time.monotonic_ns`). Nothing
here grows with what a miner sends: a budget is one integer, a meter a fixed ring, and the gate remembers a bounded
number of addresses. Every refusal is a text for a log line that an operator can act on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from pool_oracle.errors import ConfigError, InputError

SECOND = 1_000_000_000
"""Nanoseconds."""

MIN_SHARE_WINDOW = 50
MAX_SHARE_WINDOW = 10_000

COST_OF_MALFORMED = 50
"""A line that is no request: parsing, an answer and a log line, for nothing."""
COST_OF_OTHER = 5
"""Any method without a cost of its own, known or not."""
COSTS = {"mining.submit": 1, "mining.subscribe": 10, "mining.authorize": 20}
"""What requests cost the pool, in units of judging one share: a payee is decoded, a session is set up."""
_BYTES_PER_COST = 1024

_STALE = 21
_WEIGHT_OF_STALE = 1
_WEIGHT_OF_REFUSED = 4


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """All limits of the stratum server. Raises ConfigError for a number that cannot work, naming it."""

    max_line_bytes: int = 16_384
    """The longest request, without its line end. The longest that miners send is below 1 KiB."""
    max_write_buffer_bytes: int = 128 * 1024
    """Unsent bytes at which a slow reader is cut off: tens of jobs, so it works on stale ones; 2 GiB in the worst
    case of all connections."""
    max_connections: int = 16_384
    """Of all addresses together: one file descriptor each."""
    max_connections_per_address: int = 1_024
    """One address may be a whole farm behind one router; 16 of them fill the pool, so a farm above it is exempted."""
    openings_per_minute_per_address: int = 1_024
    """New connections, with as many at once: a farm may come back whole after a restart, not every second."""
    max_workers_per_connection: int = 16_384
    """User names authorized on one connection. Rental proxies hold thousands."""
    max_malformed_lines: int = 5
    """Lines that are no stratum, after which the connection is closed. Web scanners send a few."""
    cost_per_second: int = 1_000
    """What a connection may spend (`COSTS`). A miner needs less than 1; 5,000 workers of a proxy sign in in 80 s."""
    cost_burst: int = 20_000
    """What it may spend at once after it was quiet: 1,000 workers, or 20,000 shares."""
    tls_handshake_seconds: int = 10
    """For a TLS handshake: a few round trips on a bad line."""
    proxy_header_seconds: int = 5
    """For a PROXY header, which comes first of all; proxy-protocol.txt asks for 3 or more, one TCP retransmission."""
    handshake_seconds: int = 30
    """From the connection to the first authorized worker: half-open connections end here."""
    idle_seconds: int = 600
    """Without a whole line from the miner. Vardiff asks for a share far more often than that."""
    share_window: int = MIN_SHARE_WINDOW
    """Shares over which refused ones are counted. Below 50, chance would ban."""
    share_patience_seconds: int = 10
    """How long most must have been refused. A rental order that moves sends hundreds of old shares in a second."""
    ban_seconds: int = 300
    """The first ban of an address; each further one lasts twice as long. A miner that was mended is back soon."""
    max_ban_seconds: int = 86_400
    """The longest ban: addresses get new owners."""
    ban_memory_seconds: int = 86_400
    """How long after a ban the next one still counts as a repetition."""
    strike_memory_seconds: int = 600
    """How long strikes of an address add up. See `Gate.strike`."""
    max_remembered_addresses: int = 32_768
    """Addresses without a connection whose bans and openings are remembered: about 600 bytes each, 20 MB."""
    exempt_networks: tuple[str, ...] = ()
    """Networks that are neither counted by address nor banned, as loopback always is: proxies, the operator's farm."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not 0 < value <= SECOND:
                raise ConfigError(f"{field.name} must be 1 to {SECOND}, not {value}")
        if not MIN_SHARE_WINDOW <= self.share_window <= MAX_SHARE_WINDOW:
            raise ConfigError(f"share_window must be {MIN_SHARE_WINDOW} to {MAX_SHARE_WINDOW}, not {self.share_window}")
        if self.max_ban_seconds < self.ban_seconds:
            raise ConfigError(f"max_ban_seconds is {self.max_ban_seconds}, below ban_seconds, {self.ban_seconds}")
        AddressSet(self.exempt_networks)


def cost_of(method: str, line_bytes: int) -> int:
    """What a request costs: by its method, and one more for each KiB of its line."""
    return COSTS.get(method, COST_OF_OTHER) + line_bytes // _BYTES_PER_COST


class Bucket:
    """A rate with a burst, as one instant: the time until which everything spent is paid for.

    Exact in integers. Source: the virtual scheduling form of ITU-T I.371's generic cell rate algorithm.
    """

    __slots__ = ("_burst_ns", "_paid_until", "_unit_ns")

    def __init__(self, unit_ns: int, burst: int, now: int) -> None:
        """Full: `burst` units may be spent at once, and one comes back every `unit_ns` nanoseconds."""
        self._unit_ns = unit_ns
        self._burst_ns = unit_ns * burst
        self._paid_until = now - self._burst_ns

    def spend(self, cost: int, now: int) -> int:
        """Spend `cost` units; returns how many nanoseconds to wait before spending again, 0 for none.

        What was spent is never refused, so a bucket owes at most the last cost: who waits as told loses nothing.
        """
        full = now - self._burst_ns
        paid = (self._paid_until if self._paid_until > full else full) + cost * self._unit_ns
        self._paid_until = paid
        return paid - now if paid > now else 0

    def left(self, now: int) -> int:
        """How many units can be spent before it owes anything."""
        full = now - self._burst_ns
        paid = self._paid_until if self._paid_until > full else full
        return (now - paid) // self._unit_ns if paid < now else 0

    def wait_ns(self, now: int) -> int:
        """The nanoseconds until nothing is owed."""
        return max(0, self._paid_until - now)


class Budget(Bucket):
    """What a connection may spend on requests. Who overdraws it is read later, not sent away."""

    __slots__ = ()

    def __init__(self, settings: LimitSettings, now: int) -> None:
        """A connection's budget at its opening: full."""
        super().__init__(SECOND // settings.cost_per_second, settings.cost_burst, now)


class InvalidShares:
    """Tells a flood of invalid shares on one connection from a miner on a bad line.

    Of the last `share_window` shares, each stale one (21, also a job of an earlier connection) counts a quarter of a
    refused one: a line so slow that every share is late makes 25 %. Above 50 %, for `share_patience_seconds`, it is a
    flood. Per connection, so that one broken worker behind a proxy does not end the others.
    """

    __slots__ = ("_limit", "_next", "_patience_ns", "_ring", "_since", "_sum", "_to_fill")

    def __init__(self, settings: LimitSettings) -> None:
        """A connection that has sent no share."""
        self._ring = bytearray(settings.share_window)
        self._limit = settings.share_window * _WEIGHT_OF_REFUSED // 2
        self._patience_ns = settings.share_patience_seconds * SECOND
        self._to_fill = settings.share_window
        self._next = 0
        self._sum = 0
        self._since: int | None = None

    def add(self, code: int | None, now: int) -> str | None:
        """Count a share: `code` is the stratum code that it was refused with, None if it was accepted.

        Returns None, or why the connection should be closed and the gate told (`Gate.strike`).
        """
        weight = 0 if code is None else _WEIGHT_OF_STALE if code == _STALE else _WEIGHT_OF_REFUSED
        place = self._next
        self._sum += weight - self._ring[place]
        self._ring[place] = weight
        self._next = place + 1 if place + 1 < len(self._ring) else 0
        if self._to_fill:
            self._to_fill -= 1
        if self._sum <= self._limit or self._to_fill:
            self._since = None
            return None
        if self._since is None:
            self._since = now
        if now - self._since < self._patience_ns:
            return None
        return self._complaint(now - self._since)

    def _complaint(self, lasting: int) -> str:
        size = len(self._ring)
        stale = self._ring.count(_WEIGHT_OF_STALE)
        refused = size - self._ring.count(0)
        return f"{refused} of the last {size} shares were refused, {stale} of them stale, and so for {_span(lasting)}"


def why_overdue(settings: LimitSettings, *, opened: int, last_line: int, is_authorized: bool, now: int) -> str | None:
    """Why a connection has waited long enough, or None: `opened` and `last_line` are when it began and last spoke."""
    if not is_authorized and now - opened >= settings.handshake_seconds * SECOND:
        return f"no worker was authorized within {settings.handshake_seconds} s (handshake_seconds)"
    if now - last_line >= settings.idle_seconds * SECOND:
        return f"the miner has said nothing for {_span(now - last_line)} (idle_seconds)"
    return None


class AddressSet:
    """Networks, to look addresses up in."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        """Networks such as 10.0.0.0/8, 2001:db8::/32 or single addresses. Raises ConfigError naming a wrong one."""
        self._networks = []
        for text in networks:
            try:
                self._networks.append(ip_network(text))
            except ValueError as error:
                raise ConfigError(f"{text!r} is no network such as 10.0.0.0/8 or 2001:db8::/32: {error}") from None

    def __contains__(self, address: str) -> bool:
        """Whether one of the networks holds it. Raises InputError for a text that is no address."""
        return self.holds(_parse(address))

    def holds(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether one of the networks holds it."""
        return any(address in network for network in self._networks)


class _Visitor:
    """What is known of an address: connections open now, its rate of openings, strikes and bans."""

    __slots__ = ("banned_until", "bans", "open", "openings", "strikes", "strikes_since", "why")

    def __init__(self, settings: LimitSettings, now: int) -> None:
        rate = settings.openings_per_minute_per_address
        self.openings = Bucket(60 * SECOND // rate, rate - 1, now)  # a bucket that owes nothing lets one more through
        self.open = 0
        self.strikes = 0
        self.strikes_since = now
        self.bans = 0
        self.banned_until = 0
        self.why = ""


class Gate:
    """Who may connect: by address, an IPv6 one by its /64, an IPv4 one written as IPv6 by itself.

    Behind a proxy, ask with the address that its PROXY header names, not with the proxy's. Addresses with a connection
    are at most `max_connections`; of the others, those longest unseen are forgotten first.
    """

    def __init__(self, settings: LimitSettings) -> None:
        """An empty pool."""
        self._settings = settings
        self._exempt = AddressSet(settings.exempt_networks)
        self._present: dict[str, _Visitor] = {}
        self._past: OrderedDict[str, _Visitor] = OrderedDict()
        self.connections = 0

    def admit(self, address: str, now: int) -> str | None:
        """Count a new connection and return None, or why it must be closed at once.

        Whoever was admitted is released in the end. Raises InputError for a text that is no address.
        """
        settings = self._settings
        origin, is_exempt = self._origin(address)
        refusal = None
        visitor = None
        if not is_exempt:
            visitor = self._visitor(origin, now)
            refusal = self._objection(origin, visitor, now)
        if refusal is None and self.connections >= settings.max_connections:
            refusal = f"all {settings.max_connections} connections are taken (max_connections)"
        if refusal is not None:
            return refusal
        self.connections += 1
        if visitor is not None:
            visitor.openings.spend(1, now)
            visitor.open += 1
            self._past.pop(origin, None)
            self._present[origin] = visitor
        return None

    def release(self, address: str) -> None:
        """A connection that was admitted has ended."""
        origin, is_exempt = self._origin(address)
        if not is_exempt:
            visitor = self._present[origin]
            visitor.open -= 1
            if not visitor.open:
                del self._present[origin]
                self._remember(origin, visitor)
        self.connections -= 1

    def strike(self, address: str, why: str, now: int) -> str:
        """A connection is being closed for misbehaviour; returns what that means for its address, for the log.

        Call it before `release`. An address is banned once the strikes of the last `strike_memory_seconds` are more
        than half of its connections: a lone offender at once, a farm behind one router only if most of it offends.
        Connections that are open stay; they have meters of their own.
        """
        settings = self._settings
        origin, is_exempt = self._origin(address)
        if is_exempt:
            return f"{origin} is exempt from bans: {why}"
        visitor = self._visitor(origin, now)
        if now < visitor.banned_until:
            return f"{origin} is banned for another {_span(visitor.banned_until - now)} already: {why}"
        if now - visitor.strikes_since >= settings.strike_memory_seconds * SECOND:
            visitor.strikes, visitor.strikes_since = 0, now
        visitor.strikes += 1
        if 2 * visitor.strikes <= visitor.open:
            return f"{origin} is not banned, strike {visitor.strikes} with {visitor.open} connections: {why}"
        if now - visitor.banned_until >= settings.ban_memory_seconds * SECOND:
            visitor.bans = 0
        seconds = min(settings.ban_seconds << min(visitor.bans, 32), settings.max_ban_seconds)
        visitor.bans += 1
        visitor.strikes = 0
        visitor.banned_until = now + seconds * SECOND
        visitor.why = why
        return f"{origin} is banned for {_span(seconds * SECOND)}, ban {visitor.bans} in a row: {why}"

    def _objection(self, origin: str, visitor: _Visitor, now: int) -> str | None:
        settings = self._settings
        if now < visitor.banned_until:
            return f"{origin} is banned for another {_span(visitor.banned_until - now)}: {visitor.why}"
        if visitor.open >= settings.max_connections_per_address:
            return (
                f"{origin} has as many connections as an address may have, {visitor.open} "
                "(max_connections_per_address; a farm may be named in exempt_networks)"
            )
        if visitor.openings.wait_ns(now):
            return (
                f"{origin} connects more than {settings.openings_per_minute_per_address} times a minute "
                "(openings_per_minute_per_address)"
            )
        return None

    def _origin(self, address: str) -> tuple[str, bool]:
        """Under which name an address is counted, and whether it is exempt."""
        ip = _parse(address)
        if ip.is_loopback or self._exempt.holds(ip):
            return str(ip), True
        if isinstance(ip, IPv6Address):
            return str(IPv6Network((int(ip) >> 64 << 64, 64))), False
        return str(ip), False

    def _visitor(self, origin: str, now: int) -> _Visitor:
        visitor = self._present.get(origin)
        if visitor is None:
            visitor = self._past.get(origin) or _Visitor(self._settings, now)
            self._remember(origin, visitor)
        return visitor

    def _remember(self, origin: str, visitor: _Visitor) -> None:
        self._past[origin] = visitor
        self._past.move_to_end(origin)
        if len(self._past) > self._settings.max_remembered_addresses:
            self._past.popitem(last=False)


def _parse(address: str) -> IPv4Address | IPv6Address:
    """The address; the IPv4 one of an IPv4-mapped IPv6 one, which dual-stack sockets report (RFC 4291, 2.5.5.2)."""
    try:
        ip = ip_address(address)
    except ValueError:
        raise InputError(f"{address!r} is no IP address") from None
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def _span(nanoseconds: int) -> str:
    """A duration for people, rounded up: 45 s, 5 min, 3 h."""
    seconds = -(-nanoseconds // SECOND)
    if seconds < 120:
        return f"{seconds} s"
    return f"{-(-seconds // 60)} min" if seconds < 7200 else f"{-(-seconds // 3600)} h"

"""What an account wants to have done on the chain, and how far each of it is: the outbox's memory, from its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pool_oracle.chain.calls import Request
from pool_oracle.chain.fees import Fees
from pool_oracle.chain.journal import Attempt, Begun, Dropped, Entry, Final, Mined, Void

MINED, FAILED, ELSEWHERE, WITHDRAWN = "mined", "failed", "elsewhere", "withdrawn"
"""How an intent ends: by depth, by a revert, by somebody else, or because its caller wants it no more."""

FILLER_PREFIX = "fill:"
_KEPT_NONCES = 100
"""So far below the newest nonce it is remembered what was offered."""


@dataclass(slots=True, eq=False)
class Intent:
    """A request under a key, its attempts that may still be mined, and where one was."""

    key: str
    request: Request
    asks: bool = False
    is_written: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    mined: Mined | None = None
    outcome: str | None = None

    question: Callable[[], bool] | None = None
    """Whether it is done already; known only while its caller runs."""
    is_wanted: bool = False
    """Whether somebody has asked for it since the program started."""
    seen_at: str = ""
    """The head at which `mined` was confirmed last."""
    used_at: tuple[str, float] | None = None
    """The head and the monotonic time at which its nonce was first found used without a receipt of ours."""
    waits_since: int | None = None
    """The block since which it waits, as far as this program has seen it wait."""
    refusals: int = 0
    """How often in a row its attempts were refused: each asks for more."""
    offered_at: tuple[str, float] = ("", 0.0)
    """The same of the last time it was handed to the nodes."""

    @property
    def is_filler(self) -> bool:
        """Whether it only uses up a nonce that stands before a transaction of ours."""
        return self.key.startswith(FILLER_PREFIX)

    @property
    def may_send(self) -> bool:
        """Whether it can be sent without its caller: not where the caller alone knows if it is done already."""
        return self.is_wanted or (not self.asks and bool(self.attempts))

    @property
    def newest(self) -> Attempt:
        """The attempt that was signed last."""
        return self.attempts[-1]


class Intents:
    """All intents by their keys, and those that are not final, in the order in which they began."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """`entries` are a journal's."""
        self._by_key: dict[str, Intent] = {}
        self._open: list[Intent] = []
        self._offers: dict[int, Fees] = {}
        self.count = 0
        self.last_final: tuple[int, Mined] | None = None
        """The nonce and the block of the final transaction with the highest nonce."""
        for entry in entries:
            self.apply(entry)

    def __iter__(self) -> Iterator[Intent]:
        """Those that are not final, oldest first."""
        return iter(list(self._open))

    def get(self, key: str) -> Intent | None:
        """The latest intent of a key."""
        return self._by_key.get(key)

    def new(self, key: str, request: Request, *, asks: bool) -> Intent:
        """An intent that is not written down yet; it takes over the attempts of an equal one that ended."""
        intent = Intent(key, request, asks)
        before = self._by_key.get(key)
        if before is not None and before.request == request and before.outcome != FAILED:
            intent.attempts = list(before.attempts)
        return intent

    def add(self, intent: Intent) -> None:
        """Take in an intent that was just written down."""
        self._by_key[intent.key] = intent
        self._open.append(intent)
        intent.is_written = True
        self.count += 1

    def apply(self, entry: Entry) -> None:
        """What an entry of the journal says, a Begun of an intent that was `add`ed excepted."""
        if isinstance(entry, Begun):
            request = Request(entry.what, entry.to, entry.data, int(entry.value))
            self.add(self.new(entry.key, request, asks=entry.asks))
        elif isinstance(entry, Attempt):
            self._by_key[entry.key].attempts.append(entry)
            self._remember_offer(entry)
        elif isinstance(entry, Mined):
            self._by_key[entry.key].mined = entry
        elif isinstance(entry, Dropped):
            self._by_key[entry.key].mined = None
        elif isinstance(entry, Void):
            intent = self._by_key[entry.key]
            intent.attempts = [attempt for attempt in intent.attempts if attempt.nonce != entry.nonce]
        elif isinstance(entry, Final):
            self._end(self._by_key[entry.key], entry.outcome)

    def _end(self, intent: Intent, outcome: str) -> None:
        intent.outcome = outcome
        if intent in self._open:
            self._open.remove(intent)
        nonce = self._mined_nonce(intent)
        if nonce is not None and intent.mined and (self.last_final is None or nonce > self.last_final[0]):
            self.last_final = (nonce, intent.mined)

    def _mined_nonce(self, intent: Intent) -> int | None:
        mined = intent.mined
        return next((a.nonce for a in intent.attempts if mined is not None and a.hash == mined.hash), None)

    def next_nonce(self) -> int | None:
        """One above the highest nonce that a mined transaction of ours used; None where there is none."""
        used = [nonce for nonce in map(self._mined_nonce, self._open) if nonce is not None]
        if self.last_final is not None:
            used.append(self.last_final[0])
        return max(used) + 1 if used else None

    def _remember_offer(self, attempt: Attempt) -> None:
        fees, before = Fees(attempt.max_fee, attempt.tip), self._offers.get(attempt.nonce)
        if before is None or (fees.max_fee, fees.tip or 0) > (before.max_fee, before.tip or 0):
            self._offers[attempt.nonce] = fees
        for nonce in [nonce for nonce in self._offers if nonce < attempt.nonce - _KEPT_NONCES]:
            del self._offers[nonce]

    def offered(self, nonce: int) -> Fees | None:
        """The most that any transaction of ours with this nonce has offered: another has to outbid it."""
        return self._offers.get(nonce)

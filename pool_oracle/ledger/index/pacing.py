"""Taking turns: whoever reads a long log beside other work lets it go first, and can be told to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

EVENTS_A_TURN = 500
"""How many events are read in one turn: a few milliseconds."""

Pause = Callable[[], None]
"""Called between turns; what it raises ends the reading."""

T = TypeVar("T")


def in_turns(events: Iterable[T], pause: Pause | None) -> Iterator[T]:
    """The same events, with a pause between turns."""
    if pause is None:
        yield from events
        return
    for count, event in enumerate(events, 1):
        yield event
        if count % EVENTS_A_TURN == 0:
            pause()

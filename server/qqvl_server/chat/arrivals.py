"""Which of the messages that wait in a chat's lane become one turn, and when; what ends a turn early. Pure.

People say one thing in several messages: a picture and then its question, "@bot" and then what for, three mentions in
a second. All that waits shares one turn. What is only a picture, or only a call, is *unfinished* and waits for its
speaker's next; anything else waits a moment for company. A message of the bare interface, or a command, is a turn of
its own. Order is kept, but for an unfinished message, which others may pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Whoever talks without a pause is answered in the end.
MOST_RESTARTS: Final = 3
_COMPANY_S: Final = 0.4


class Interruption(StrEnum):
    """What ends a turn before its answer is whole."""

    FOLLOW_UP = "follow_up"
    STOP = "stop"
    RECALL = "recall"
    NEWER_TALK = "newer_talk"


@dataclass(frozen=True, slots=True)
class Line:
    """A message that waits, as far as this goes. ``came_at`` is in seconds of a clock that never goes back.

    ``joins``: may share a turn. ``asks``: to be answered as it seems now. ``unfinished``: only a picture, or only a
    call. ``to_other``: plainly said to somebody else.
    """

    speaker: str
    came_at: float
    joins: bool = True
    asks: bool = True
    unfinished: bool = False
    to_other: bool = False


def next_turn(lines: Sequence[Line], now: float, wait_s: float) -> tuple[int, ...] | float:
    """Places of the lines whose turn it is, in order, or the instant before which it is nobody's.

    ``lines`` is not empty; the oldest is first. ``wait_s`` is how long an unfinished one waits.
    """
    asking = groups(lines, wait_s)
    ready = {place: at for group in asking for at in [_ready_at(lines, group, wait_s)] for place in group}
    passed = {
        place for group in asking if all(lines[p].unfinished for p in group) for place in group if ready[place] > now
    }
    rest = [place for place in range(len(lines)) if place not in passed]
    if not rest:
        return min(ready.values())
    if not lines[rest[0]].joins:
        return (rest[0],)
    run = list(itertools.takewhile(lambda place: lines[place].joins, rest))
    if run[0] not in ready:
        return tuple(itertools.takewhile(lambda place: place not in ready, run))
    begins = min(ready[place] for place in run if place in ready)
    if begins > now:
        return min([begins, *(ready[place] for place in passed)])
    last = max(place for place in run if place in ready)
    return tuple(place for place in run if place <= last)


def groups(lines: Sequence[Line], wait_s: float) -> list[list[int]]:
    """Places of what each speaker asks: the lines that do, and those that follow one up within ``wait_s``."""
    found: dict[str, list[int]] = {}
    for place, line in enumerate(lines):
        if line.joins and (line.asks or _follows(lines, found.get(line.speaker), line, wait_s)):
            found.setdefault(line.speaker, []).append(place)
    return list(found.values())


def _follows(lines: Sequence[Line], group: list[int] | None, line: Line, wait_s: float) -> bool:
    return group is not None and not line.to_other and line.came_at - lines[group[-1]].came_at <= wait_s


def _ready_at(lines: Sequence[Line], group: list[int], wait_s: float) -> float:
    finished = [lines[place].came_at for place in group if not lines[place].unfinished]
    if finished:
        return finished[0] + min(_COMPANY_S, wait_s)
    speaker, last = lines[group[-1]].speaker, group[-1]
    later = [line.came_at for line in lines[last + 1 :] if line.speaker == speaker]
    if later:
        # He went on to something else.
        return later[0]
    return min(lines[last].came_at + wait_s, lines[group[0]].came_at + 2 * wait_s)


def interrupts(running: Sequence[Line], restarts: int, waiting: Sequence[Line], wait_s: float) -> bool:
    """Whether the last of ``waiting`` ends the turn of the ``running`` lines, to be answered with them."""
    if restarts >= MOST_RESTARTS or not all(line.joins for line in (*running, *waiting)):
        return False
    place = len(running) + len(waiting) - 1
    group = next((g for g in groups((*running, *waiting), wait_s) if place in g), ())
    return any(earlier < len(running) for earlier in group)

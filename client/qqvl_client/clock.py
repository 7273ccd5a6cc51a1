"""How old a message is when the OneBot side's clock may be wrong, and may be wrong only once."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

WINDOW = 9
"""So many heartbeats are remembered: a few minutes at the usual interval."""
BELIEVABLE_S = 26 * 3600
"""A wrong time zone is at most 26 hours off; what is further off is no clock at all."""
JUMP_S = 5.0
AHEAD_S = 60.0


class Clock:
    """The other side's clock against ours, from its heartbeats.

    A message is as old as the kinder of two judges says. One takes the stamp at its word; it is dismissed when that
    lies in the future. The other corrects it by the middle of the remembered heartbeats, which one wrong one, or a
    handful that were stuck in a line, cannot move far.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._behind: deque[float] = deque(maxlen=WINDOW)
        self._base = wall() - steady()

    def note(self, stamp: float) -> None:
        """A heartbeat with this time, in seconds, has just arrived."""
        self._forget_after_a_jump()
        behind = self._wall() - stamp
        if abs(behind) <= BELIEVABLE_S:
            self._behind.append(behind)

    def age(self, stamp: float) -> float:
        """How many seconds ago a message with this stamp was said."""
        self._forget_after_a_jump()
        plain = self._wall() - stamp
        corrected = plain - (statistics.median(self._behind) if self._behind else 0.0)
        return corrected if plain < -AHEAD_S else min(plain, corrected)

    def _forget_after_a_jump(self) -> None:
        """Our own clock was set, or the machine slept: what was measured before says nothing any more."""
        base = self._wall() - self._steady()
        if abs(base - self._base) > JUMP_S:
            self._behind.clear()
        self._base = base

"""How long a step has been running, as far as anybody was there to see it. Plain Python.

A debugger, a container that is frozen or a virtual machine that is saved stop all of this process: the clock goes on,
the step does not, and it is no more stuck than before. So time counts only between looks that follow each other, and
whoever waits for a stuck step has to look every second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

# What one gap between two looks counts for at most, in seconds.
MOST_PER_LOOK_S: Final = 1.0


class Stopwatch:
    """``start`` and ``stop`` by the one who works, ``seconds`` from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started: float | None = None
        self._lock = threading.Lock()
        # Of the step that began at ``_of``: when it was last looked at, and what was seen of it by then.
        self._of: float | None = None
        self._looked = 0.0
        self._seen = 0.0

    def start(self) -> float:
        """The instant, by the same clock."""
        self._started = now = self._clock()
        return now

    def stop(self) -> None:
        self._started = None

    def seconds(self) -> float:
        """Seconds since ``start``; 0 when stopped."""
        with self._lock:
            started = self._started
            if started is None:
                return 0.0
            if started != self._of:
                self._of, self._looked, self._seen = started, started, 0.0
            now = self._clock()
            self._seen += min(now - self._looked, MOST_PER_LOOK_S)
            self._looked = now
            return self._seen

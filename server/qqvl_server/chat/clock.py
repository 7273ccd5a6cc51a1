"""The time by which what is stored grows old."""

from __future__ import annotations

import time
from typing import Final

_DAY_S: Final = 86400
# What a gap counts for that is longer than a day: a clock that jumped tells no more than that some time went by.
_GAP_S: Final = 3600


class Clock:
    """Time by which answers grow old: goes on with the last one written, and no faster than this process lives.

    The wall clock is believed when it says that less than a day has passed since then. Set forward by a month it would
    otherwise have every answer swept, and each repeated message answered twice.
    """

    def __init__(self, last: float | None) -> None:
        now = time.time()
        if last is not None and not 0 <= now - last <= _DAY_S:
            now = last + (_GAP_S if now > last else 0)
        self._offset = now - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset

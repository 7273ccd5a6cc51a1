"""How fast the engine has been of late, to say when a refused caller should come back. Plain Python."""

from __future__ import annotations

import math
from typing import Final

# A step's weight halves every seventy steps.
_MEMORY: Final = 0.99
_LONGEST_S: Final = 60


class Pace:
    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step computed ``tokens`` in ``seconds``."""
        self._tokens = self._tokens * _MEMORY + tokens
        self._seconds = self._seconds * _MEMORY + seconds

    def seconds_for(self, tokens: int) -> int:
        """Whole seconds, at least one, that so many tokens take at this pace."""
        if self._tokens == 0:
            return 1
        return min(max(math.ceil(tokens * self._seconds / self._tokens), 1), _LONGEST_S)

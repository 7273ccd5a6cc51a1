"""How large a step may be: halved when memory runs out, brought back slowly. Plain Python."""

from __future__ import annotations

from typing import Final

_SMALLEST_STEP: Final = 16
# After running out of memory this many steps bring the whole budget back.
_STEPS_TO_RECOVER: Final = 64


class StepBudget:
    """``tokens`` in one step, ``requests`` that run at the same time."""

    def __init__(self, tokens: int, requests: int) -> None:
        self._most_tokens = self.tokens = tokens
        self._most_requests = self.requests = requests

    def shrink(self, running: int) -> bool:
        """Halve both, after a step of ``running`` requests; False, and nothing done, when that goes no further."""
        if self.tokens <= _SMALLEST_STEP:
            return False
        self.tokens = max(self.tokens // 2, _SMALLEST_STEP)
        self.requests = max(min(self.requests, running) // 2, 1)
        return True

    def recover(self) -> None:
        step = -(-self._most_tokens // _STEPS_TO_RECOVER)
        self.tokens = min(self.tokens + step, self._most_tokens)
        if self.tokens == self._most_tokens:
            self.requests = min(self.requests + 1, self._most_requests)

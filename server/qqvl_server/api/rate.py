"""How often one caller may ask: by key, or by address where there are no keys. Knows time; no bodies."""

from __future__ import annotations

import math
import time
from typing import Final

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from qqvl_server.errors import RateLimited

# More than the wall clock is set by at a time when it is only kept true.
_JUMP_S: Final = 5


class RateLimit:
    """``rule`` is written ``60/minute``; empty limits nobody. Buckets are forgotten when their window is over.

    ``times`` multiplies it; ``whose`` are the callers it is told to.
    """

    def __init__(self, rule: str, times: int = 1, whose: str = "每个调用者") -> None:
        one = parse(rule) if rule else None
        self._rule = type(one)(one.amount * times, one.multiples) if one is not None else None
        self._whose = whose
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._skew = time.time() - time.monotonic()

    def count(self, bucket: str) -> None:
        """One more request of the caller that ``bucket`` names.

        Raises:
            RateLimited: one too many; it says when the next may come.
        """
        if self._rule is None:
            return
        # The library counts by the wall clock: set back by a month, it would refuse whoever asked once for as long.
        skew = time.time() - time.monotonic()
        if abs(skew - self._skew) > _JUMP_S:
            self._storage.reset()
            self._skew = skew
        if not self._limiter.hit(self._rule, bucket):
            wait = self._limiter.get_window_stats(self._rule, bucket).reset_time - time.time()
            raise RateLimited(
                f"请求太频繁，{self._whose}最多 {self._rule.amount} 次", retry_after=max(1, math.ceil(wait))
            )

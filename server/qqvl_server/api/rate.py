"""How often one caller may ask: by key, or by address where there are no keys. Knows callers and time; no bodies."""

from __future__ import annotations

import math
import time

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from qqvl_server.api.desk import Caller
from qqvl_server.errors import RateLimited


class RateLimit:
    """``rule`` is written ``60/minute``; empty limits nobody. Buckets are forgotten when their window is over."""

    def __init__(self, rule: str) -> None:
        self._rule = parse(rule) if rule else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, caller: Caller, address: str) -> None:
        """One more request.

        Raises:
            RateLimited: one too many; it says when the next may come.
        """
        if self._rule is None:
            return
        bucket = address if caller.name == "open" else caller.name
        if not self._limiter.hit(self._rule, bucket):
            wait = self._limiter.get_window_stats(self._rule, bucket).reset_time - time.time()
            raise RateLimited(f"请求太频繁，每个调用者最多 {self._rule.amount} 次", retry_after=max(1, math.ceil(wait)))

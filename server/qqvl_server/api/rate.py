"""How often one caller may ask: by key, or by address where there are no keys. Knows time; no bodies.

Several servers count together in a Redis. While that is away each counts for itself: nobody waits for it, and nobody
is refused because of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import math
import re
import time
from typing import Any, Final

import limits.aio.storage
import limits.aio.strategies
from limits import RateLimitItem, parse
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from qqvl_server import invocation
from qqvl_server.errors import ConfigError, RateLimited
from qqvl_server.observe.logs import logger

# More than the wall clock is set by at a time when it is only kept true.
_JUMP_S: Final = 5
# How long a request waits for the store, and for how long a store that did not answer is not asked.
_STORE_S: Final = 0.5
_AWAY_S: Final = 5.0
# Valkey speaks Redis' protocol, and the same library speaks to it.
_SCHEME: Final = re.compile(r"^(?:redis|valkey)(s?|\+unix)://")


class RateStore:
    """A Redis that several servers count in, ``redis://…``, ``rediss://…``, ``redis+unix://…`` or the same of Valkey.

    Raises ConfigError: another address, or the library is not installed.
    """

    def __init__(self, url: str) -> None:
        if importlib.util.find_spec("redis") is None:
            raise ConfigError(f"没有装 Redis 的客户端：运行 {invocation.install('redis')}，或去掉 rate_store_url")
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # Handed on to redis-py's pool; the annotation of limits knows no such value.
        retry: Any = Retry(NoBackoff(), 0)

        address, is_known = _SCHEME.subn(r"async+redis\1://", url)
        try:
            if not is_known:
                raise ValueError
            storage = limits.aio.storage.RedisStorage(
                address, wrap_exceptions=True, implementation="redispy", key_prefix="qqvl",
                socket_timeout=_STORE_S, socket_connect_timeout=_STORE_S, retry=retry,
            )  # fmt: skip
        except (ValueError, ConfigurationError) as error:
            raise ConfigError("rate_store_url 写得不对；应像 redis://:密码@主机:6379/0") from error
        self._storage = storage
        self._limiter = limits.aio.strategies.SlidingWindowCounterRateLimiter(storage)
        self._away_until = 0.0
        self._is_away = False

    async def hit(self, rule: RateLimitItem, bucket: str) -> float | None:
        """Seconds until ``bucket`` may ask again, 0 for now, which is counted; None where it cannot be told."""
        if time.monotonic() < self._away_until:
            return None
        # Neither a key's name nor a chat's number is anybody's business there.
        name = hashlib.sha256(bucket.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        try:
            async with asyncio.timeout(_STORE_S):
                wait = 0.0
                if not await self._limiter.hit(rule, name):
                    wait = max((await self._limiter.get_window_stats(rule, name)).reset_time - time.time(), 1.0)
        except (StorageError, OSError) as error:
            self._away_until = time.monotonic() + _AWAY_S
            if not self._is_away:
                self._is_away = True
                logger().warning("Redis 连不上，次数先由这台服务器自己数", kind=type(error.__cause__ or error).__name__)
            return None
        if self._is_away:
            self._is_away = False
            logger().info("Redis 回来了，次数又是几台服务器一起数")
        return wait

    async def aclose(self) -> None:
        """Give its connections back, in the event loop that made them."""
        # The annotation of limits knows the bridge of all libraries only.
        bridge: Any = self._storage.bridge
        await bridge.storage.aclose()


class RateLimit:
    """``rule`` is written ``60/minute``; empty limits nobody. Buckets are forgotten when their window is over.

    ``times`` multiplies it; ``whose`` are the callers it is told to; ``shared`` is where other servers count as well.
    """

    def __init__(self, rule: str, times: int = 1, whose: str = "每个调用者", shared: RateStore | None = None) -> None:
        one = parse(rule) if rule else None
        self._rule = type(one)(one.amount * times, one.multiples) if one is not None else None
        self._whose = whose
        self._shared = shared
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._skew = time.time() - time.monotonic()

    async def count(self, bucket: str) -> None:
        """One more request of the caller that ``bucket`` names.

        Raises:
            RateLimited: one too many; it says when the next may come.
        """
        if self._rule is None:
            return
        wait = await self._shared.hit(self._rule, bucket) if self._shared is not None else None
        if wait is None:
            wait = self._hit(self._rule, bucket)
        if wait:
            raise RateLimited(
                f"请求太频繁，{self._whose}最多 {self._rule.amount} 次", retry_after=max(1, math.ceil(wait))
            )

    def _hit(self, rule: RateLimitItem, bucket: str) -> float:
        # The library counts by the wall clock: set back by a month, it would refuse whoever asked once for as long.
        skew = time.time() - time.monotonic()
        if abs(skew - self._skew) > _JUMP_S:
            self._storage.reset()
            self._skew = skew
        if self._limiter.hit(rule, bucket):
            return 0.0
        return max(self._limiter.get_window_stats(rule, bucket).reset_time - time.time(), 1.0)

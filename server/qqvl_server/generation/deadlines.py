"""Work that somebody waits for no longer than to an instant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from qqvl_server.errors import DeadlineExceeded

T = TypeVar("T")


async def in_time(work: Awaitable[T], deadline: float) -> T:
    """``deadline`` is a ``time.monotonic`` instant. Raises DeadlineExceeded, and as ``work``."""
    try:
        async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
            return await work
    except TimeoutError:
        raise too_late() from None


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("这条消息处理太久，已放弃，请稍后再试", retry_after=5)

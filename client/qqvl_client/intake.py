"""Events as fast as they come, handed on in batches, so that a burst costs a batch's work and not each event's."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from qqvl_client.message import LineUp, MessageEvent

LOG = logging.getLogger("qqvl.intake")
T = TypeVar("T")
Arrival = MessageEvent | LineUp
BATCH = 500
MOST = 20_000
"""Beyond this the oldest are let go: whoever takes the batches must have come to a standstill."""


class Intake:
    """`admit` gets the events of a batch in the order they came; while it works the next ones gather."""

    def __init__(self, admit: Callable[[list[Arrival]], Awaitable[None]]) -> None:
        self._admit = admit
        self._waiting: deque[Arrival] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._shed = 0

    def put(self, event: Arrival) -> None:
        """Never blocks, whatever the journal's disk is doing."""
        if self._closed:
            return
        self._waiting.append(event)
        if len(self._waiting) > MOST:
            self._waiting.popleft()
            self._shed += 1
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="intake")

    def waiting(self) -> Sequence[Arrival]:
        """What has come and is not handed on yet, oldest first."""
        return tuple(self._waiting)

    async def aclose(self) -> None:
        """Take nothing more; what has come is still handed on."""
        self._closed = True
        if self._worker:
            await self._worker

    async def _work(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            shed, self._shed = self._shed, 0
            if shed:
                LOG.error("消息来得太快，记不过来，最早的 %d 条没有收下", shed)
            try:
                await self._admit(batch)
            # The intake's edge: a batch nobody foresaw must not stop the next ones.
            except Exception:
                LOG.exception("收下 %d 条消息时出了没料到的错", len(batch))


def crowd(waiting: Sequence[T], most: int, is_addressed: Callable[[T], bool]) -> list[T]:
    """Which of `waiting` (oldest first) must go so that `most` stay: the oldest not meant for the bot, then the
    oldest."""
    over = len(waiting) - most
    if over <= 0:
        return []
    return [*(w for w in waiting if not is_addressed(w)), *(w for w in waiting if is_addressed(w))][:over]

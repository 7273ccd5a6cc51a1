"""One lane per chat: its turns are taken one at a time, in order, while other lanes go on."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, TypeVar

LOG = logging.getLogger("qqvl.lanes")
T = TypeVar("T")


class Lanes(Generic[T]):
    """Lanes appear with their first turn and vanish with their last. `work` gets a turn and how many wait behind it."""

    def __init__(self, work: Callable[[T, int], Awaitable[None]]) -> None:
        self._work = work
        self._waiting: dict[str, deque[T]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    def put(self, key: str, turn: T) -> None:
        if key in self._waiting:
            self._waiting[key].append(turn)
            return
        self._waiting[key] = deque([turn])
        worker = asyncio.create_task(self._serve(key), name=f"lane {key}")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    def waiting(self, key: str) -> Sequence[T]:
        """The turns of a lane that have not begun, oldest first."""
        return tuple(self._waiting.get(key, ()))

    def drop(self, key: str, turns: Collection[T]) -> None:
        """Take turns that have not begun out of their lane."""
        if key in self._waiting:
            kept = [turn for turn in self._waiting[key] if turn not in turns]
            self._waiting[key].clear()
            self._waiting[key].extend(kept)

    async def close(self, grace_s: float) -> None:
        """Start nothing more, give running turns `grace_s` to finish, then cancel them."""
        self._closed = True
        if not self._workers:
            return
        _, late = await asyncio.wait(self._workers, timeout=grace_s)
        for worker in late:
            worker.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, key: str) -> None:
        turns = self._waiting[key]
        try:
            while turns and not self._closed:
                await self._take(turns.popleft(), len(turns), key)
        finally:
            del self._waiting[key]

    async def _take(self, turn: T, behind: int, key: str) -> None:
        try:
            await self._work(turn, behind)
        # The lane's edge: one message nobody foresaw must not stop the chat's next ones.
        except Exception:
            LOG.exception("处理 %s 的一条消息时出了没料到的错", key)

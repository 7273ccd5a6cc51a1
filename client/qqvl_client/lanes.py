"""One lane per chat: its turns begin in order, several of them under way at once, and end in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Generic, TypeVar

LOG = logging.getLogger("qqvl.lanes")
T = TypeVar("T")
R = TypeVar("R")


class _Lane(Generic[T]):
    def __init__(self, most: int) -> None:
        self.waiting: deque[T] = deque()
        self.room = asyncio.Semaphore(most)
        self.beginner: asyncio.Task[None] | None = None
        self.last: asyncio.Task[None] | None = None
        self.ending = asyncio.Lock()
        self.passed = 0
        """Turns under way that others need not wait for."""

    @property
    def is_idle(self) -> bool:
        return not self.waiting and self.beginner is None and self.last is None and not self.passed


class Lanes(Generic[T, R]):
    """Lanes appear with their first turn and vanish with their last.

    `begin` gets a turn and how many wait behind it, and returns what the turn goes on as once the next may begin; at
    most `most` of a lane go on at once. `end` gets the turn and what it goes on as, done or not, when those before it
    have ended. A turn that begins into nothing has no end.
    """

    def __init__(
        self,
        begin: Callable[[T, int], Awaitable[asyncio.Future[R] | None]],
        end: Callable[[T, asyncio.Future[R]], Awaitable[None]],
        most: int,
        ready: Callable[[T, asyncio.Future[R]], Awaitable[None]],
        is_passed: Callable[[T], bool],
    ) -> None:
        self._begin = begin
        self._end = end
        self._ready = ready
        self._is_passed = is_passed
        self._most = most
        self._lanes: dict[str, _Lane[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: set[asyncio.Future[R]] = set()
        self._closed = False

    def put(self, key: str, turn: T) -> None:
        lane = self._lanes.setdefault(key, _Lane(self._most))
        lane.waiting.append(turn)
        if lane.beginner is None:
            lane.beginner = self._task(self._serve(key, lane), f"lane {key}")

    def waiting(self, key: str) -> Sequence[T]:
        """The turns of a lane that have not begun, oldest first."""
        return tuple(self._lanes[key].waiting) if key in self._lanes else ()

    def drop(self, key: str, turns: Collection[T]) -> None:
        """Take turns that have not begun out of their lane."""
        if key in self._lanes:
            waiting = self._lanes[key].waiting
            kept = [turn for turn in waiting if turn not in turns]
            waiting.clear()
            waiting.extend(kept)

    async def close(self, grace_s: float) -> None:
        """Begin nothing more, give turns under way `grace_s` to end, then cancel them."""
        self._closed = True
        until = asyncio.get_running_loop().time() + grace_s
        while self._tasks and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        late: list[asyncio.Future[Any]] = [*self._tasks, *self._under_way]
        for one in late:
            one.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, key: str, lane: _Lane[T]) -> None:
        try:
            while lane.waiting and not self._closed:
                await lane.room.acquire()
                if not lane.waiting or self._closed or not await self._start(key, lane, lane.waiting.popleft()):
                    lane.room.release()
        finally:
            lane.beginner = None
            self._tidy(key, lane)

    async def _start(self, key: str, lane: _Lane[T], turn: T) -> bool:
        """Begin a turn; false when nothing came of it."""
        try:
            going = await self._begin(turn, len(lane.waiting))
        # The lane's edge: one message nobody foresaw must not stop the chat's next ones.
        except Exception:
            _broke(key)
            return False
        if going is None:
            return False
        self._under_way.add(going)
        going.add_done_callback(self._under_way.discard)
        going.add_done_callback(lambda _: lane.room.release())
        if self._is_passed(turn):
            lane.passed += 1
            self._task(self._finish_once(key, lane, turn, going), f"end of lane {key}")
        else:
            lane.last = self._task(self._finish(key, lane, turn, going, lane.last), f"end of lane {key}")
        return True

    async def _finish_once(self, key: str, lane: _Lane[T], turn: T, going: asyncio.Future[R]) -> None:
        try:
            await self._finish(key, lane, turn, going, None)
        finally:
            lane.passed -= 1
            self._tidy(key, lane)

    async def _finish(
        self, key: str, lane: _Lane[T], turn: T, going: asyncio.Future[R], earlier: asyncio.Task[None] | None
    ) -> None:
        try:
            if earlier:
                # Waiting this way raises nothing of its own.
                await asyncio.wait([earlier])
            await self._ready(turn, going)
            async with lane.ending:
                await self._end(turn, going)
        # Its other edge, for the same reason.
        except Exception:
            _broke(key)
        finally:
            if lane.last is asyncio.current_task():
                lane.last = None
            self._tidy(key, lane)

    def _tidy(self, key: str, lane: _Lane[T]) -> None:
        if lane.is_idle and self._lanes.get(key) is lane:
            del self._lanes[key]

    def _task(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _broke(key: str) -> None:
    LOG.exception("处理 %s 的一条消息时出了没料到的错", key)

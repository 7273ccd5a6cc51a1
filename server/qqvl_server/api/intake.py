"""Bodies on their way in: how fast they must come, and how much memory all of them may take together.

Three sizes, so that no number of large bodies keeps small ones out: up to ``FREE`` bytes need no room (connections are
counted, so these are bounded as well); those up to ``MIDDLE`` have a pool of their own beside that of the larger ones.
In a pool nobody, by key or by address, gets more than a share. A body takes its room whole before it is read, so that
no two half-read ones wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Final

from starlette.types import Message, Receive

from qqvl_server import errors
from qqvl_server.settings import ServerSettings

FREE: Final = 64_000
MIDDLE: Final = 1_000_000
_MB: Final = 1_000_000
# A timer that fires so late says that all of this process stood still, not that the caller did.
_PAUSED_S: Final = 1


class Pool:
    """``size`` bytes of memory, for whoever comes first; one body always fits, whatever its size.

    One that finds no room waits ``patience_s`` seconds for it.
    """

    def __init__(self, size: int, patience_s: float = 5) -> None:
        self._size = size
        self._patience_s = patience_s
        self._share = size * 3 // 4
        self._used: Counter[str] = Counter()
        self._waiting: deque[tuple[asyncio.Future[None], str, int]] = deque()

    async def take(self, owner: str, amount: int) -> None:
        """Raises Busy: there is no room for a while."""
        if self._fits(owner, amount):
            self._used[owner] += amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (turn, owner, amount)
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._patience_s):
                await turn
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                # The room was given in the same breath.
                self.give(owner, amount)
            if isinstance(error, TimeoutError):
                raise errors.Busy("同时收到的内容太多，请稍后再试", retry_after=2) from None
            raise

    def give(self, owner: str, amount: int) -> None:
        self._used[owner] -= amount
        if not self._used[owner]:
            del self._used[owner]
        for place in tuple(self._waiting):
            turn, waiter, wanted = place
            if self._fits(waiter, wanted):
                self._waiting.remove(place)
                self._used[waiter] += wanted
                turn.set_result(None)

    def _fits(self, owner: str, amount: int) -> bool:
        whole = self._used.total()
        return not whole or (self._used[owner] + amount <= self._share and whole + amount <= self._size)


class Body:
    """One request's body: ``data`` as far as it has come, and ``room`` for how much of it there is by now."""

    def __init__(self, owner: str) -> None:
        self.data = bytearray()
        self.room = FREE
        self._owner = owner
        self._pool: Pool | None = None
        self._held = 0

    async def move(self, pool: Pool, room: int) -> None:
        """Raises Busy."""
        await pool.take(self._owner, room)
        self.close()
        self._pool, self._held, self.room = pool, room, room

    def take(self) -> bytearray:
        """The bytes, for the one who parses them: they are kept nowhere else."""
        data, self.data = self.data, bytearray()
        return data

    def parsed(self, kept: int) -> None:
        """``kept`` bytes of memory are what is left of it; the rest of its room is given back."""
        left = min(kept, self._held) if kept > FREE else 0
        if self._pool is not None and self._held > left:
            self._pool.give(self._owner, self._held - left)
            self._held = left

    def close(self) -> None:
        self.parsed(0)

    def replayed(self, receive: Receive) -> Receive:
        """``receive`` for those behind the guard: the body once more, then what really comes."""
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(self.data), "more_body": False}

        return replay


class Intake:
    def __init__(self, settings: ServerSettings) -> None:
        self._largest = settings.max_body_mb * _MB
        self._window_s = settings.body_timeout_s
        # Bytes that each window of time must bring.
        self._quota = settings.min_body_kb_s * 1000 * settings.body_timeout_s
        whole = settings.max_buffered_mb * _MB
        self._middle, self._large = Pool(whole // 4), Pool(whole - whole // 4)

    def check_length(self, length: int) -> None:
        """Raises PayloadTooLarge."""
        if length > self._largest:
            raise errors.PayloadTooLarge(f"请求体太大，最多 {self._largest // _MB} MB")

    async def read(self, receive: Receive, owner: str, declared: int) -> Body:
        """Args:
            owner: whose share it is counted to.
            declared: its length as its head says, 0 where that does not say.

        Raises:
            PayloadTooLarge, Busy (no room), BodyTimeout (too slow), InvalidRequest (the caller went away).
        """
        body = Body(owner)
        try:
            if declared > FREE:
                await body.move(self._middle if declared <= MIDDLE else self._large, declared)
            while not await self._read_on(receive, body):
                pass
        except BaseException:
            body.close()
            raise
        return body

    async def _read_on(self, receive: Receive, body: Body) -> bool:
        """Whether the end came; not, when a pause of this whole process has to be forgiven first."""
        loop = asyncio.get_running_loop()
        mark = len(body.data)
        try:
            async with asyncio.timeout(self._window_s) as window:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise errors.InvalidRequest("请求体没有传完")
                    body.data += message.get("body", b"")
                    more = message.get("more_body", False)
                    length = len(body.data)
                    self.check_length(length)
                    if length > body.room:
                        # Its head did not say how long it is: it counts as the longest there may be.
                        window.reschedule(None)
                        await body.move(self._large, self._largest)
                        window.reschedule(loop.time() + self._window_s)
                    if length - mark >= self._quota:
                        mark = length
                        window.reschedule(loop.time() + self._window_s)
        except TimeoutError:
            if loop.time() - (window.when() or 0) > _PAUSED_S:
                return False
            raise errors.BodyTimeout("请求体传得太慢，已断开", retry_after=1) from None
        return True

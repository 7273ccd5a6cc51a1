"""Nothing is kept for longer than the settings say. Works while nobody waits for an answer, a little at a time.

Each step is a transaction of its own, so that a kill in between leaves lines that are whole and others that are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.rows import retention
from qqvl_server.chat.store import Store
from qqvl_server.errors import StorageFailed
from qqvl_server.observe.logs import logger
from qqvl_server.settings import StorageSettings

_EVERY_S: Final = 3600
_FIRST_S: Final = 60
_BUSY_LOOK_S: Final = 1.0
_PAUSE_S: Final = 0.05
_DAY_S: Final = 86400


class Shelf(Protocol):
    def drop(self, before: float, keep: Collection[str] = ()) -> int:
        """Delete pictures that were not used since ``before`` and are not among ``keep``; how many. Blocking."""


class Retention:
    """``is_busy``: whether somebody waits for an answer now."""

    def __init__(self, store: Store, shelf: Shelf, settings: StorageSettings, is_busy: Callable[[], bool]) -> None:
        self._store = store
        self._shelf = shelf
        self._settings = settings
        self._is_busy = is_busy

    @property
    def is_wanted(self) -> bool:
        return bool(self._settings.history_days or self._settings.conversation_days or self._settings.picture_days)

    async def run(self) -> None:
        await asyncio.sleep(_FIRST_S)
        while True:
            # What cannot be deleted now is deleted the next time; whoever stores something is told of the trouble.
            with contextlib.suppress(StorageFailed, OSError):
                await self.sweep()
            await asyncio.sleep(_EVERY_S)

    async def sweep(self) -> None:
        """Let go of all that is too old by now. Raises StorageFailed."""
        settings = self._settings
        lines = await self._drop(retention.drop_lines, settings.history_days)
        talks = await self._drop(retention.drop_conversations, settings.conversation_days)
        if lines or talks:
            await self._store.database.empty_log()
        pictures = 0
        if settings.history_days or settings.conversation_days:
            # A picture that has just come is named a moment later.
            pictures += await asyncio.to_thread(self._shelf.drop, time.time() - _DAY_S, await self._named())
        if settings.picture_days:
            pictures += await asyncio.to_thread(self._shelf.drop, time.time() - settings.picture_days * _DAY_S)
        if lines or talks or pictures:
            logger().info("到期的已删除", lines=lines, conversations=talks, pictures=pictures)

    async def _drop(self, step: Callable[[AsyncConnection, float], Awaitable[int]], days: int) -> int:
        if not days:
            return 0
        # The store's clock does not believe a leap of the machine's: that would take everything.
        before = min(time.time(), self._store.books.now()) - days * _DAY_S
        gone = 0
        while True:
            while self._is_busy():  # noqa: ASYNC110
                await asyncio.sleep(_BUSY_LOOK_S)
            dropped = await self._store.database.write(lambda connection: step(connection, before))
            gone += dropped
            if not dropped:
                return gone
            await asyncio.sleep(_PAUSE_S)

    async def _named(self) -> set[str]:
        named: set[str] = set()
        async with self._store.database.read() as connection:
            async for some in retention.named_pictures(connection):
                named |= some
                await asyncio.sleep(0)
        return named


@asynccontextmanager
async def running(retained: Retention) -> AsyncIterator[None]:
    """Beside the server, where any of it is wanted."""
    if not retained.is_wanted:
        yield
        return
    task = asyncio.create_task(retained.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

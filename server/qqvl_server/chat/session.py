"""One lane per chat: its messages are handled in the order they arrived; other chats go on beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qqvl_server.chat.message import ChatKey


class Lanes:
    """Locks that exist only while somebody holds or awaits them, so that memory does not grow with chats."""

    def __init__(self) -> None:
        self._locks: dict[ChatKey, asyncio.Lock] = {}
        self._users: dict[ChatKey, int] = {}

    @asynccontextmanager
    async def enter(self, chat: ChatKey) -> AsyncIterator[None]:
        """Wait for the lane. ``asyncio.Lock`` wakes its waiters first come, first served."""
        lock = self._locks.setdefault(chat, asyncio.Lock())
        self._users[chat] = self._users.get(chat, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[chat] -= 1
            if self._users[chat] == 0:
                del self._users[chat], self._locks[chat]

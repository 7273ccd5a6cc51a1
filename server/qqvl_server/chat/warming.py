"""Chats that are only listened to are read into the cache while the machine idles, so that a call is answered soon."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from qqvl_server.chat.message import ChatKey, StoredMessage
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import ChatMessage, GenerationRequest, Sampling, Urgency, Voice
from qqvl_server.observe.logs import logger

# A group talks in bursts: one reading after the burst instead of one per line.
_QUIET_S: Final = 1.5
_LATE_S: Final = 60


class Warmer:
    """One pending reading per chat; the newest line replaces the one before."""

    def __init__(
        self,
        voice: Callable[[], Voice],
        window: Callable[[Voice, ChatKey, StoredMessage], Awaitable[tuple[ChatMessage, ...]]],
    ) -> None:
        self._voice = voice
        self._window = window
        self._pending: dict[ChatKey, asyncio.Task[None]] = {}

    def heard(self, chat: ChatKey, last: StoredMessage) -> None:
        """``last`` was stored and not answered."""
        self.forget(chat)
        task = asyncio.create_task(self._read(chat, last))
        self._pending[chat] = task
        task.add_done_callback(lambda done: self._pending.pop(chat, None) if self._pending.get(chat) is done else None)

    def forget(self, chat: ChatKey) -> None:
        """A turn of the chat begins: it reads the history itself."""
        task = self._pending.pop(chat, None)
        if task is not None:
            task.cancel()

    async def _read(self, chat: ChatKey, last: StoredMessage) -> None:
        await asyncio.sleep(_QUIET_S)
        try:
            voice = self._voice()
            messages = await self._window(voice, chat, last)
        except QqvlError as error:
            # Nobody waits for this; the next turn meets the same trouble and reports it.
            logger().debug("没有预读", chat=str(chat), kind=type(error).__name__)
            return
        await voice.warm(
            GenerationRequest(
                f"warm-{uuid.uuid4().hex}",
                messages,
                Sampling(1),
                time.monotonic() + _LATE_S,
                owner=str(chat),
                urgency=Urgency.IDLE,
            )
        )

    async def aclose(self) -> None:
        tasks = tuple(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

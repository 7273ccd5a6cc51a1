"""From engine threads up to the event loop: the one crossing, one call per step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import FinishReason

Item = int | FinishReason | QqvlError


class TokenChannel:
    """One request's tokens, then one end or error. Made on the event loop, fed from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._abandoned = threading.Event()

    async def receive(self) -> Item:
        return await self._queue.get()

    def abandon(self) -> None:
        """Nobody listens any more; engines look at this between tokens."""
        self._abandoned.set()

    def is_abandoned(self) -> bool:
        return self._abandoned.is_set()

    def send(self, item: Item) -> None:
        scatter([(self, item)])

    def _put(self, item: Item) -> None:
        self._queue.put_nowait(item)

    def _wake(self, items: Sequence[tuple[TokenChannel, Item]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_put_all, items)


def scatter(items: Sequence[tuple[TokenChannel, Item]]) -> None:
    """Deliver a step's items to their channels, which share one loop."""
    if items:
        items[0][0]._wake(items)


def _put_all(items: Sequence[tuple[TokenChannel, Item]]) -> None:
    for channel, item in items:
        channel._put(item)

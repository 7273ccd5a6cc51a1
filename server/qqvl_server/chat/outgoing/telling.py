"""What of an answer is out already, for whoever listens, however late he comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from qqvl_server.chat.outgoing.messages import Outgoing


class Telling:
    """One answer's finished elements, while it is being made."""

    def __init__(self) -> None:
        self.told: list[Outgoing] = []
        self._news = asyncio.Event()

    def tell(self, element: Outgoing) -> None:
        self.told.append(element)
        self._wake()

    async def follow(self, over: asyncio.Future[Any]) -> AsyncIterator[Outgoing]:
        """Every element from the first on, each as soon as it is told, until ``over`` is done."""

        def wake(_: asyncio.Future[Any]) -> None:
            self._wake()

        over.add_done_callback(wake)
        try:
            place = 0
            while True:
                news = self._news
                for element in self.told[place:]:
                    place += 1
                    yield element
                if over.done():
                    return
                await news.wait()
        finally:
            over.remove_done_callback(wake)

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

"""What has come of an answer that is still being written."""

from __future__ import annotations

import asyncio
from typing import Any

from qqvl_client.outgoing import Outgoing


class Pieces:
    """The elements of an answer's `messages[]`, each once, in order; whoever asks again is told them again."""

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []
        self._told = 0
        self._news = asyncio.Event()

    def begin(self) -> None:
        """The server starts to tell, from the first on."""
        self._told = 0

    def put(self, message: Outgoing) -> None:
        self._told += 1
        if self._told > len(self.messages):
            self.messages.append(message)
            self._news.set()

    async def more(self, answer: asyncio.Future[Any]) -> None:
        """Until there is one more, or the answer is done."""
        await self.begun(answer)
        self._news.clear()

    async def begun(self, answer: asyncio.Future[Any]) -> None:
        """Until there is one that nobody has waited for, or the answer is done."""
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait([answer, news], return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

"""While a chat is quiet, the model writes a line about each picture that is no longer shown as it is.

The line is kept with the picture's own, so that it leaves with it, and stands in its place from the next time on that
the chat's pictures are looked at anew (``albums.py``).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from qqvl_server.chat import prompt
from qqvl_server.chat.albums import SMALL
from qqvl_server.chat.books import Books
from qqvl_server.chat.message import ChatKey
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.window import Window
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import (
    ChatMessage,
    GenerationRequest,
    ImagePart,
    Reasoning,
    Sampling,
    TextDelta,
    TextPart,
    Thinking,
    Urgency,
    Voice,
)
from qqvl_server.media.image import ImageRef
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics

# What the demo is taught to be asked (models/demo_recipe/wordings.py).
WISH: Final = "用一句话描述这张图，不超过二十个字。"
_MOST_TOKENS: Final = 24
_MOST_CHARS: Final = 60
_LATE_S: Final = 300
# Pictures that no caption came of are not asked about again; more than these are forgotten.
_FAILED: Final = 10_000


class Captioner:
    """One pending look per chat, some seconds after its last turn."""

    def __init__(
        self, books: Books, voice: Callable[[], Voice], window: Window, preferences: Preferences, metrics: Metrics
    ) -> None:
        self._books = books
        self._voice = voice
        self._window = window
        self._preferences = preferences
        self._metrics = metrics
        self._pending: dict[ChatKey, asyncio.Task[None]] = {}
        self._failed: dict[str, None] = {}

    def rests(self, chat: ChatKey) -> None:
        """A turn of the chat has ended."""
        self.forget(chat)
        quiet_s = self._preferences.of(chat).caption_after_s
        if not quiet_s:
            return
        task = asyncio.create_task(self._look(chat, quiet_s))
        self._pending[chat] = task
        task.add_done_callback(lambda done: self._pending.pop(chat, None) if self._pending.get(chat) is done else None)

    def forget(self, chat: ChatKey) -> None:
        """A turn of the chat begins, or a line of it leaves: what is being written ends at the next token."""
        task = self._pending.pop(chat, None)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        tasks = tuple(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, chat: ChatKey, quiet_s: float) -> None:
        await asyncio.sleep(quiet_s)
        try:
            voice = self._voice()
            # An engine that computes one request at a time would let others wait for this.
            if not voice.shares_steps:
                return
            for image in await self._window.faded(chat):
                if image.sha256 not in self._failed:
                    await self._describe(voice, chat, image)
        except QqvlError as error:
            # Nobody waits for this; it is tried again after the chat's next turn.
            logger().debug("没有写图片说明", chat=str(chat), kind=type(error).__name__)

    async def _describe(self, voice: Voice, chat: ChatKey, image: ImageRef) -> None:
        small = replace(image, most_tokens=SMALL)
        request = GenerationRequest(
            f"caption-{uuid.uuid4().hex}",
            (ChatMessage("user", (ImagePart(small), TextPart(WISH))),),
            Sampling(_MOST_TOKENS, temperature=0.0),
            time.monotonic() + _LATE_S,
            owner=str(chat),
            urgency=Urgency.IDLE,
            thinking=Thinking(enabled=False, anywhere=True),
        )
        said = ""
        async with aclosing(voice.generate(request)) as events:
            async for event in events:
                match event:
                    case TextDelta(delta):
                        said += delta
                    case Reasoning(retracts=True):
                        said = ""
        caption = written(said)
        if caption and await self._books.caption(chat, image.sha256, caption):
            self._metrics.captions.inc()
            return
        self._failed[image.sha256] = None
        if len(self._failed) > _FAILED:
            self._failed.pop(next(iter(self._failed)))


def written(said: str) -> str:
    """What the model said as a caption: its first line, without brackets or a full stop at the end."""
    line = next(iter(said.strip().splitlines()), "")
    return prompt.unbracketed(line)[:_MOST_CHARS].strip(" 。.")

"""What the model saw when it said something, and the same asked again. Knows store, prompt and voice; no HTTP, no SQL.

Prompts are not kept: one is made again of the lines that are left. Whether it is the same is told by its length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from qqvl_server.chat import prompt
from qqvl_server.chat.decision import Noted
from qqvl_server.chat.message import ChatKey, Text
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.store import Store
from qqvl_server.chat.window import PictureShelf, sampling
from qqvl_server.errors import NotFound
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    GenerationRequest,
    Reasoning,
    Sampling,
    TextDelta,
    Thinking,
    Urgency,
    Usage,
    Voice,
)
from qqvl_server.media.image import ImageRef
from qqvl_server.settings import GenerationSettings

_CHANGED: Final = "记录、人设、设置或图片在那以后变过，这是按现在的重新排的，和当时的不完全一样"


@dataclass(frozen=True, slots=True)
class Seen:
    """``said`` is what it answered; ``why`` tells what is not as it was, empty where the prompt is the same."""

    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    tokens: int
    noted: Noted
    said: str
    why: str


@dataclass(frozen=True, slots=True)
class Replayed:
    text: str
    usage: Usage
    seconds: float


class Retelling:
    def __init__(
        self,
        store: Store,
        voice: Callable[[], Voice],
        pictures: PictureShelf,
        preferences: Preferences,
        generation: GenerationSettings,
    ) -> None:
        self._store = store
        self._voice = voice
        self._pictures = pictures
        self._preferences = preferences
        self._generation = generation

    async def seen(self, chat: ChatKey, seq: int) -> Seen:
        """``seq`` is of an answer, or of a line that was answered.

        Raises:
            NotFound: the model said nothing there, or it is not known any more.
            StorageFailed; as the voice.
        """
        voice = self._voice()
        noted = await self._store.books.spoken(chat, seq)
        if noted is None or noted.told.effort is None:
            raise NotFound("这一条没有让模型说过话，或说过话的记录已经过期")
        effort = noted.told.effort
        history = await self._store.messages(chat, before=noted.seq + 1, limit=effort.window_lines) or ()
        lines = await asyncio.to_thread(
            lambda: [
                prompt.render(line, chat.kind, self._shown, number)
                for line, number in zip(history, prompt.numbering(history), strict=True)
            ]
        )
        messages = (*prompt.system_message(self._preferences.system_prompt(chat)), *lines)
        wanted = sampling(self._generation, self._preferences.persona(chat), voice.context_tokens)
        tokens = len(await voice.tokenize(self._request(messages, wanted)))
        answer = await self._store.messages(chat, before=(noted.reply_seq or 0) + 1, limit=1)
        is_there = noted.reply_seq is not None and answer and answer[-1].seq == noted.reply_seq
        said = "".join(p.text for p in answer[-1].parts if isinstance(p, Text)) if is_there and answer else ""
        return Seen(messages, wanted, tokens, noted, said, "" if tokens == effort.prompt_tokens else _CHANGED)

    async def replay(self, seen: Seen) -> Replayed:
        """The same asked again, by the likeliest token each time. Raises as the voice."""
        began = time.monotonic()
        texts: list[str] = []
        usage = Usage(0, 0)
        request = self._request(seen.messages, replace(seen.sampling, temperature=0.0))
        async with aclosing(self._voice().generate(request)) as events:
            async for event in events:
                match event:
                    case TextDelta(text):
                        texts.append(text)
                    case Reasoning(retracts=True):
                        texts.clear()
                    case Finished(_, used):
                        usage = used
        return Replayed("".join(texts).strip(), usage, time.monotonic() - began)

    def _shown(self, ref: ImageRef) -> ImageRef | str:
        """Blocking."""
        return ref if self._pictures.holds(ref) else prompt.EXPIRED

    def _request(self, messages: tuple[ChatMessage, ...], wanted: Sampling) -> GenerationRequest:
        return GenerationRequest(
            "replay", messages, wanted, time.monotonic() + self._generation.request_timeout_s,
            # On nobody's account, and of nobody's cache.
            owner="api:replay", urgency=Urgency.API, thinking=Thinking(anywhere=True),
        )  # fmt: skip

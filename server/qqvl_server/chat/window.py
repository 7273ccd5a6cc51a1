"""The part of a chat's history that a turn sees: counted exactly, cut in large steps, always a request at the end."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from qqvl_server.chat import prompt
from qqvl_server.chat.message import ChatKey, ChatKind, StoredMessage
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.store import Store
from qqvl_server.generation.port import ChatMessage, Sampling, Voice
from qqvl_server.media.image import ImageRef
from qqvl_server.settings import GenerationSettings

# The rendered prompt ends with the assistant's header, which the per-message counts leave out.
_HEADER_TOKENS: Final = 8
# Lines before one that the window has moved past.
_LOOK_BACK: Final = 64
_RENDERING_THREADS: Final = 2


class PictureShelf(Protocol):
    def holds(self, ref: ImageRef) -> bool:
        """Blocking: whether the picture's bytes are still kept."""
        ...


class Window:
    def __init__(
        self, store: Store, pictures: PictureShelf, preferences: Preferences, generation: GenerationSettings
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._preferences = preferences
        self._generation = generation
        self._rendering = ThreadPoolExecutor(_RENDERING_THREADS, thread_name_prefix="qqvl-window")

    def sampling(self, voice: Voice, chat: ChatKey) -> Sampling:
        """As the chat's persona wants it, where it does."""
        persona = self._preferences.persona(chat)
        own = persona.sampling.model_dump(exclude_none=True) if persona is not None else {}
        wanted = self._generation.model_copy(update=own)
        return Sampling(
            # A reply may not leave the history less than half of a small model's context.
            max_new_tokens=min(wanted.max_new_tokens, voice.context_tokens // 2),
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            top_k=wanted.top_k,
            repetition_penalty=wanted.repetition_penalty,
        )

    async def messages(self, voice: Voice, chat: ChatKey, last: StoredMessage) -> tuple[ChatMessage, ...]:
        """System prompt and as much history as fits; always ends with ``last``."""
        system = prompt.system_message(self._preferences.system_prompt(chat))
        history = await self._store.window(chat, last.seq)
        moved_past = not history
        if moved_past:
            # It failed when it came and is asked again after much talk: shown as it would have been then.
            history = await self._store.messages(chat, before=last.seq + 1, limit=_LOOK_BACK) or (last,)
        loop = asyncio.get_running_loop()
        lines = await loop.run_in_executor(self._rendering, self._render, history, chat.kind)
        persona = self._preferences.persona(chat)
        if persona is not None and persona.time:
            lines[-1] = prompt.with_time(lines[-1], time.localtime())
        counts = await voice.count((*system, *lines))
        budget = voice.context_tokens - self.sampling(voice, chat).max_new_tokens - _HEADER_TOKENS
        budget = max(budget - sum(counts[: len(system)]), budget // 4)
        start = prompt.cut(counts[len(system) :], budget)
        if start and not moved_past:
            await self._store.move_window(chat, history[start].seq)
        kept = lines[start:]
        if counts[-1] > budget:
            kept = [await self._shortened(voice, kept[-1], counts[-1], budget)]
        return (*system, *kept)

    def _render(self, history: tuple[StoredMessage, ...], kind: ChatKind) -> list[ChatMessage]:
        """Blocking: asks the disk which pictures are still there."""
        return [prompt.render(message, kind, self._pictures.holds) for message in history]

    async def _shortened(self, voice: Voice, line: ChatMessage, count: int, budget: int) -> ChatMessage:
        """The newest message alone is over the budget: keep both ends of its text and its last pictures."""
        keep = 1.0
        shorter = line
        while count > budget and keep > 0.001:
            keep *= min(budget / count, 0.9)
            shorter = prompt.shorten(line, keep)
            (count,) = await voice.count((shorter,))
        return shorter

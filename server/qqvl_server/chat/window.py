"""The part of a chat's history that a turn sees: counted exactly, cut in large steps, always a request at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from qqvl_server.chat import prompt
from qqvl_server.chat.albums import Levels, levelled
from qqvl_server.chat.message import ChatKey, ChatKind, Picture, StoredMessage
from qqvl_server.chat.personas import Persona
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.store import Store
from qqvl_server.generation.port import ChatMessage, ImagePart, Sampling, TextPart, Voice
from qqvl_server.media.image import ImageRef
from qqvl_server.settings import GenerationSettings

# The rendered prompt ends with the assistant's header, which the per-message counts leave out.
_HEADER_TOKENS: Final = 8
# Lines before one that the window has moved past.
_LOOK_BACK: Final = 64
_RENDERING_THREADS: Final = 2
# Above every line's number.
_EVER: Final = 2**62
# Whose pictures' levels are remembered.
_CHATS: Final = 10_000


class PictureShelf(Protocol):
    def holds(self, ref: ImageRef) -> bool:
        """Blocking: whether the picture's bytes are still kept."""
        ...


def sampling(generation: GenerationSettings, persona: Persona | None, context_tokens: int) -> Sampling:
    """How an answer in a chat is drawn."""
    own = persona.sampling.model_dump(exclude_none=True) if persona is not None else {}
    wanted = generation.model_copy(update=own)
    return Sampling(
        # A reply may not leave the history less than half of a small model's context.
        max_new_tokens=min(wanted.max_new_tokens, context_tokens // 2),
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        repetition_penalty=wanted.repetition_penalty,
    )


class Window:
    def __init__(
        self, store: Store, pictures: PictureShelf, preferences: Preferences, generation: GenerationSettings
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._preferences = preferences
        self._generation = generation
        # How each chat's pictures are shown until they are over their budget again. A restart forgets it, and the
        # engine's cache with it.
        self._levels: dict[ChatKey, Levels] = {}
        self._rendering = ThreadPoolExecutor(_RENDERING_THREADS, thread_name_prefix="qqvl-window")

    def sampling(self, voice: Voice, chat: ChatKey) -> Sampling:
        """As the chat's persona wants it, where it does."""
        return sampling(self._generation, self._preferences.persona(chat), voice.context_tokens)

    async def messages(self, voice: Voice, chat: ChatKey, last: StoredMessage) -> tuple[ChatMessage, ...]:
        """System prompt and as much history as fits; always ends with ``last``."""
        system = prompt.system_message(self._preferences.system_prompt(chat))
        history = await self._store.window(chat, last.seq)
        moved_past = not history
        if moved_past:
            # It failed when it came and is asked again after much talk: shown as it would have been then.
            history = await self._store.messages(chat, before=last.seq + 1, limit=_LOOK_BACK) or (last,)
        lines = await self._lines(voice, chat, history, keeps_levels=not moved_past)
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

    async def _lines(
        self, voice: Voice, chat: ChatKey, history: tuple[StoredMessage, ...], *, keeps_levels: bool
    ) -> list[ChatMessage]:
        """The history with its pictures within their budget."""
        levels = self._levels.get(chat, Levels())
        lines = await self._rendered(chat, history, levels)
        budget = self._preferences.of(chat).picture_tokens
        if not budget or not any(isinstance(part, ImagePart) for line in lines for part in line.parts):
            return lines
        if sum(await self._picture_tokens(voice, lines)) <= budget:
            return lines
        whole = await self._rendered(chat, history, Levels())
        tokens = await self._picture_tokens(voice, whole)
        pictures = [sum(isinstance(part, ImagePart) for part in line.parts) for line in whole]
        costs = [(m.seq, n, t) for m, n, t in zip(history, pictures, tokens, strict=True) if n]
        levels = replace(levelled(costs, budget), captions=_captions(history))
        if keeps_levels:
            self._levels[chat] = levels
            if len(self._levels) > _CHATS:
                self._levels.pop(next(iter(self._levels)))
        return await self._rendered(chat, history, levels)

    async def faded(self, chat: ChatKey) -> tuple[ImageRef, ...]:
        """The pictures that are no longer shown as they are and have no caption yet, each once, newest first."""
        levels = self._levels.get(chat)
        if levels is None:
            return ()
        history = await self._store.window(chat, _EVER)
        captions = _captions(history)
        older = (p.image for m in reversed(history) if m.seq < levels.full for p in m.parts if isinstance(p, Picture))
        return tuple({image.sha256: image for image in older if image.sha256 not in captions}.values())

    async def _picture_tokens(self, voice: Voice, lines: Sequence[ChatMessage]) -> list[int]:
        """Of each line, what its pictures take: what is left of its tokens without those of its words."""
        seen = [line for line in lines if any(isinstance(part, ImagePart) for part in line.parts)]
        words = [replace(line, parts=tuple(p for p in line.parts if isinstance(p, TextPart))) for line in seen]
        counts = await voice.count((*seen, *words))
        left = iter([a - b for a, b in zip(counts[: len(seen)], counts[len(seen) :], strict=True)])
        return [next(left) if any(isinstance(part, ImagePart) for part in line.parts) else 0 for line in lines]

    async def _rendered(self, chat: ChatKey, history: tuple[StoredMessage, ...], levels: Levels) -> list[ChatMessage]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._rendering, self._render, history, chat.kind, levels)

    def _render(self, history: tuple[StoredMessage, ...], kind: ChatKind, levels: Levels) -> list[ChatMessage]:
        """Blocking: asks the disk which pictures are still there."""

        def shown(message: StoredMessage) -> Callable[[ImageRef], ImageRef | str]:
            return lambda ref: levels.shown(message.seq, ref) if self._pictures.holds(ref) else prompt.EXPIRED

        numbers = prompt.numbering(history)
        return [prompt.render(m, kind, shown(m), number) for m, number in zip(history, numbers, strict=True)]

    async def _shortened(self, voice: Voice, line: ChatMessage, count: int, budget: int) -> ChatMessage:
        """The newest message alone is over the budget: keep both ends of its text and its last pictures."""
        keep = 1.0
        shorter = line
        while count > budget and keep > 0.001:
            keep *= min(budget / count, 0.9)
            shorter = prompt.shorten(line, keep)
            (count,) = await voice.count((shorter,))
        return shorter


def _captions(history: Sequence[StoredMessage]) -> dict[str, str]:
    pictures = (part for message in history for part in message.parts if isinstance(part, Picture))
    return {picture.image.sha256: picture.caption for picture in pictures if picture.caption}

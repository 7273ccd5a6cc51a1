"""A replica's side of a voice that others speak through: calls come in as frozen values, and so do answers go out.

A picture travels as its file, once to each replica that is shown it: most files are a few hundred kB, the patches that
are cut from one of 1024 tokens 25 MB in float32, and they would be sent again on every turn. So the replica decodes
and cuts, where the cores (or the card's neighbours) that need the result are. Errors are answers, not exceptions: what
carries them must not log or wrap what a caller did wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import ChatMessage, GenerationRequest, ImagePart, TextEvent, Voice
from qqvl_server.media.image import ImageRef
from qqvl_server.media.library import ImageLibrary

T = TypeVar("T")

# Of a stream, what comes within this time goes in one message: each costs both sides about a millisecond.
_TOGETHER_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Asked:
    """``left_s``: clocks of two machines have nothing to do with each other, so a deadline travels as what is left.

    ``lost`` are hashes of pictures that nobody has any more.
    """

    request: GenerationRequest
    left_s: float
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Described:
    context_tokens: int
    device: str
    shares_steps: bool


@dataclass(frozen=True, slots=True)
class Wanting:
    """Nothing was done: these pictures are not here. Send them and ask again."""

    pictures: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class GivenUp:
    """As ``Voice.given_up``, told before the first event."""

    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of the model that the owner's requests have taken here since this was last told."""

    seconds: float


Item = TextEvent | GivenUp | Spent | Wanting | QqvlError


class Served:
    """``voice`` for callers elsewhere; ``library`` keeps the pictures that they send."""

    def __init__(self, voice: Voice, library: ImageLibrary) -> None:
        self._voice = voice
        self._library = library

    def is_alive(self) -> bool:
        return self._voice.status().alive

    async def describe(self) -> Described:
        voice = self._voice
        return Described(voice.context_tokens, voice.status().device, voice.shares_steps)

    async def keep(self, data: bytes) -> QqvlError | None:
        return await _told(asyncio.to_thread(self._kept, data))

    async def count(self, messages: tuple[ChatMessage, ...]) -> tuple[int, ...] | QqvlError:
        return await _told(self._voice.count(messages))

    async def tokenize(self, asked: Asked) -> tuple[int, ...] | Wanting | QqvlError:
        if wanting := self._wanting(asked):
            return wanting
        return await _told(self._voice.tokenize(_request(asked)))

    async def detokenize(self, ids: tuple[int, ...]) -> str | QqvlError:
        return await _told(self._voice.detokenize(ids))

    async def score(
        self, asked: Asked, candidates: tuple[str, ...]
    ) -> tuple[tuple[float, ...], Spent] | Wanting | QqvlError:
        if wanting := self._wanting(asked):
            return wanting
        scores = await _told(self._voice.score(_request(asked), candidates))
        return scores if isinstance(scores, QqvlError) else (scores, self._spent(asked))

    async def warm(self, asked: Asked) -> Wanting | Spent:
        if wanting := self._wanting(asked):
            return wanting
        await self._voice.warm(_request(asked))
        return self._spent(asked)

    async def generate(self, asked: Asked) -> AsyncGenerator[tuple[Item, ...], None]:
        """Closing it stops the model at the next token."""
        if wanting := self._wanting(asked):
            yield (wanting,)
            return
        begun = False
        last: QqvlError | None = None
        async with aclosing(self._voice.generate(_request(asked))) as events:
            try:
                async with aclosing(_gathered(events)) as chunks:
                    async for chunk in chunks:
                        if not begun and (places := self._voice.given_up(asked.request)):
                            yield (GivenUp(places),)
                        begun = True
                        yield chunk
            except QqvlError as error:
                last = error
        yield (self._spent(asked), *([last] if last else []))

    def _kept(self, data: bytes) -> None:
        self._library.add(data)

    def _spent(self, asked: Asked) -> Spent:
        return Spent(self._voice.take_seconds(asked.request.owner))

    def _wanting(self, asked: Asked) -> Wanting | None:
        shown = dict.fromkeys(pictures(asked.request.messages))
        missing = tuple(ref for ref in shown if ref.sha256 not in asked.lost and not self._library.holds(ref))
        return Wanting(missing) if missing else None


def pictures(messages: Sequence[ChatMessage]) -> list[ImageRef]:
    return [part.image for message in messages for part in message.parts if isinstance(part, ImagePart)]


def _request(asked: Asked) -> GenerationRequest:
    return replace(asked.request, deadline=time.monotonic() + asked.left_s)


async def _told(work: Awaitable[T]) -> T | QqvlError:
    try:
        return await work
    except QqvlError as error:
        return error


async def _gathered(events: AsyncIterator[TextEvent]) -> AsyncGenerator[tuple[TextEvent, ...], None]:
    """The first as soon as it is there, then what has come meanwhile."""
    held: list[TextEvent] = []
    some = asyncio.Event()

    async def listen() -> None:
        try:
            async for event in events:
                held.append(event)
                some.set()
        finally:
            some.set()

    listening = asyncio.create_task(listen())
    try:
        while True:
            await some.wait()
            some.clear()
            if told := tuple(held):
                held.clear()
                yield told
            if listening.done() and not held:
                break
            await asyncio.wait({listening}, timeout=_TOGETHER_S)
        listening.result()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

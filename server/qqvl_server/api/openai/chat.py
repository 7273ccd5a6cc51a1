"""An answer to a chat, whole or as a stream: the same deltas either way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from qqvl_server.api.openai import render
from qqvl_server.api.openai.render import Envelope
from qqvl_server.api.openai.reply import ChatMessageFold, ChatReply
from qqvl_server.generation.port import GenerationRequest, Usage, Voice


async def whole(
    voice: Voice, request: GenerationRequest, envelope: Envelope, *, thoughts: bool = True
) -> dict[str, Any]:
    replies = _replies(request, thoughts=thoughts)
    folds = [ChatMessageFold(index) for index in range(request.choices)]
    async with aclosing(voice.generate(request)) as events:
        async for event in events:
            choice = replies[event.choice].take(event)
            if choice is not None:
                folds[event.choice].add(choice)
    logprobs = request.sampling.logprobs is not None
    return envelope.whole([fold.whole(logprobs=logprobs) for fold in folds], total(reply.usage for reply in replies))


async def stream(
    voice: Voice, request: GenerationRequest, envelope: Envelope, *, tell_usage: bool, thoughts: bool = True
) -> AsyncGenerator[str, None]:
    """Events: each choice's role, its deltas, its end; usage if asked for; ``[DONE]``. None before the first token."""
    replies = _replies(request, thoughts=thoughts)
    opened = False
    async with aclosing(voice.generate(request)) as events:
        async for event in events:
            if not opened:
                opened = True
                for reply in replies:
                    yield envelope.chunk([reply.opening()])
            choice = replies[event.choice].take(event)
            if choice is not None:
                yield envelope.chunk([choice])
    if tell_usage:
        yield envelope.chunk([], total(reply.usage for reply in replies))
    yield render.DONE


def total(parts: Iterator[Usage | None]) -> Usage:
    """Choices share their prompt, which counts once; only the first can tell how much of it was at hand before."""
    used = [part for part in parts if part is not None]
    made = sum(part.completion_tokens for part in used)
    thought = sum(part.reasoning_tokens for part in used)
    return Usage(used[0].prompt_tokens, made, used[0].cached_tokens, thought) if used else Usage(0, 0)


def _replies(request: GenerationRequest, *, thoughts: bool) -> Sequence[ChatReply]:
    return [ChatReply(index, thoughts=thoughts) for index in range(request.choices)]

"""POST /v1/completions: prompts without a chat, as text or as token ids, several at once."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from qqvl_server.api.openai import constraints, render
from qqvl_server.api.openai.render import Envelope
from qqvl_server.api.openai.schema import MAX_TOKEN_ID, CompletionBody
from qqvl_server.api.openai.translate import Asker, sampling, urgency
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import (
    Finished,
    GenerationRequest,
    TextDelta,
    TextEvent,
    TokenLogprob,
    Usage,
    Voice,
)

_DEFAULT_TOKENS: Final = 16
_MAX_PROMPTS: Final = 128
# The rest of a request's prompts wait here, so that it cannot fill the queue that others share.
_AT_ONCE: Final = 8

RawPrompt = str | tuple[int, ...]


def read(body: CompletionBody, who: Asker) -> tuple[GenerationRequest, ...]:
    """One request per prompt.

    Raises:
        InvalidRequest: an empty prompt or one of a wrong type; ``echo`` with ``logprobs``; ``best_of`` above ``n``.
    """
    choices = body.n or 1
    if body.echo and body.logprobs is not None:
        raise bad("echo", "不能和 logprobs 一起用（cannot be combined with logprobs）")
    wanted = sampling(body, body.max_tokens or _DEFAULT_TOKENS, body.logprobs)
    grammar = constraints.read(body)
    return tuple(
        GenerationRequest(
            f"{who.request_id}-{number}" if number else who.request_id,
            (),
            wanted,
            who.deadline,
            owner=who.owner,
            urgency=urgency(body),
            grammar=grammar,
            choices=choices,
            raw=prompt,
        )
        for number, prompt in enumerate(_prompts(body.prompt))
    )


def _prompts(value: Any) -> list[RawPrompt]:
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(value[0])):
        value = [value]
    if not isinstance(value, list) or not value:
        raise bad("prompt", "应是文字、token id 的列表，或它们的列表，不能为空（must be a non-empty prompt）")
    if len(value) > _MAX_PROMPTS:
        raise bad("prompt", f"最多 {_MAX_PROMPTS} 条（has too many items）")
    return [_prompt(item) for item in value]


def _prompt(value: Any) -> RawPrompt:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(map(_is_id, value)):
        return tuple(value)
    raise bad("prompt", "里有空的或类型不对的一条（must hold non-empty texts or token ids）")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKEN_ID


class TextReply:
    """One choice as it grows: text events in, choices of OpenAI's chunks out."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._spelt = 0
        self.usage: Usage | None = None

    def echo(self, text: str) -> dict[str, Any]:
        return self._choice(text)

    def take(self, event: TextEvent) -> dict[str, Any]:
        if isinstance(event, TextDelta):
            return self._choice(event.text, event.tokens)
        if not isinstance(event, Finished):
            # Never told of a raw prompt, which is nobody's turn to speak.
            return self._choice("", event.tokens)
        self.usage = event.usage
        return self._choice("") | {"finish_reason": event.reason.value, "stop_reason": event.stopped_by}

    def _choice(self, text: str, tokens: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
        logprobs = render.text_logprobs(tokens, [self._offset(token) for token in tokens]) if tokens else None
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": None, "stop_reason": None}

    def _offset(self, token: TokenLogprob) -> int:
        start = self._spelt
        self._spelt += len(self._decoder.decode(token.data))
        return start


def fold(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A choice's chunks as the whole choice."""
    told = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
    logprobs = {key: [item for part in told for item in part[key]] for key in told[0]} if told else None
    return chunks[-1] | {"text": "".join(chunk["text"] for chunk in chunks), "logprobs": logprobs}


class Completion:
    """The replies to all prompts of one request, in the order they are made."""

    def __init__(self, voice: Voice, requests: Sequence[GenerationRequest], *, echo: bool) -> None:
        self._voice = voice
        self._requests = requests
        self._echo = echo
        self._replies = [[TextReply(p * r.choices + c) for c in range(r.choices)] for p, r in enumerate(requests)]

    async def choices(self) -> AsyncGenerator[dict[str, Any], None]:
        """Choices of chunks, ``index`` counting over prompts, then over each prompt's choices."""
        async with aclosing(self._merged()) as events:
            async for number, event in events:
                if isinstance(event, str):
                    for reply in self._replies[number]:
                        yield reply.echo(event)
                else:
                    yield self._replies[number][event.choice].take(event)

    def usage(self) -> Usage:
        parts = [[reply.usage for reply in replies if reply.usage] for replies in self._replies]
        return Usage(
            sum(part[0].prompt_tokens for part in parts if part),
            sum(usage.completion_tokens for part in parts for usage in part),
            sum(part[0].cached_tokens for part in parts if part),
        )

    async def _merged(self) -> AsyncGenerator[tuple[int, TextEvent | str], None]:
        """Events of all prompts as they come; the first error ends them all."""
        queue: asyncio.Queue[tuple[int, TextEvent | str] | BaseException | None] = asyncio.Queue()
        room = asyncio.Semaphore(_AT_ONCE)

        async def speak(number: int, request: GenerationRequest) -> None:
            try:
                async with room:
                    await self._speak(number, request, queue)
                queue.put_nowait(None)
            except Exception as error:
                # Carried to whoever reads the queue, which raises it.
                queue.put_nowait(error)

        tasks = [asyncio.create_task(speak(number, request)) for number, request in enumerate(self._requests)]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if item is None:
                    left -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _speak(self, number: int, request: GenerationRequest, queue: asyncio.Queue[Any]) -> None:
        echoed = await self._text_of(request.raw) if self._echo else None
        async with aclosing(self._voice.generate(request)) as events:
            async for event in events:
                if echoed is not None:
                    queue.put_nowait((number, echoed))
                    echoed = None
                queue.put_nowait((number, event))

    async def _text_of(self, prompt: RawPrompt | None) -> str:
        return prompt if isinstance(prompt, str) else await self._voice.detokenize(prompt or ())


async def whole(completion: Completion, envelope: Envelope) -> dict[str, Any]:
    told: dict[int, list[dict[str, Any]]] = {}
    async with aclosing(completion.choices()) as choices:
        async for choice in choices:
            told.setdefault(choice["index"], []).append(choice)
    return envelope.whole([fold(told[index]) for index in sorted(told)], completion.usage())


async def stream(completion: Completion, envelope: Envelope, *, tell_usage: bool) -> AsyncGenerator[str, None]:
    async with aclosing(completion.choices()) as choices:
        async for choice in choices:
            yield envelope.chunk([choice])
    if tell_usage:
        yield envelope.chunk([], completion.usage())
    yield render.DONE

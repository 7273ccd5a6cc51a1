"""The voice of a model in this process: prompts rendered on a thread of their own, any engine behind. No torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from qqvl_server.errors import DeadlineExceeded, EngineDead, PromptTooLong, QqvlError
from qqvl_server.generation.channel import TokenChannel
from qqvl_server.generation.detokenize import TokenDecoder
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    TextDelta,
    TextEvent,
    Usage,
    VoiceStatus,
)
from qqvl_server.observe.metrics import Metrics


class PreparedPrompt(Protocol):
    @property
    def tokens(self) -> int: ...


P = TypeVar("P", bound=PreparedPrompt)
POut = TypeVar("POut", bound=PreparedPrompt, covariant=True)
PIn = TypeVar("PIn", bound=PreparedPrompt, contravariant=True)


class PromptMaker(Protocol[POut]):
    """Not thread-safe: the voice calls it on one thread."""

    def count(self, message: ChatMessage) -> int: ...
    def prepare(self, messages: Sequence[ChatMessage]) -> POut: ...
    def decoder(self) -> TokenDecoder: ...


class Engine(Protocol[PIn]):
    @property
    def alive(self) -> bool: ...

    def submit(self, prompt: PIn, request: GenerationRequest, channel: TokenChannel) -> None:
        """Start, from any thread: ids go into ``channel``, then one end or error; an abandoned channel stops it."""
        ...

    def close(self) -> None: ...


class LocalVoice(Generic[P]):
    def __init__(
        self, prompts: PromptMaker[P], engine: Engine[P], *, device: str, context_tokens: int, metrics: Metrics
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._device = device
        self._context_tokens = context_tokens
        self._metrics = metrics
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="qqvl-prompt")

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def status(self) -> VoiceStatus:
        return VoiceStatus(model_loaded=True, processor_loaded=True, alive=self._engine.alive, device=self._device)

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        def count_all() -> tuple[int, ...]:
            return tuple(self._prompts.count(message) for message in messages)

        return await asyncio.get_running_loop().run_in_executor(self._preparing, count_all)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        if not self._engine.alive:
            raise EngineDead("模型已停止工作，服务正在退出")
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._preparing, self._prompts.prepare, request.messages)
        room = self._context_tokens - prompt.tokens
        if room < 1:
            raise PromptTooLong(f"内容太长：共 {prompt.tokens} token，上限 {self._context_tokens}")
        sampling = replace(request.sampling, max_new_tokens=min(request.sampling.max_new_tokens, room))
        channel = TokenChannel()
        self._metrics.prompt_tokens.inc(prompt.tokens)
        sized = replace(request, sampling=sampling)
        await loop.run_in_executor(self._preparing, self._engine.submit, prompt, sized, channel)
        try:
            async with aclosing(self._events(channel, prompt.tokens, request.deadline)) as events:
                async for event in events:
                    yield event
        finally:
            channel.abandon()

    async def _events(
        self, channel: TokenChannel, prompt_tokens: int, deadline: float
    ) -> AsyncGenerator[TextEvent, None]:
        decoder = self._prompts.decoder()
        made = 0
        while True:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    item = await channel.receive()
            except TimeoutError:
                raise DeadlineExceeded("这条消息处理太久，已放弃，请稍后再试", retry_after=5) from None
            if isinstance(item, FinishReason):
                yield Finished(item, Usage(prompt_tokens, made))
                return
            if isinstance(item, QqvlError):
                raise item
            made += 1
            text = decoder.push(item)
            if text:
                yield TextDelta(text)

    async def aclose(self) -> None:
        """Stop taking work; what still runs ends at its next token once its request is closed."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

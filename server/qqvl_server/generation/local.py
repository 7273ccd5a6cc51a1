"""The voice of a model in this process. Joins preprocessing, engine and decoding; imports no torch.

Two threads of its own: one renders prompts (the tokenizer is not thread-safe), one runs the model, so that the
event loop never waits for either and exactly one model call runs at a time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from qqvl_server.errors import DeadlineExceeded, EngineDead, GenerationFailed, PromptTooLong, QqvlError
from qqvl_server.generation.detokenize import TokenDecoder
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    Sampling,
    TextDelta,
    TextEvent,
    Usage,
    VoiceStatus,
)
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics


class PreparedPrompt(Protocol):
    @property
    def tokens(self) -> int: ...


P = TypeVar("P", bound=PreparedPrompt)
POut = TypeVar("POut", bound=PreparedPrompt, covariant=True)
PIn = TypeVar("PIn", bound=PreparedPrompt, contravariant=True)


class PromptMaker(Protocol[POut]):
    def count(self, message: ChatMessage) -> int: ...
    def prepare(self, messages: Sequence[ChatMessage]) -> POut: ...
    def decoder(self) -> TokenDecoder: ...


class Engine(Protocol[PIn]):
    def run(
        self, prompt: PIn, sampling: Sampling, on_token: Callable[[int], None], stop: Callable[[], bool]
    ) -> FinishReason: ...


class TokenChannel:
    """The one upward crossing: ids from the model thread to the event loop, then one end or error."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[int | FinishReason | QqvlError] = asyncio.Queue()
        self._abandoned = threading.Event()

    def send(self, item: int | FinishReason | QqvlError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def receive(self) -> int | FinishReason | QqvlError:
        return await self._queue.get()

    def abandon(self) -> None:
        self._abandoned.set()

    def is_abandoned(self) -> bool:
        return self._abandoned.is_set()


class LocalVoice(Generic[P]):
    def __init__(
        self, prompts: PromptMaker[P], engine: Engine[P], *, device: str, context_tokens: int, metrics: Metrics
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._device = device
        self._context_tokens = context_tokens
        self._metrics = metrics
        self._alive = True
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="qqvl-prompt")
        self._running = ThreadPoolExecutor(1, thread_name_prefix="qqvl-model")

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def status(self) -> VoiceStatus:
        return VoiceStatus(model_loaded=True, processor_loaded=True, alive=self._alive, device=self._device)

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        def count_all() -> tuple[int, ...]:
            return tuple(self._prompts.count(message) for message in messages)

        return await asyncio.get_running_loop().run_in_executor(self._preparing, count_all)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        if not self._alive:
            raise EngineDead("模型已停止工作，服务正在退出")
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._preparing, self._prompts.prepare, request.messages)
        room = self._context_tokens - prompt.tokens
        if room < 1:
            raise PromptTooLong(f"内容太长：共 {prompt.tokens} token，上限 {self._context_tokens}")
        sampling = replace(request.sampling, max_new_tokens=min(request.sampling.max_new_tokens, room))
        channel = TokenChannel()
        self._metrics.requests_waiting.inc()
        loop.run_in_executor(self._running, self._run, prompt, sampling, channel, request.deadline)
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

    def _run(self, prompt: P, sampling: Sampling, channel: TokenChannel, deadline: float) -> None:
        """On the model thread. Whatever happens, the channel gets an end or an error."""

        def stop() -> bool:
            return channel.is_abandoned() or time.monotonic() > deadline

        def on_token(token: int) -> None:
            self._metrics.generation_tokens.inc()
            channel.send(token)

        self._metrics.requests_waiting.dec()
        if stop() or not self._alive:
            channel.send(GenerationFailed("请求已取消"))
            return
        with self._metrics.requests_running.track_inprogress():
            self._metrics.prompt_tokens.inc(prompt.tokens)
            try:
                channel.send(self._engine.run(prompt, sampling, on_token, stop))
            except EngineDead as error:
                self._alive = False
                channel.send(error)
            except GenerationFailed as error:
                channel.send(error)
            except Exception as error:
                # The edge of a library that raises anything: one request fails, the thread goes on.
                logger().exception("模型调用失败", kind=type(error).__name__)
                channel.send(GenerationFailed("模型出错，这条消息没能回答，请重试"))

    async def aclose(self) -> None:
        """Stop taking work; a model call still running ends at its next token once its request is closed."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._running.shutdown(wait=False, cancel_futures=True)

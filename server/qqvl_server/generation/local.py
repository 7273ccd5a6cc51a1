"""The voice of a model in this process: prompts rendered off the event loop, any engine behind. No torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Generic, TypeVar

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import EngineDead, GenerationFailed, InvalidRequest, PromptTooLong, QqvlError
from qqvl_server.generation.account import Account
from qqvl_server.generation.backend import Engine, GrammarCompiler, PreparedPrompt, PromptMaker
from qqvl_server.generation.choices import one_choice
from qqvl_server.generation.constraints.bad_words import BadWords
from qqvl_server.generation.constraints.grammar import constraint
from qqvl_server.generation.constraints.thinking import WhileThinking, budget_of, tells_of_thought
from qqvl_server.generation.deadlines import in_time, too_late
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    GenerationRequest,
    Grammar,
    ImagePart,
    TextEvent,
    VoiceStatus,
)
from qqvl_server.generation.prompts.candidates import Candidates
from qqvl_server.generation.replies.channel import Inbox, Scores, TokenChannel
from qqvl_server.generation.replies.pulse import Pulse
from qqvl_server.generation.replies.reply import Choices, Reply
from qqvl_server.generation.replies.speech import Speech
from qqvl_server.generation.replies.thoughts import FORCED_CLOSING, NO_THOUGHT
from qqvl_server.generation.seats import Seat, Seats
from qqvl_server.observe.metrics import Metrics

# Most of the time they wait for the decoder: one slow picture must not hold up what is remembered of others.
_PICTURE_THREADS = 8
# Tokens of a prompt that is handed to the engine without leaving the event loop.
_SHORT = 1024
# Waking up for a token costs more than its text: with more streams than these all look less often, and together, and
# tell what they find as one delta. No eye sees such pauses.
_FEW_STREAMS = 4
_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.06


P = TypeVar("P", bound=PreparedPrompt)
T = TypeVar("T")


class LocalVoice(Generic[P]):
    """``max_pending`` replies at most may wait for their first token at once, shared among owners (``Seats``)."""

    def __init__(
        self,
        prompts: PromptMaker[P],
        engine: Engine[P],
        *,
        device: str,
        context_tokens: int,
        metrics: Metrics,
        max_pending: int = 128,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._device = device
        self._context_tokens = context_tokens
        self._metrics = metrics
        self._grammars = grammars
        self._seats = Seats(max_pending)
        self._streams = 0
        self._pulse = Pulse()
        self._closed = False
        self._bad_words = BadWords(prompts.spellings)
        self._candidates = Candidates(prompts.encode)
        # Apart, so that one chat's many pictures do not hold up another's words.
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="qqvl-prompt")
        self._pictures = ThreadPoolExecutor(_PICTURE_THREADS, thread_name_prefix="qqvl-pictures")

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def status(self) -> VoiceStatus:
        return VoiceStatus(model_loaded=True, processor_loaded=True, alive=self._engine.alive, device=self._device)

    async def watch(self) -> None:
        while self._engine.alive:  # noqa: ASYNC110
            await asyncio.sleep(1)

    @property
    def shares_steps(self) -> bool:
        return self._engine.meter.exact

    def take_seconds(self, owner: str) -> float:
        return self._engine.meter.take(owner)

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        def count_all() -> tuple[int, ...]:
            return tuple(self._prompts.count(message) for message in messages)

        return await self._aside(self._texts, count_all)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        wanted = constraint(request)
        seat, account = self._seats.take(request), Account(request)
        async with AsyncExitStack() as leaving:
            leaving.callback(self._seats.leave, seat)
            async with self._seats.waiting(seat):
                prompt = await self._prepared(request)
                fresh_mask = await in_time(self._masks(prompt, request, wanted), request.deadline)
                room = self._context_tokens - prompt.tokens
                most = min(request.sampling.max_new_tokens, room)
                words = request.sampling.bad_words
                banned = self._bad_words.known(words)
                if words and banned is None:
                    banned = await self._aside(self._texts, lambda: self._bad_words.banned(words))
                sampling = replace(request.sampling, max_new_tokens=most, banned=banned)
                self._metrics.prompt_tokens.inc(prompt.tokens)
                fitting = replace(request, sampling=sampling)
                events = await leaving.enter_async_context(aclosing(self._events(prompt, fitting, fresh_mask, seat)))
                event = await anext(events, None)
            account.begun()
            while event is not None:
                if isinstance(event, Finished):
                    event = replace(event, unseen=prompt.unseen)
                    account.ended(event)
                yield event
                event = await anext(events, None)

    def given_up(self, request: GenerationRequest) -> tuple[str, ...]:
        grammar = constraint(request)
        return self._grammars.given_up(grammar) if self._grammars and grammar else ()

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        if not candidates or not all(candidates):
            raise InvalidRequest("要比较的候选不能为空")
        seat = self._seats.take(request)
        async with AsyncExitStack() as leaving:
            leaving.callback(self._seats.leave, seat)
            await leaving.enter_async_context(self._seats.waiting(seat))
            prompt = await self._prepared(request)
            if prompt.opens_thought and request.thinking.enabled is False:
                prompt = await self._prepared(replace(request, opening=NO_THOUGHT + request.opening))
            ids = self._candidates.known(candidates)
            if ids is None:
                ids = await self._aside(self._texts, lambda: self._candidates.spelled(candidates))
            if prompt.tokens + max(map(len, ids)) > self._context_tokens:
                raise PromptTooLong(f"内容太长：候选放不进 {self._context_tokens} token 的上限")
            self._metrics.prompt_tokens.inc(prompt.tokens)
            channel = TokenChannel()
            try:
                if prompt.tokens <= _SHORT and self._pool(request) is self._texts:
                    self._check_open()
                    self._engine.score(prompt, ids, request, channel)
                else:
                    await self._aside(self._pool(request), lambda: self._engine.score(prompt, ids, request, channel))
                item = await in_time(channel.receive(), request.deadline)
            finally:
                channel.abandon()
        if isinstance(item, QqvlError):
            raise item
        if not isinstance(item, Scores):
            raise GenerationFailed("模型出错，这条消息没能回答，请重试")
        return item.values

    async def warm(self, request: GenerationRequest) -> None:
        try:
            prompt = await self._prepared(request)
            await self._aside(self._pool(request), lambda: self._engine.warm(prompt, request))
        except QqvlError:
            # Only a favour for later: whoever really asks will hear of it.
            return

    async def length(self, request: GenerationRequest) -> int:
        return len(await self.tokenize(request))

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        return await self._aside(self._texts, lambda: self._prompts.tokenize(request))

    async def detokenize(self, ids: Sequence[int]) -> str:
        return await self._aside(self._texts, lambda: self._prompts.detokenize(ids))

    async def aclose(self) -> None:
        """Stop taking work; what still runs ends at its next token once its request is closed."""
        self._closed = True
        self._texts.shutdown(wait=False, cancel_futures=True)
        self._pictures.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    async def _events(
        self, prompt: P, request: GenerationRequest, fresh_mask: Callable[[int], TokenMask] | None, seat: Seat
    ) -> AsyncGenerator[TextEvent, None]:
        inbox = Inbox()
        channels = [TokenChannel(choice, inbox) for choice in range(request.choices)]
        choices = Choices([self._reply(choice, prompt, request) for choice in range(request.choices)], channels)
        # The others wait for the first one's first token: by then the prompt is in the engine's cache for all.
        later = iter(range(1, request.choices))

        def submit(numbers: Sequence[int]) -> None:
            for choice in numbers:
                mask = fresh_mask and fresh_mask(request.sampling.max_new_tokens)
                self._engine.submit(prompt, one_choice(request, choice), channels[choice], mask)

        # One timer a request: a timeout around every token would cost as much as the token's text.
        late = too_late()
        left = max(request.deadline - time.monotonic(), 0)
        alarm = asyncio.get_running_loop().call_later(left, inbox.put, 0, late)
        self._streams += 1
        try:
            if fresh_mask is None and prompt.tokens <= _SHORT and self._pool(request) is self._texts:
                # Over before another thread would have begun.
                self._check_open()
                submit([0])
            else:
                await self._aside(self._pool(request), lambda: submit([0]))
            while not choices.finished:
                crowded = self._streams > _FEW_STREAMS
                items = await inbox.all() if crowded else [await inbox.get()]
                if (0, late) in items:
                    raise late
                if seat.waiting:
                    for choice, _ in items:
                        self._seats.began(seat, choice)
                if rest := list(later):
                    await self._aside(self._pool(request), lambda rest=rest: submit(rest))  # type: ignore[misc]
                for event in choices.take(items):
                    yield event
                if crowded and not choices.finished:
                    await self._pulse.beat(min(self._streams * _PAUSE_S, _LONGEST_PAUSE_S), inbox.due)
        finally:
            self._streams -= 1
            alarm.cancel()
            for channel in channels:
                channel.abandon()

    def _reply(self, choice: int, prompt: P, request: GenerationRequest) -> Reply:
        # What is written after a raw prompt is nobody's speech: it is told as it is.
        speech = Speech(request, choice, inside=prompt.opens_thought) if request.raw is None else None
        return Reply(choice, self._prompts.decoder(), self._prompts.spell, request.sampling, prompt.tokens, speech)

    async def _prepared(self, request: GenerationRequest) -> P:
        prepare = self._aside(self._pool(request), lambda: self._prompts.prepare(request))
        prompt, limit = await in_time(prepare, request.deadline), self._context_tokens
        if prompt.tokens >= limit:
            raise PromptTooLong(f"内容太长：共 {prompt.tokens} token，上限 {limit}", limit=limit)
        return prompt

    async def _masks(
        self, prompt: P, request: GenerationRequest, wanted: Grammar | None
    ) -> Callable[[int], TokenMask] | None:
        """What makes a reply's mask of the most tokens that it may have; None where nothing constrains it."""
        speaking, opened = await self._speaking(request, wanted), prompt.opens_thought
        budget = budget_of(request.thinking, opened=opened, thinks=prompt.thinks)
        free = budget is None and not (opened and speaking)
        if request.raw is not None or free or (opened and tells_of_thought(wanted)):
            return speaking
        written = NO_THOUGHT if budget == 0 else FORCED_CLOSING
        closing = await self._aside(self._texts, lambda: self._prompts.encode(written))
        unended = self._grammars.unended if self._grammars and wanted else None
        spell = self._prompts.spell
        return lambda most: WhileThinking(
            speaking, spell, closing, most, budget, inside=opened, unended=unended if opened else None
        )

    async def _speaking(self, request: GenerationRequest, wanted: Grammar | None) -> Callable[[int], TokenMask] | None:
        if wanted is None:
            if not (tools := request.callable_tools) or self._grammars is None:
                return None
            return await self._grammars.while_calling(tools, strict=request.tool_choice.allowed is not None)
        if self._grammars is None:
            raise InvalidRequest("这个模型不支持规定回答的格式")
        return await self._grammars.compile(wanted)

    def _check_open(self) -> None:
        if self._closed or not self._engine.alive:
            raise EngineDead("模型已停止工作，服务正在退出")

    def _pool(self, request: GenerationRequest) -> ThreadPoolExecutor:
        pictures = any(isinstance(part, ImagePart) for message in request.messages for part in message.parts)
        return self._pictures if pictures else self._texts

    async def _aside(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(pool, work)

"""The voice of models on other servers: a request goes to one of them, its answer comes back as events."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Final

from qqvl_server.engine.steps.figures import CLASSES
from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.request import Priority
from qqvl_server.errors import Away, EngineDead, GenerationFailed, InvalidRequest, PromptTooLong
from qqvl_server.generation.deadlines import in_time
from qqvl_server.generation.engines.upstream import showing
from qqvl_server.generation.engines.upstream.asking import Asked, Asking
from qqvl_server.generation.engines.upstream.counting import Counting
from qqvl_server.generation.engines.upstream.fleet import Fleet, Upstream
from qqvl_server.generation.engines.upstream.pictures import Gallery
from qqvl_server.generation.engines.upstream.scoring import TOP, scored
from qqvl_server.generation.engines.upstream.setbacks import Setback
from qqvl_server.generation.engines.upstream.tokens import conversation
from qqvl_server.generation.engines.upstream.watching import Watching
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    GenerationRequest,
    TextDelta,
    TextEvent,
    TokenLogprob,
    VoiceStatus,
)
from qqvl_server.generation.seats import Seats
from qqvl_server.observe.metrics import Metrics

_TRIES: Final = 3
_FIRST_PAUSE_S: Final = 0.25
_PICTURE_THREADS: Final = 4
_RETRY_AFTER_S: Final = 5
# Of the context, what a reply may have where the prompt may already fill it, for all that is known.
_LEAST_SHARE: Final = 8


class UpstreamVoice:
    """``exact`` tells whether ``counting`` counts exactly now; ``context_tokens`` is the settings' bound."""

    def __init__(
        self,
        fleet: Fleet,
        asking: Asking,
        watching: Watching,
        counting: Counting,
        gallery: Gallery,
        *,
        exact: Callable[[], bool],
        context_tokens: int,
        metrics: Metrics,
        max_pending: int,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._fleet = fleet
        self._asking = asking
        self._watching = watching
        self._counting = counting
        self._gallery = gallery
        self._exact = exact
        self._context_tokens = context_tokens
        self._metrics = metrics
        self._seats = Seats(max_pending)
        self._meter = Meter(exact=False)
        metrics.count_model_time(self._meter)
        self._threads = ThreadPoolExecutor(_PICTURE_THREADS, thread_name_prefix="qqvl-pictures")
        self._close = close
        self._closed = False

    @property
    def context_tokens(self) -> int:
        """The least of all upstreams', for a talk may move from one to another."""
        told = [p.context_tokens for p in self._fleet.profiles if p.context_tokens is not None]
        return min([*told, self._context_tokens])

    def status(self) -> VoiceStatus:
        away = self._fleet.is_away
        return VoiceStatus(not away, not away, alive=True, device="upstream", away=away)

    async def watch(self) -> None:
        await self._watching.watch()

    @property
    def shares_steps(self) -> bool:
        return False

    def take_seconds(self, owner: str) -> float:
        return self._meter.take(owner)

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        return await self._counting.messages(messages)

    async def length(self, request: GenerationRequest) -> int:
        return await self._counting.request(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        seat = self._seats.take(request)
        began, first = time.monotonic(), None
        async with AsyncExitStack() as leaving:
            leaving.callback(self._seats.leave, seat)
            leaving.callback(lambda: self._spent(request, began))
            leaving.enter_context(self._metrics.requests_running.track_inprogress())
            async with self._seats.waiting(seat):
                events, event = await self._begun(request, leaving)
                for choice in range(seat.replies):
                    self._seats.began(seat, choice)
            first = time.monotonic() - began
            while event is not None:
                if isinstance(event, Finished):
                    event = await self._finished(request, event, first)
                yield event
                try:
                    event = await anext(events, None)
                except Setback as setback:
                    raise setback.error from None

    def given_up(self, request: GenerationRequest) -> tuple[str, ...]:
        return request.grammar.given_up if request.grammar is not None else ()

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        if not candidates or not all(candidates):
            raise InvalidRequest("要比较的候选不能为空")
        if not all(profile.logprobs for profile in self._fleet.profiles):
            raise InvalidRequest("上游不给对数概率，比不了候选")
        sampling = replace(request.sampling, max_new_tokens=1, temperature=0.0, logprobs=TOP, stop=())
        asked = replace(request, sampling=sampling, choices=1)
        tokens: list[TokenLogprob] = []
        async with aclosing(self.generate(asked)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    tokens += event.tokens
        found = scored(tokens, candidates)
        if found is None:
            raise GenerationFailed("上游没有给出候选的对数概率")
        return found

    async def warm(self, request: GenerationRequest) -> None:
        """Nothing: what an upstream reads ahead is paid for as what it is asked."""

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        raise InvalidRequest("模型在上游，这里没有 token 编号（token ids are not available with an upstream）")

    async def detokenize(self, ids: Sequence[int]) -> str:
        raise InvalidRequest("模型在上游，这里没有 token 编号（token ids are not available with an upstream）")

    async def aclose(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._close()

    async def _begun(
        self, request: GenerationRequest, leaving: AsyncExitStack
    ) -> tuple[AsyncGenerator[TextEvent, None], TextEvent | None]:
        """The answer with its first event: until that has come it may be asked for again, of the same or another.

        Raises as ``generate``.
        """
        failed: list[Upstream] = []
        shown: dict[bool, showing.Shown] = {}
        for tries in range(1, _TRIES + 1):
            upstream = self._chosen(request, failed)
            assert upstream.profile is not None
            sees = upstream.profile.sees
            if sees not in shown:
                shown[sees] = await self._shown(request, sees=sees)
            asked = await self._fitting(request, shown[sees])
            events = self._asking.events(asked, upstream)
            try:
                event = await anext(events, None)
            except Setback as setback:
                await events.aclose()
                if not setback.stays:
                    failed.append(upstream)
                if tries == _TRIES:
                    raise setback.error from None
                await self._pause(request, setback, failed, tries)
            except PromptTooLong:
                self._counting.unlearn()
                raise
            else:
                await leaving.enter_async_context(aclosing(events))
                return events, event
        raise AssertionError

    def _chosen(self, request: GenerationRequest, failed: Sequence[Upstream]) -> Upstream:
        """The talk's own, or the next that has not ``failed`` it."""
        if self._closed:
            raise EngineDead("模型已停止工作，服务正在退出")
        upstream = self._fleet.chosen(conversation(request), failed)
        if upstream is None:
            raise Away("上游的模型服务现在没有应答，请稍后再试", retry_after=_RETRY_AFTER_S)
        return upstream

    async def _pause(
        self, request: GenerationRequest, setback: Setback, failed: Sequence[Upstream], tries: int
    ) -> None:
        """As long as the upstream asks for, or a little; not at all where another one is asked next.

        Raises the setback's error: there is no time for it.
        """
        another = self._fleet.chosen(conversation(request), failed)
        wait = setback.pause_s
        if not setback.stays and another is not None and another not in failed:
            wait = 0.0
        elif wait is None:
            wait = _FIRST_PAUSE_S * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
        if time.monotonic() + wait >= request.deadline:
            raise setback.error
        await asyncio.sleep(wait)

    async def _shown(self, request: GenerationRequest, *, sees: bool) -> showing.Shown:
        if not showing.pictures(request):
            return showing.Shown()
        if not sees:
            return showing.unseen(request)
        work = asyncio.get_running_loop().run_in_executor(self._threads, showing.shown, request, self._gallery)
        return await in_time(work, request.deadline)

    async def _fitting(self, request: GenerationRequest, shown: showing.Shown) -> Asked:
        """With as many tokens as there is room for. Raises PromptTooLong: the prompt alone is too long."""
        limit, wanted = self.context_tokens, request.sampling.max_new_tokens
        bound = self._counting.bound(request)
        if bound + wanted <= limit:
            return Asked(request, shown, wanted)
        tokens = await in_time(self._counting.request(request), request.deadline)
        if self._exact():
            if tokens >= limit:
                raise PromptTooLong(f"内容太长：共 {tokens} token，上限 {limit}", limit=limit)
            return Asked(request, shown, max(min(wanted, limit - tokens), 1))
        # It may well be shorter than it is thought; whether it is too long the upstream says.
        room = max(limit - tokens, limit // _LEAST_SHARE, 1)
        return Asked(request, shown, min(wanted, room))

    async def _finished(self, request: GenerationRequest, event: Finished, first_s: float) -> Finished:
        """Counted; with the prompt's length also where the upstream does not tell it."""
        usage = event.usage
        self._metrics.generation_tokens.inc(usage.completion_tokens)
        if event.choice:
            return event
        self._metrics.waited(None, first_s, CLASSES[Priority(request.urgency)])
        self._metrics.prompt_tokens.inc(usage.prompt_tokens)
        self._metrics.prefix_cached_tokens.inc(usage.cached_tokens)
        if usage.prompt_tokens:
            await self._counting.learn(request, usage.prompt_tokens)
            return event
        return replace(event, usage=replace(usage, prompt_tokens=await self._counting.request(request)))

    def _spent(self, request: GenerationRequest, began: float) -> None:
        self._meter.spent(time.monotonic() - began, [(request.owner, 1.0)])

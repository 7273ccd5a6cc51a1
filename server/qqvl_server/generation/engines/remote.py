"""The voice of a model that runs in replicas elsewhere. Knows what crosses to them (``served``), not how it gets there.

A replica may die at any time. Whoever was asked and died before the first word is asked again, of another; what has
begun is not begun a second time, because its caller may have heard some of it: that turn fails, and is sent again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, TypeVar

from qqvl_server.engine.steps.figures import CLASSES
from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.request import Priority
from qqvl_server.errors import Away, EngineDead, GenerationFailed, ImageRejected, InvalidRequest, QqvlError
from qqvl_server.generation.account import Account
from qqvl_server.generation.deadlines import in_time, too_late
from qqvl_server.generation.engines.affinity import session_of
from qqvl_server.generation.engines.served import Asked, Described, GivenUp, Spent, Wanting
from qqvl_server.generation.port import ChatMessage, Finished, GenerationRequest, TextEvent, VoiceStatus
from qqvl_server.media.image import ImageRef
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.logs import Seldom, logger
from qqvl_server.observe.metrics import Metrics

T = TypeVar("T")

_TRIES: Final = 3
# Between two of them: whoever routes must have heard of the death.
_PAUSE_S: Final = 0.2
_PICTURE_TRIES: Final = 3  # they may age out of a replica between being sent and being shown
AWAY_AFTER_S: Final = 10.0
_REMEMBERED_COUNTS: Final = 8192
_COUNTED_CHARACTERS: Final = 2000
_REMEMBERED_SCHEMAS: Final = 256
_ALL_LOST: Final = "正在回答的副本接连停了，这条消息没能回答，请重试"
_TOO_SMALL: Final = "副本上的图片空间太小，这条消息没能回答；请把 --image-store-gb 调大"


class ReplicaLost(Exception):
    """Not an error of ours yet: who was asked is gone or cannot be reached. What it did of the work is not known."""


class Replicas(Protocol):
    """``session`` names a chat: while the replica it was at last lives, it is asked there; "" is nobody's.

    Both wait while no replica is there at all. Methods are ``Served``'s; both raise ReplicaLost.
    """

    async def call(self, method: str, session: str, *values: Any) -> Any: ...
    def stream(self, method: str, session: str, *values: Any) -> AsyncGenerator[Any, None]:
        """Closing it ends the work."""

    async def aclose(self) -> None: ...


class RemoteVoice:
    """``described`` is what a replica has told of itself; they are all alike. ``library`` has the pictures' files.

    Where none has been heard for ``away_after_s`` seconds, asked several times, the voice is away.
    """

    def __init__(
        self,
        replicas: Replicas,
        described: Described,
        library: ImageLibrary,
        metrics: Metrics,
        away_after_s: float = AWAY_AFTER_S,
    ) -> None:
        self._replicas = replicas
        self._described = described
        self._library = library
        self._metrics = metrics
        self._meter = Meter(exact=described.shares_steps)
        metrics.count_model_time(self._meter)
        self._counts: OrderedDict[ChatMessage, int] = OrderedDict()
        self._given_up: OrderedDict[object, tuple[str, ...]] = OrderedDict()
        self._away_after_s = away_after_s
        self._heard_at = time.monotonic()
        self._telling = Seldom(10)

    @property
    def context_tokens(self) -> int:
        return self._described.context_tokens

    def status(self) -> VoiceStatus:
        here = time.monotonic() - self._heard_at <= self._away_after_s
        return VoiceStatus(here, here, alive=True, device=f"ray {self._described.device}", away=not here)

    async def watch(self) -> None:
        """For ever: what dies is replaced."""
        pause = self._away_after_s / 5
        while True:
            await asyncio.sleep(pause)
            if time.monotonic() - self._heard_at < pause:
                continue
            try:
                async with asyncio.timeout(self._away_after_s):
                    await self._replicas.call("describe", "")
                self._heard_at = time.monotonic()
            except (ReplicaLost, TimeoutError):
                continue

    @property
    def shares_steps(self) -> bool:
        return self._described.shares_steps

    def take_seconds(self, owner: str) -> float:
        return self._meter.take(owner)

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """A chat's older messages were counted on its earlier turns: only new ones cross."""
        known = {message: self._counts[message] for message in messages if message in self._counts}
        unknown = tuple(dict.fromkeys(message for message in messages if message not in known))
        if unknown:
            counted = await self._answer(lambda: self._replicas.call("count", "", unknown))
            known |= zip(unknown, counted, strict=True)
            for message in unknown:
                if sum(len(getattr(part, "text", "")) for part in message.parts) <= _COUNTED_CHARACTERS:
                    _remember(self._counts, message, known[message], _REMEMBERED_COUNTS)
        return tuple(known[message] for message in messages)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        arrived, first, account = time.monotonic(), None, Account(request)
        with self._metrics.requests_running.track_inprogress():
            for tried in range(1, _TRIES + 1):
                self._check_here()
                try:
                    async with aclosing(self._events(request)) as events:
                        async for event in events:
                            if first is None:
                                first = time.monotonic() - arrived
                                account.begun()
                            if isinstance(event, Finished):
                                self._finished(event, account)
                            yield event
                    self._metrics.waited(None, first, CLASSES[Priority(request.urgency)])
                    return
                except (ReplicaLost, EngineDead):
                    self._tell_lost(tried)
                    if first is not None:
                        raise GenerationFailed("回答到一半时，正在回答的副本停了，请再发一次") from None
                    if tried == _TRIES:
                        raise GenerationFailed(_ALL_LOST) from None
                    await in_time(asyncio.sleep(_PAUSE_S * tried), request.deadline)

    def given_up(self, request: GenerationRequest) -> tuple[str, ...]:
        return self._given_up.get(_schemas(request), ())

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        if not candidates or not all(candidates):
            raise InvalidRequest("要比较的候选不能为空")
        scores, spent = await self._with_pictures("score", request, tuple(candidates))
        self._spent(request, spent)
        return tuple(scores)

    async def warm(self, request: GenerationRequest) -> None:
        try:
            self._spent(request, await self._with_pictures("warm", request))
        except QqvlError:
            # Only a favour for later: whoever really asks will hear of it.
            return

    async def length(self, request: GenerationRequest) -> int:
        return len(await self.tokenize(request))

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        return tuple(await self._with_pictures("tokenize", request))

    async def detokenize(self, ids: Sequence[int]) -> str:
        return str(await self._answer(lambda: self._replicas.call("detokenize", "", tuple(ids))))

    async def aclose(self) -> None:
        await self._replicas.aclose()

    async def _events(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        lost: frozenset[str] = frozenset()
        for _ in range(_PICTURE_TRIES):
            wanted: tuple[ImageRef, ...] = ()
            chunks = self._replicas.stream("generate", session_of(request), _asked(request, lost))
            async with aclosing(chunks):
                while (chunk := await in_time(anext(chunks, None), request.deadline)) is not None:
                    self._heard_at = time.monotonic()
                    for item in chunk:
                        if isinstance(item, QqvlError):
                            raise item
                        if isinstance(item, Wanting):
                            wanted = item.pictures
                        elif isinstance(item, Spent):
                            self._spent(request, item)
                        elif isinstance(item, GivenUp):
                            _remember(self._given_up, _schemas(request), item.places, _REMEMBERED_SCHEMAS)
                        else:
                            yield item
            if not wanted:
                return
            lost |= await self._send(wanted, request)
        raise GenerationFailed(_TOO_SMALL)

    async def _with_pictures(self, method: str, request: GenerationRequest, *values: Any) -> Any:
        lost: frozenset[str] = frozenset()
        session = session_of(request)

        async def ask() -> Any:
            return await in_time(self._replicas.call(method, session, _asked(request, lost), *values), request.deadline)

        for _ in range(_PICTURE_TRIES):
            answer = await self._answer(ask)
            if not isinstance(answer, Wanting):
                return answer
            lost |= await self._send(answer.pictures, request)
        raise GenerationFailed(_TOO_SMALL)

    async def _send(self, wanted: Sequence[ImageRef], request: GenerationRequest) -> frozenset[str]:
        """Send these pictures to where the request will be asked again; returns those that nobody has any more."""
        lost = set()
        for ref in wanted:
            data = await asyncio.to_thread(self._library.read, ref.sha256)
            if data is None:
                lost.add(ref.sha256)
                continue
            try:
                await self._answer(functools.partial(self._keep, data, request))
            except ImageRejected:
                # Why, the replica says of the request: with the picture's place, or to the people of the chat.
                lost.add(ref.sha256)
        return frozenset(lost)

    async def _keep(self, data: bytes, request: GenerationRequest) -> Any:
        return await in_time(self._replicas.call("keep", session_of(request), data), request.deadline)

    async def _answer(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Raises what a replica answers with; asks again where one is lost, which does no harm: nothing was told."""
        for tried in range(1, _TRIES + 1):
            self._check_here()
            try:
                answer = await ask()
                if not isinstance(answer, EngineDead):
                    self._heard_at = time.monotonic()
                if isinstance(answer, QqvlError):
                    raise answer
                return answer
            except (ReplicaLost, EngineDead):
                self._tell_lost(tried)
                if tried == _TRIES:
                    raise GenerationFailed(_ALL_LOST) from None
                await asyncio.sleep(_PAUSE_S * tried)
        raise AssertionError("unreachable")

    def _check_here(self) -> None:
        if self.status().away:
            raise Away("现在一个副本都没有应答，请稍后再试", retry_after=5)

    def _spent(self, request: GenerationRequest, spent: Spent) -> None:
        self._meter.spent(spent.seconds, [(request.owner, 1.0)])

    def _finished(self, event: Finished, account: Account) -> None:
        if event.choice == 0:
            self._metrics.prompt_tokens.inc(event.usage.prompt_tokens)
            self._metrics.prefix_cached_tokens.inc(event.usage.cached_tokens)
        self._metrics.generation_tokens.inc(event.usage.completion_tokens)
        account.ended(event)

    def _tell_lost(self, tried: int) -> None:
        if self._telling.due():
            logger().warning("一个副本在回答时停了", tried=tried)


def _asked(request: GenerationRequest, lost: frozenset[str]) -> Asked:
    left = request.deadline - time.monotonic()
    if left <= 0:
        raise too_late()
    return Asked(request, left, lost)


def _schemas(request: GenerationRequest) -> object:
    return request.grammar, request.tools, request.tool_choice


def _remember(memory: OrderedDict[Any, T], key: object, value: T, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)

"""A message comes in, an answer goes out: the whole of what happens to one turn, in order.

Knows history, gate, window and the voice's port; no HTTP, no SQL, no torch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from qqvl_server.chat import commands, policy
from qqvl_server.chat.identity import Identity, are_one, has_pictures, identify
from qqvl_server.chat.message import (
    Answer,
    ChatKey,
    EncodedPicture,
    Incoming,
    LostPicture,
    MessagePart,
    Picture,
    Speaker,
    StoredMessage,
)
from qqvl_server.chat.session import Lanes, Place
from qqvl_server.chat.store import ChatSummary, Draft, Store
from qqvl_server.chat.warming import Warmer
from qqvl_server.chat.window import Window
from qqvl_server.errors import DeadlineExceeded, Draining, ImageRejected, InvalidRequest
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    GenerationRequest,
    Reasoning,
    TextDelta,
    Thinking,
    Usage,
    Voice,
)
from qqvl_server.media.image import ImageRef
from qqvl_server.settings import ChatSettings, GenerationSettings

_LOOKING_THREADS: Final = 24
BOT: Final = Speaker("bot", "bot")


class PictureBook(Protocol):
    """What the chat needs of the image library; both calls block."""

    def add_base64(self, text: str) -> ImageRef: ...
    def holds(self, ref: ImageRef) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Received:
    """Parts after their pictures were looked at, and what went wrong on the way."""

    parts: tuple[MessagePart, ...]
    warnings: tuple[str, ...]


class ChatService:
    def __init__(
        self,
        store: Store,
        voice: Callable[[], Voice],
        pictures: PictureBook,
        settings: ChatSettings,
        generation: GenerationSettings,
        max_images: int,
    ) -> None:
        self._store = store
        self._voice = voice
        self._pictures = pictures
        self._settings = settings
        self._generation = generation
        self._max_images = max_images
        self._window = Window(store, pictures, settings, generation)
        self._warmer = Warmer(voice, self._window.messages)
        self._lanes = Lanes(generation.max_pending)
        # Most of the time they wait for the decoder, which lets fewer slow pictures wait than there are threads here.
        self._looking = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="qqvl-looking")
        self._refusals = commands.Refusals()
        self._turns: dict[asyncio.Task[Answer], Incoming] = {}
        self._by_id: dict[tuple[ChatKey, str], list[asyncio.Task[Answer]]] = {}
        self._draining = False

    async def handle(self, incoming: Incoming, chat_name: str) -> Answer:
        """Answer one message. The turn goes on when the caller hangs up, so that a retry finds its answer.

        Raises:
            InvalidRequest, CapacityError, GenerationFailed, EngineDead, StorageFailed
        """
        running = self._running(incoming)
        if running is not None:
            return await asyncio.shield(running)
        if self._draining:
            raise Draining("服务正在停止，请稍后再试", retry_after=5)
        self._voice()  # refuses while the weights are still loading
        place = self._lanes.take(incoming.chat)
        turn = asyncio.create_task(self._bounded_turn(incoming, chat_name, place))
        self._enter(turn, incoming)
        turn.add_done_callback(lambda _: self._lanes.leave(incoming.chat, place))
        # A caller that hung up awaits no more; without this its turn's error would be reported as never retrieved.
        turn.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(turn)

    def _running(self, incoming: Incoming) -> asyncio.Task[Answer] | None:
        """The unfinished turn of the same message, if it was sent before."""
        if incoming.message_id is None:
            return None
        turns = self._by_id.get((incoming.chat, incoming.message_id), ())
        return next((turn for turn in turns if are_one(self._turns[turn], incoming)), None)

    def _enter(self, turn: asyncio.Task[Answer], incoming: Incoming) -> None:
        """Note a turn until it is done."""
        self._turns[turn] = incoming
        if incoming.message_id is not None:
            self._by_id.setdefault((incoming.chat, incoming.message_id), []).append(turn)
        turn.add_done_callback(self._left)

    def _left(self, turn: asyncio.Task[Answer]) -> None:
        incoming = self._turns.pop(turn)
        if incoming.message_id is not None:
            same_id = self._by_id[incoming.chat, incoming.message_id]
            same_id.remove(turn)
            if not same_id:
                del self._by_id[incoming.chat, incoming.message_id]

    async def _bounded_turn(self, incoming: Incoming, chat_name: str, place: Place) -> Answer:
        deadline = time.monotonic() + self._generation.request_timeout_s
        try:
            # The voice ends by the same deadline; the second more is for its own, more exact error.
            async with asyncio.timeout(self._generation.request_timeout_s + 1):
                await place.turn()
                return await self._turn(incoming, chat_name, deadline)
        except TimeoutError:
            raise DeadlineExceeded("这条消息等了太久，已放弃，请稍后再试", retry_after=5) from None
        except asyncio.CancelledError:
            raise Draining("服务正在停止，这条消息没能答完，请稍后再试", retry_after=5) from None

    async def _turn(self, incoming: Incoming, chat_name: str, deadline: float) -> Answer:
        self._warmer.forget(incoming.chat)
        identity = await self._identified(incoming)
        if identity is not None:
            earlier = await self._store.find_answer(incoming.chat, identity)
            if earlier is not None:
                return earlier
        is_reset = self._is_reset(incoming)
        if is_reset and policy.may_reset(incoming, self._settings):
            answer = Answer(commands.RESET_REPLY, should_reply=True)
            await self._store.reset(incoming.chat, chat_name, identity, answer)
            return answer
        received = await self._received(incoming)
        stored = await self._store.add_message(
            Draft(incoming.chat, chat_name, incoming.speaker, received.parts, identity)
        )
        answer = Answer("", should_reply=False, warnings=received.warnings)
        if is_reset:
            if self._refusals.is_due(incoming.chat):
                answer = Answer(commands.RESET_REFUSED, should_reply=True, warnings=received.warnings)
        elif policy.is_answered(incoming, self._settings):
            answer = await self._ask(incoming, stored, received.warnings, deadline)
        else:
            self._warmer.heard(incoming.chat, stored)
        await self._store.add_answer(incoming.chat, identity, answer, BOT)
        return answer

    def _is_reset(self, incoming: Incoming) -> bool:
        """A command is given to the bot: what somebody else is told, or is only remembered, is talk."""
        return (
            not incoming.context_only
            and commands.is_reset(incoming, policy.names(incoming, self._settings))
            and policy.is_addressed(incoming, self._settings)
        )

    async def _identified(self, incoming: Incoming) -> Identity | None:
        """Pictures are decoded and hashed off the event loop."""
        if not has_pictures(incoming):
            return identify(incoming)
        return await asyncio.get_running_loop().run_in_executor(self._looking, identify, incoming)

    async def _received(self, incoming: Incoming) -> _Received:
        if not any(isinstance(part, EncodedPicture) for part in incoming.parts):
            # Words wait for nobody's pictures.
            return self._receive(incoming)
        return await asyncio.get_running_loop().run_in_executor(self._looking, self._receive, incoming)

    def _receive(self, incoming: Incoming) -> _Received:
        """Look at each picture once; blocking, on a worker thread.

        Raises:
            InvalidRequest: nothing readable is left of the message.
        """
        parts: list[MessagePart] = []
        warnings: list[str] = []
        seen = 0
        for part in incoming.parts:
            if not isinstance(part, EncodedPicture):
                parts.append(part)
                continue
            seen += 1
            if seen > self._max_images:
                continue
            try:
                image = self._pictures.add_base64(part.data)
                parts.append(Picture(image))
                if image.share < 1:
                    warnings.append(f"第 {seen} 张图的文件不完整，只看到约 {min(image.share, 0.99):.0%}")
            except ImageRejected as error:
                warnings.append(f"第 {seen} 张图没有看到：{error.message}")
                parts.append(LostPicture())
        if seen > self._max_images:
            warnings.append(f"一条消息最多看 {self._max_images} 张图，后面 {seen - self._max_images} 张没有看")
        if not incoming.text and not any(isinstance(part, Picture) for part in parts):
            raise InvalidRequest("；".join(warnings) if warnings else "消息是空的：没有文字也没有图片")
        return _Received(tuple(parts), tuple(warnings))

    async def _ask(self, incoming: Incoming, last: StoredMessage, warnings: tuple[str, ...], deadline: float) -> Answer:
        voice = self._voice()
        messages = await self._window.messages(voice, incoming.chat, last)
        request = GenerationRequest(
            incoming.request_id,
            messages,
            self._window.sampling(voice),
            deadline,
            owner=str(incoming.chat),
            urgency=policy.urgency(incoming, self._settings),
            thinking=Thinking(anywhere=True),
        )
        text: list[str] = []
        usage, reason = Usage(0, 0), FinishReason.STOP
        unseen: tuple[str, ...] = ()
        async with aclosing(voice.generate(request)) as events:
            async for event in events:
                match event:
                    case TextDelta(delta):
                        text.append(delta)
                    case Reasoning(retracts=True):
                        text.clear()
                    case Finished(why, used):
                        usage, reason, unseen = used, why, event.unseen
        reply = "".join(text).strip()
        warnings += tuple(f"聊天记录里有一张图没有看到：{cause}" for cause in unseen)
        if not reply and reason is FinishReason.LENGTH:
            warnings += ("模型没想完就到了回复长度的上限，这次没有说话；可以加大 --max-new-tokens",)
        return Answer(reply, bool(reply), warnings, usage.prompt_tokens, usage.completion_tokens)

    @property
    def is_draining(self) -> bool:
        return self._draining

    async def chats(self) -> tuple[ChatSummary, ...]:
        return await self._store.chats()

    async def messages(self, chat: ChatKey, *, before: int | None, limit: int) -> tuple[StoredMessage, ...] | None:
        return await self._store.messages(chat, before=before, limit=limit)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, give running turns ``grace_s`` seconds, then end them with an error."""
        self._draining = True
        await self._warmer.aclose()
        if self._turns:
            _, late = await asyncio.wait(tuple(self._turns), timeout=grace_s)
            for turn in late:
                turn.cancel()
            if late:
                await asyncio.wait(late, timeout=5)
        self._looking.shutdown(wait=False, cancel_futures=True)

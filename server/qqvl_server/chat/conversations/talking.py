"""Conversations in the browser: what is said is kept, the model is asked, and its answer is kept as it grows.

Knows the store's methods and the voice's port; no HTTP, no SQL, no torch.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from qqvl_server.chat.conversations.running import Running
from qqvl_server.chat.conversations.store import ConversationStore, new_id
from qqvl_server.chat.conversations.values import Conversation, Said, Status, ToolResult, Wishes, thread
from qqvl_server.errors import AlreadySaid, Conflict, InvalidRequest, QqvlError, StorageFailed
from qqvl_server.generation.port import (
    ChatMessage,
    GenerationRequest,
    ImagePart,
    Part,
    Sampling,
    TextPart,
    Urgency,
    Voice,
)
from qqvl_server.media.image import ImageRef
from qqvl_server.observe.logs import logger

EXPIRED: Final = "[图片已过期]"
# What a kill may cost of an answer.
_SAVE_EVERY_S: Final = 3.0
# What a conversation may leave for the answer where it does not say how long that may be.
_ROOM_TOKENS: Final = 2048
_HEADER_TOKENS: Final = 8


class PictureShelf(Protocol):
    def holds(self, ref: ImageRef) -> bool:
        """Blocking: whether the picture's bytes are still kept."""
        ...


@dataclass(frozen=True, slots=True)
class Saying:
    """What comes from the browser: to be said below ``parent``, or, with neither words, pictures nor results, a wish
    for another answer to ``parent``. ``key`` is the browser's own for this message, so that one that is sent again
    because nothing was heard of it is not said twice."""

    request_id: str
    parent: str | None
    text: str = ""
    images: tuple[ImageRef, ...] = ()
    results: tuple[ToolResult, ...] = ()
    key: str | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.text.strip() or self.images or self.results)


class Talking:
    """``model`` is the name that is told of what answers; ``wishes`` reads a conversation's own, given how many tokens
    there may be."""

    def __init__(
        self,
        store: ConversationStore,
        voice: Callable[[], Voice],
        pictures: PictureShelf,
        wishes: Callable[[Conversation, int], Wishes],
        timeout_s: float,
        model: str,
    ) -> None:
        self.store = store
        self._voice = voice
        self._pictures = pictures
        self._wishes = wishes
        self._timeout_s = timeout_s
        self._model = model
        self._running: dict[str, Running] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    def find(self, conversation_id: str) -> Running | None:
        return self._running.get(conversation_id)

    async def say(self, owner: str, conversation_id: str, saying: Saying) -> Running:
        """Begin an answer; it goes on by itself.

        Raises:
            NotFound, StorageFailed, InvalidRequest: nothing to say, or to nobody.
            AlreadySaid: this very message is there.
            Conflict: an answer is being made.
            As the voice where there is none.
        """
        voice = self._voice()
        began = time.monotonic()
        conversation = await self.store.find(owner, conversation_id)
        said = await self.store.messages(owner, conversation_id)
        asked, path = _placed(conversation_id, said, saying)
        if conversation_id in self._running:
            raise Conflict("这个对话里的上一个回答还没说完：等它说完，或先停下它")
        answer = Said(new_id("m"), path[-1].id, "assistant", "", time.time(), status=Status.RUNNING, model=self._model)
        running = self._running[conversation_id] = Running(owner, answer, asked, began)
        try:
            await self.store.add(owner, conversation_id, [answer] if asked is None else [asked, answer])
        except BaseException:
            # Not begun: nobody waits for it, and the next may.
            del self._running[conversation_id]
            raise
        deadline = began + self._timeout_s
        work = self._answer(voice, conversation, path, running, GenerationRequest(
            saying.request_id, (), Sampling(1), deadline, owner=f"api:{owner}", urgency=Urgency.API
        ))  # fmt: skip
        running.task = asyncio.create_task(work)
        return running

    async def stop(self, owner: str, conversation_id: str) -> bool:
        """Whether there was an answer to stop. Raises NotFound, StorageFailed."""
        await self.store.find(owner, conversation_id)
        running = self._running.get(conversation_id)
        return running is not None and running.end(Status.STOPPED)

    async def delete(self, owner: str, conversation_id: str | None) -> int:
        """One, or all of ``owner``'s; what is being said in them ends. Raises NotFound, StorageFailed."""
        for one, running in tuple(self._running.items()):
            if running.owner == owner and conversation_id in (None, one):
                running.end(Status.STOPPED)
        return await self.store.delete(owner, conversation_id)

    async def idle(self) -> None:
        """Until no answer is being made."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """End what is still being made, and keep it as far as it came."""
        for running in tuple(self._running.values()):
            running.end(Status.INTERRUPTED)
        await self.idle()

    async def _answer(
        self,
        voice: Voice,
        conversation: Conversation,
        path: Sequence[Said],
        running: Running,
        request: GenerationRequest,
    ) -> None:
        status, error, code = Status.DONE, None, None
        try:
            running.begin()
            async with self.store.alone(conversation.id):
                await self._listen(voice, await self._asked(voice, conversation, path, request), running)
        except asyncio.CancelledError:
            status = running.ends or Status.INTERRUPTED
            error = None if status is Status.STOPPED else "服务器停了，回答没有说完"
        except QqvlError as failed:
            status, error, code = Status.FAILED, failed.message, failed.code
        except Exception as bug:
            # The edge of a task that nobody awaits: who reads the conversation must hear of it, the log say why.
            logger().error("内部错误", request_id=request.request_id, exc_info=bug)
            status, error, code = Status.FAILED, "服务器内部出错，请看日志", QqvlError.code
        try:
            with suppress(StorageFailed):
                await self.store.save(running.close(status, error))
        finally:
            self._running.pop(conversation.id, None)
            running.tell_end(code)

    async def _listen(self, voice: Voice, request: GenerationRequest, running: Running) -> None:
        saved = time.monotonic()
        async with aclosing(voice.generate(request)) as events:
            async for event in events:
                running.take(event)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    saved = time.monotonic()
                    await self.store.save(running.said)

    async def _asked(
        self, voice: Voice, conversation: Conversation, path: Sequence[Said], request: GenerationRequest
    ) -> GenerationRequest:
        """``request`` with what the model is shown: the system prompt and as much of the talk as fits."""
        wishes = self._wishes(conversation, voice.context_tokens)
        shown = await asyncio.to_thread(lambda: [self._shown(said) for said in path])
        prompt = conversation.system_prompt.strip()
        system = [ChatMessage("system", (TextPart(prompt),))] if prompt else []
        asked = replace(
            request,
            sampling=wishes.sampling,
            thinking=wishes.thinking,
            tools=wishes.tools,
            tool_choice=wishes.tool_choice,
        )
        counts = iter(await voice.count([message for messages in shown for message in messages]))
        tokens = [sum(next(counts) for _ in messages) for messages in shown]
        room = min(wishes.sampling.max_new_tokens, _ROOM_TOKENS, voice.context_tokens // 2)
        head = await _head(voice, asked, system)
        start = cut(tokens, voice.context_tokens - room - _HEADER_TOKENS - head)
        while start < len(shown) - 1 and (path[start].role != "user" or path[start].tool_results):
            # What a call gave says nothing without the call.
            start += 1
        return replace(asked, messages=(*system, *(one for messages in shown[start:] for one in messages)))

    def _shown(self, said: Said) -> list[ChatMessage]:
        """Blocking: asks the disk which pictures are still there."""
        results = [ChatMessage("tool", (TextPart(one.text),), tool_call_id=one.call_id) for one in said.tool_results]
        parts: list[Part] = [
            ImagePart(image) if self._pictures.holds(image) else TextPart(EXPIRED) for image in said.images
        ]
        if said.text or not (parts or results):
            parts.append(TextPart(said.text))
        return [*results, ChatMessage(said.role, tuple(parts), said.tool_calls)] if parts else results


def _id(conversation_id: str, key: str) -> str:
    return f"m_{hashlib.sha256(f'{conversation_id} {key}'.encode()).hexdigest()[:16]}"


def cut(counts: Sequence[int], budget: int) -> int:
    """Where the talk begins that the model is shown, of messages of ``counts`` tokens: the last is always shown.

    As if each had been cut when it came, to half of ``budget``: prompts keep long common beginnings.
    """
    start, total = 0, 0
    for place, count in enumerate(counts):
        total += count
        if total > budget:
            while total > budget // 2 and start < place:
                total -= counts[start]
                start += 1
    return start


async def _head(voice: Voice, asked: GenerationRequest, system: Sequence[ChatMessage]) -> int:
    """Tokens of what stands before the talk: the system prompt, and the tools that the template writes into it."""
    if not asked.shown_tools:
        return sum(await voice.count(system))
    # No template goes without a user's words.
    return len(await voice.tokenize(replace(asked, messages=(*system, ChatMessage("user", (TextPart("?"),))))))


def _placed(conversation_id: str, said: Sequence[Said], saying: Saying) -> tuple[Said | None, tuple[Said, ...]]:
    """The new message, if there is one, and all that is answered, from the first to the last."""
    new = _id(conversation_id, saying.key) if saying.key else new_id("m")
    if any(one.id == new for one in said):
        raise AlreadySaid("这句话服务器已经收到了")
    before = thread(said, saying.parent)
    if saying.parent is not None and not before:
        raise InvalidRequest("parent 不是这个对话里的消息", param="parent")
    if not saying.is_empty:
        if before and before[-1].role == "user":
            raise InvalidRequest("parent 应是一条回答，或不写（从头说起）", param="parent")
        calls = {call.id for call in before[-1].tool_calls} if before else set()
        answered = [result.call_id for result in saying.results]
        if not calls.issuperset(answered) or len(set(answered)) < len(answered):
            raise InvalidRequest("tool_results 里的 tool_call_id 应是 parent 里的调用，每个一次", param="tool_results")
        asked = Said(new, saying.parent, "user", saying.text, time.time(), saying.images, tool_results=saying.results)
        return asked, (*before, asked)
    if not before or before[-1].role != "user":
        raise InvalidRequest("要说点什么，或带图；要再答一次，parent 应是一条提问", param="text")
    return None, before

"""An answer told as it grows: with a voice that says it piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import Answer, Incoming
from qqvl_server.chat.outgoing.messages import Outgoing, Words
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.speaking import Sent
from qqvl_server.errors import GenerationFailed
from qqvl_server.generation.port import Finished, FinishReason, GenerationRequest, TextDelta, TextEvent, Usage
from tests.chat.test_turns import history, opened, said
from tests.fakes import ScriptedVoice

pytestmark = pytest.mark.anyio
# Three messages.
PART = "这一段说了一件事，说得清清楚楚，明明白白，一共就这么些字，再多就要另说一条了。\n\n"
REPLY = "".join(f"{number}{PART}" for number in "一二三")


class Piecewise(ScriptedVoice):
    """Says its reply in pieces of five letters; after ``pause`` letters it waits for ``go_on``, then may fail."""

    def __init__(self, reply: str, pause: int | None = None, error: GenerationFailed | None = None) -> None:
        super().__init__(lambda _: reply)
        self._reply, self._pause, self._error = reply, pause, error
        self.go_on = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        self.asked.append(request)
        self.running += 1
        try:
            for place in range(0, len(self._reply), 5):
                if self._pause is not None and place >= self._pause:
                    await self.go_on.wait()
                    if self._error is not None:
                        raise self._error
                yield TextDelta(self._reply[place : place + 5])
                await asyncio.sleep(0)
            yield Finished(FinishReason.STOP, Usage(1, len(self._reply)))
        finally:
            self.running -= 1


@asynccontextmanager
async def streaming(folder: Path, voice: ScriptedVoice, **chat: Any) -> AsyncIterator[ChatService]:
    async with opened(folder, voice, **{"message_chars": 60, "merge_wait_s": 0} | chat) as service:
        yield service


async def listened(service: ChatService, message: Incoming) -> tuple[list[Outgoing], Sent]:
    async with aclosing(service.stream(message, "群")) as stream:
        items = [item async for item in stream]
    sent = items.pop()
    assert isinstance(sent, Sent)
    return [item for item in items if not isinstance(item, Sent)], sent


async def test_each_message_is_told_once_it_is_finished_and_all_are_those_of_the_plain_answer(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, pause=len(REPLY) - 20)
    async with streaming(tmp_path, voice) as service:
        message = said("说", 1)
        async with aclosing(service.stream(message, "群")) as stream:
            first = await anext(stream)
            assert isinstance(first, Words)
            assert first.text == f"一{PART}".strip()
            voice.go_on.set()
            *rest, sent = [item async for item in stream]
        assert isinstance(sent, Sent)
        assert (first, *rest) == sent.messages
        assert len(sent.messages) == 3
        assert sent.answer.reply == REPLY.strip()
        plain = await service.handle(said("说", 2), "群")
        assert await service.outgoing(said("说", 2), plain) == sent.messages
        # Sent again it is told again, in the same messages.
        assert await listened(service, message) == (list(sent.messages), sent)


async def test_an_answer_that_says_nothing_is_told_whole_and_has_no_messages(tmp_path: Path) -> None:
    async with streaming(tmp_path, ScriptedVoice(lambda _: "好"), merge_wait_s=0.2) as service:
        told, sent = await listened(service, said("你们聊", 1, at_me=False))
        assert (told, sent.messages, sent.answer.reason) == ([], (), "silent")
        (first, merged), (second, whole) = await asyncio.gather(
            *(listened(service, said(text, number)) for number, text in enumerate("一二", 2))
        )
        assert (first, merged.messages, merged.answer.merged_into) == ([], (), "m3")
        assert second == list(whole.messages) == [Words("好")]


async def test_what_commands_say_is_told_too(tmp_path: Path) -> None:
    async with streaming(tmp_path, ScriptedVoice(lambda _: "好")) as service:
        for number, command in enumerate(("/stop", "/reset")):
            told, sent = await listened(service, said(command, number, role="owner"))
            assert told == list(sent.messages) == [Words(sent.answer.reply)]
            assert sent.answer.reply


async def test_a_listener_who_hangs_up_loses_nothing(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, pause=100)
    async with streaming(tmp_path, voice) as service:
        message = said("说", 1)
        async with aclosing(service.stream(message, "群")) as stream:
            await anext(stream)
        assert voice.running
        again = asyncio.create_task(listened(service, message))
        await asyncio.sleep(0)
        voice.go_on.set()
        told, sent = await again
        assert told == list(sent.messages)
        assert len(voice.asked) == 1
        assert (await history(service))[-1] == REPLY.strip()


async def test_a_follow_up_ends_what_is_not_out_yet_and_nothing_else(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, pause=20)
    async with streaming(tmp_path, voice, merge_wait_s=5) as service:
        first = asyncio.create_task(listened(service, said("甲", 1)))
        while not voice.running:
            await asyncio.sleep(0.005)
        second = asyncio.create_task(listened(service, said("还有乙", 2)))
        while len(voice.asked) < 2:
            await asyncio.sleep(0.005)
        voice.go_on.set()
        assert (await first)[1].answer.merged_into == "m2"
        assert len((await second)[0]) == 3

    voice = Piecewise(REPLY, pause=100)
    async with streaming(tmp_path, voice, merge_wait_s=5) as service:
        async with aclosing(service.stream(said("甲", 3), "群")) as stream:
            told = [await anext(stream)]
            second = asyncio.create_task(listened(service, said("还有乙", 4)))
            await asyncio.sleep(0.05)
            assert len(voice.asked) == 1
            voice.go_on.set()
            told += [item async for item in stream]
        assert len(told) == 4
        assert (await second)[1].answer.reason == "addressed"
        assert len(voice.asked) == 2


async def test_what_was_out_when_it_was_stopped_is_the_answer(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, pause=100)
    async with streaming(tmp_path, voice) as service:
        async with aclosing(service.stream(said("说", 1), "群")) as stream:
            told = await anext(stream)
            await service.handle(said("/stop", 2), "群")
            (sent,) = [item async for item in stream]
        assert isinstance(sent, Sent)
        assert sent.messages == (told,)
        assert (sent.answer.reply, sent.answer.should_reply) == (f"一{PART}".strip(), True)
        assert (await history(service))[-1] == sent.answer.reply


async def test_an_answer_that_breaks_off_after_its_first_message_is_not_said_again(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, 100, GenerationFailed("模型出错了"))
    async with streaming(tmp_path, voice) as service:
        voice.go_on.set()
        message = said("说", 1)
        told, sent = await listened(service, message)
        assert told == list(sent.messages) == [Words(f"一{PART}".strip())]
        assert sent.answer.warnings == ("回答没有说完：模型出错了",)
        assert await service.handle(message, "群") == sent.answer
        assert len(voice.asked) == 1


async def test_an_answer_that_fails_before_that_is_an_error_and_may_be_asked_again(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, 20, GenerationFailed("模型出错了"))
    async with streaming(tmp_path, voice) as service:
        voice.go_on.set()
        message = said("说", 1)
        for _ in range(2):
            with pytest.raises(GenerationFailed):
                await listened(service, message)
        assert len(voice.asked) == 2


async def test_parts_that_are_out_when_their_question_is_recalled_are_withdrawn(tmp_path: Path) -> None:
    voice = Piecewise(REPLY, pause=100)
    async with streaming(tmp_path, voice) as service:
        message = said("说", 1)
        async with aclosing(service.stream(message, "群")) as stream:
            await anext(stream)
            assert await service.recall(message.chat, "m1") == ()
            (sent,) = [item async for item in stream]
        assert isinstance(sent, Sent)
        assert sent.answer == Answer("", should_reply=False, reason="silent")
        assert await service.sent(message.chat, "m1", ["q1"]) == ("q1",)
        assert await history(service) == []


async def test_whom_an_answer_is_for_and_what_it_quotes_is_as_set(tmp_path: Path) -> None:
    async with streaming(tmp_path, ScriptedVoice(lambda _: REPLY), at_asker="on", quote_asked="on") as service:
        told, sent = await listened(service, said("说", 1))
        assert told == list(sent.messages)
        first, *rest = told
        assert isinstance(first, Words)
        assert (first.at, first.quote) == ("10001", "m1")
        assert all(isinstance(one, Words) and one.at is None and one.quote is None for one in rest)
        bare = replace(said("说", 2), message_id=None, self_id=None, at_me=None)
        (first, *_), _ = await listened(service, bare)
        assert isinstance(first, Words)
        assert first.quote is None

"""Two servers on one PostgreSQL answer the same chats: nothing is lost, doubled, or said out of order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from qqvl_server.chat.conversations.values import Said, Status
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.page_settings import PageSettings
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.store import Store
from qqvl_server.errors import StorageFailed
from qqvl_server.generation.port import GenerationRequest
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.databases import Cluster
from tests.fakes import PictureShelf, ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
PRIVATE = ChatKey(ChatKind.PRIVATE, "1")
GROUP = ChatKey(ChatKind.GROUP, "1")
MANNERS = ChatSettings(system_prompt="")


def said(text: str, message_id: str | None, chat: ChatKey = PRIVATE) -> Incoming:
    return Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), 0.0, message_id)


def echo(request: GenerationRequest) -> str:
    return "答" + text_of(request.messages[-1]).rpartition("] ")[2]


@asynccontextmanager
async def servers(url: str, voices: Sequence[ScriptedVoice]) -> AsyncIterator[list[ChatService]]:
    """One for each voice, with a store of its own, as in a process of its own."""
    async with AsyncExitStack() as opened:
        stores = [await opened.enter_async_context(Store.open(url)) for _ in voices]
        yield [
            ChatService(store, lambda voice=voice: voice, PictureShelf(), MANNERS, GenerationSettings(), 4)  # type: ignore[misc]
            for store, voice in zip(stores, voices, strict=True)
        ]


async def told(service: ChatService, chat: ChatKey = PRIVATE) -> list[tuple[int, str]]:
    lines = await service.messages(chat, before=None, limit=500)
    return [(line.seq, "".join(p.text for p in line.parts if isinstance(p, Text))) for line in lines or ()]


async def test_a_message_that_comes_to_both_is_answered_once(shared: Callable[[], str]) -> None:
    voices = ScriptedVoice(echo), ScriptedVoice(echo)
    async with servers(shared(), voices) as both:
        for number in range(8):
            message = said(f"第{number}句", str(number), ChatKey(ChatKind.GROUP, str(number % 4)))
            answers = await asyncio.gather(*(service.handle(message, "") for service in both))
            assert [answer.reply for answer in answers] == [f"答第{number}句"] * 2
        for number in range(4):
            chat = ChatKey(ChatKind.GROUP, str(number))
            assert [seq for seq, _ in await told(both[0], chat)] == [1, 2, 3, 4]
        assert len(voices[0].asked) + len(voices[1].asked) == 8


async def talk(service: ChatService, words: Sequence[str]) -> list[str]:
    """One line after the other; what it was answered."""
    return [(await service.handle(said(line, line), "")).reply for line in words]


async def test_turns_of_one_chat_do_not_run_into_each_other(shared: Callable[[], str]) -> None:
    voices = ScriptedVoice(echo), ScriptedVoice(echo)
    async with servers(shared(), voices) as both:
        lines = [[f"{who}{n}" for n in range(5)] for who in "甲乙"]
        answers = await asyncio.gather(*(talk(service, mine) for service, mine in zip(both, lines, strict=True)))
        assert answers == [[f"答{line}" for line in mine] for mine in lines]
        said_in_all = await told(both[0])
    assert [seq for seq, _ in said_in_all] == list(range(1, 21))
    for (_, question), (_, answer) in zip(said_in_all[::2], said_in_all[1::2], strict=True):
        assert answer == f"答{question}"
    # Each was shown all that had been said before, whoever said it.
    assert sorted(len(request.messages) for voice in voices for request in voice.asked) == list(range(1, 20, 2))


async def test_one_that_has_much_to_say_lets_the_other_in_between(shared: Callable[[], str]) -> None:
    voices = ScriptedVoice(echo), ScriptedVoice(echo)
    voices[0].gate.clear()
    async with servers(shared(), voices) as both:
        # Without ids each has a turn of its own, and the next begins as soon as one is over.
        many = [asyncio.create_task(both[0].handle(said(f"多{n}", None), "")) for n in range(8)]
        while not voices[0].running:
            await asyncio.sleep(0.01)
        one = asyncio.create_task(talk(both[1], ["少"]))
        # It waits at the lane by now.
        await asyncio.sleep(0.5)
        voices[0].gate.set()
        assert await one == ["答少"]
        await asyncio.gather(*many)
        order = [words for _, words in await told(both[0])]
    assert order[:4] == ["多0", "答多0", "少", "答少"]


async def test_forty_turns_at_once_on_two_servers_fit_fourteen_connections(postgres: Cluster, with_tables: str) -> None:
    voices = ScriptedVoice(echo), ScriptedVoice(echo)
    for voice in voices:
        voice.gate.clear()
    async with servers(postgres.database(with_tables, most_connections=14), voices) as both:
        turns = [
            asyncio.create_task(both[n % 2].handle(said("早", "m", ChatKey(ChatKind.PRIVATE, str(n))), ""))
            for n in range(40)
        ]
        while voices[0].running < 20 or voices[1].running < 20:
            await asyncio.sleep(0.01)
        for voice in voices:
            voice.gate.set()
        assert {answer.reply for answer in await asyncio.gather(*turns)} == {"答早"}


async def test_an_answer_is_not_kept_once_its_lane_may_be_anothers(postgres: Cluster, with_tables: str) -> None:
    """The one connection that holds the lanes is cut in the middle of a turn, and the other server takes over."""
    url = postgres.database(with_tables)
    voices = ScriptedVoice(lambda _: "甲"), ScriptedVoice(lambda _: "乙")
    voices[0].gate.clear()
    async with servers(url, voices) as both:
        first = asyncio.create_task(both[0].handle(said("问", "m"), ""))
        while not voices[0].running:
            await asyncio.sleep(0.01)
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'", url)
        assert (await both[1].handle(said("问", "m"), "")).reply == "乙"
        voices[0].gate.set()
        with pytest.raises(StorageFailed, match="再发一次"):
            await first
        assert (await both[0].handle(said("问", "m"), "")).reply == "乙"
        assert await told(both[0]) == [(1, "问"), (2, "乙")]
        assert (await both[0].handle(said("再问", "n"), "")).reply == "甲"


async def test_what_is_recalled_at_the_other_server_is_not_answered(shared: Callable[[], str]) -> None:
    voices = ScriptedVoice(echo), ScriptedVoice(echo)
    voices[0].gate.clear()
    async with servers(shared(), voices) as both:
        asking = asyncio.create_task(both[0].handle(said("问", "m"), ""))
        while not voices[0].running:
            await asyncio.sleep(0.01)
        await both[1].recall(PRIVATE, "m")
        voices[0].gate.set()
        assert await asking == Answer("", should_reply=False, reason="silent")
        assert await told(both[0]) == []


async def test_a_turn_whose_database_hangs_is_told_so_and_the_next_is_answered(
    postgres: Cluster, with_tables: str
) -> None:
    async with servers(postgres.database(with_tables), [ScriptedVoice(echo)]) as (service,):
        assert (await service.handle(said("早", "a"), "")).reply == "答早"
        with postgres.frozen():
            turns = [service.handle(said("在吗", str(n), ChatKey(ChatKind.PRIVATE, str(n))), "") for n in range(20)]
            async with asyncio.timeout(60):
                failed = await asyncio.gather(*turns, return_exceptions=True)
        assert {type(error) for error in failed} == {StorageFailed}
        assert not any("磁盘" in str(error) for error in failed)
        async with asyncio.timeout(60):
            assert (await service.handle(said("好", "b"), "")).reply == "答好"


async def test_what_is_set_at_one_holds_at_the_other_at_once(shared: Callable[[], str]) -> None:
    """For a chat by a command, and for all in the browser."""
    async with servers(shared(), [ScriptedVoice(echo), ScriptedVoice(echo)]) as both:
        for number, prompt in enumerate(("一", "二", "三")):
            await both[0].preferences.change(PRIVATE, {"system_prompt": prompt})
            await both[1].handle(said("早", f"m{number}"), "")
            assert both[1].preferences.system_prompt(PRIVATE) == prompt
        await both[1].preferences.change(PRIVATE, {"system_prompt": None})
        await both[0].handle(said("早", "n"), "")
        assert both[0].preferences.own(PRIVATE) == {}


async def test_a_setting_of_the_page_is_told_to_the_other_server(shared: Callable[[], str]) -> None:
    url = shared()
    async with Store.open(url) as one, Store.open(url) as other:
        told: asyncio.Queue[Any] = asyncio.Queue()
        PageSettings(other.database).listen(told.put_nowait)
        await PageSettings(one.database).keep({"chat.group_reply": "off"})
        async with asyncio.timeout(30):
            assert await told.get() == {"chat.group_reply": "off"}


async def test_a_server_that_starts_does_not_end_what_another_is_saying(shared: Callable[[], str]) -> None:
    url = shared()
    async with Store.open(url) as one:
        talk = await one.conversations.create("local", "", {})
        gone = await one.conversations.create("local", "", {})
        for conversation in (talk, gone):
            answer = Said(f"m{conversation.id}", None, "assistant", "", 0.0, status=Status.RUNNING)
            await one.conversations.add("local", conversation.id, [answer])
        async with one.conversations.alone(talk.id), Store.open(url) as other:
            (running,) = await other.conversations.messages("local", talk.id)
            (ended,) = await other.conversations.messages("local", gone.id)
    assert (running.status, ended.status) == (Status.RUNNING, Status.INTERRUPTED)

"""Who is answered and who may do what in a group, and that no chat takes the others' places."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import Busy, GenerationFailed, QqvlError
from qqvl_server.generation.port import GenerationRequest
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "10001")


def said(text: str, chat: ChatKey = GROUP, **more: Any) -> Incoming:
    return replace(Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), None), **more)


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice, *, places: int = 128, **chat: Any) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        generation = GenerationSettings(max_pending=places)
        yield ChatService(store, lambda: voice, PictureShelf(), ChatSettings(**chat), generation, 4)


def kind(_: GenerationRequest) -> str:
    return "好"


# Who is answered -------------------------------------------------------------------------------------------

ANSWERED: list[tuple[str, Incoming, bool]] = [
    ("auto", said("大家好"), True),
    ("auto", said("大家好", at_me=False), False),
    ("auto", said("大家好", at_me=True), True),
    ("auto", said("小Q 在吗", at_me=False), True),
    ("auto", said("我家小QQ糖", at_me=False), False),
    ("auto", said("阿宝，在吗", at_me=False, self_names=("⭐阿宝",)), True),
    ("auto", said("买宝", at_me=False, self_names=("宝", "")), False),
    ("auto", said("@小Q粉 小Q 你好", at_me=False, typed=" 你好"), False),
    ("auto", said("你好", PRIVATE, at_me=False), True),
    ("auto", said("小Q 旧消息", context_only=True), False),
    ("addressed", said("大家好", at_me=False), False),
    # Plainly told to answer calls only, it takes nobody's silence on that for one.
    ("addressed", said("大家好"), False),
    ("addressed", said("小Q 在吗"), True),
    ("smart", said("大家好", at_me=False), False),
    ("smart", said("大家好", at_me=True), True),
    ("smart", said("小Q 在吗", at_me=False), True),
    ("off", said("小Q 在吗", at_me=True), False),
    ("off", said("在吗", PRIVATE), True),
    ("all", said("大家好", at_me=False), True),
]


@pytest.mark.parametrize(("mode", "incoming", "answered"), ANSWERED)
async def test_who_is_answered(tmp_path: Path, mode: str, incoming: Incoming, answered: bool) -> None:
    voice = ScriptedVoice(kind)
    async with opened(tmp_path, voice, group_reply=mode, bot_names=("小Q",)) as service:
        assert (await service.handle(incoming, "")).should_reply is answered
        assert bool(voice.asked) is answered
        assert await service.messages(incoming.chat, before=None, limit=1)


# Who may reset ---------------------------------------------------------------------------------------------

CLEARED, REFUSED, TALK = "cleared", "refused", "talk"
RESETS: list[tuple[tuple[str, ...], Incoming, str]] = [
    # The spec's bare client: as ever, until somebody says who owns the bot.
    ((), said("重置"), CLEARED),
    ((), said("@小助手 /RESET"), CLEARED),
    (("7",), said("重置"), REFUSED),
    (("7", "10001"), said("重置"), CLEARED),
    # A client that tells roles.
    ((), said("重置", role="owner"), CLEARED),
    ((), said("重置", role="admin", at_me=True), CLEARED),
    ((), said("重置", role="member"), REFUSED),
    ((), said("重置", role="member", at_me=True), REFUSED),
    ((), said("重置", role="someone new", at_me=True), REFUSED),
    (("10001",), said("重置", role="member", at_me=True), CLEARED),
    (("7",), said("重置", role="admin", at_me=True), CLEARED),
    # One that tells mentions only.
    ((), said("重置", at_me=True), REFUSED),
    (("10001",), said("重置", at_me=True), CLEARED),
    # Not said to the bot, by whomever.
    ((), said("重置", role="owner", at_me=False), TALK),
    (("10001",), said("/reset", role="owner", at_me=False), TALK),
    ((), said("@李四 重置", role="owner", at_me=False), TALK),
    # Called by name.
    ((), said("小Q，重置", role="owner", at_me=False), CLEARED),
    ((), said("@阿宝 /reset", role="admin", at_me=False, self_names=("", "阿宝")), CLEARED),
    ((), said("小Q，重置", role="member", at_me=False), REFUSED),
    # Only remembered; only like it; in private.
    ((), said("重置", role="owner", at_me=True, context_only=True), TALK),
    ((), said("重置一下路由器", role="owner", at_me=True), TALK),
    (("7",), said("重置", PRIVATE, role="member", at_me=False), CLEARED),
]


@pytest.mark.parametrize(("owners", "command", "outcome"), RESETS)
@pytest.mark.parametrize("mode", ["auto", "all"])
async def test_who_may_reset(
    tmp_path: Path, owners: tuple[str, ...], command: Incoming, outcome: str, mode: str
) -> None:
    voice = ScriptedVoice(kind)
    async with opened(tmp_path, voice, owners=owners, bot_names=("小Q",), group_reply=mode) as service:
        for number in range(3):
            await service.handle(said(f"第{number}句", command.chat, context_only=True), "")
        answer = await service.handle(command, "")
        lines = await service.messages(command.chat, before=None, limit=100)
        assert lines is not None
        assert ("已清空" in answer.reply) is (outcome == CLEARED)
        assert ("才能清空" in answer.reply) is (outcome == REFUSED)
        assert bool(lines) is (outcome != CLEARED)
        if outcome == TALK:
            assert answer.should_reply is bool(voice.asked)
        else:
            assert voice.asked == []


async def test_a_prankster_is_told_once_and_then_ignored(tmp_path: Path) -> None:
    voice = ScriptedVoice(kind)
    async with opened(tmp_path, voice) as service:
        await service.handle(said("我叫小明", at_me=True), "")
        command = said("重置", at_me=True, role="member")
        answers = [await service.handle(command, "") for _ in range(20)]
        assert [answer.should_reply for answer in answers] == [True] + [False] * 19
        elsewhere = await service.handle(replace(command, chat=ChatKey(ChatKind.GROUP, "2")), "")
        assert elsewhere.should_reply
        lines = await service.messages(GROUP, before=1 << 40, limit=100)
    assert lines is not None
    # What a command is answered with is no line of the talk.
    assert len(lines) == 2 + 20
    assert len(voice.asked) == 1


async def test_a_reset_leaves_none_of_the_words_on_disk_and_no_second_answer(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "密码是hunter2。")
    first = said("我的密码是swordfish", message_id="1", sent_at=1.0)
    async with opened(tmp_path, voice) as service:
        assert "hunter2" in (await service.handle(first, "")).reply
        await service.handle(said("重置", message_id="2"), "")
        again = await service.handle(first, "")
        assert (again.reply, again.should_reply) == ("", False)
        assert len(voice.asked) == 1
        assert await service.messages(GROUP, before=None, limit=9) == ()
        for file in tmp_path.glob("qqvl.sqlite3*"):
            assert b"hunter2" not in file.read_bytes()
            assert b"swordfish" not in file.read_bytes()
        with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database:
            assert database.execute("SELECT count(*) FROM answers WHERE reply LIKE '%hunter2%'").fetchone() == (0,)


# The window ------------------------------------------------------------------------------------------------


async def test_what_is_asked_again_is_in_the_prompt_also_when_the_window_has_passed_it(tmp_path: Path) -> None:
    failing: list[QqvlError] = [GenerationFailed("坏了")]
    voice = ScriptedVoice(lambda _: failing.pop() if failing else "好", context_tokens=1200)
    asked = said("二加二等于几", message_id="1", sent_at=1.0)
    async with opened(tmp_path, voice, system_prompt="短") as service:
        for number in range(40):
            await service.handle(said(f"之前{number}" * 9, context_only=True), "")
        with pytest.raises(GenerationFailed):
            await service.handle(asked, "")
        for number in range(40):
            await service.handle(said(f"{number}" * 15), "")
        before = voice.asked[-1].messages
        assert "二加二" not in "".join(map(text_of, before))
        assert (await service.handle(asked, "")).reply == "好"
        again = [text_of(message) for message in voice.asked[-1].messages]
        assert again[0] == "短"
        assert again[-1].endswith("二加二等于几")
        assert "之前39" in again[-2]
        # The window stays where it was for everybody else.
        await service.handle(said("后来"), "")
        assert voice.asked[-1].messages[: len(before)] == before


# Places ----------------------------------------------------------------------------------------------------


def of(number: int) -> ChatKey:
    return ChatKey(ChatKind.GROUP, str(number))


async def flooded(service: ChatService, chat: ChatKey, count: int) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(service.handle(said(f"{chat.id}-{n}", chat), "")) for n in range(count)]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: list[asyncio.Task[Answer]]) -> str:
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, Answer | Busy) for one in done)
    return "".join("x" if isinstance(one, Busy) else "." for one in done)


async def test_a_flooded_chat_takes_no_other_chats_place(tmp_path: Path) -> None:
    voice = ScriptedVoice(kind)
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        flood = await flooded(service, of(1), 150)
        others = [task for n in (2, 3) for task in await flooded(service, of(n), 1)]
        voice.gate.set()
        assert await outcomes(others) == ".."
        # Its newest two made room; what came before them is answered, in order.
        assert await outcomes(flood) == "." * 126 + "x" * 24
        lines = await service.messages(of(1), before=None, limit=1000)
    assert lines is not None
    told = ["".join(p.text for p in line.parts if isinstance(p, Text)) for line in lines if line.role == "user"]
    assert told == [f"1-{n}" for n in range(126)]


async def test_places_are_shared_evenly_among_those_who_want_more(tmp_path: Path) -> None:
    voice = ScriptedVoice(kind)
    voice.gate.clear()
    async with opened(tmp_path, voice, places=12) as service:
        floods = [await flooded(service, of(n), 20) for n in range(3)]
        late = await flooded(service, of(9), 1)
        voice.gate.set()
        assert await outcomes(late) == "."
        taken = sorted([(await outcomes(flood)).count(".") for flood in floods])
    assert taken == [3, 4, 4]


async def test_when_every_chat_has_one_place_the_next_is_refused_and_no_turn_is_ended(tmp_path: Path) -> None:
    voice = ScriptedVoice(kind)
    voice.gate.clear()
    async with opened(tmp_path, voice, places=3) as service:
        running = [task for n in range(3) for task in await flooded(service, of(n), 1)]
        with pytest.raises(Busy):
            await service.handle(said("晚了", of(9)), "")
        voice.gate.set()
        assert await outcomes(running) == "..."
        assert (await service.handle(said("现在", of(9)), "")).reply == "好"


async def test_places_come_back_however_a_turn_ends(tmp_path: Path) -> None:
    failing = [GenerationFailed("坏了")]
    voice = ScriptedVoice(lambda _: failing.pop() if failing else "好")
    async with opened(tmp_path, voice, places=2) as service:
        with pytest.raises(GenerationFailed):
            await service.handle(said("一"), "")
        voice.gate.clear()
        waiting = await flooded(service, of(1), 2)
        for task in waiting:
            task.cancel()
        newcomers = await flooded(service, of(2), 1)
        voice.gate.set()
        assert await outcomes(newcomers) == "."
        for number in range(5):
            assert (await service.handle(said(str(number)), "")).reply == "好"

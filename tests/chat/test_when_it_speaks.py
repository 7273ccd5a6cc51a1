"""What wakes the bot besides its names, whom it leaves alone, and how often it speaks unasked: a scripted voice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.decision import Activity, Reason
from qqvl_server.chat.message import ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.policy import Case, decide, is_heeded
from qqvl_server.chat.service import ChatService
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "10001")


def said(text: str, chat: ChatKey = GROUP, **more: Any) -> Incoming:
    mine: dict[str, Any] = {"self_id": "7", "at_me": False}
    return replace(Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), None), **(mine | more))


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice, **chat: Any) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        service = ChatService(store, lambda: voice, PictureShelf(), ChatSettings(**chat), GenerationSettings(), 4)
        yield service
        await service.drain(0)


WOKEN: list[tuple[str, bool]] = [
    ("机器人你看这个", True), ("那个机器人呢", True), ("ｂｏｔ 在吗", True), ("问问Bot吧", True),
    ("robot 不是它", False), ("bots 很多", False), ("https://example.org/bot", False), ("大家好", False),
    ("画一张猫", True), ("画张猫", True), ("我在画画", False), ("a{1,3} 画3张猫", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "woken"), WOKEN)
async def test_wake_words_and_patterns(tmp_path: Path, text: str, woken: bool) -> None:
    voice = ScriptedVoice(lambda _: "好")
    words = {"wake_words": ("机器人", "bot"), "wake_patterns": r"画(一|\d{1,3})?张"}
    async with opened(tmp_path, voice, **words) as service:
        answer = await service.handle(said(text), "")
    assert (answer.should_reply, answer.reason) == ((True, "name") if woken else (False, "silent"))


async def test_a_wake_word_alone_waits_for_what_follows(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, wake_words=("机器人",), merge_wait_s=5) as service:
        call = asyncio.create_task(service.handle(said("机器人", message_id="1"), ""))
        await asyncio.sleep(0.05)
        answer = await service.handle(said("今天星期几", message_id="2"), "")
        assert (answer.reply, answer.reason) == ("好", "name")
        assert (await call).merged_into == "2"


async def test_only_what_the_speaker_typed_wakes(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, wake_words=("机器人",), wake_patterns=("帮我.*",)) as service:
        for text in ("[聊天记录] 李四: 机器人", "@机器人粉丝 早", "[聊天记录] 帮我"):
            assert not (await service.handle(said(text, typed=" 早"), "")).should_reply


async def test_a_pattern_that_takes_for_ever_holds_nobody_up(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, wake_patterns=(r"(x+x+)+y", "在吗")) as service:
        answer = await service.handle(said("x" * 900 + "在吗"), "")
        assert (answer.should_reply, answer.reason) == (False, "silent")
        assert (await service.handle(said("在吗"), "")).should_reply


# Whom it leaves alone --------------------------------------------------------------------------------------

LISTS: list[tuple[dict[str, Any], ChatKey, bool]] = [
    ({"deny_groups": ("1",)}, GROUP, False), ({"deny_groups": ("2",)}, GROUP, True),
    ({"allow_groups": ("2",)}, GROUP, False), ({"allow_groups": ("1",)}, GROUP, True),
    ({"allow_groups": ("2",)}, PRIVATE, True), ({"deny_groups": ("10001",)}, PRIVATE, True),
    ({"deny_users": ("10001",)}, GROUP, False), ({"deny_users": ("10001",)}, PRIVATE, False),
    ({"allow_users": ("5",)}, GROUP, False), ({"allow_users": ("5",)}, PRIVATE, False),
    ({"allow_users": ("5", "10001")}, GROUP, True), ({"allow_groups": ("1",), "allow_users": ("5",)}, GROUP, False),
    ({"deny_groups": ("1",), "owners": ("10001",)}, GROUP, True),
    ({"allow_users": ("5",), "owners": ("10001",)}, PRIVATE, True),
]  # fmt: skip


@pytest.mark.parametrize(("lists", "chat", "answered"), LISTS)
@pytest.mark.parametrize("bare", [True, False])
async def test_lists(tmp_path: Path, lists: dict[str, Any], chat: ChatKey, answered: bool, bare: bool) -> None:
    voice = ScriptedVoice(lambda _: "好")
    mine = {"self_id": None, "at_me": None} if bare else {"at_me": True}
    async with opened(tmp_path, voice, **lists) as service:
        answer = await service.handle(said("你好", chat, **mine), "")
        assert answer.should_reply is answered
        assert (answer.reason == "listed") is not answered
        reset = await service.handle(said("重置", chat, role="owner", **mine), "")
        assert (reset.reason == "command") is answered
        assert bool(await service.messages(chat, before=None, limit=9)) is not answered


async def test_where_nobody_is_answered_nothing_is_read_ahead(tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{"deny_groups": ("1",)}, {"group_reply": "off"}, {"group_seconds_per_day": 1}, {}]
    voices = [ScriptedVoice(lambda _: "好") for _ in ways]
    async with AsyncExitStack() as leaving:
        for number, (voice, way) in enumerate(zip(voices, ways, strict=True)):
            voice.owed[str(GROUP)] = 2.0
            folder = tmp_path / str(number)
            folder.mkdir()
            service = await leaving.enter_async_context(opened(folder, voice, **way))
            await service.handle(said("大家好"), "")
        # A group's talk is read once it pauses.
        while not voices[-1].warmed:
            await asyncio.sleep(0.01)
        assert [bool(voice.warmed) for voice in voices] == [False, False, False, True]


# How often it speaks unasked -------------------------------------------------------------------------------

NOON = time.mktime((2026, 11, 29, 12, 0, 0, 0, 0, -1))
QUIET: list[tuple[str, float, bool]] = [
    ("23:00-07:30", 0, False), ("11:00-12:00", 0, False), ("12:00-12:01", 0, True), ("11:59-13:00", 0, True),
    ("12:30-11:30", 0, False), ("23:00-07:30", 12 * 3600, True), ("23:00-07:30", -4.5 * 3600, False),
    ("23:00-07:30", -4.6 * 3600, True), ("0:00-24:00", 0, True), ("1:00-2:00,11:00-13:00", 0, True),
]  # fmt: skip


@pytest.mark.parametrize(("hours", "later", "is_quiet"), QUIET)
def test_hours_of_quiet_are_for_what_nobody_asked(hours: str, later: float, is_quiet: bool) -> None:
    settings = ChatSettings(group_reply="all", quiet_hours=hours)
    decision = decide(Case(said("大家好"), settings, NOON + later))
    assert (decision.speak, decision.reason) == ((False, Reason.QUIET) if is_quiet else (True, Reason.ALWAYS))
    for asked in (said("在吗", at_me=True), said("在吗", PRIVATE), said("在吗", at_me=None, self_id=None)):
        assert decide(Case(asked, settings, NOON + later)).speak
    assert is_heeded(Case(said("重置", at_me=True), settings, NOON + later))


ENOUGH: list[tuple[dict[str, Any], Activity, bool]] = [
    ({}, Activity(NOON - 1, 500, 9000), False),
    ({"cooldown_s": 60}, Activity(NOON - 59, 1, 1), True), ({"cooldown_s": 60}, Activity(NOON - 61, 1, 1), False),
    ({"cooldown_s": 60}, Activity(), False), ({"max_active_per_hour": 3}, Activity(NOON - 99, 3, 3), True),
    ({"max_active_per_hour": 3}, Activity(NOON - 99, 2, 30), False), ({"max_active_per_day": 0}, Activity(), True),
    ({"max_active_per_day": 30}, Activity(NOON - 99, 2, 30), True),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "activity", "enough"), ENOUGH)
def test_limits_of_what_nobody_asked(limits: dict[str, Any], activity: Activity, enough: bool) -> None:
    settings = ChatSettings(group_reply="all", **limits)
    decision = decide(Case(said("大家好"), settings, NOON, activity=activity))
    assert (decision.speak, decision.reason) == ((False, Reason.COOLDOWN) if enough else (True, Reason.ALWAYS))
    assert decide(Case(said("在吗", at_me=True), settings, NOON, activity=activity)).speak


async def test_what_was_said_is_counted_also_after_a_restart(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    limits: dict[str, Any] = {"group_reply": "all", "max_active_per_hour": 2, "merge_wait_s": 0}
    async with opened(tmp_path, voice, **limits) as service:
        assert (await service.handle(said("一"), "")).should_reply
        assert (await service.handle(said("问", at_me=True), "")).should_reply
        assert (await service.handle(said("二"), "")).should_reply
    async with opened(tmp_path, voice, **limits) as service:
        answer = await service.handle(said("三"), "")
        assert (answer.should_reply, answer.reason) == (False, "cooldown")
        assert (await service.handle(said("别处", ChatKey(ChatKind.GROUP, "2")), "")).should_reply
        assert (await service.handle(said("叫你", at_me=True), "")).should_reply

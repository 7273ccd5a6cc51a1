"""The ledger, and what happens to whoever has had all of today's. A scripted voice, a real database."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import GenerationFailed, QqvlError
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
OTHER = ChatKey(ChatKind.GROUP, "2")


def private(who: str) -> ChatKey:
    return ChatKey(ChatKind.PRIVATE, who)


def said(text: str, who: str = "5", chat: ChatKey = GROUP, **more: Any) -> Incoming:
    mine: dict[str, Any] = {"self_id": "7", "at_me": True, "role": "member"}
    return replace(Incoming("req", chat, Speaker(who, f"名{who}"), (Text(text),), time.time()), **(mine | more))


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice, **chat: Any) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        settings = ChatSettings(**{"merge_wait_s": 0} | chat)
        service = ChatService(store, lambda: voice, PictureShelf(), settings, GenerationSettings(), 4)
        yield service
        await service.drain(0)


def ledger(folder: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(folder / "qqvl.sqlite3")) as database:
        rows = database.execute("SELECT kind, external_id, messages, seconds FROM ledger").fetchall()
    return {f"{kind}:{one}": (messages, seconds) for kind, one, messages, seconds in rows}


async def test_everybody_who_asked_pays_his_part_and_the_group_the_whole(tmp_path: Path) -> None:
    failing: list[QqvlError] = []
    voice = ScriptedVoice(lambda _: failing.pop() if failing else "好")
    voice.seconds = 3.0
    async with opened(tmp_path, voice, merge_wait_s=0.3) as service:
        await asyncio.gather(*(service.handle(said("在吗", who), "") for who in ("5", "5", "6")))
        assert len(voice.asked) == 1
        await service.handle(said("在吗", "6", OTHER), "")
        await service.handle(said("在吗", "6", private("6")), "")
        failing.append(GenerationFailed("坏了"))
        with pytest.raises(GenerationFailed):
            await service.handle(said("在吗", "6", private("6")), "")
        # What was computed while nobody asked.
        voice.owed[str(GROUP)] = 5.0
        await service.handle(said("大家好", "8", at_me=False), "")
    assert ledger(tmp_path) == {
        "user:5": (2, pytest.approx(2.0)),
        "user:6": (3, pytest.approx(1.0 + 3.0 + 3.0 + 3.0)),
        "group:1": (3, pytest.approx(8.0)),
        "group:2": (1, pytest.approx(3.0)),
    }


async def test_what_was_stopped_is_paid_for_and_no_message(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.seconds = 2.0
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        asking = asyncio.create_task(service.handle(said("在吗"), ""))
        while not voice.running:
            await asyncio.sleep(0.005)
        assert (await service.handle(said("/stop"), "")).reply == "好的，不说了。"
        assert not (await asking).should_reply
    assert ledger(tmp_path) == {"user:5": (0, pytest.approx(2.0)), "group:1": (0, pytest.approx(2.0))}


MESSAGES = {
    "user_messages_per_day": 2,
    "user_seconds_per_day": 2.5,
    "group_messages_per_day": 2,
    "group_seconds_per_day": 2.5,
}


@pytest.mark.parametrize(("name", "most"), MESSAGES.items())
async def test_a_day_is_used_up(tmp_path: Path, name: str, most: float) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.seconds = 1.3
    of_user = name.startswith("user")
    async with opened(tmp_path, voice, owners=("9",), **{name: most}) as service:
        for _ in range(2):
            assert (await service.handle(said("在吗"), "")).reason == "addressed"
        first = await service.handle(said("在吗", message_id="m1"), "")
        assert (first.should_reply, first.reason) == (True, "quota")
        assert first.reply.startswith("你今天的额度用完了" if of_user else "本群今天的额度用完了")
    async with opened(tmp_path, voice, owners=("9",), **{name: most}) as service:
        again = [await service.handle(said("在吗"), "") for _ in range(3)]
        # Told once an hour, which a restart does not begin anew.
        assert [answer.should_reply for answer in again] == [False, False, False]
        assert {answer.reason for answer in again} == {"quota"}
        other = await service.handle(said("在吗", "6"), "")
        assert (other.reason == "addressed") is of_user
        assert (await service.handle(said("在吗", "5", OTHER), "")).reason == ("quota" if of_user else "addressed")
        assert (await service.handle(said("在吗", "5", private("5")), "")).reason == ("quota" if of_user else "private")
        # Owners are never held, and commands cost nothing.
        assert (await service.handle(said("在吗", "9"), "")).reason == "addressed"
        assert (await service.handle(said("/help"), "")).reason == "command"
        lines = await service.messages(GROUP, before=None, limit=100) or ()
        assert not any("额度" in part.text for line in lines for part in line.parts if isinstance(part, Text))


async def test_a_crowd_in_one_turn_is_not_let_through_together(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, merge_wait_s=0.3, group_messages_per_day=3) as service:
        answers = await asyncio.gather(*(service.handle(said("在吗", str(20 + n)), "") for n in range(6)))
    assert [answer.reason for answer in answers] == ["merged", "merged", "addressed", "quota", "quota", "quota"]
    assert sum(answer.reply.startswith("本群") for answer in answers) == 1


async def test_what_is_left_is_told(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.seconds = 1.5
    async with opened(tmp_path, voice, user_messages_per_day=9, group_seconds_per_day=60) as service:
        await service.handle(said("在吗"), "")
        await service.handle(said("在吗", "6"), "")
        told = (await service.handle(said("/quota"), "")).reply
        assert told.splitlines() == [
            "你今天：1 条（最多 9 条），用模型 1.5 秒（不限）。",
            "本群今天：2 条（不限），用模型 3.0 秒（最多 60 秒）。",
        ]
        alone = (await service.handle(said("额度", "7", private("7")), "")).reply
        assert alone == "你今天：0 条（最多 9 条），用模型 0.0 秒（不限）。"


async def test_yesterday_is_another_day(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, user_messages_per_day=1) as service:
        assert (await service.handle(said("在吗"), "")).reason == "addressed"
        assert (await service.handle(said("在吗"), "")).reason == "quota"
        with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database, database:
            database.execute("UPDATE ledger SET day = '2026-01-01'")
        assert (await service.handle(said("在吗"), "")).reason == "addressed"

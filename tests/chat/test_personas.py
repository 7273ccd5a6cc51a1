"""Personas from files, and settings that one chat has of its own."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.personas import Personas
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import InvalidRequest
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, text_of
from tests.running import ROOT

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "10001")


def said(text: str, chat: ChatKey = PRIVATE, **more: Any) -> Incoming:
    mine: dict[str, Any] = {"self_id": "7", "at_me": True, "role": "admin"}
    return replace(Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), time.time()), **(mine | more))


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice, **chat: Any) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        settings = ChatSettings(**{"merge_wait_s": 0, "system_prompt": "默认的人设"} | chat)
        service = ChatService(
            store, lambda: voice, PictureShelf(), settings, GenerationSettings(temperature=0.5), 4, None,
            Personas(folder / "personas", look_s=0),
        )  # fmt: skip
        yield service
        await service.drain(0)


def write(folder: Path, name: str, text: str, *, at: float = 0) -> None:
    (folder / "personas").mkdir(exist_ok=True)
    path = folder / "personas" / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    if at:
        os.utime(path, (at, at))


CAT = "---\nname: 猫娘\nmode: all\nsampling:\n  temperature: 0.9\n  max_new_tokens: 77\n---\n你是猫娘。\n\n喵。\n"


async def ask(service: ChatService, voice: ScriptedVoice, text: str, chat: ChatKey = PRIVATE) -> list[str]:
    await service.handle(said(text, chat), "")
    return [text_of(message) for message in voice.asked[-1].messages]


async def test_a_persona_is_chosen_by_command_for_one_chat_and_outlives_a_restart(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好", context_tokens=4000)
    write(tmp_path, "cat", CAT)
    async with opened(tmp_path, voice) as service:
        assert "猫娘" in (await service.handle(said("/persona", GROUP), "")).reply
        assert "没有这个人设" in (await service.handle(said("/persona 狗", GROUP), "")).reply
        assert (await service.handle(said("/人设 猫娘", GROUP), "")).reply == "好，现在的人设是：猫娘。"
        assert (await ask(service, voice, "你好", GROUP))[0] == "你是猫娘。\n\n喵。"
        sampling = voice.asked[-1].sampling
        assert (sampling.temperature, sampling.max_new_tokens) == (0.9, 77)
        # Its mode is the chat's, until the chat has one of its own.
        assert (await service.handle(said("大家好", GROUP, at_me=False), "")).should_reply
        await service.handle(said("/mode addressed", GROUP), "")
        assert not (await service.handle(said("大家好", GROUP, at_me=False), "")).should_reply
        assert (await ask(service, voice, "你好"))[0] == "默认的人设"
        assert voice.asked[-1].sampling.temperature == 0.5
    async with opened(tmp_path, voice) as service:
        assert (await ask(service, voice, "你好", GROUP))[0].startswith("你是猫娘。")
        assert "默认" in (await service.handle(said("/persona 默认", GROUP), "")).reply
        assert (await ask(service, voice, "你好", GROUP))[0] == "默认的人设"


async def test_a_persona_by_setting_and_by_its_files_name(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好", context_tokens=4000)
    write(tmp_path, "cat", CAT)
    async with opened(tmp_path, voice, persona="CAT", system_prompts={"private:5": "你是五"}) as service:
        assert (await ask(service, voice, "你好"))[0].startswith("你是猫娘。")
        assert (await ask(service, voice, "你好", ChatKey(ChatKind.PRIVATE, "5")))[0] == "你是五"


async def test_files_are_read_again_and_a_broken_one_leaves_the_last_that_was_good(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好", context_tokens=4000)
    async with opened(tmp_path, voice, persona="猫娘") as service:
        assert (await ask(service, voice, "一"))[0] == "默认的人设"
        write(tmp_path, "cat", CAT, at=1000)
        assert (await ask(service, voice, "二"))[0].startswith("你是猫娘。")
        write(tmp_path, "cat", CAT.replace("你是猫娘", "你是新猫娘"), at=2000)
        assert (await ask(service, voice, "三"))[0].startswith("你是新猫娘。")
        for number, broken in enumerate(
            ("---\nname: [\n---\n坏", "---\nmode: loud\n---\n坏", "---\ntemperature: 1\n---\n坏")
        ):
            write(tmp_path, "cat", broken, at=3000 + number)
            assert (await ask(service, voice, "四"))[0].startswith("你是新猫娘。")
        (tmp_path / "personas" / "cat.md").unlink()
        assert (await ask(service, voice, "五"))[0] == "默认的人设"


async def test_the_time_is_told_in_the_last_turn_only(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好", context_tokens=4000)
    write(tmp_path, "butler", "---\ntime: true\n---\n你是管家。")
    async with opened(tmp_path, voice, persona="butler") as service:
        first, second = await ask(service, voice, "一"), await ask(service, voice, "二")
    assert first[:-1] == ["你是管家。"]
    assert first[-1].startswith("一\n（现在是 20")
    assert second[:3] == ["你是管家。", "一", "好"]
    assert second[-1].startswith("二\n（现在是 20")


def test_the_examples_can_be_used_as_they_are() -> None:
    personas = Personas(ROOT / "personas")
    names = [persona.name for persona in personas.all]
    assert len(names) == len(set(names)) == len(list((ROOT / "personas").glob("*.md"))) >= 3
    assert all(persona.prompt for persona in personas.all)


async def test_settings_of_one_chat(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好", context_tokens=4000)
    async with opened(tmp_path, voice) as service:
        wanted = {"wake_words": ["喂"], "quiet_hours": "0:00-24:00", "group_reply": "all", "system_prompt": "只在这里"}
        await service.preferences.change(GROUP, wanted)
        answer = await service.handle(said("大家好", GROUP, at_me=False), "")
        assert (answer.should_reply, answer.reason) == (False, "quiet")
        assert (await service.handle(said("喂，在吗", GROUP, at_me=False), "")).reason == "name"
        assert text_of(voice.asked[-1].messages[0]) == "只在这里"
        for bad in (
            {"owners": ["1"]},
            {"group_reply": "loud"},
            {"persona": "没有"},
            {"x": 1},
            {"wake_patterns": ["("]},
        ):
            with pytest.raises(InvalidRequest):
                await service.preferences.change(GROUP, bad)
    async with opened(tmp_path, voice) as service:
        assert service.preferences.own(GROUP) == wanted
        await service.preferences.change(GROUP, {"group_reply": None, "wake_words": None})
        assert set(service.preferences.own(GROUP)) == {"quiet_hours", "system_prompt"}
        assert (await service.handle(said("喂，在吗", GROUP, at_me=False), "")).reason == "silent"

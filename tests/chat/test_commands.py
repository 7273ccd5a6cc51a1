"""Commands: what is one, who may give it where, and what comes of it. A scripted voice, a real database."""

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

from qqvl_server.chat.message import Answer, ChatKey, ChatKind, EncodedPicture, Incoming, Speaker, Text
from qqvl_server.chat.personas import Personas
from qqvl_server.chat.service import ChatService
from qqvl_server.setting_types import COMMANDS as SETTABLE
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "10001")


def said(text: str, chat: ChatKey = GROUP, **more: Any) -> Incoming:
    """As our client posts it: addressed, by a member."""
    mine: dict[str, Any] = {"self_id": "7", "self_names": ("小助手", ""), "at_me": True, "role": "member"}
    incoming = Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), time.time())
    return replace(incoming, **(mine | more))


def bare(text: str, chat: ChatKey = GROUP) -> Incoming:
    return Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), None)


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice, **chat: Any) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        settings = ChatSettings(**{"merge_wait_s": 0, "system_prompt": "默认的人设"} | chat)
        personas = Personas(folder / "personas")
        service = ChatService(
            store, lambda: voice, PictureShelf(), settings, GenerationSettings(), 4, None, personas, "小模型"
        )
        yield service
        await service.drain(0)


def talkative() -> ScriptedVoice:
    return ScriptedVoice(lambda _: "好", context_tokens=4000)


async def history(service: ChatService, chat: ChatKey = GROUP) -> list[str]:
    lines = await service.messages(chat, before=None, limit=1000) or ()
    return ["".join(p.text for p in m.parts if isinstance(p, Text)) for m in lines]


# Command × role × kind of chat -----------------------------------------------------------------------------

EVERYBODY = ("help", "status", "why", "quota", "memory", "model", "stop")
ADMINS = ("undo", "reset", "new", "persona", "mode", "mute", "unmute")
CHINESE = {
    "help": "帮助", "status": "状态", "why": "为什么", "quota": "额度", "stop": "停止", "undo": "撤销",
    "reset": "重置", "new": "新话题", "persona": "人设", "mode": "模式", "mute": "闭嘴", "unmute": "说话",
    "memory": "记忆", "model": "模型",
}  # fmt: skip
# Who speaks, and where: role as QQ tells it, whether he owns the bot, the chat, and whether he may do what admins may.
WHO: list[tuple[dict[str, Any], ChatKey, bool]] = [
    ({"role": "member"}, GROUP, False),
    ({"role": None}, GROUP, False),
    ({"role": "somebody new"}, GROUP, False),
    ({"role": "admin"}, GROUP, True),
    ({"role": "owner"}, GROUP, True),
    ({"role": "member", "speaker": Speaker("99", "主人")}, GROUP, True),
    ({"role": None}, PRIVATE, True),
]


def test_the_tables_are_whole() -> None:
    assert sorted(EVERYBODY + ADMINS) == sorted(CHINESE) == sorted(SETTABLE)


@pytest.mark.parametrize(("who", "chat", "is_admin"), WHO)
async def test_every_command_by_everybody_everywhere(
    tmp_path: Path, who: dict[str, Any], chat: ChatKey, is_admin: bool
) -> None:
    voice = talkative()
    async with opened(tmp_path, voice, owners=("99",)) as service:
        for name in EVERYBODY + ADMINS:
            # Each where nobody has given any: who gives dozens at once is taken for a program.
            place = replace(chat, id=f"{chat.id}-{name}")
            for number, spelling in enumerate((f"/{name}", f"/{CHINESE[name]}", f"@小助手 /{name.upper()}")):
                answer = await service.handle(said(spelling, place, **who), "")
                done = name in EVERYBODY or is_admin
                assert answer.reason == "command", spelling
                assert answer.should_reply is (done or number == 0), spelling
                assert ("只有群主、管理员" in answer.reply) is (answer.should_reply and not done), spelling
        # Unaddressed it is talk, whoever says it.
        if chat is GROUP:
            for name in EVERYBODY + ADMINS:
                answer = await service.handle(said(f"/{name}", **who, at_me=False), "")
                assert (answer.should_reply, answer.reason) == (False, "silent")
    assert voice.asked == []


@pytest.mark.parametrize("name", EVERYBODY + ADMINS)
@pytest.mark.parametrize("role", ["member", "admin", "owner"])
async def test_who_may_give_which_can_be_set(tmp_path: Path, name: str, role: str) -> None:
    voice = talkative()
    rank = {"member": 0, "admin": 1, "owner": 2}
    speakers: dict[str, dict[str, Any]] = {
        "member": {"role": "member"},
        "admin": {"role": "admin", "speaker": Speaker("5", "管理")},
        "owner": {"speaker": Speaker("99", "主人")},
    }
    async with opened(tmp_path, voice, owners=("99",), command_roles={name: role}) as service:
        for who, mine in speakers.items():
            answer = await service.handle(said(f"/{name}", **mine), "")
            refused = "只有" in answer.reply
            assert refused is (rank[who] < rank[role]), (who, answer.reply)
        assert "只有" not in (await service.handle(said(f"/{name}", PRIVATE), "")).reply
    assert voice.asked == []


# What is a command -----------------------------------------------------------------------------------------

SPELLINGS: list[tuple[str, str | None]] = [
    ("帮助", "你能用的命令"), ("小助手，帮助", "你能用的命令"), ("@小助手 帮助", "你能用的命令"),
    ("／ｈｅｌｐ", "你能用的命令"), ("/help！", "你能用的命令"), ("/停止", "没有正在写"), ("停止", "没有正在写"),
    ("闭嘴10", "闭嘴，到"), ("/闭嘴 10分钟", "闭嘴，到"), ("/mute", "一直到"), ("/mute 很久", "写法"),
    ("/reset 一下", "后面不用写别的"), ("/foo", "没有这个命令"),
    ("/rest", "/reset"), ("/微笑", "没有这个命令"), ("/foo bar baz", "没有这个命令"),
    # Talk.
    ("为什么", None), ("说话", None), ("记忆", None), ("帮助我", None), ("模式 all", None), ("重置一下路由器", None),
    ("/etc/passwd 是什么", None), ("//注释", None), ("/", None), ("/ help", None), ("1/2", None), ("help", None),
    ("闭嘴吧你", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), SPELLINGS)
@pytest.mark.parametrize("chat", [GROUP, PRIVATE])
async def test_what_is_a_command(tmp_path: Path, text: str, told: str | None, chat: ChatKey) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        answer = await service.handle(said(text, chat, role="admin"), "")
        if told is None:
            assert (answer.reply, len(voice.asked)) == ("好", 1)
        else:
            assert told in answer.reply
            assert "\n" not in answer.reply or told == "你能用的命令"
            assert voice.asked == []
            assert not await history(service, chat)


async def test_a_picture_is_no_command(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        parts = (Text("/help"), EncodedPicture("a picture"))
        assert (await service.handle(said("", PRIVATE, parts=parts), "")).reply == "好"


async def test_the_bare_client_has_reset_and_nothing_else(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        for chat in (GROUP, PRIVATE):
            for name in (*EVERYBODY, *ADMINS, "foo"):
                for text in (f"/{name}", f"/{CHINESE.get(name, name)}", CHINESE.get(name, name)):
                    answer = await service.handle(bare(text, chat), "")
                    if name == "reset":
                        assert "已清空" in answer.reply
                    else:
                        assert (answer.reply, answer.reason) == ("好", "always" if chat is GROUP else "private")


@pytest.mark.parametrize(("prefix", "other"), [("#", "/help"), ("!", "#help"), ("小Q ", "/help")])
async def test_the_prefix_can_be_set(tmp_path: Path, prefix: str, other: str) -> None:
    if prefix.endswith(" "):
        with pytest.raises(ValueError, match="command_prefix"):
            ChatSettings(command_prefix=prefix)
        return
    voice = talkative()
    async with opened(tmp_path, voice, command_prefix=prefix) as service:
        assert f"{prefix}reset" in (await service.handle(said(f"{prefix}help", role="admin"), "")).reply
        assert (await service.handle(said(other), "")).reply == "好"


async def test_a_member_is_refused_politely_once_an_hour_and_his_words_are_talk(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        answers = [await service.handle(said("/mute"), "") for _ in range(5)]
        assert [bool(answer.reply) for answer in answers] == [True] + [False] * 4
        assert (await service.handle(said("/reset", speaker=Speaker("5", "李四")), "")).should_reply
        assert not (await service.handle(said("/mode all"), "")).should_reply
        assert (await service.handle(said("在吗"), "")).reply == "好"


async def test_a_restart_refuses_nobody_anew_and_a_refusal_is_no_part_of_the_talk(tmp_path: Path) -> None:
    voice = talkative()
    for told in (True, False):
        async with opened(tmp_path, voice) as service:
            answer = await service.handle(said("/mute", message_id=f"m{told}", at_me=True), "")
            assert (answer.should_reply, answer.reason) == (told, "command")
    async with opened(tmp_path, voice) as service:
        other = await service.handle(said("/mute", message_id="m3", at_me=True, speaker=Speaker("5", "李四")), "")
        assert other.should_reply
        lines = await service.messages(GROUP, before=None, limit=9) or ()
        assert [line.role for line in lines] == ["user"] * 3


# What comes of them ----------------------------------------------------------------------------------------


async def test_help_lists_what_the_asker_may(tmp_path: Path) -> None:
    async with opened(tmp_path, talkative()) as service:
        member = (await service.handle(said("/help"), "")).reply
        admin = (await service.handle(said("/help", role="admin"), "")).reply
        private = (await service.handle(said("/help", PRIVATE), "")).reply
    for name in EVERYBODY:
        assert all(f"/{name}" in reply and CHINESE[name] in reply for reply in (member, admin, private))
    for name in ADMINS:
        assert f"/{name}（" not in member
        assert f"/{name} [" not in member
        assert all(f"/{name}" in reply for reply in (admin, private))


async def test_undo_drops_the_last_turn_with_all_that_was_merged_into_it(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: f"第{len(voice.asked)}答", context_tokens=4000)
    async with opened(tmp_path, voice, merge_wait_s=0.2) as service:
        await service.handle(said("甲", message_id="1"), "")
        both = [said("乙swordfish", message_id="2"), said("丙", message_id="3")]
        await asyncio.gather(*(service.handle(message, "") for message in both))
        assert await history(service) == ["甲", "第1答", "乙swordfish", "丙", "第2答"]
        undo = said("/undo", role="admin", message_id="9")
        assert (await service.handle(undo, "")).reply == "好，上一轮问答我忘掉了。"
        assert await history(service) == ["甲", "第1答"]
        # Sent again it is the same command, and what was undone is not answered again.
        assert (await service.handle(undo, "")).reply == "好，上一轮问答我忘掉了。"
        assert not (await service.handle(both[1], "")).should_reply
        assert await history(service) == ["甲", "第1答"]
        await service.handle(said("丁", message_id="4"), "")
        assert [text_of(m).split("] ")[-1] for m in voice.asked[-1].messages] == ["默认的人设", "甲", "第1答", "丁"]
        for who, told in (("5", "忘掉了"), ("6", "忘掉了"), ("5", "没有可以撤销的")):
            undo = said("/撤销", role="admin", speaker=Speaker(who, "管理"))
            assert told in (await service.handle(undo, "")).reply
    assert b"swordfish" not in (tmp_path / "qqvl.sqlite3").read_bytes()


async def test_undo_after_a_bare_client(tmp_path: Path) -> None:
    async with opened(tmp_path, talkative()) as service:
        await service.handle(bare("甲", PRIVATE), "")
        await service.handle(bare("乙", PRIVATE), "")
        await service.handle(said("/undo", PRIVATE), "")
        assert await history(service, PRIVATE) == ["甲", "好"]


async def test_a_new_topic_hides_what_was_and_keeps_it(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        await service.handle(said("我叫小明", PRIVATE), "")
        assert "新话题" in (await service.handle(said("新话题", PRIVATE), "")).reply
        await service.handle(said("我叫什么", PRIVATE), "")
        assert [text_of(message) for message in voice.asked[-1].messages] == ["默认的人设", "我叫什么"]
        assert await history(service, PRIVATE) == ["我叫小明", "好", "我叫什么", "好"]


async def test_a_muted_chat_is_silent_until_somebody_who_may_says_otherwise(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice, bot_names=("小Q",)) as service:
        assert "一直到" in (await service.handle(said("闭嘴", role="admin"), "")).reply
        for text in ("在吗", "/help", "/foo", "说话", "小Q 你好"):
            answer = await service.handle(said(text), "")
            assert (answer.should_reply, answer.reason) == (False, "quiet")
        assert (await service.handle(said("在吗", ChatKey(ChatKind.GROUP, "2")), "")).should_reply
        assert "闭嘴中" in (await service.handle(said("/状态", role="admin"), "")).reply
    async with opened(tmp_path, voice) as service:
        assert not (await service.handle(said("在吗"), "")).should_reply
        assert (await service.handle(said("说话", role="owner"), "")).reply == "好，我又可以说话了。"
        assert (await service.handle(said("在吗"), "")).should_reply
        assert "在吗" in "".join(map(text_of, voice.asked[-1].messages))
        await service.handle(said("/mute 1", role="admin"), "")
    with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database, database:
        database.execute("UPDATE chat_settings SET value = ? WHERE name = 'muted_until'", (str(time.time() - 1),))
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(said("在吗"), "")).should_reply


async def test_a_mode_is_the_chats_own_and_outlives_a_restart(tmp_path: Path) -> None:
    voice = talkative()
    elsewhere = ChatKey(ChatKind.GROUP, "2")
    async with opened(tmp_path, voice) as service:
        assert not (await service.handle(said("大家好", at_me=False), "")).should_reply
        assert "all" in (await service.handle(said("/mode ALL", role="admin"), "")).reply
        assert (await service.handle(said("大家好", at_me=False), "")).should_reply
        assert not (await service.handle(said("大家好", elsewhere, at_me=False), "")).should_reply
        assert "没有这个模式" in (await service.handle(said("/mode loud", role="admin"), "")).reply
        assert "现在是 all" in (await service.handle(said("/模式", role="admin"), "")).reply
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(said("大家好", at_me=False), "")).should_reply
        assert "auto" in (await service.handle(said("/mode 默认", role="admin"), "")).reply
        assert not (await service.handle(said("大家好", at_me=False), "")).should_reply
        assert "校准" in (await service.handle(said("/mode smart", role="admin"), "")).reply
        assert not (await service.handle(said("大家好", at_me=False), "")).should_reply
        await service.handle(said("/mode off", role="admin"), "")
        assert not (await service.handle(said("在吗"), "")).should_reply
        assert (await service.handle(said("/help"), "")).should_reply


async def test_why_tells_of_the_last_reply(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        assert "还没有说过话" in (await service.handle(said("/why"), "")).reply
        await service.handle(said("一", at_me=False), "")
        await service.handle(said("在吗"), "")
        await service.handle(said("三", at_me=False), "")
        told = (await service.handle(said("/why"), "")).reply
        assert "@ 了我（addressed）" in told
        assert "看了 2 条" in told
        assert "0 个在缓存里" in told
        assert "秒" in told
        assert "小模型" in told
        assert "小模型" in (await service.handle(said("/模型"), "")).reply
        assert "还没有说过话" in (await service.handle(said("/why", PRIVATE), "")).reply


async def test_memory_tells_what_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, talkative()) as service:
        assert "什么也没有记" in (await service.handle(said("/memory"), "")).reply
        await service.handle(said("一", at_me=False), "")
        await service.handle(said("二", speaker=Speaker("5", "李四"), at_me=False), "")
        await service.handle(said("/new", role="admin"), "")
        await service.handle(said("三"), "")
        told = (await service.handle(said("/记忆"), "")).reply
        assert "记着 4 条" in told
        assert "最近 2 条" in told
        assert "你说的有 2 条" in told


async def test_a_command_sent_again_is_told_the_same_and_done_once(tmp_path: Path) -> None:
    voice = talkative()
    async with opened(tmp_path, voice) as service:
        first, again = said("/mute", PRIVATE, message_id="1"), said("/unmute", PRIVATE, message_id="2")
        told: list[Answer] = [await service.handle(first, ""), await service.handle(again, "")]
        assert [await service.handle(message, "") for message in (first, again)] == told
        assert (await service.handle(said("在吗", PRIVATE), "")).reply == "好"

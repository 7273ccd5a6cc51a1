"""Friend requests and invitations: told to the owners, decided by their word alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from onebot.events import SELF_ID, at, friend_request, group_message, invitation, private_message, text
from onebot.process import ClientProcess
from onebot.server import OneBotServer
from onebot.world import World

from qqvl_client.errors import SettingsError
from qqvl_client.settings import load

pytestmark = pytest.mark.anyio
OWNER, SECOND = 800_001, 800_002
BOTH = pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])


def client_of(world: World, folder: Path, adapter: str = "ncatbot", **more: Any) -> ClientProcess:
    return ClientProcess(folder, world.settings(adapter) | {"owners": f"{OWNER},{SECOND}"} | more)


async def number_told(onebot: OneBotServer, owner: int, times: int = 1) -> str:
    """The number by which the owner is to decide the newest application."""
    found = re.search(r"回复“同意 (\d+)”", (await onebot.replied(owner, times))[-1].text)
    assert found
    return found[1]


@BOTH
async def test_a_friend_is_accepted_by_an_owners_word(world: World, tmp_path: Path, chat_id: int, adapter: str) -> None:
    async with client_of(world, tmp_path, adapter) as client:
        await world.onebot.line()
        asked = await world.onebot.event(friend_request(chat_id, "我是\n小明"))
        number = await number_told(world.onebot, OWNER)
        (told,) = await world.onebot.replied(SECOND)
        assert told.text.startswith(f"路人{chat_id}（QQ {chat_id}）想加机器人为好友\n附言：我是 小明\n")
        assert world.onebot.decided == {}
        await world.onebot.event(private_message(f"同意 {number}", OWNER))
        assert (await world.onebot.replied(OWNER, 2))[1].text == f"已同意（编号 {number}，QQ {chat_id}）。"
        assert world.onebot.decided == {asked["flag"]: {"flag": asked["flag"], "approve": True}}
        assert await client.stop() == 0
    assert world.chat.bodies == [], "the word is for the client"


async def test_an_invitation_is_refused_by_a_bare_word(world: World, tmp_path: Path, chat_id: int) -> None:
    async with client_of(world, tmp_path):
        await world.onebot.line()
        asked = await world.onebot.event(invitation(chat_id, 40004))
        await number_told(world.onebot, OWNER)
        await world.onebot.event(private_message(" 拒绝 ", SECOND))
        await world.onebot.replied(SECOND, 2)
        flag = asked["flag"]
        assert world.onebot.decided == {flag: {"flag": flag, "approve": False, "sub_type": "invite"}}


async def test_nobody_elses_word_counts(world: World, tmp_path: Path, chat_id: int, other_id: int) -> None:
    async with client_of(world, tmp_path):
        await world.onebot.line()
        await world.onebot.event(friend_request(chat_id))
        number = await number_told(world.onebot, OWNER)
        await world.onebot.event(private_message(f"同意 {number}", other_id))
        await world.onebot.event(group_message([at(SELF_ID), text(f" 同意 {number}")], chat_id, user_id=OWNER))
        await world.onebot.replied(other_id)
        await world.onebot.replied(chat_id)
        assert world.onebot.decided == {}
        assert len(world.chat.bodies) == 2, "it is talk"


async def test_of_several_one_must_be_named_and_a_word_for_nothing_is_talk(
    world: World, tmp_path: Path, chat_id: int, other_id: int
) -> None:
    async with client_of(world, tmp_path):
        await world.onebot.line()
        await world.onebot.event(private_message("同意", OWNER))
        await world.onebot.replied(OWNER)
        for person in (chat_id, other_id):
            await world.onebot.event(friend_request(person))
        number = await number_told(world.onebot, OWNER, 3)
        await world.onebot.event(private_message("同意", OWNER))
        which = (await world.onebot.replied(OWNER, 4))[3].text
        assert number in which
        assert world.onebot.decided == {}
        await world.onebot.event(private_message(f"同意#{number}", OWNER))
        await world.onebot.replied(OWNER, 5)
        assert len(world.onebot.decided) == 1
    assert [body["content"] for body in world.chat.bodies] == ["同意"]


async def test_an_application_survives_a_restart_and_its_repeat_is_one(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    async with client_of(world, tmp_path) as client:
        await world.onebot.line()
        asked = await world.onebot.event(friend_request(chat_id))
        await world.onebot.event(asked)
        number = await number_told(world.onebot, OWNER)
        await client.kill()
        await client.start()
        assert await number_told(world.onebot, OWNER, 2) == number
        await world.onebot.event(private_message(f"同意 {number}", OWNER))
        await world.onebot.replied(OWNER, 3)
        assert set(world.onebot.decided) == {asked["flag"]}
        assert await client.stop() == 0


async def test_what_qq_refuses_may_be_said_again(world: World, tmp_path: Path, chat_id: int) -> None:
    async with client_of(world, tmp_path):
        await world.onebot.line()
        asked = friend_request(chat_id)
        world.onebot.bad_flags.add(asked["flag"])
        await world.onebot.event(asked)
        await number_told(world.onebot, OWNER)
        await world.onebot.event(private_message("同意", OWNER))
        assert "没有办成" in (await world.onebot.replied(OWNER, 2))[1].text
        world.onebot.bad_flags.clear()
        await world.onebot.event(private_message("同意", OWNER))
        await world.onebot.replied(OWNER, 3)
        assert set(world.onebot.decided) == {asked["flag"]}


async def test_without_owners_nothing_is_accepted_and_the_log_says_so(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    async with client_of(world, tmp_path, owners="") as client:
        await world.onebot.line()
        await world.onebot.event(invitation(chat_id, 40004))
        await client.logged("没有设 owners")
        assert world.onebot.decided == {}


async def test_all_are_accepted_where_the_owner_wants_it(world: World, tmp_path: Path, chat_id: int) -> None:
    async with client_of(world, tmp_path, auto_accept="true"):
        await world.onebot.line()
        asked = await world.onebot.event(invitation(chat_id, 40004))
        assert "已同意" in (await world.onebot.replied(OWNER))[0].text
        assert world.onebot.decided[asked["flag"]]["approve"] is True


async def test_who_asks_to_join_a_group_is_none_of_ours(world: World, tmp_path: Path, chat_id: int) -> None:
    async with client_of(world, tmp_path):
        await world.onebot.line()
        await world.onebot.event(invitation(chat_id, 40004, sub_type="add"))
        await world.onebot.event(friend_request(chat_id, flag=None))
        await world.onebot.event(friend_request(chat_id))
        await number_told(world.onebot, OWNER)
        assert len(world.onebot.to(OWNER)) == 1


async def test_strangers_sessions_are_let_go_where_the_owner_wants_it(
    world: World, tmp_path: Path, chat_id: int, other_id: int
) -> None:
    async with client_of(world, tmp_path, answer_temporary="false"):
        await world.onebot.line()
        for person in (chat_id, OWNER):
            await world.onebot.event(private_message("在吗", person, sub_type="group", group_id=other_id))
        await world.onebot.replied(OWNER)
        await world.onebot.event(private_message("好友", other_id))
        await world.onebot.replied(other_id)
    assert {body["user_id"] for body in world.chat.bodies} == {str(OWNER), str(other_id)}


def test_owners_are_the_servers_where_the_client_names_none(tmp_path: Path) -> None:
    file = tmp_path / "qqvl.yaml"
    file.write_text(yaml.safe_dump({"chat": {"owners": [1, 2]}}), encoding="utf-8")
    assert load({}, {}, file).owners == ("1", "2")
    assert load({"QQVL_OWNERS": "3，4"}, {}, file).owners == ("3", "4")
    assert load({"QQVL_OWNERS": "3", "QQVL_CLIENT_OWNERS": "5"}, {}, file).owners == ("5",)
    file.write_text(yaml.safe_dump({"chat": {"owners": [1]}, "client": {"owners": 6}}), encoding="utf-8")
    assert load({}, {}, file).owners == ("6",)
    with pytest.raises(SettingsError, match="QQ 号"):
        load({"QQVL_CLIENT_OWNERS": "老王"}, {}, file)

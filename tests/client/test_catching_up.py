"""What was said while nobody listened: pulled from QQ's record, each mention answered once, the rest history."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from onebot.events import SELF_ID, Event, at, group_message, private_message, reply, text
from onebot.process import ClientProcess
from onebot.world import Stack, World

pytestmark = pytest.mark.anyio


def called(words: str, chat_id: int, **more: Any) -> Event:
    return group_message([at(SELF_ID), text(f" {words}")], chat_id, **more)


async def known(stack: World, *chats: int) -> None:
    """Groups that have spoken before."""
    for chat_id in chats:
        await stack.onebot.event(group_message("从前", chat_id))
        await stack.onebot.replied(chat_id)


async def reconnected(stack: World) -> None:
    count = stack.onebot.connected
    await stack.onebot.close()
    await stack.onebot.until(lambda: stack.onebot.connected > count, "a new connection")


async def test_missed_lines_become_history_and_a_missed_mention_is_answered_once(stack: Stack, chat_id: int) -> None:
    await known(stack, chat_id)
    missed = [group_message("闲聊一", chat_id), called("在吗", chat_id), group_message("闲聊二", chat_id)]
    stack.onebot.history += missed
    for _ in range(2):
        await reconnected(stack)
    await stack.onebot.event(group_message("现在", chat_id))
    bodies = await stack.chat.asked(chat_id, 5)
    told = [(body["content"].rpartition(" ")[2], body.get("context_only", False)) for body in bodies]
    assert told == [("从前", False), ("闲聊一", True), ("在吗", False), ("闲聊二", True), ("现在", False)]
    sent = await stack.onebot.replied(chat_id, 3)
    assert sent[1].quoted == str(missed[1]["message_id"])
    assert len(sent) == 3


async def test_a_missed_quote_of_the_bot_is_answered_an_answered_one_is_not(stack: Stack, chat_id: int) -> None:
    await known(stack, chat_id)
    ours = next(e for e in stack.onebot.history if e.get("group_id") == chat_id and e["user_id"] == SELF_ID)
    done = called("答过了", chat_id)
    mine = group_message([reply(done["message_id"]), text("答")], chat_id, user_id=SELF_ID)
    stack.onebot.history += [group_message([reply(ours["message_id"]), text("真的？")], chat_id), done, mine]
    await reconnected(stack)
    bodies = await stack.chat.asked(chat_id, 3)
    assert [(b["content"].rpartition(" ")[2], b.get("context_only", False)) for b in bodies[1:]] == [
        ("真的？", False),
        ("答过了", True),
    ]


async def test_a_mention_missed_too_long_ago_is_history(stack: Stack, chat_id: int) -> None:
    long_ago = int(time.time()) - 3600
    await stack.onebot.event(group_message("从前", chat_id, time=long_ago - 60))
    await stack.chat.asked(chat_id)
    stack.onebot.history.append(called("在吗", chat_id, time=long_ago))
    await reconnected(stack)
    assert (await stack.chat.asked(chat_id, 2))[1]["context_only"] is True
    assert stack.onebot.to(chat_id) == []


async def test_a_missed_private_line_is_answered(stack: Stack, chat_id: int) -> None:
    await stack.onebot.event(private_message("从前", chat_id))
    await stack.onebot.replied(chat_id)
    stack.onebot.history.append(private_message("还在吗", chat_id))
    await reconnected(stack)
    assert [s.text for s in await stack.onebot.replied(chat_id, 2)] == ["答：从前", "答：还在吗"]


async def test_a_record_that_does_not_come_holds_up_nobody(stack: Stack, chat_id: int, other_id: int) -> None:
    await known(stack, chat_id)
    stack.onebot.mute_actions |= {"get_group_msg_history", "get_friend_msg_history"}
    await reconnected(stack)
    await stack.onebot.event(private_message("在吗", other_id))
    assert [s.text for s in await stack.onebot.replied(other_id)] == ["答：在吗"]


async def test_groups_nobody_has_heard_of_are_left_alone(stack: Stack, chat_id: int, other_id: int) -> None:
    await known(stack, chat_id)
    stack.onebot.history += [group_message("别处", other_id), called("别处", other_id)]
    stack.onebot.history.append(called("这里", chat_id))
    await reconnected(stack)
    await stack.onebot.replied(chat_id, 2)
    assert stack.chat.of(other_id) == []


async def test_what_was_said_while_the_client_was_down_is_pulled_too(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    async with ClientProcess(tmp_path, world.settings()) as client:
        await world.onebot.line()
        await known(world, chat_id)
        assert await client.stop() == 0
        world.onebot.history += [group_message("闲聊", chat_id), called("在吗", chat_id)]
        await client.start()
        await world.onebot.replied(chat_id, 2)
        assert await client.stop() == 0
    bodies = world.chat.of(chat_id)
    assert [body.get("context_only", False) for body in bodies] == [False, True, False]


async def test_it_can_be_switched_off(world: World, tmp_path: Path, chat_id: int) -> None:
    async with ClientProcess(tmp_path, world.settings() | {"catch_up": "false"}) as client:
        await world.onebot.line()
        await known(world, chat_id)
        world.onebot.history.append(called("在吗", chat_id))
        await reconnected(world)
        await world.onebot.event(group_message("现在", chat_id))
        await world.onebot.replied(chat_id, 2)
        assert await client.stop() == 0
    assert [body["content"] for body in world.chat.of(chat_id)] == ["从前", "现在"]

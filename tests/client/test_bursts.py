"""More messages than anybody can answer: the newest are, the rest is history or counted, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from onebot.chat import answer_for
from onebot.events import SELF_ID, at, group_message, private_message, text
from onebot.process import ClientProcess
from onebot.world import World

from qqvl_client.posting import Posts

pytestmark = pytest.mark.anyio
BOTH = pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])


def only_when_called(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("context_only") or (body["type"] == "group" and not body["at_me"]):
        return {"status": "success", "should_reply": False, "reply": ""}
    return answer_for(body)


@BOTH
async def test_ten_thousand_at_once_hold_up_neither_their_last_asker_nor_anybody_else(
    world: World, tmp_path: Path, adapter: str, chat_id: int, other_id: int
) -> None:
    world.chat.script = only_when_called
    frames = [json.dumps(group_message(f"刷屏{number}", chat_id)) for number in range(10_000)]
    async with ClientProcess(tmp_path, world.settings(adapter) | {"waiting_per_chat": 100}) as client:
        await world.onebot.line()
        for frame in frames:
            await world.onebot.raw(frame)
        await world.onebot.event(private_message("别人", other_id))
        last = await world.onebot.event(group_message([at(SELF_ID), text(" 最后")], chat_id))
        await world.onebot.replied(other_id, within=30)
        sent = await world.onebot.replied(chat_id, within=30)
        assert [s.quoted for s in sent] == [str(last["message_id"])]
        assert world.onebot.connected == 1, "the line was lost: pings went unanswered"
        assert await client.stop() == 0
    posted = world.chat.of(chat_id)
    told = [int(body["content"].removeprefix("刷屏")) for body in posted[:-1]]
    shed = sum(int(line.split("最早的 ")[1].split(" ")[0]) for line in client.log.splitlines() if "略过不看" in line)
    assert told == sorted(told), "the order was lost"
    assert told[-1] == 9_999, "the newest must not be among those let go"
    assert len(told) + shed == 10_000
    assert shed > 5_000


async def test_who_called_the_bot_stays_when_others_are_let_go(world: World, tmp_path: Path, chat_id: int) -> None:
    release = asyncio.Event()

    async def slowly(body: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return only_when_called(body)

    world.chat.script = slowly
    async with ClientProcess(
        tmp_path, world.settings() | {"waiting_per_chat": 20, "posts_per_chat": 1, "server_timeout_s": 60}
    ) as client:
        await world.onebot.line()
        await world.onebot.event(group_message("占着", chat_id))
        await world.chat.asked(chat_id)
        await world.onebot.event(group_message([at(SELF_ID), text(" 早就问了")], chat_id))
        for number in range(60):
            await world.onebot.event(group_message(f"{number}", chat_id))
        await client.logged("略过不看")
        release.set()
        assert [s.text for s in await world.onebot.replied(chat_id)] == [f"答：@成员{SELF_ID} 早就问了"]


async def test_behind_a_crowd_only_the_last_are_answered(world: World, tmp_path: Path, chat_id: int) -> None:
    release = asyncio.Event()

    async def slowly(body: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return answer_for(body)

    world.chat.script = slowly
    settings = world.settings() | {"answers_waiting": 3, "posts_per_chat": 1, "server_timeout_s": 60}
    async with ClientProcess(tmp_path, settings) as client:
        await world.onebot.line()
        await world.onebot.event(group_message("0", chat_id))
        await world.chat.asked(chat_id)
        for number in range(1, 10):
            await world.onebot.event(group_message(f"{number}", chat_id))
        await client.until(lambda: client.log.count("收到 ") == 10, "all are taken")
        release.set()
        sent = await world.onebot.replied(chat_id, 5)
        assert [s.text for s in sent][-4:] == ["答：6", "答：7", "答：8", "答：9"]
        assert await client.stop() == 0
    posted = world.chat.of(chat_id)
    assert [body["content"] for body in posted] == [str(number) for number in range(10)]
    assert [body.get("context_only", False) for body in posted][1:] == [True] * 5 + [False] * 4


async def test_who_grew_old_in_the_queue_is_history(world: World, tmp_path: Path, chat_id: int) -> None:
    release = asyncio.Event()

    async def slowly(body: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return answer_for(body)

    world.chat.script = slowly
    settings = world.settings() | {"max_age_s": 1.5, "posts_per_chat": 1, "server_timeout_s": 60}
    async with ClientProcess(tmp_path, settings):
        await world.onebot.line()
        await world.onebot.event(private_message("占着", chat_id, time=time.time()))
        await world.chat.asked(chat_id)
        await world.onebot.event(private_message("等久了", chat_id, time=time.time()))
        await asyncio.sleep(2)  # growing old has no event
        release.set()
        await world.chat.asked(chat_id, 2)
        await world.onebot.event(private_message("新的", chat_id, time=time.time()))
        assert [s.text for s in await world.onebot.replied(chat_id, 2)] == ["答：占着", "答：新的"]
    assert [body.get("context_only", False) for body in world.chat.of(chat_id)] == [False, True, False]


async def test_a_chats_next_line_is_posted_while_others_wait_for_a_slot(
    world: World, tmp_path: Path, chat_id: int, other_id: int
) -> None:
    """A word to stop must not wait for the answer that it stops, nor for the chats that wait for a slot."""
    stopped = asyncio.Event()

    async def until_stopped(body: dict[str, Any]) -> dict[str, Any]:
        if body["content"] == "/stop":
            stopped.set()
        await stopped.wait()
        return answer_for(body)

    world.chat.scripts[str(chat_id)] = until_stopped
    settings = world.settings() | {"parallel_chats": 1, "server_timeout_s": 60}
    async with ClientProcess(tmp_path, settings) as client:
        await world.onebot.line()
        await world.onebot.event(private_message("长篇", chat_id))
        await world.chat.asked(chat_id)
        await world.onebot.event(private_message("别人", other_id))
        await client.logged(f"private:{other_id}")
        assert world.chat.of(other_id) == [], "one chat at a time"
        await world.onebot.event(private_message("/stop", chat_id))
        assert [s.text for s in await world.onebot.replied(chat_id, 2)] == ["答：长篇", "答：/stop"]
        assert [s.text for s in await world.onebot.replied(other_id)] == ["答：别人"]


async def test_a_chat_that_never_pauses_gives_its_slot_to_those_who_wait() -> None:
    posts = Posts(1, hold_s=0)
    order: list[str] = []

    async def post(name: str, key: str, done: asyncio.Event) -> None:
        async with posts.slot(key):
            order.append(name)
            await done.wait()

    first, rest = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for name, key, done in (("a1", "a", first), ("b", "b", rest), ("a2", "a", rest)):
            group.create_task(post(name, key, done))
            await asyncio.sleep(0)
        assert order == ["a1"]
        rest.set()
        first.set()
    assert order == ["a1", "b", "a2"]

"""Client and server as they come, between NapCat's stand-in and the demo: who does not call the bot hears nothing."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from onebot.events import SELF_ID, Event, at, face, group_message, private_message, recall, reply, text
from onebot.process import ENTRY, Process
from onebot.server import OneBotServer
from onebot.world import TOKEN
from test_end_to_end import MISSING, ChatServerProcess

from tests.running import RunningServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
GROUPS = (910_001, 910_002, 910_003, 910_004)
PEOPLE = tuple(range(920_001, 920_031))
CHAT = (
    "早",
    "哈哈哈哈",
    "今晚吃什么",
    "我家小助手机坏了",
    "谁有资料",
    "1",
    "？？？",
    "好的",
    "在吗",
    "/reset",
    "停止",
    "收到",
)


def talk() -> Iterator[Event]:
    """What people say in groups to each other, for ever; in some of it the bot could wrongly feel meant."""
    for number in itertools.count():
        group, person = GROUPS[number % 4], PEOPLE[number * 7 % 30]
        words = text(f"{CHAT[number % len(CHAT)]} {number}")
        message = {
            3: [at(PEOPLE[number % 30]), words],
            5: [at("all"), words],
            7: [words, face(14)],
        }.get(number % 9, [words])
        yield group_message(message, group, user_id=person, nickname=f"群友{person % 100}")


def calls(onebot: OneBotServer, number: int) -> Event:
    """Somebody calls the bot, each time in another of the ways there are."""
    group, person = GROUPS[number % 4], PEOPLE[number]
    ours = [e for e in onebot.history if e["user_id"] == SELF_ID and e.get("group_id") == group]
    ways = [
        lambda: group_message([at(SELF_ID), text(" 你好")], group, user_id=person),
        lambda: group_message("小助手，你好", group, user_id=person),
        lambda: private_message("你好", person),
        lambda: group_message([reply(ours[-1]["message_id"]), text("真的吗")], group, user_id=person),
    ]
    return ways[number % 3 if number < 4 or not ours else number % 4]()


class DefaultClient(Process):
    """The client as its owner starts it: told where NapCat and the server are, and nothing else."""

    def __init__(self, folder: Path, onebot: OneBotServer, server_url: str) -> None:
        env = {
            "SERVER_URL": server_url,
            "QQVL_CLIENT_NAPCAT_WS_URL": onebot.url,
            "QQVL_CLIENT_NAPCAT_TOKEN": TOKEN,
            "QQVL_CLIENT_DATA_DIR": str(folder / "client"),
        }
        super().__init__([sys.executable, str(ENTRY)], env, folder)


async def answers_only_who_calls(folder: Path, server_url: str, lines: int, called: int) -> None:
    said, every = talk(), lines // called
    async with OneBotServer(TOKEN) as onebot, DefaultClient(folder, onebot, server_url) as client:
        await onebot.line()
        for number in range(called):
            for _ in range(every):
                await onebot.event(next(said))
            asked = await onebot.event(calls(onebot, number))
            await onebot.until(lambda n=number: len(onebot.sent) > n, f"an answer to call {number}", within=60)  # type: ignore[misc]
            sent = onebot.sent[number]
            place = str(asked.get("group_id") or asked["user_id"])
            assert (sent.id, sent.quoted) == (place, str(asked["message_id"]) if "group_id" in asked else None)
        # Behind all that was said: whatever is going to be answered has been by then.
        for group in GROUPS:
            await onebot.event(group_message([at(SELF_ID), text(" 完了吗")], group))
        await onebot.until(lambda: len(onebot.sent) >= called + len(GROUPS), "the last answers", within=60)
        assert len(onebot.sent) == called + len(GROUPS)
        assert await client.stop() == 0
    assert client.log.count("收到 ") == every * called + called + len(GROUPS)
    assert "Traceback" not in client.log


async def test_of_forty_lines_those_that_call_it_are_answered(tmp_path: Path, server: RunningServer) -> None:
    await answers_only_who_calls(tmp_path, server.base, 40, 2)


async def test_what_is_said_in_one_breath_has_one_answer_which_leaves_with_its_question(
    tmp_path: Path, server: RunningServer
) -> None:
    group = 910_005
    async with OneBotServer(TOKEN) as onebot, DefaultClient(tmp_path, onebot, server.base) as client:
        await onebot.line()
        for words in ("第一句", "第二句", "第三句"):
            asked = await onebot.event(group_message([at(SELF_ID), text(f" {words}")], group))
        await onebot.until(lambda: client.log.count("并入消息") == 2, "two are merged into the last", within=60)
        (sent,) = await onebot.replied(group, within=60)
        assert sent.quoted == str(asked["message_id"])
        ours = next(str(e["message_id"]) for e in onebot.history if e["user_id"] == SELF_ID)
        await onebot.event(recall(asked))
        await onebot.until(lambda: onebot.withdrawn == [ours], "the answer is withdrawn", within=30)
        await onebot.event(recall(asked))
        assert await client.stop() == 0
    assert len(onebot.to(group)) == 1
    assert "Traceback" not in client.log


@pytest.mark.long
async def test_none_of_five_hundred_lines_among_people_is_answered_and_every_call_is(tmp_path: Path) -> None:
    async with ChatServerProcess(tmp_path) as server:
        await server.healthy()
        await answers_only_who_calls(tmp_path, server.url, 500, 20)
        await server.stop(30)

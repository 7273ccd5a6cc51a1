"""A chat server that is down, late, slow, hanging or wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from onebot.chat import answer_for, error
from onebot.events import SELF_ID, at, group_message, private_message, text
from onebot.web import HangupError, Response
from onebot.world import Stack

pytestmark = pytest.mark.anyio


def failing(times: int, failure: Callable[[], Any]) -> Callable[[Any], Any]:
    """A script that fails so often and then answers."""
    left = times

    def script(body: dict[str, Any]) -> Any:
        nonlocal left
        left -= 1
        return failure() if left >= 0 else answer_for(body)

    return script


def hang_up() -> Any:
    raise HangupError


async def hang() -> Any:
    await asyncio.sleep(60)


PASSING = {
    "503": lambda: error(503, retry_after=0),
    "429": lambda: error(429),
    "409": lambda: error(409),
    "500": lambda: error(500),
    "hang-up": hang_up,
    "garbage": lambda: Response(b"<html>502 bad gateway</html>"),
    "half-json": lambda: Response(b'{"status": "succ'),
    "other-json": lambda: Response(b"[1, 2]"),
}


@pytest.mark.parametrize("kind", PASSING)
async def test_a_passing_failure_is_retried_and_never_seen(stack: Stack, chat_id: int, kind: str) -> None:
    stack.chat.scripts[str(chat_id)] = failing(2, PASSING[kind])
    event = await stack.onebot.event(private_message("还好吗", chat_id))
    assert (await stack.onebot.replied(chat_id))[0].text == "答：还好吗"
    assert [body["message_id"] for body in stack.chat.of(chat_id)] == [str(event["message_id"])] * 3


LASTING = {
    "500": lambda _: error(500),
    "garbage": lambda _: Response(b"\xff\xfe\x00garbage"),
    "hang-up": lambda _: hang_up(),
    "400": lambda _: error(400),
    "401": lambda _: error(401),
    "413": lambda _: error(413),
    "404": lambda _: Response(b"not here", 404),
    "redirect": lambda _: Response(b"", 307, {"Location": "http://127.0.0.1:9/"}),
    "not-success": lambda _: {"status": "error", "error": {"code": "x", "message": "内部细节"}},
}


@pytest.mark.parametrize("kind", LASTING)
async def test_a_lasting_failure_is_one_short_notice_then_all_is_well(stack: Stack, chat_id: int, kind: str) -> None:
    stack.chat.scripts[str(chat_id)] = LASTING[kind]
    await stack.onebot.event(private_message("在吗", chat_id))
    notice = (await stack.onebot.replied(chat_id))[0].text
    assert len(notice) < 40
    assert "内部细节" not in notice
    assert len(stack.chat.of(chat_id)) <= 3
    del stack.chat.scripts[str(chat_id)]
    await stack.onebot.event(private_message("好了吗", chat_id))
    assert [s.text for s in await stack.onebot.replied(chat_id, 2)] == [notice, "答：好了吗"]


async def test_what_the_server_refused_is_not_asked_again(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = lambda _: error(400)
    await stack.onebot.event(private_message("在吗", chat_id))
    await stack.onebot.replied(chat_id)
    assert len(stack.chat.of(chat_id)) == 1


async def test_without_a_message_id_a_lost_answer_is_not_asked_for_again(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = lambda _: hang_up()
    event = private_message("在吗", chat_id)
    del event["message_id"]
    await stack.onebot.raw(json.dumps(event))
    await stack.onebot.replied(chat_id)
    assert len(stack.chat.of(chat_id)) == 1


async def test_groups_hear_of_a_failure_only_when_they_meant_the_bot(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = lambda _: error(400)
    await stack.onebot.event(group_message("闲聊", chat_id))
    event = await stack.onebot.event(group_message([at(SELF_ID), text(" 喂")], chat_id))
    sent = await stack.onebot.replied(chat_id)
    assert [s.quoted for s in sent] == [str(event["message_id"])]


async def test_a_hanging_server_holds_up_its_chat_only_and_not_for_ever(
    stack: Stack, chat_id: int, other_id: int
) -> None:
    stack.chat.scripts[str(chat_id)] = lambda _: hang()
    await stack.onebot.event(private_message("等等", chat_id))
    await stack.chat.asked(chat_id)
    await stack.onebot.event(private_message("别人", other_id))
    assert (await stack.onebot.replied(other_id, within=2))[0].text == "答：别人"
    notice = (await stack.onebot.replied(chat_id, within=12))[0].text
    assert notice.startswith("（")


async def test_an_answer_dripping_byte_by_byte_is_given_up(stack: Stack, chat_id: int) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.3)

    stack.chat.scripts[str(chat_id)] = failing(1, lambda: drip)
    await stack.onebot.event(private_message("慢", chat_id))
    assert (await stack.onebot.replied(chat_id, within=12))[0].text == "答：慢"


async def test_messages_taken_while_the_server_is_down_are_answered_when_it_is_back(
    stack: Stack, chat_id: int, other_id: int
) -> None:
    await stack.chat.stop()
    try:
        for number in range(3):
            await stack.onebot.event(group_message(f"{number}", chat_id))
        await stack.onebot.event(private_message("也在", other_id))
        await stack.client.logged("连不上服务器")
    finally:
        await stack.chat.start()
    assert [s.text for s in await stack.onebot.replied(chat_id, 3)] == ["答：0", "答：1", "答：2"]
    assert [s.text for s in await stack.onebot.replied(other_id)] == ["答：也在"]


async def test_a_long_outage_is_one_notice_per_failure_and_then_over(stack: Stack, chat_id: int) -> None:
    await stack.chat.stop()
    try:
        await stack.onebot.event(private_message("在吗", chat_id))
        notice = (await stack.onebot.replied(chat_id, within=15))[0].text
    finally:
        await stack.chat.start()
    assert notice == "（暂时连不上服务器，请稍后再试。）"
    await stack.onebot.event(private_message("现在呢", chat_id))
    assert (await stack.onebot.replied(chat_id, 2))[1].text == "答：现在呢"

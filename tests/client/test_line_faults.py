"""The line to NapCat: absent, cut, half-open, restarted, refused, garbled, silent."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from onebot.events import group_message, private_message
from onebot.process import ClientProcess
from onebot.world import TOKEN, Stack, World

pytestmark = pytest.mark.anyio


async def works(stack: Stack, chat_id: int, text: str = "还在吗") -> None:
    """A new message is answered, exactly once."""
    before = len(stack.onebot.to(chat_id))
    await stack.onebot.event(private_message(text, chat_id))
    assert [s.text for s in (await stack.onebot.replied(chat_id, before + 1))[before:]] == [f"答：{text}"]


@pytest.mark.parametrize("code", [1000, 1001, 1012])
async def test_a_clean_close_is_followed_by_a_new_connection(stack: Stack, chat_id: int, code: int) -> None:
    count = stack.onebot.connected
    await stack.onebot.close(code)
    await stack.onebot.until(lambda: stack.onebot.connected > count, "a new connection")
    await works(stack, chat_id)


async def test_an_abort_is_followed_by_a_new_connection(stack: Stack, chat_id: int) -> None:
    count = stack.onebot.connected
    stack.onebot.abort()
    await stack.onebot.until(lambda: stack.onebot.connected > count, "a new connection")
    await works(stack, chat_id)


async def test_a_half_open_line_is_noticed_and_replaced(stack: Stack, chat_id: int) -> None:
    count = stack.onebot.connected
    stack.onebot.half_open()
    await stack.onebot.until(lambda: stack.onebot.connected > count, "a new connection")
    await works(stack, chat_id)


async def test_a_reply_written_into_a_half_open_line_is_sent_again_on_the_next(stack: Stack, chat_id: int) -> None:
    """Nobody answers, neither the send nor the look into the record, until the pings have told."""
    release = asyncio.Event()

    async def slowly(body: dict[str, object]) -> dict[str, object]:
        await release.wait()
        return {"status": "success", "reply": "还是到了"}

    stack.chat.scripts[str(chat_id)] = slowly
    await stack.onebot.event(private_message("说吧", chat_id))
    await stack.chat.asked(chat_id)
    stack.onebot.half_open()
    release.set()
    assert [s.text for s in await stack.onebot.replied(chat_id)] == ["还是到了"]


async def test_a_restart_in_mid_answer_loses_and_repeats_nothing(stack: Stack, chat_id: int) -> None:
    release = asyncio.Event()

    async def slowly(body: dict[str, object]) -> dict[str, object]:
        await release.wait()
        return {"status": "success", "should_reply": True, "reply": f"答：{body['content']}"}

    stack.chat.scripts[str(chat_id)] = slowly
    for number in range(3):
        await stack.onebot.event(group_message(f"{number}", chat_id))
    await stack.chat.asked(chat_id)
    await stack.onebot.stop()
    release.set()
    await stack.chat.asked(chat_id)
    await stack.onebot.start()
    sent = await stack.onebot.replied(chat_id, 3)
    assert [s.text for s in sent] == ["答：0", "答：1", "答：2"]
    await works(stack, chat_id)


async def test_a_long_outage_is_sat_out_with_back_off(stack: Stack, chat_id: int) -> None:
    seen = stack.client.log.count("连不上")
    await stack.onebot.stop()
    await stack.client.until(lambda: stack.client.log.count("连不上") >= seen + 8, "eight attempts", within=15)
    await stack.onebot.start()
    await stack.onebot.line()
    await works(stack, chat_id)


GARBAGE: dict[str, str | bytes] = {
    "no-json": "{not json",
    "binary": b"\x00\xff\x01",
    "array": "[1, 2, 3]",
    "number": "42",
    "deep": "[" * 100_000,
    "odd-event": '{"post_type": "message"}',
    "unknown-echo": '{"echo": "nobody", "status": "ok", "retcode": 0}',
    "no-ids": '{"post_type": "message", "message_type": "group", "message": "x", "self_id": 10001}',
    "half-a-character": '{"post_type": "message", "message_type": "private", "user_id": 5, "self_id": 10001,'
    ' "message_id": "\\udfff", "message": "\\ud800", "sender": {"nickname": "\\udc00"}}',
    "odd-meta": '{"post_type": "meta_event", "meta_event_type": "heartbeat", "status": 3, "time": "x", "self_id": 1}',
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_malformed_frame_changes_nothing(stack: Stack, chat_id: int, kind: str) -> None:
    count = stack.onebot.connected
    await stack.onebot.raw(GARBAGE[kind])
    await works(stack, chat_id)
    assert stack.onebot.connected == count


async def test_a_huge_frame_is_survived(stack: Stack, chat_id: int) -> None:
    count = stack.onebot.connected
    await stack.onebot.raw(json.dumps({"post_type": "notice", "notice_type": "x", "pad": "x" * 3_000_000}))
    await stack.onebot.until(lambda: stack.onebot.connected > count, "a new connection")
    await works(stack, chat_id)


async def test_a_frame_over_a_megabyte_is_read(stack: Stack, chat_id: int) -> None:
    event = group_message("大", chat_id, extra="x" * 1_500_000)
    await stack.onebot.event(event)
    await stack.onebot.replied(chat_id)


async def test_lookups_nobody_answers_hold_nothing_up(stack: Stack, chat_id: int) -> None:
    stack.onebot.mute_actions |= {"get_group_info", "get_group_member_info", "get_msg", "get_image", "get_forward_msg"}
    for number in range(12):
        message = [
            {"type": "reply", "data": {"id": "5"}},
            {"type": "at", "data": {"qq": "30003"}},
            {"type": "text", "data": {"text": f"{number}"}},
        ]
        event = group_message(message, chat_id * 100 + number)
        del event["group_name"]
        await stack.onebot.event(event)
    for number in range(12):
        body = (await stack.chat.asked(chat_id * 100 + number, within=4))[0]
        assert body["content"] == f"@30003 {number}"
        await stack.onebot.replied(chat_id * 100 + number)


# Line faults that need a client of their own ------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])
async def test_napcat_may_come_up_after_the_client(world: World, tmp_path: Path, adapter: str, chat_id: int) -> None:
    await world.onebot.stop()
    async with ClientProcess(tmp_path, world.settings(adapter)) as client:
        await client.logged("连不上")
        await world.onebot.start()
        await world.onebot.line()
        await world.onebot.event(private_message("早", chat_id))
        await world.onebot.replied(chat_id)


@pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])
async def test_a_wrong_token_is_said_clearly_and_tried_again(world: World, tmp_path: Path, adapter: str) -> None:
    settings = world.settings(adapter) | {"napcat_token": "falsch-42"}
    async with ClientProcess(tmp_path, settings) as client:
        await client.logged("不认这个 token")
        await world.onebot.until(lambda: world.onebot.refused_tokens >= 3, "three attempts")
        assert client.returncode is None
        world.onebot.token = "falsch-42"
        await world.onebot.line()
        assert "falsch-42" not in client.log


@pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])
async def test_a_call_whose_line_drops_is_not_waited_for(
    world: World, tmp_path: Path, adapter: str, chat_id: int
) -> None:
    world.onebot.send_faults.append("drop lost")
    async with ClientProcess(tmp_path, world.settings(adapter) | {"action_timeout_s": 60}):
        await world.onebot.line()
        await world.onebot.event(private_message("断了", chat_id))
        await world.onebot.replied(chat_id, within=8)


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
async def test_proxy_variables_break_nothing(
    world: World, tmp_path: Path, adapter: str, proxy: str, chat_id: int
) -> None:
    env = dict.fromkeys(PROXIES, proxy) | {"NO_PROXY": "", "no_proxy": ""}
    url = world.pictures.put(world.pictures.picture)
    async with ClientProcess(tmp_path, world.settings(adapter), env=env):
        await world.onebot.line()
        await world.onebot.event(group_message([{"type": "image", "data": {"url": url, "file": "x"}}], chat_id))
        await world.onebot.replied(chat_id)
    assert len(world.chat.of(chat_id)[0]["images"]) == 1


async def test_the_token_is_in_no_address(world: World, tmp_path: Path) -> None:
    async with ClientProcess(tmp_path, world.settings()):
        await world.onebot.line()
    assert all("token" not in path for path in world.onebot.paths)
    assert TOKEN not in os.environ.values()

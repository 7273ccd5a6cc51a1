"""What only the NoneBot adapter can: be dialled (reverse WebSocket), and live in somebody else's NoneBot."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest
from onebot.events import SELF_ID, at, group_message, image, private_message, text
from onebot.pictures import drawn
from onebot.process import ENTRY, ClientProcess
from onebot.world import TOKEN, World
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.anyio


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def reverse(world: World, port: int) -> dict[str, object]:
    return world.settings("nonebot") | {"nonebot_mode": "reverse", "listen_port": port}


async def dialled(world: World, client: ClientProcess, port: int) -> None:
    await client.logged("Uvicorn running")
    world.onebot.dial_reverse(f"ws://127.0.0.1:{port}/onebot/v11/ws")
    await world.onebot.line()


async def works(world: World, chat_id: int, words: str) -> None:
    before = len(world.onebot.to(chat_id))
    await world.onebot.event(private_message(words, chat_id))
    assert [s.text for s in (await world.onebot.replied(chat_id, before + 1))[before:]] == [f"答：{words}"]


async def test_reverse_websocket_relays_and_survives_every_line_fault(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    port = free_port()
    async with ClientProcess(tmp_path, reverse(world, port)) as client:
        await dialled(world, client, port)
        event = group_message([at(SELF_ID), text(" 看"), image(world.pictures.put(drawn()))], chat_id)
        await world.onebot.event(event)
        sent = (await world.onebot.replied(chat_id))[0]
        assert sent.quoted == str(event["message_id"])
        body = world.chat.of(chat_id)[0]
        assert (body["at_me"], len(body["images"])) == (True, 1)
        count = world.onebot.connected
        await world.onebot.raw("{no json")
        await works(world, chat_id + 10_000, "坏帧之后")
        assert world.onebot.connected == count

        def again(seen: int) -> bool:
            return world.onebot.connected > seen

        for fault in (world.onebot.close, world.onebot.abort, world.onebot.half_open):
            count = world.onebot.connected
            if (done := fault()) is not None:
                await done
            await world.onebot.until(functools.partial(again, count), "dialled again")
            await works(world, chat_id + 10_000, fault.__name__)
        listening = [c for c in psutil.Process(client.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        assert await client.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in client.log
    assert TOKEN not in client.log


async def test_reverse_sigterm_lets_an_answer_that_is_nearly_there_go_out(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    release, port = asyncio.Event(), free_port()

    async def slowly(body: dict[str, object]) -> dict[str, object]:
        await release.wait()
        return {"status": "success", "reply": "好了"}

    world.chat.script = slowly
    async with ClientProcess(tmp_path, reverse(world, port)) as client:
        await dialled(world, client, port)
        await world.onebot.event(private_message("快好了", chat_id))
        await world.chat.asked(chat_id)
        client.signal(signal.SIGTERM)
        await client.logged("正在停止")
        await asyncio.sleep(0.4)  # a client that does not wait is gone by now
        release.set()
        assert await client.ended() in (0, -signal.SIGTERM)
    assert [s.text for s in world.onebot.to(chat_id)] == ["好了"]


async def test_the_reverse_door_is_shut_without_the_token(world: World, tmp_path: Path, chat_id: int) -> None:
    port = free_port()
    async with ClientProcess(tmp_path, reverse(world, port)) as client:
        await client.logged("Uvicorn running")
        headers = {"X-Self-ID": str(SELF_ID), "Authorization": "Bearer wrong"}
        with pytest.raises(InvalidStatus):
            async with connect(f"ws://127.0.0.1:{port}/onebot/v11/ws", additional_headers=headers, proxy=None):
                pass
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(
                f"http://127.0.0.1:{port}/onebot/v11/",
                headers={"X-Self-ID": str(SELF_ID)},
                content=json.dumps(private_message("后门", chat_id)),
            )
        assert answer.status_code in (401, 403)
    assert world.chat.of(chat_id) == []


BOT = """
import sys
import nonebot
from nonebot import on_message
from nonebot.adapters.onebot.v11 import Adapter
nonebot.init(_env_file=None, driver="~websockets", onebot_v11_ws_urls={{"{url}"}}, onebot_v11_access_token="{token}")
nonebot.get_driver().register_adapter(Adapter)
sys.path.append("{client}")
nonebot.load_plugin("qqvl_client.nonebot_plugin")

@on_message().handle()
async def other_plugin(event):
    print("OTHER PLUGIN SAW", event.get_plaintext(), flush=True)

nonebot.run()
"""


async def test_it_lives_in_somebody_elses_nonebot(world: World, tmp_path: Path, chat_id: int) -> None:
    bot = tmp_path / "bot.py"
    bot.write_text(BOT.format(url=world.onebot.url, token=TOKEN, client=ENTRY.parent), encoding="utf-8")
    async with ClientProcess(tmp_path / "data", world.settings(), entry=bot, cwd=tmp_path) as client:
        await world.onebot.line()
        await client.logged("connected")
        await world.onebot.event(group_message([at(SELF_ID), text(" 你好")], chat_id))
        await world.onebot.replied(chat_id)
        assert world.chat.of(chat_id)[0]["at_me"] is True
        await client.logged("OTHER PLUGIN SAW")
        assert await client.stop() == 0
    assert [s.text for s in world.onebot.to(chat_id)] == [f"答：@成员{SELF_ID} 你好"]

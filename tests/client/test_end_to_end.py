"""The whole way: QQ events, the client, the real server, the demo model, and back, through two restarts."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from onebot.events import SELF_ID, Event, at, group_message, image, private_message, text
from onebot.pictures import PictureHost, drawn
from onebot.process import ROOT, ClientProcess, Process
from onebot.server import OneBotServer
from onebot.world import TOKEN

from tests.running import TEMPLATE

SERVER = ROOT / "server" / "api_server_qwen3vl.py"
DEMO = ROOT / "models" / "qqvl-demo" / "model.safetensors"
MISSING = [str(path.relative_to(ROOT)) for path in (SERVER, DEMO) if not path.is_file()]
MISSING += [name for name in ("torch", "transformers", "ncatbot") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]

COLOURS = {"red": "红", "green": "绿", "blue": "蓝", "yellow": "黄", "purple": "紫"}
PATIENT = {
    "server_timeout_s": 120,
    "answer_within_s": 240,
    "lookup_timeout_s": 5,
    "action_timeout_s": 10,
    "picture_timeout_s": 20,
    "picture_stall_s": 10,
    "ping_interval_s": 10,
    "ping_timeout_s": 10,
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class ChatServerProcess(Process):
    """The real server on the demo checkpoint."""

    template = TEMPLATE

    def __init__(self, folder: Path, *flags: str) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        own = ["--port", str(port), "--data-dir", str(folder / "server")]
        super().__init__([sys.executable, str(SERVER), *own, *flags], {}, folder)

    async def healthy(self) -> None:
        """Wait until the model is loaded: the server has no event for it, so ask."""
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(120):
            while self.returncode is None:
                try:
                    if (await http.get(f"{self.url}/health")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.2)
        raise AssertionError(self.log)


def question(number: int, url: str) -> Event:
    """Every second chat is a group, where the bot is called."""
    message = [image(url), text("这是什么颜色？")]
    chat_id = 700_001 + number
    return group_message([at(SELF_ID), *message], chat_id) if number % 2 else private_message(message, chat_id)


@pytest.mark.parametrize("chats", [6, pytest.param(20, marks=pytest.mark.long)])
async def test_chats_with_pictures_go_on_through_a_napcat_and_a_server_restart(tmp_path: Path, chats: int) -> None:
    names = [list(COLOURS)[number % len(COLOURS)] for number in range(chats)]
    first, second = chats // 3, 2 * (chats // 3)
    async with OneBotServer(TOKEN) as onebot, PictureHost() as pictures, ChatServerProcess(tmp_path) as server:
        urls = [pictures.put(drawn(name, "PNG" if number % 2 else "JPEG", 160)) for number, name in enumerate(names)]
        settings = {"server_url": server.url, "napcat_ws_url": onebot.url, "napcat_token": TOKEN, **PATIENT}
        async with ClientProcess(tmp_path / "client", settings, cwd=tmp_path) as client:
            await onebot.line()
            # The first arrive while the server is still loading.
            for number in range(first):
                await onebot.event(question(number, urls[number]))
            await server.healthy()
            await onebot.until(lambda: len(onebot.sent) >= 2, "the first answers", within=120)
            await onebot.stop()
            await onebot.start()
            await onebot.line()
            for number in range(first, second):
                await onebot.event(question(number, urls[number]))
            await onebot.until(lambda: len(onebot.sent) > first, "answers after NapCat's restart", within=120)
            server.signal(signal.SIGKILL)
            await server.ended()
            for number in range(second, chats):
                await onebot.event(question(number, urls[number]))
            await server.start()
            await onebot.until(lambda: len(onebot.sent) >= chats, "every answer", within=200)
            assert await client.stop() == 0
        await server.stop(30)
    assert "Traceback" not in client.log
    for number, name in enumerate(names):
        replies = onebot.to(700_001 + number)
        assert len(replies) == 1, (number, replies)
        assert COLOURS[name] in replies[0].text, (number, name, replies[0].text)
        assert (replies[0].kind, replies[0].quoted is not None) == (
            ("group", True) if number % 2 else ("private", False)
        )

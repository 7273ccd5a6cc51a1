"""Fixtures of the client's tests: the world around the client, and the client running in it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "client"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from onebot.chat import ChatServer, answer_for  # noqa: E402
from onebot.pictures import PictureHost  # noqa: E402
from onebot.process import ClientProcess  # noqa: E402
from onebot.server import OneBotServer  # noqa: E402
from onebot.world import TOKEN, Stack, World  # noqa: E402

ADAPTERS = ("ncatbot", "nonebot")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def _ids() -> Iterator[int]:
    return itertools.count(300_001)


@pytest.fixture
def chat_id(_ids: Iterator[int]) -> int:
    """The number of a group or person no other test uses."""
    return next(_ids)


@pytest.fixture
def other_id(_ids: Iterator[int]) -> int:
    return next(_ids)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A fresh world without a client."""
    async with OneBotServer(TOKEN) as onebot, ChatServer() as chat, PictureHost() as pictures:
        yield World(onebot, chat, pictures)


@pytest.fixture(scope="session", params=ADAPTERS)
async def _running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp(request.param)
    async with OneBotServer(TOKEN) as onebot, ChatServer() as chat, PictureHost() as pictures:
        world = World(onebot, chat, pictures)
        async with ClientProcess(folder, world.settings(request.param) | {"metrics_address": "127.0.0.1:0"}) as client:
            yield Stack(onebot, chat, pictures, client)


@pytest.fixture
async def stack(_running: Stack) -> AsyncIterator[Stack]:
    """A client that has been running since the first test that wanted one; each adapter in turn."""
    before = len(_running.client.log)
    await _running.onebot.line()
    yield _running
    _running.chat.script = answer_for
    _running.chat.scripts.clear()
    _running.chat.report_script = lambda _: {"status": "success"}
    _running.onebot.mute_actions.clear()
    _running.onebot.send_faults.clear()
    assert _running.client.returncode is None, _running.client.log[before:]
    assert "Traceback" not in _running.client.log[before:], _running.client.log[before:]

"""The client looks after its two lines: a half-dead one is made anew, owners hear what lasts, the server hears all."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from onebot.events import SELF_ID, heartbeat, private_message
from onebot.process import ClientProcess
from onebot.web import Request, Response, WebServer
from onebot.world import World

from qqvl_client.bodies import status_of

pytestmark = pytest.mark.anyio
BOTH = pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])
OWNER = 424242
CONTRACT = Path(__file__).resolve().parents[1] / "fixtures" / "contract"


class Bell(WebServer):
    """What an owner's phone would show; `refuses` so many calls first."""

    def __init__(self) -> None:
        super().__init__()
        self.rung: list[dict[str, str]] = []
        self.refuses = 0

    async def handle(self, request: Request, writer: asyncio.StreamWriter) -> Response:
        if self.refuses:
            self.refuses -= 1
            return Response(status=502)
        self.rung.append(json.loads(request.body))
        self.changed()
        return Response(b"{}")


def watchful(world: World, adapter: str, **more: object) -> dict[str, object]:
    return {**world.settings(adapter), "watch_every_s": 0.2, "alert_after_s": 0.6, "owners": OWNER, **more}


async def test_the_status_has_the_contracts_shape() -> None:
    wanted = json.loads((CONTRACT / "client_status.json").read_text(encoding="utf-8"))
    assert json.loads(status_of(wanted["self_id"], wanted["reason"])) == wanted


async def told(world: World, link: str) -> None:
    """The server has just been told so."""
    seen = len(world.chat.statuses)
    await world.chat.until(lambda: any(s["link"] == link for s in world.chat.statuses[seen:]), f"{link} is told")


@BOTH
async def test_a_line_on_which_nothing_is_done_is_made_anew(world: World, tmp_path: Path, adapter: str) -> None:
    async with ClientProcess(tmp_path, watchful(world, adapter)) as client:
        await world.onebot.line()
        await told(world, "up")
        before = world.onebot.connected
        world.onebot.mute_actions.add("get_login_info")
        # Events flow all the while: it is no silence that is noticed.
        await world.onebot.event(private_message("在吗", 777))
        await world.onebot.until(lambda: world.onebot.connected > before, "it dials anew")
        await told(world, "down")
        await client.logged("QQ 线路断了")
        world.onebot.mute_actions.clear()
        await told(world, "up")
        # One message, when it is over: none could be sent before.
        (sent,) = await world.onebot.replied(OWNER)
        assert "线路断了" in sent.text
        await world.onebot.event(private_message("现在呢", 777))
        await world.chat.asked(777, 2)
        assert "Traceback" not in client.log


@BOTH
async def test_owners_hear_of_a_server_that_is_gone_and_of_its_return(
    world: World, tmp_path: Path, adapter: str
) -> None:
    async with ClientProcess(tmp_path, watchful(world, adapter)) as client:
        await world.onebot.line()
        await told(world, "up")
        await world.chat.stop()
        (gone,) = await world.onebot.replied(OWNER)
        assert "不接消息" in gone.text
        await asyncio.sleep(1)
        await world.chat.start()
        _, back = await world.onebot.replied(OWNER, 2)
        assert "现在好了" in back.text
        # There, but without a model: nobody is answered either.
        world.chat.is_ready = False
        await world.onebot.replied(OWNER, 3)
        world.chat.is_ready = True
        await world.onebot.replied(OWNER, 4)
        assert len(world.onebot.to(OWNER)) == 4
        assert "Traceback" not in client.log


async def test_a_lost_link_rings_until_it_is_heard_and_the_message_follows(world: World, tmp_path: Path) -> None:
    async with Bell() as bell:
        bell.refuses = 2
        url = f"{bell.url}/secret-key"
        async with ClientProcess(tmp_path, watchful(world, "ncatbot", alert_url=url)) as client:
            await world.onebot.line()
            await told(world, "up")
            await world.onebot.stop()
            await bell.until(lambda: bell.rung, "the bell rings")
            (first,) = bell.rung
            assert (first["link"], first["self_id"]) == ("down", str(SELF_ID))
            assert first["title"]
            assert first["body"] == first["desp"] == first["message"]
            await told(world, "down")
            await world.onebot.start()
            (sent,) = await world.onebot.replied(OWNER)
            assert "现在好了" in sent.text
            assert [one["link"] for one in bell.rung] == ["down", "up"]
            # An account that is logged out is reached no better.
            await world.onebot.event(heartbeat(online=False))
            await bell.until(lambda: len(bell.rung) == 3, "the bell rings again")
            await world.onebot.event(heartbeat(online=True))
            await world.onebot.replied(OWNER, 2)
            assert "secret-key" not in client.log


async def test_a_short_break_is_nobodys_business(world: World, tmp_path: Path) -> None:
    async with Bell() as bell:
        settings = watchful(world, "ncatbot", alert_url=bell.url, alert_after_s=30)
        async with ClientProcess(tmp_path, settings):
            await world.onebot.line()
            await told(world, "up")
            before = world.onebot.connected
            world.onebot.abort()
            await world.onebot.until(lambda: world.onebot.connected > before, "it dials anew")
            await told(world, "up")
            assert not bell.rung
            assert not world.onebot.to(OWNER)

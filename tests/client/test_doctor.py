"""The client's half of the doctor: real faults at NapCat, the server and the pictures, each told by a line."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from onebot.events import SELF_ID
from onebot.process import ENTRY, ROOT
from onebot.world import World

pytestmark = pytest.mark.anyio

Said = dict[str, dict[str, str]]
# A name that no resolver knows (RFC 2606), so that only a proxy could have it.
NOWHERE = "http://pictures.invalid/x.png"


async def examined(
    world: World, *flags: str, command: Sequence[str] = (str(ENTRY), "doctor"), changed: Mapping[str, object] = {}
) -> tuple[int, Said]:
    """The exit status, and what each check said, by its name."""
    settings = {"lookup_timeout_s": 0.5, "action_timeout_s": 0.5, "connect_timeout_s": 2, **world.settings(), **changed}
    own = {f"QQVL_CLIENT_{name.upper()}": str(value) for name, value in settings.items()}
    env = {k: v for k, v in os.environ.items() if not k.startswith("QQVL_")} | own
    pipe = asyncio.subprocess.PIPE
    doctor = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--json", *flags, stdout=pipe, stderr=pipe, env=env
    )
    out, complaints = await doctor.communicate()
    assert not complaints, complaints.decode()
    said = json.loads(out)
    assert said["ok"] == (doctor.returncode == 0)
    return doctor.returncode or 0, {one["check"]: one for one in said["findings"]}


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def test_all_is_well_and_the_bot_hears_itself(world: World) -> None:
    status, said = await examined(world, "--picture", world.pictures.put(world.pictures.picture))
    assert status == 0
    assert {one["state"] for one in said.values()} == {"ok"}, said
    (sent,) = world.onebot.to(SELF_ID)
    assert "体检" in sent.text


def wrong_token(world: World) -> dict[str, object]:
    return {"napcat_token": "not-this-one"}


def no_token(world: World) -> dict[str, object]:
    return {"napcat_token": ""}


def nobody_at_napcats(world: World) -> dict[str, object]:
    return {"napcat_ws_url": f"ws://{nobody()}"}


def napcats_http_port(world: World) -> dict[str, object]:
    return {"napcat_ws_url": world.chat.url.replace("http:", "ws:")}


def actions_hang(world: World) -> dict[str, object]:
    world.onebot.mute_actions.add("get_login_info")
    return {}


def account_is_offline(world: World) -> dict[str, object]:
    world.onebot.answers["get_status"] = lambda _: {"online": False, "good": True}
    return {}


def another_account(world: World) -> dict[str, object]:
    return {"bot_qq": "20002"}


def their_clock_is_fast(world: World) -> dict[str, object]:
    world.onebot.clock_off = 3600
    return {}


def sending_is_refused(world: World) -> dict[str, object]:
    world.onebot.send_faults.append("1200 lost")
    return {}


def no_server(world: World) -> dict[str, object]:
    return {"server_url": f"http://{nobody()}"}


def a_path_too_many(world: World) -> dict[str, object]:
    return {"server_url": world.pictures.url}


def wrong_key(world: World) -> dict[str, object]:
    world.chat.refuses_at_the_door = (401, "密钥不对")
    return {}


def dead_proxy(world: World) -> dict[str, object]:
    return {"proxy": f"http://{nobody()}"}


def a_setting_that_is_none(world: World) -> dict[str, object]:
    return {"max_text_chars": 1}


Fault = Callable[[World], dict[str, object]]
# Planted together where they do not hide each other: each with the check that must say so, and the field it names.
PLANTED: tuple[tuple[tuple[Fault, str, str], ...], ...] = (
    ((wrong_token, "napcat", "client.napcat_token"), (no_server, "server", "client.server_url")),
    ((no_token, "napcat", "client.napcat_token"), (a_path_too_many, "server", "client.server_url")),
    (
        (nobody_at_napcats, "napcat", "client.napcat_ws_url"),
        (wrong_key, "server", "client.api_key"),
        (dead_proxy, "picture", "client.proxy"),
    ),
    ((napcats_http_port, "napcat", "client.napcat_ws_url"),),
    ((actions_hang, "napcat", "NapCat"),),
    (
        (account_is_offline, "account", "NapCat"),
        (their_clock_is_fast, "qq_clock", "系统时间"),
        (sending_is_refused, "send", "QQ 账号"),
    ),
    ((another_account, "account", "client.bot_qq"),),
    ((a_setting_that_is_none, "client_settings", "设置"),),
)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda faults: "+".join(fault.__name__ for fault, *_ in faults))
async def test_a_planted_fault_is_told_with_the_field_to_change(
    world: World, planted: tuple[tuple[Fault, str, str], ...]
) -> None:
    changed: dict[str, object] = {}
    for fault, _, _ in planted:
        changed |= fault(world)
    good = world.pictures.put(world.pictures.picture)
    picture = NOWHERE if "proxy" in changed else good
    status, said = await examined(world, "--picture", picture, changed=changed)
    assert status == 1
    for _, check, field in planted:
        assert (said[check]["state"], said[check]["field"]) == ("failed", field), said
        assert said[check]["value"]
    bad = {name for name, one in said.items() if one["state"] == "failed"}
    assert bad == {check for _, check, _ in planted}, said


async def test_where_napcat_dials_us_it_is_the_port_that_is_tried(world: World) -> None:
    changed = {"adapter": "nonebot", "nonebot_mode": "reverse", "listen_port": world.onebot.port}
    picture = world.pictures.put(world.pictures.picture)
    status, said = await examined(world, "--picture", picture, changed=changed)
    assert (status, said["napcat"]["state"], said["napcat"]["field"]) == (0, "warning", "client.listen_port")
    assert not world.onebot.sent


async def test_the_servers_doctor_tells_the_clients_lines(world: World, tmp_path: Path) -> None:
    command = (
        str(ROOT / "server" / "api_server_qwen3vl.py"),
        "doctor",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path / "d"),
    )
    status, said = await examined(world, "--no-send", command=command, changed={"napcat_token": "not-this-one"})
    assert (status, said["napcat"]["field"], said["server"]["state"]) == (1, "client.napcat_token", "ok")
    assert {"model", "port", "database"} <= set(said)
    assert not world.onebot.sent


async def test_a_message_to_itself_is_left_out_where_it_is_not_wanted(world: World) -> None:
    world.onebot.token = ""
    picture = world.pictures.put(world.pictures.picture)
    status, said = await examined(world, "--no-send", "--picture", picture, changed={"napcat_token": ""})
    assert (status, said["napcat"]["state"], said["napcat"]["field"]) == (0, "warning", "client.napcat_token")
    assert "send" not in said
    assert not world.onebot.sent

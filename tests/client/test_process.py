"""The client as a process: how it starts, what it leaves on disk, how it stops, what a restart remembers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from onebot.chat import answer_for, error
from onebot.events import group_message, image, private_message
from onebot.pictures import drawn
from onebot.process import ENTRY, ROOT, ClientProcess
from onebot.world import KEY, TOKEN, World

pytestmark = pytest.mark.anyio
BOTH = pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def hang(_: Any = None) -> Any:
    await asyncio.sleep(60)


# Starting -----------------------------------------------------------------------------------------------


async def test_it_takes_napcats_address_from_ncatbots_own_file(world: World, tmp_path: Path, chat_id: int) -> None:
    theirs = {"bt_uin": "10001", "napcat": {"ws_uri": world.onebot.url, "ws_token": TOKEN, "enable_webui": True}}
    file = tmp_path / "bot" / "config.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(theirs), encoding="utf-8")
    file.chmod(0o644)
    before = file.read_bytes()
    env = {"NCATBOT_CONFIG_PATH": str(file), "SERVER_URL": world.chat.url}
    async with ClientProcess(tmp_path / "data", {}, env=env, cwd=tmp_path):
        await world.onebot.line()
        await world.onebot.event(private_message("你好", chat_id))
        await world.onebot.replied(chat_id)
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_it_runs_from_inside_client_and_reads_config_yaml_there(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    home = tmp_path / "client"
    shutil.copytree(ENTRY.parent, home, ignore=shutil.ignore_patterns("__pycache__"))
    config = {"napcat": {"ws_uri": world.onebot.url, "ws_token": TOKEN}}
    (home / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "qqvl.yaml").write_text(
        yaml.safe_dump({"server": {"port": 1}, "client": {"server_url": world.chat.url}}), encoding="utf-8"
    )
    async with ClientProcess(tmp_path / "data", {}, cwd=home, entry=Path("qqbot_client_full.py")):
        await world.onebot.line()
        await world.onebot.event(private_message("你好", chat_id))
        await world.onebot.replied(chat_id)


async def test_a_wrong_setting_is_one_line_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "q.yaml"
    file.write_text("client:\n  sever_url: http://x\n", encoding="utf-8")
    async with ClientProcess(tmp_path, {}, "--config", str(file)) as client:
        assert await client.ended() == 2
    assert client.log.count("\n") == 1
    assert "sever_url" in client.log


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--adaptr", "x"), "是不是想写 --adapter？"),
        (("--frobnicate",), "--help"),
        (("--adapter", "x"), "只能是 ncatbot、nonebot"),
        (("--server-url",), "后面要跟一个值"),
        (("--server-url", "ftp://x"), "http://主机:端口"),
    ],
)
async def test_a_wrong_flag_is_one_chinese_line_and_exit_2(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    async with ClientProcess(tmp_path, {}, *flags) as client:
        assert await client.ended() == 2
    assert client.log.count("\n") == 1
    assert said in client.log


async def test_help_and_version_are_in_chinese_and_end_well(tmp_path: Path) -> None:
    for flag, said in (("--help", "--server-url"), ("--version", "qqvl client")):
        async with ClientProcess(tmp_path, {}, flag) as client:
            assert await client.ended() == 0
        assert said in client.log
        assert "usage" not in client.log


async def test_it_looks_at_the_server_before_anybody_speaks(world: World, tmp_path: Path) -> None:
    """Who has a wrong address or key should not hear of it from the first guest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"server_url": nobody}, f"对话服务器 {nobody} 现在没有回答"),
        ({"server_url": world.pictures.url}, "不是对话服务器"),
        ({}, "对话服务器不让进：401 密钥不对"),
    )
    world.chat.refuses_at_the_door = (401, "密钥不对")
    for settings, said in wrong:
        async with ClientProcess(tmp_path, world.settings() | settings) as client:
            await client.logged(said)
    world.chat.refuses_at_the_door = None
    async with ClientProcess(tmp_path, world.settings()) as client:
        await world.onebot.line()
        await client.stop()
    assert "对话服务器不让进" not in client.log
    assert "没有回答" not in client.log


async def test_a_second_client_for_the_same_bot_does_not_start(world: World, tmp_path: Path) -> None:
    settings = world.settings() | {"stop_grace_s": 0}
    async with ClientProcess(tmp_path, settings):
        await world.onebot.line()
        async with ClientProcess(tmp_path, settings) as second:
            await second.logged("等它停下")
            assert await second.ended() == 2
    assert "不能再开一个" in second.log


@BOTH
async def test_it_starts_without_a_word_of_error_opens_no_port_and_reads_no_stdin(
    world: World, tmp_path: Path, adapter: str
) -> None:
    async with ClientProcess(tmp_path, world.settings(adapter)) as client:
        await world.onebot.line()
        listening = [c for c in psutil.Process(client.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == []
    assert "ERROR" not in client.log
    assert "\x1b[" not in client.log


# Secrets ------------------------------------------------------------------------------------------------


@BOTH
async def test_no_secret_is_in_a_log_or_in_a_file_others_can_read(
    world: World, tmp_path: Path, adapter: str, chat_id: int
) -> None:
    world.chat.scripts[str(chat_id)] = lambda _: error(401, message=f"bad key {KEY}")
    async with ClientProcess(tmp_path, world.settings(adapter) | {"log_level": "DEBUG"}) as client:
        await world.onebot.line()
        await world.onebot.event(private_message("你好", chat_id))
        await world.onebot.replied(chat_id)
        assert await client.stop() in (0, -signal.SIGTERM)
    for text in [client.log, *(path.read_bytes().decode("utf-8", "replace") for path in files_of(tmp_path))]:
        assert TOKEN not in text
        assert KEY not in text
    assert "bad key ***" in client.log
    for path in [tmp_path, *tmp_path.rglob("*")]:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


# Stopping -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_ends_an_idle_client(
    world: World, tmp_path: Path, adapter: str, number: signal.Signals
) -> None:
    async with ClientProcess(tmp_path, world.settings(adapter)) as client:
        await world.onebot.line()
        client.signal(number)
        assert await client.ended() == 0
    assert "Traceback" not in client.log


@BOTH
async def test_sigterm_ends_a_busy_client_in_bounded_time(
    world: World, tmp_path: Path, adapter: str, chat_id: int
) -> None:
    world.chat.script = hang
    world.onebot.mute_actions |= {"get_msg", "send_private_msg"}
    async with ClientProcess(tmp_path, world.settings(adapter) | {"server_timeout_s": 60}) as client:
        await world.onebot.line()
        for number in range(20):
            url = world.pictures.bad("stall")
            await world.onebot.event(private_message([image(url)], chat_id * 100 + number))
            await world.onebot.event(private_message("还有", chat_id * 100 + number + 20))
        await world.chat.until(lambda: world.chat.running >= 5, "the server is busy")
        assert await client.stop() == 0
    assert "Traceback" not in client.log
    assert "下次启动接着处理" in client.log


@BOTH
async def test_sigterm_lets_an_answer_that_is_nearly_there_go_out(
    world: World, tmp_path: Path, adapter: str, chat_id: int
) -> None:
    release = asyncio.Event()

    async def slowly(body: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return answer_for(body)

    world.chat.script = slowly
    async with ClientProcess(tmp_path, world.settings(adapter)) as client:
        await world.onebot.line()
        await world.onebot.event(private_message("快好了", chat_id))
        await world.chat.asked(chat_id)
        client.signal(signal.SIGTERM)
        await client.logged("正在停止")
        await asyncio.sleep(0.4)  # a client that does not wait is gone by now
        release.set()
        assert await client.ended() == 0
    assert [s.text for s in world.onebot.to(chat_id)] == ["答：快好了"]


async def test_ncatbot_missing_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ncatbot.py").write_text("raise ModuleNotFoundError(name='ncatbot')", encoding="utf-8")
    async with ClientProcess(tmp_path / "d", {}, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path) as client:
        assert await client.ended() == 3
    assert "缺少依赖 ncatbot" in client.log
    assert f"{sys.executable} -m pip install -c {ROOT}/constraints.txt -r {ROOT}/client/requirements.txt" in client.log
    assert "Traceback" not in client.log


# Restarting ---------------------------------------------------------------------------------------------


@BOTH
async def test_messages_taken_before_a_kill_are_answered_after_it_with_their_pictures(
    world: World, tmp_path: Path, adapter: str, chat_id: int
) -> None:
    picture = drawn("red")
    url = world.pictures.put(picture)
    world.chat.script = hang
    settings = world.settings(adapter) | {"server_timeout_s": 60, "log_level": "DEBUG", "posts_per_chat": 1}
    async with ClientProcess(tmp_path, settings) as client:
        await world.onebot.line()
        await world.onebot.event(group_message("一", chat_id))
        await world.onebot.event(group_message([image(url)], chat_id))
        await world.chat.asked(chat_id)
        await client.logged("已读好，图片 1 张")
        await client.kill()
        world.pictures.files.clear()
        world.chat.script = answer_for
        await client.start()
        assert [s.text for s in await world.onebot.replied(chat_id, 2)] == ["答：一", "答："]
    bodies = world.chat.of(chat_id)
    assert [body["message_id"] for body in bodies] == [bodies[0]["message_id"]] * 2 + [bodies[2]["message_id"]]
    assert len(bodies[2]["images"]) == 1


@BOTH
async def test_a_restart_answers_nothing_twice(world: World, tmp_path: Path, adapter: str, chat_id: int) -> None:
    event = group_message("一次", chat_id)
    async with ClientProcess(tmp_path, world.settings(adapter)) as client:
        for _ in range(2):
            await world.onebot.line()
            await world.onebot.event(event)
            await world.onebot.event(group_message("完", chat_id))
            await world.onebot.until(
                lambda: "答：完" in [s.text for s in world.onebot.to(chat_id)[-1:]], "the last one"
            )
            await client.stop()
            await client.start()
    assert [body["content"] for body in world.chat.of(chat_id)].count("一次") == 1


async def test_a_reply_cut_off_by_a_kill_is_checked_before_it_is_sent_again(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    world.onebot.send_faults.append("mute delivered")
    async with ClientProcess(tmp_path, world.settings() | {"action_timeout_s": 30}) as client:
        await world.onebot.line()
        await world.onebot.event(private_message("说到一半", chat_id))
        await world.onebot.replied(chat_id)
        await client.kill()
        await client.start()
        await world.onebot.line()
        await world.onebot.event(private_message("完", chat_id))
        sent = await world.onebot.replied(chat_id, 2)
    assert [s.text for s in sent] == ["答：说到一半", "答：完"]


async def test_what_waited_too_long_for_a_restart_is_history(world: World, tmp_path: Path, chat_id: int) -> None:
    settings = world.settings() | {"max_age_s": 1.5, "server_timeout_s": 60}
    world.chat.script = hang
    async with ClientProcess(tmp_path, settings) as client:
        await world.onebot.line()
        await world.onebot.event(private_message("早上好", chat_id, time=time.time()))
        await world.chat.asked(chat_id)
        await client.kill()
        world.chat.script = answer_for
        await asyncio.sleep(1.5)  # growing old has no event
        await client.start()
        bodies = await world.chat.asked(chat_id, 2)
        await world.onebot.line()
        await world.onebot.event(private_message("完", chat_id, time=time.time()))
        assert [s.text for s in await world.onebot.replied(chat_id)] == ["答：完"]
    assert bodies[1]["context_only"] is True


# Over time ----------------------------------------------------------------------------------------------


@BOTH
async def test_memory_stays_flat(world: World, tmp_path: Path, adapter: str, chat_id: int) -> None:
    url = world.pictures.put(drawn("red") + os.urandom(200_000))

    async def round_of(count: int, offset: int) -> int:
        for number in range(count):
            await world.onebot.event(group_message([image(url)], chat_id * 1000 + offset + number % 50))
        total = len(world.onebot.sent) + count
        await world.onebot.until(lambda: len(world.onebot.sent) >= total, "all are answered", 30)
        return psutil.Process(client.pid).memory_info().rss

    async with ClientProcess(tmp_path, world.settings(adapter) | {"send_gap_s": 0}) as client:
        await world.onebot.line()
        await round_of(40, 0)
        before = await round_of(40, 100)
        after = await round_of(100, 200)
    assert after - before < 25_000_000

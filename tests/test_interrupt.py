"""Ctrl-C at any moment ends the server in order: no traceback, no alarm about what was only interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import ENTRY, ROOT, RunningServer

CLIENT = ROOT / "client" / "qqbot_client_full.py"
CALM = ("Traceback", "KeyboardInterrupt", "FakeTensor", "Exception ignored", "Fatal Python", "自带的 CPU 算子用不了")


def interrupted(command: list[str], after_s: float, cwd: Path) -> tuple[int, str]:
    """Start, press Ctrl-C (the whole group gets it) after a time, wait for the end; exit status and all it said."""
    # Tests that were started in the background ignore Ctrl-C, and what they start would, too.
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    ) as process:
        time.sleep(after_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    return process.returncode, said


# Fractions of a second apart, because imports, settings, sockets, weights and the compiler follow each other so.
@pytest.mark.long
@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 3, 4, 5, 6, 8])
def test_ctrl_c_while_the_server_starts_is_calm(tmp_path: Path, after_s: float) -> None:
    command = [sys.executable, str(ENTRY), "--port", "0", "--data-dir", str(tmp_path / "d")]
    status, said = interrupted(command, after_s, tmp_path)
    assert not [word for word in CALM if word in said], said
    assert status in (0, 130, -signal.SIGINT)


@pytest.mark.long
@pytest.mark.parametrize("adapter", ["ncatbot", "nonebot"])
@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 3])
def test_ctrl_c_while_the_client_starts_is_calm(tmp_path: Path, adapter: str, after_s: float) -> None:
    settings = tmp_path / "qqvl.yaml"
    settings.write_text(f"client:\n  adapter: {adapter}\n  data_dir: {tmp_path}/d\n  napcat_ws_url: ws://127.0.0.1:9\n")
    status, said = interrupted([sys.executable, str(CLIENT), "--config", str(settings)], after_s, tmp_path)
    assert not [word for word in CALM if word in said], said
    assert status in (0, 130, -signal.SIGINT)


def test_ctrl_c_while_the_model_loads_is_calm(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "d", wait=False) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        said = server.log()
    assert "已停止" in said
    assert not [word for word in CALM if word in said], said


@pytest.mark.long
def test_a_second_ctrl_c_does_not_wait_for_the_answers(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "d", env={"QQVL_PLANT_FAULT": "hang"}) as server:
        with subprocess.Popen(
            ["curl", "-s", "-H", "Content-Type: application/json", f"{server.base}/v1/chat/completions", "-d",
             '{"messages": [{"role": "user", "content": "你好"}]}'],
            stdout=subprocess.DEVNULL,
        ) as asking:  # fmt: skip
            while "qqvl_requests_running 1" not in server.http.get("/metrics").text:
                time.sleep(0.05)
            server.process.send_signal(signal.SIGINT)
            while "收到停止信号" not in server.log():
                time.sleep(0.05)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(30) == 130
            asking.kill()
        assert "Traceback" not in server.log()

"""What a person reads when the server is ready: five lines that can be typed as they stand."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from qqvl_server import welcome
from qqvl_server.settings import ServerSettings, Settings
from tests.running import ENTRY


def told(url: str, **server: object) -> list[str]:
    settings = Settings(server=ServerSettings.model_validate(server))
    return list(welcome.lines(settings, url, "qqvl-demo", Path("/srv/data"), is_demo=True))


def test_five_lines_say_where_what_and_what_next() -> None:
    address, model, data, talk, after = told("http://127.0.0.1:9999")
    assert "http://127.0.0.1:9999" in address
    assert "只有这台机器" in address
    assert "qqvl-demo" in model
    assert data == "数据：/srv/data"
    command = shlex.split(talk.removeprefix("说话："))
    assert command[:2] == ["curl", "http://127.0.0.1:9999/api/chat/private"]
    assert json.loads(command[-1])["content"]
    assert all(word in after for word in ("setup", "doctor", "client"))


def test_an_address_that_all_reach_is_told_as_one_that_can_be_dialled() -> None:
    address, _, _, talk, _ = told("http://0.0.0.0:9999", host="0.0.0.0", api_keys="sk-secret")
    assert "http://127.0.0.1:9999" in address
    assert "别的机器" in address
    assert "Bearer <密钥>" in talk
    assert "sk-secret" not in address + talk


def test_a_line_that_is_copied_brings_no_frame() -> None:
    lines = told("http://127.0.0.1:9999")
    assert welcome.box(lines).splitlines()[1:-1] == lines


@pytest.mark.long
def test_a_person_sees_them_and_the_command_in_them_is_answered(tmp_path: Path) -> None:
    command = [sys.executable, str(ENTRY), "--port", "0", "--data-dir", str(tmp_path / "d")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as server:
        assert server.stderr is not None
        try:
            line = next(line for line in server.stderr if line.startswith("说话："))
            url, *_, body = shlex.split(line.removeprefix("说话：curl "))
            headers = {"Content-Type": "application/json"}
            answer = httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)
            assert answer.json()["reply"]
        finally:
            server.terminate()
            server.stderr.read()

"""A real Ray on this machine: two replicas of the demo behind the usual doors, one of them killed while all talk.

What is chosen and asked again is tested without Ray's processes in ``tests/generation/test_replicas.py``.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.pictures import base64_picture
from tests.running import RunningServer, private_body

HAS_RAY = importlib.util.find_spec("ray") is not None
START_S = 900
CHATS = 6
LINES = 5


@pytest.fixture(scope="module")
def ray_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    if not HAS_RAY:
        assert not os.environ.get("CI"), "ray is not installed: .ci/run installs the extra"
        pytest.skip("没有装 ray（pip install 'ray[serve]'）")
    flags = ("--replicas", "2", "--device", "cpu", "--max-new-tokens", "24", "--shutdown-grace-s", "60")
    with RunningServer(tmp_path_factory.mktemp("ray") / "data", *flags, wait=False) as server:
        until(lambda: server.http.get("/health").status_code == 200, server)
        yield server
        server.terminate()
        assert server.process.wait(120) == 0
        assert not replicas(server)


def until(holds: Any, server: RunningServer) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, server.log()
        assert server.process.poll() is None, server.log()
        time.sleep(0.2)


def replicas(server: RunningServer) -> list[psutil.Process]:
    """Those of this server: Ray names its processes."""
    try:
        mine = psutil.Process(server.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in mine:
        try:
            if "SERVE_REPLICA::qqvl#engine" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def insist(server: RunningServer, body: dict[str, Any]) -> str:
    """As the client does: what may be sent again is, under the same id, until it is answered."""
    for _ in range(60):
        try:
            answer = httpx.post(f"{server.base}/api/chat/private", json=body, timeout=120, trust_env=False)
        except httpx.TransportError:
            continue
        if answer.status_code == 200:
            return str(answer.json()["reply"])
        assert answer.status_code >= 500, answer.text
        time.sleep(0.5)
    raise AssertionError(f"never answered:\n{server.log()}")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_doubled_when_a_replica_is_killed_under_load(ray_server: RunningServer) -> None:
    server = ray_server
    assert "ray" in server.http.get("/health").json()["device"]
    assert len(replicas(server)) == 2

    def talk(user: str) -> list[str]:
        return [
            insist(server, private_body(f"你好{line}", user=user, message_id=f"{user}-{line}")) for line in range(LINES)
        ]

    with ThreadPoolExecutor(CHATS) as pool:
        talks = [pool.submit(talk, f"r{number}") for number in range(CHATS)]
        until(lambda: len(server.http.get("/admin/chats").json()["chats"]) >= CHATS // 2, server)
        replicas(server)[0].send_signal(signal.SIGKILL)
        assert all(len(talked.result()) == LINES for talked in talks)
    for number in range(CHATS):
        lines = server.messages("private", f"r{number}")
        said = [line["content"] for line in lines if line["role"] == "user"]
        assert said == [f"你好{line}" for line in range(LINES)]
        assert [line["role"] for line in lines] == ["user", "assistant"] * LINES
    assert server.http.get("/health").status_code == 200
    until(lambda: len(replicas(server)) == 2, server)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_chats_of_the_survivor_keep_their_cache_when_the_other_is_replaced(ray_server: RunningServer) -> None:
    server = ray_server
    talks = [Conversation(server, f"我叫小明{number}，" + "今天天气很好，我们去公园看花。" * 6) for number in range(8)]
    for _ in range(2):
        for talk in talks:
            talk.go_on()
    assert all(talk.cached for talk in talks)
    killed = replicas(server)[0]
    killed.send_signal(signal.SIGKILL)
    for talk in talks:
        talk.go_on()
    at_home = [talk for talk in talks if talk.cached]
    assert 0 < len(at_home) < len(talks)
    until(lambda: len([one for one in replicas(server) if one.pid != killed.pid]) == 2, server)
    time.sleep(3)
    for talk in talks:
        talk.go_on()
    assert all(talk.cached for talk in at_home)


class Conversation:
    """Of an API caller: each turn sends all that was said."""

    def __init__(self, server: RunningServer, opening: str) -> None:
        self._server = server
        self._messages = [{"role": "user", "content": opening}]
        self.cached = 0

    def go_on(self) -> None:
        body = {"messages": self._messages, "max_tokens": 8, "temperature": 0}
        for _ in range(20):
            answer = self._server.http.post("/v1/chat/completions", json=body, timeout=120)
            if answer.status_code == 200:
                break
            assert answer.status_code >= 500, answer.text
            time.sleep(0.5)
        told = answer.json()
        self.cached = told["usage"]["prompt_tokens_details"]["cached_tokens"]
        self._messages += [told["choices"][0]["message"], {"role": "user", "content": "再说一句"}]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_pictures_streams_and_refusals_cross(ray_server: RunningServer) -> None:
    server = ray_server
    assert "红" in server.private("这是什么颜色？", user="pic", images=(base64_picture(),))
    assert "红" in server.private("刚才那张图是什么颜色？", user="pic")
    body = {"messages": [{"role": "user", "content": "你好"}], "stream": True, "ignore_eos": True, "max_tokens": 40}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 4
    refused = server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "长" * 100_000}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"

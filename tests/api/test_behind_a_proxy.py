"""Behind a real nginx and a real Caddy, as docs/deploy.md sets them up: streams, large bodies, keys, no open door."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import ADMIN_KEY, KEY
from tests.api.wire import metric, padded
from tests.running import ROOT, RunningServer, private_body

INSIDE = ("/admin/chats", "/admin/chats/private/1/messages", "/metrics", "/openapi.json")


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nginx(folder: Path, site: str) -> list[str]:
    """The command that serves ``site``, with every file it writes in ``folder``."""
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in paths)
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error")]


def caddy(folder: Path, site: str) -> list[str]:
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def written_out(program: str, server: RunningServer, port: int) -> str:
    """The page's example, with this test's ports."""
    text = example(program).replace("127.0.0.1:9999", f"127.0.0.1:{httpx.URL(server.base).port}")
    name = "listen 80;" if program == "nginx" else "bot.example.com {"
    assert name in text
    here = f"listen 127.0.0.1:{port};" if program == "nginx" else f"http://127.0.0.1:{port} {{"
    return text.replace(name, here)


@contextmanager
def proxied(program: str, site: str, port: int, folder: Path) -> Iterator[httpx.Client]:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    folder.mkdir()
    command = (nginx if program == "nginx" else caddy)(folder, site)
    log = (folder / "log").open("wb")
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **home})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            deadline = time.monotonic() + 20
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                try:
                    http.get("/health")
                    break
                except httpx.HTTPError:
                    time.sleep(0.05)
            yield http
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_pages_examples_work(program: str, keyed: RunningServer, tmp_path: Path) -> None:
    port = free_port()
    key = {"Authorization": f"Bearer {KEY}"}
    with proxied(program, written_out(program, keyed, port), port, tmp_path / "proxy") as http:
        assert http.get("/health").json()["status"] == "healthy"
        assert http.post("/api/chat/private", json=private_body("你好")).status_code == 401
        body = padded(private_body("你好", user=program, context_only=True), 3_000_000)
        long = http.post("/api/chat/private", content=body, headers=key | {"Content-Type": "application/json"})
        assert long.status_code == 200
        for path in INSIDE:
            assert http.get(path, headers={"Authorization": f"Bearer {ADMIN_KEY}"}).status_code == 404, path


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_a_stream_comes_as_it_is_said_and_ends_with_its_reader(
    program: str, bare: RunningServer, tmp_path: Path
) -> None:
    port = free_port()
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "你好"}], "stream": True, "ignore_eos": True, "max_tokens": 4000,
    }  # fmt: skip
    with proxied(program, written_out(program, bare, port), port, tmp_path / "proxy") as http:
        before = metric(bare, "qqvl_generation_tokens_total")
        with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            assert answer.status_code == 200
            # Let go, it would end the stream.
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            assert metric(bare, "qqvl_requests_running") >= 1
        deadline = time.monotonic() + 20
        while metric(bare, "qqvl_requests_running"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert metric(bare, "qqvl_generation_tokens_total") - before < asked["max_tokens"]


# The least that one would write, and what others' pages say.
CARELESS = {
    "nothing": "",
    "keep-alive": 'proxy_http_version 1.0; proxy_set_header Connection "";',
    "real ip": "proxy_http_version 1.1; proxy_set_header X-Real-IP $remote_addr;",
    "host": "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_http_version 1.1;",
}


def test_no_way_of_setting_up_nginx_opens_the_admin_door(bare: RunningServer, tmp_path: Path) -> None:
    """Its own default sends no header at all, and this machine's address for Host."""
    for number, (name, lines) in enumerate(CARELESS.items()):
        port = free_port()
        site = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {bare.base}; {lines} }} }}\n"
        with proxied("nginx", site, port, tmp_path / str(number)) as http:
            assert http.get("/health").status_code == 200
            for path in INSIDE:
                assert http.get(path).status_code == 403, (name, path)
            assert http.get("/v1/models").status_code == 200

"""A real server process for tests: started as a user would, on the demo checkpoint, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.template import Forked, Template, start_anew

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "models" / "qqvl-demo"
ASSETS = ROOT.parent / "shared" / "qwen3-vl-assets"
ENTRY = ROOT / "server" / "api_server_qwen3vl.py"
# Importing torch on a very busy two-core machine can take minutes.
START_S = 300
TEMPLATE = Template(
    ("qqvl_server.app", "qqvl_server.generation.local", "qqvl_server.weights.load", "qqvl_server.engine.build"),
    (ROOT / "server",),
)


class RunningServer:
    """``with RunningServer(data_dir) as server: server.private("你好")``. Killed, if need be, on leaving.

    ``anew``: with imports of its own, where they matter.
    """

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        wait: bool = True,
        anew: bool = False,
        command: tuple[str, ...] = (sys.executable, str(ENTRY)),
    ) -> None:
        self.data_dir = data_dir
        self._command = command
        self._flags = flags
        self._env = env or {}
        self._wait = wait
        # Who does not wait looks at the start itself, and sees all of it.
        self._anew = anew or not wait
        self.log_path = data_dir.parent / f"{data_dir.name}.log"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            # Raised again: without __enter__'s return nobody calls __exit__.
            if hasattr(self, "process"):
                self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.http.close()

    def start(self, port: int = 0) -> None:
        """Start, or start again on the same data folder; waits until ``/health`` says healthy. ``port`` 0: any."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("QQVL_")} | self._env
        fixed = ("--port", str(port), "--data-dir", str(self.data_dir), "--log-format", "json")
        with self.log_path.open("ab") as log, open(os.devnull, "rb") as none:
            self._log_start = log.tell()
            streams = (none.fileno(), log.fileno(), log.fileno())
            command = (*self._command, *fixed, *self._flags)
            self.process: subprocess.Popen[bytes] | Forked = (
                start_anew(command, env, streams) if self._anew else TEMPLATE.start(command, env, streams)
            )
        self.base = self._announced_url()
        self.http = httpx.Client(base_url=self.base, timeout=60, trust_env=False)
        if self._wait:
            self.wait_healthy()

    def _announced_url(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in self.log().splitlines():
                with contextlib.suppress(ValueError):
                    url = json.loads(line).get("url")
                    if url:
                        return str(url)
            if self.process.poll() is not None:
                raise AssertionError(f"server ended with {self.process.returncode}:\n{self.log()}")
            time.sleep(0.05)
        raise AssertionError(f"server did not announce its address:\n{self.log()}")

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.http.get("/health").status_code == 200:
                return
            time.sleep(0.1)
        raise AssertionError(f"server did not become healthy:\n{self.log()}")

    @property
    def owner(self) -> dict[str, str]:
        """Headers of a program that may read the data folder."""
        return {"Authorization": f"Bearer {(self.data_dir / 'page.key').read_text().strip()}"}

    def link(self) -> str:
        """The address that the start printed for the owner's browser, without its host."""
        line = next(line for line in self.log().splitlines() if line.startswith("网页："))
        return line.removeprefix("网页：").partition("（")[0].removeprefix(self.base)

    def log(self) -> str:
        """What this start has written so far."""
        return self.log_path.read_bytes()[self._log_start :].decode()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def post(self, kind: str, body: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/api/chat/{kind}", json=body)

    def private(self, content: str, *, user: str = "10001", images: tuple[str, ...] = (), **extra: Any) -> str:
        """Say something in private and return the reply."""
        body = private_body(content, user=user, images=images, **extra)
        answer = self.post("private", body)
        assert answer.status_code == 200, answer.text
        reply = answer.json()["reply"]
        assert isinstance(reply, str)
        return reply

    def group(self, content: str, *, group: str = "20001", **extra: Any) -> dict[str, Any]:
        """Say something in a group and return the whole answer."""
        answer = self.post("group", group_body(content, group=group, **extra))
        assert answer.status_code == 200, answer.text
        value = answer.json()
        assert isinstance(value, dict)
        return value

    def messages(self, kind: str, chat_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get(f"/admin/chats/{kind}/{chat_id}/messages").json()["messages"]
        return found


def private_body(content: str, *, user: str = "10001", images: tuple[str, ...] = (), **extra: Any) -> dict[str, Any]:
    return {
        "type": "private",
        "user_id": user,
        "user_nickname": "张三",
        "content": content,
        "images": [{"data": data, "format": "png"} for data in images],
        "timestamp": 1234567890.0,
        **extra,
    }


def group_body(
    content: str, *, group: str = "20001", user: str = "10001", images: tuple[str, ...] = (), **extra: Any
) -> dict[str, Any]:
    return {
        **private_body(content, user=user, images=images),
        "type": "group",
        "group_id": group,
        "group_name": "测试群",
        "user_card": "张三",
        **extra,
    }


def run_cli(
    *flags: str, env: dict[str, str] | None = None, timeout: float = 90, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the entry script to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QQVL_")} | (env or {})
    return TEMPLATE.run((sys.executable, str(ENTRY), *flags), clean, timeout, typed)


@contextlib.contextmanager
def running(data_dir: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[RunningServer]:
    with RunningServer(data_dir, *flags, env=env) as server:
        yield server

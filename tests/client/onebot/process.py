"""The client as its owner runs it: a process, with short timeouts set by environment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, Self

from onebot.watch import Watched
from tests.template import Forked, Template

ROOT = Path(__file__).resolve().parents[3]
ENTRY = ROOT / "client" / "qqbot_client_full.py"
# Not ncatbot: importing it reads a file and takes over logging, each process its own.
_TEMPLATE = Template(
    (
        "qqvl_client.cli", "qqvl_client.relay", "aiohttp", "fastapi", "uvicorn", "websockets.asyncio.client",
        "nonebot.adapters.onebot.v11", "nonebot.drivers.fastapi", "nonebot.drivers.websockets",
    ),
    (ROOT / "client",),
)  # fmt: skip
SHORT: Mapping[str, object] = {
    "connect_timeout_s": 1,
    "server_timeout_s": 1,
    "answer_within_s": 2,
    "retry_base_s": 0.05,
    "retry_max_s": 0.3,
    "action_timeout_s": 1,
    "lookup_timeout_s": 0.3,
    "send_within_s": 30,
    "send_gap_s": 0.005,
    "part_gap_s": 0.02,
    "typing_chars_per_s": 0,
    "sends_per_minute": 1000,
    "verify_wait_s": 0.05,
    "notice_gap_s": 0,
    "picture_timeout_s": 1,
    "picture_stall_s": 0.4,
    "picture_max_mb": 0.3,
    "message_max_mb": 1,
    "reconnect_base_s": 0.05,
    "reconnect_max_s": 0.3,
    "ping_interval_s": 0.5,
    "ping_timeout_s": 0.5,
    "max_frame_mb": 2,
    "stop_grace_s": 1,
}


class Process(Watched):
    """A command run from these tests, with its output collected."""

    template: ClassVar[Template] = _TEMPLATE

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        super().__init__()
        self.log = ""
        self.returncode: int | None = None
        self._command = command
        self._env = {**{k: v for k, v in os.environ.items() if not k.startswith("QQVL_")}, **env}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self.returncode = None
        read, write = os.pipe()
        with open(write, "wb") as its, open(os.devnull, "rb") as none:
            streams = (none.fileno(), its.fileno(), its.fileno())
            self._process = await asyncio.to_thread(self.template.start, self._command, self._env, streams, self._cwd)
        self._watcher = asyncio.create_task(self._collect(self._process, os.fdopen(read, "rb", buffering=0)))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self, within: float = 30) -> int:
        await self.until(lambda: self.returncode is not None, "the process ends", within)
        assert self.returncode is not None
        return self.returncode

    async def logged(self, words: str, within: float = 30) -> None:
        await self.until(lambda: words in self.log, f"{words!r} in the log", within)

    async def stop(self, within: float = 30) -> int:
        """SIGTERM, as a supervisor does; returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended(within)

    async def kill(self) -> None:
        if self._process and self.returncode is None:
            self._process.kill()
            await self.ended()

    async def _collect(self, process: subprocess.Popen[bytes] | Forked, output: IO[bytes]) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        while chunk := await reader.read(65536):
            self.log += chunk.decode("utf-8", "replace")
            self.changed()
        transport.close()
        self.returncode = await asyncio.to_thread(process.wait)
        self.changed()


class ClientProcess(Process):
    """`python client/qqbot_client_full.py` with short timeouts."""

    def __init__(
        self,
        data_dir: Path,
        settings: Mapping[str, object],
        *flags: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        entry: Path = ENTRY,
    ) -> None:
        self.data_dir = data_dir
        values = {**SHORT, "data_dir": data_dir, **settings}
        own = {f"QQVL_CLIENT_{name.upper()}": str(value) for name, value in values.items()}
        super().__init__([sys.executable, str(entry), *flags], {**own, **(env or {})}, cwd or data_dir)

"""Server processes to measure: this project's own with either engine, plain ``generate``, ``transformers serve``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import psutil

ROOT: Final = Path(__file__).resolve().parents[1]
ENTRY: Final = ROOT / "server" / "api_server_qwen3vl.py"
_START_S: Final = 600


class NotStarted(Exception):
    """The server ended, or never answered; the text is the end of its log."""


class Process:
    """A server process that is killed on leaving. ``ready_s`` is from its start to its first healthy answer."""

    model = "m"

    def __init__(self, command: list[str], health: str, env: dict[str, str] | None = None) -> None:
        self._work = tempfile.TemporaryDirectory(prefix="qqvl-benchmark-")
        self.folder = Path(self._work.name)
        self._command = command
        self._health = health
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("QQVL_")} | (env or {})
        self.base = ""
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        # A benchmark that is told to stop must not leave servers behind.
        signal.signal(signal.SIGTERM, _leave)
        started = time.monotonic()
        log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env, cwd=self.folder)
        log.close()
        try:
            self._wait(started + _START_S)
        except BaseException:
            # Raised again, Ctrl-C included: without __enter__'s return nobody calls __exit__.
            self.__exit__(None, None, None)
            raise
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._work.cleanup()

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def _address(self) -> str:
        """Empty while it is not known yet."""
        return self.base

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            self.base = self._address()
            with contextlib.suppress(httpx.TransportError):
                answer = self.base and httpx.get(self.base + self._health, timeout=5, trust_env=False)
                if answer and answer.status_code == 200:
                    return
            time.sleep(0.1)
        raise NotStarted(self.log()[-600:])


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(143)


class Qqvl(Process):
    """This project's server on a port of the system's choice."""

    def __init__(
        self,
        checkpoint: Path,
        *flags: str,
        dtype: str = "bfloat16",
        kv_gb: float = 1.0,
        env: dict[str, str] | None = None,
    ) -> None:
        super().__init__([], "/health", env)
        self._command = [
            sys.executable, str(ENTRY), "--port", "0", "--data-dir", str(self.folder / "data"), "--log-format", "json",
            "--model-path", str(checkpoint), "--served-model-name", self.model, "--dtype", dtype,
            "--kv-cache-gb", str(kv_gb), "--context-tokens", "8192", *flags,
        ]  # fmt: skip

    def _address(self) -> str:
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                url = json.loads(line).get("url")
                if url:
                    return str(url)
        return ""

    def metrics(self) -> dict[str, float]:
        """Sums of Prometheus samples by name, labels dropped."""
        sums: dict[str, float] = {}
        for line in httpx.get(self.base + "/metrics", trust_env=False).text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums


class PlainGenerate(Process):
    """``plain_generate.py``: the baseline."""

    def __init__(self, checkpoint: Path, dtype: str = "bfloat16") -> None:
        port = _free_port()
        script = Path(__file__).with_name("plain_generate.py")
        super().__init__(
            [sys.executable, str(script), str(checkpoint), "--port", str(port), "--dtype", dtype], "/v1/models"
        )
        self.base = f"http://127.0.0.1:{port}"


class TransformersServe(Process):
    """``transformers serve``, which answers vision models one at a time.

    Raises:
        NotStarted: its command is not installed.
    """

    def __init__(self, checkpoint: Path, dtype: str = "bfloat16") -> None:
        command = shutil.which("transformers", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        if command is None:
            raise NotStarted("transformers 的命令行没有装（pip install 'transformers[serving]'）")
        port = _free_port()
        super().__init__(
            [command, "serve", str(checkpoint), "--device", "cpu", "--dtype", dtype, "--host", "127.0.0.1",
             "--port", str(port)],
            "/health", {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self.model = str(checkpoint)
        self.base = f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PeakMemory:
    """Largest resident size in MiB of a process and its children while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self.mib = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(self._pid)
                total = sum(one.memory_info().rss for one in (root, *root.children(recursive=True)))
                self.mib = max(self.mib, total >> 20)
            if self._stop.wait(0.5):
                return

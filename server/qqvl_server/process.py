"""What the process owns: its exit statuses, signals, port and data folder. Knows no room of the house."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import uvicorn

from qqvl_server.errors import ConfigError
from qqvl_server.observe.logs import logger

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
EXIT_WEIGHTS: Final = 3
EXIT_ENGINE_DEAD: Final = 4
EXIT_INTERRUPTED: Final = 130
# How many may knock while the event loop is busy.
_QUEUE: Final = 1024


class Server(uvicorn.Server):
    """uvicorn with our own signal handling: its own re-raises SIGTERM after the shutdown, which exits with -15."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._on_signal)
        try:
            yield
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(name)
                # Not Python's own, whose exception would be a traceback out of whatever is being taken down.
                signal.signal(name, signal.SIG_DFL)

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio has one number for the queue and for how many it takes from it at once, which must be few.
            listener.listen(_QUEUE)

    def _on_signal(self) -> None:
        if self.stopping.is_set():
            # Asked twice: what is stored is stored, the rest is not waited for.
            leave(EXIT_INTERRUPTED)
        logger().info("收到停止信号，不再接新消息，等正在回答的答完")
        self.ask_to_stop()

    def ask_to_stop(self) -> None:
        self.stopping.set()


def leave(status: int) -> NoReturn:
    """End the process now, whatever its other threads are doing: at a regular end they trip over the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"无法监听 {host}:{port}：{error.strerror}。请关掉占用该端口的程序，或用 --port 换一个端口"
        ) from error
    with listener:
        yield listener


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Two servers on one history would number its messages twice."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (data_dir / ".lock").open("a")
    except OSError as error:
        raise ConfigError(f"写不进数据目录 {data_dir}：{error.strerror}。请检查 --data-dir 和权限") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"数据目录 {data_dir} 正被另一个 qqvl 服务使用；请先停掉它，或换一个 --data-dir"
            ) from error
        yield

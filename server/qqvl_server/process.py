"""What the process owns: its exit statuses, signals, port and data folder. Knows no room of the house."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import uvicorn

from qqvl_server.errors import ConfigError
from qqvl_server.observe import logs
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
            loop.add_signal_handler(name, self._on_signal, name)
        try:
            yield
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(name)
                # What is left to do is quick and must be done. Ctrl-C ends it, but not by Python's own exception, which
                # would be a traceback out of whatever is being taken down.
                signal.signal(name, signal.SIG_IGN if name == signal.SIGTERM else signal.SIG_DFL)

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio has one number for the queue and for how many it takes from it at once, which must be few.
            listener.listen(_QUEUE)

    def _on_signal(self, name: signal.Signals) -> None:
        if self.stopping.is_set():
            # A person who presses Ctrl-C again will not wait: what is stored is stored. Supervisors just ask again.
            if name == signal.SIGINT:
                leave(EXIT_INTERRUPTED)
            return
        logger().info("收到停止信号，不再接新消息，等正在回答的答完")
        self.ask_to_stop()

    def ask_to_stop(self) -> None:
        self.stopping.set()


def leave(status: int) -> NoReturn:
    """End the process now, whatever its other threads are doing: at a regular end they trip over the interpreter."""
    logs.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_when_asked() -> None:
    """Before there is a loop that could hear of it, a request to stop ends the process as it would later: with 0."""

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(EXIT_OK)

    signal.signal(signal.SIGTERM, leave)


def end(status: int) -> int:
    """``status``, for the interpreter to exit with; or the exit itself, while a thread of ours is still computing.

    Left to the interpreter, it would be torn out of torch's C++ and abort the process, with a core dump.
    """
    if any(thread.daemon and thread.name.startswith("qqvl-") for thread in threading.enumerate()):
        leave(status)
    return status


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to that address. Raises ConfigError: it is taken, or not this machine's."""
    with contextlib.ExitStack() as opened:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = opened.enter_context(socket.socket(family, kind, proto))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise ConfigError(
                f"无法监听 {host}:{port}：{error.strerror}。请关掉占用该端口的程序，或用 --port 换一个端口"
            ) from error
        yield listener


def is_answering(url: str) -> bool:
    """Whether somebody listens at an address of this machine, ``http://127.0.0.1:9999``."""
    place = urllib.parse.urlsplit(url)
    try:
        with socket.create_connection((place.hostname or "", place.port or 80), timeout=2):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def locked(data_dir: Path, *, with_others: bool = False) -> Iterator[Callable[[], bool]]:
    """Hold the data folder: two servers on one history would number its messages twice.

    Args:
        with_others: the history is not in it, so that other servers may hold it as well; but nobody alone.

    Held are its lock file, the folder itself (a lock file may be deleted) and, on Linux, its path (the folder may be
    moved and another made in its place). Yields whether what is at the path is still what is held.

    Raises:
        ConfigError: another server holds it, or it cannot be written.
    """
    path = data_dir.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (path / ".lock").open("a")
    except OSError as error:
        raise ConfigError(f"写不进数据目录 {data_dir}：{error.strerror}。请检查 --data-dir 和权限") from error
    folder = os.open(path, os.O_RDONLY)
    with file, _closing(folder), socket.socket(socket.AF_UNIX) as name:
        try:
            kind = fcntl.LOCK_SH if with_others else fcntl.LOCK_EX
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            _lock_folder(folder, kind)
            if sys.platform == "linux" and not with_others:
                name.bind(_name_of(path))
        except OSError as error:
            raise ConfigError(
                f"数据目录 {data_dir} 正被另一个 qqvl 服务使用；请先停掉它，或换一个 --data-dir"
            ) from error

        def is_ours() -> bool:
            held = (path, folder), (path / ".lock", file.fileno())
            return all(os.path.samestat(os.stat(at), os.fstat(known)) for at, known in held)

        yield is_ours


def is_held(data_dir: Path) -> bool:
    """Whether a server holds this folder now. Nothing is made or left locked."""
    with contextlib.ExitStack() as opened:
        for held in (data_dir, data_dir / ".lock"):
            try:
                descriptor = os.open(held, os.O_RDONLY)
            except OSError:
                continue
            opened.enter_context(_closing(descriptor))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                # Some network file systems lock no folders.
                continue
    return False


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_folder(descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # Some network file systems lock no folders; the lock file is held all the same.
        return


def _name_of(path: Path) -> bytes:
    """An abstract socket's name (unix(7)): it belongs to this process as long as that lives, and is no file.

    Containers may share a network but not their paths, so a path counts together with the mounts it is looked up in.
    """
    try:
        mounts = os.readlink("/proc/self/ns/mnt")
    except OSError:
        mounts = ""
    return b"\0qqvl-" + hashlib.sha256(f"{mounts} {path.resolve()}".encode()).hexdigest().encode()

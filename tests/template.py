"""Processes that start with what takes seconds to import already imported, by forking one that has imported it.

What runs is the entry script as a user runs it, in a process of its own, with its own arguments, environment, folder
and end; only ``import torch`` is not computed again. Where the environment says more than our own settings do, or
there is no ``pidfd`` (Linux), ``start`` runs the command itself: libraries look at the environment once, on import.

Run as a script it is the template: ``template.py FD MODULE…`` imports the modules and answers at that socket.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve()
Streams = tuple[int, int, int]
# A message in either direction; an environment is some kilobytes.
_LARGEST = 1 << 18


class Template:
    """Started by the first that needs it. ``paths`` are where the scripts lie and the ``modules`` are found."""

    def __init__(self, modules: Sequence[str], paths: Sequence[Path]) -> None:
        self._command = [sys.executable, str(HERE)]
        self._modules = modules
        self._paths = paths
        self._env: dict[str, str] = {}
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, command: Sequence[str], env: Mapping[str, str], streams: Streams, cwd: Path | None = None
    ) -> subprocess.Popen[bytes] | Forked:
        """``command`` is the interpreter, a script and its arguments; ``streams`` its three, all open files."""
        where = cwd or Path.cwd()
        if not self._serves(command, env, where):
            return start_anew(command, env, streams, where)
        asked = {"command": list(command), "env": dict(env), "cwd": str(where)}
        return Forked(self._ask(asked, streams), self)

    def run(
        self, command: Sequence[str], env: Mapping[str, str], timeout: float, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run`` with what is ``typed`` for its input and both outputs kept, as texts."""
        with (
            tempfile.TemporaryFile() as taken,
            tempfile.TemporaryFile() as said,
            tempfile.TemporaryFile() as complained,
        ):
            taken.write(typed.encode())
            taken.seek(0)
            process = self.start(command, env, (taken.fileno(), said.fileno(), complained.fileno()))
            try:
                status = process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            complained.seek(0)
            texts = (file.read().decode().replace("\r\n", "\n").replace("\r", "\n") for file in (said, complained))
            return subprocess.CompletedProcess(list(command), status, *texts)

    def status_of(self, pid: int) -> int:
        """Of a process that has ended: negative where a signal ended it."""
        return self._ask({"ended": pid})

    def close(self) -> None:
        """What it has started goes on."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait()

    def _serves(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> bool:
        if not hasattr(os, "pidfd_open") or command[0] != sys.executable:
            return False
        if (cwd / command[1]).resolve().parent not in self._paths:
            return False
        with self._lock:
            if self._socket is None:
                self._open()
        return _foreign(env) == _foreign(self._env)

    def _open(self) -> None:
        self._env = dict(os.environ)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            process = subprocess.Popen(
                [*self._command, str(its.fileno()), os.pathsep.join(map(str, self._paths)), *self._modules],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket, self._process = ours, process
        atexit.register(self.close)

    def _ask(self, what: Mapping[str, object], descriptors: Sequence[int] = ()) -> int:
        with self._lock:
            assert self._socket is not None
            socket.send_fds(self._socket, [json.dumps(what).encode()], descriptors)
            answer = self._socket.recv(_LARGEST)
        assert answer, "the template has ended"
        return int(answer)


class Forked:
    """As much of ``subprocess.Popen`` as the tests use."""

    def __init__(self, pid: int, template: Template) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._template = template
        self._burying = threading.Lock()
        self._fd = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._fd)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        # Not ``select``: it takes no descriptor above 1023.
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0)
        # Another thread may be waiting too, and it is buried once.
        with self._burying:
            if self.returncode is None:
                self.returncode = self._template.status_of(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_anew(
    command: Sequence[str], env: Mapping[str, str], streams: Streams, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """As ``Template.start``, but with every import of its own."""
    taken, said, complained = streams
    return subprocess.Popen(command, env=env, stdin=taken, stdout=said, stderr=complained, cwd=cwd)


def _foreign(env: Mapping[str, str]) -> dict[str, str]:
    """What of an environment is not our own; pytest writes down in it which test runs."""
    return {name: value for name, value in env.items() if not name.startswith(("QQVL_", "PYTEST_"))}


def _serve(channel: socket.socket) -> list[str]:
    """Fork for each that asks; returns, in the forked process alone, the command that it is to be."""
    while True:
        asked, descriptors, _, _ = socket.recv_fds(channel, _LARGEST, 3)
        if not asked:
            os._exit(0)
        what = json.loads(asked)
        if "ended" in what:
            _, status = os.waitpid(what["ended"], 0)
            channel.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if not pid:
            channel.close()
            _become(what["env"], what["cwd"], descriptors)
            command: list[str] = what["command"]
            return command
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(str(pid).encode())


def _become(env: Mapping[str, str], cwd: str, streams: Sequence[int]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)


def main() -> None:
    descriptor, paths, *modules = sys.argv[1:]
    sys.path[:1] = paths.split(os.pathsep)
    for name in modules:
        __import__(name)
    sys.orig_argv = _serve(socket.socket(fileno=int(descriptor)))
    # As the interpreter does for a script.
    sys.argv = sys.orig_argv[1:]
    sys.path[: len(paths.split(os.pathsep))] = [str(Path(sys.argv[0]).resolve().parent)]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

"""What the tests of the doors share: raw bytes on a socket, and what every refusal must look like."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.running import ROOT, RunningServer

# The requirement says one second; the machine that runs the tests may be busy with others.
HEALTH_S = 3.0
# The tool of OpenAI's own examples, which the demo checkpoint knows how to use; each door spells it its way.
WEATHER = {
    "name": "get_weather",
    "description": "获取指定城市的天气信息",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "城市名称"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
}
LARGEST_ERROR = 64_000
_OURS = ("Traceback", 'File "', ".py", "site-packages", "Error(", "0x", str(ROOT), str(Path.home()))


def connect(server: RunningServer, timeout: float = 20) -> socket.socket:
    url = httpx.URL(server.base)
    return socket.create_connection((url.host, url.port or 80), timeout=timeout)


def head(*lines: str, method: str = "POST", path: str = "/api/chat/private", host: str = "127.0.0.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", "")).encode("latin-1")


def exchange(server: RunningServer, data: bytes, timeout: float = 20) -> tuple[int, bytes]:
    """Send raw bytes and read until the server closes; ask it to, or it must on its own. Status and everything read."""
    with connect(server, timeout) as wire:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall(data)
        read = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := wire.recv(65536):
                read += piece
    return int(read.split(b" ", 2)[1]) if read else 0, bytes(read)


def post_raw(server: RunningServer, body: bytes, kind: str = "private", **headers: str) -> httpx.Response:
    return server.http.post(f"/api/chat/{kind}", content=body, headers={"Content-Type": "application/json"} | headers)


def padded(body: dict[str, Any], size: int) -> bytes:
    """The body with blanks in it, so long that it takes ``size`` bytes."""
    text = json.dumps(body).encode()
    return text[:-1] + b" " * (size - len(text)) + b"}"


def check_error(answer: httpx.Response, *statuses: int, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """The door's own error, small, in fixed words: nothing of the input (``hidden``) and nothing of ours."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:500])
    assert len(answer.content) <= LARGEST_ERROR
    error = _error_of(answer.json(), answer.url.path, answer.headers["X-Request-ID"])
    assert error["message"]
    for word in (*_OURS, *hidden):
        assert word not in answer.text, word
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) >= 1
    return error


def _error_of(body: dict[str, Any], path: str, request_id: str) -> dict[str, Any]:
    """What is inside the shape that the door at ``path`` gives its errors."""
    error = body["error"]
    assert isinstance(error, dict)
    if f"{path}/".startswith(("/api/chat/", "/api/client/", "/admin/", "/api/page/")):
        assert set(body) == {"status", "error"}
        assert body["status"] == "error"
        assert set(error) == {"code", "message", "request_id"}
        assert error["request_id"] == request_id
        assert all(isinstance(value, str) and value for value in error.values())
    elif f"{path}/".startswith(("/v1/messages/", "/messages/")):
        # A path without its beginning is told of by the door that was meant.
        assert body["type"] == "error"
        assert set(error) == {"type", "message"}
        assert all(isinstance(value, str) and value for value in error.values())
    else:
        assert set(body) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["type"], str)
    return error


@contextlib.contextmanager
def watching_health(server: RunningServer, word: str = "healthy") -> Iterator[list[float]]:
    """Ask ``/health`` all the while and fail when one answer is late or another word."""
    took: list[float] = []
    words: set[str] = set()
    begun, done = threading.Event(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.base, timeout=60, trust_env=False) as http:
            begun.set()
            while not done.is_set():
                started = time.monotonic()
                words.add(http.get("/health").json()["status"])
                took.append(time.monotonic() - started)
                done.wait(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    # What is watched may be over before a busy machine has made a client.
    begun.wait()
    try:
        yield took
    finally:
        done.set()
        asking.join()
    assert took
    assert max(took) < HEALTH_S
    assert words == {word}


def peak_memory_mb(pid: int) -> float:
    """Of the process and of those that decode pictures for it, each at its own worst."""
    return sum(_status_mb(one, "VmHWM") for one in _family(pid))


def forget_peak(pid: int) -> float:
    """Start measuring the peak anew where the system allows; what is in memory now."""
    for one in _family(pid):
        with contextlib.suppress(OSError), open(f"/proc/{one}/clear_refs", "w") as file:
            file.write("5")
    return sum(max(_status_mb(one, "VmRSS"), _status_mb(one, "VmHWM")) for one in _family(pid))


def _family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1000
    raise AssertionError(f"no {name} in /proc/{pid}/status")


def contract(name: str) -> dict[str, Any]:
    value = json.loads((ROOT / "tests" / "fixtures" / "contract" / f"{name}.json").read_text("utf-8"))
    assert isinstance(value, dict)
    return value


def metric(server: RunningServer, name: str) -> float:
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


def fifo(folder: Path) -> Path:
    """A file that hangs whoever opens it."""
    path = folder / "picture.png"
    os.mkfifo(path)
    return path

"""More connections than the process may have: the newest is served, the log stays small, and all is well after."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from tests.api.wire import connect, head
from tests.running import RunningServer

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's")
HEALTH = head(method="GET", path="/health")


@contextmanager
def descriptors(server: RunningServer, more: int) -> Iterator[None]:
    """The server may open ``more`` descriptors than it has now."""
    pid = server.process.pid
    was = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (psutil.Process(pid).num_fds() + more, was[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, was)


def fresh_health(server: RunningServer) -> int:
    with httpx.Client(base_url=server.base, timeout=20, trust_env=False) as http:
        return http.get("/health").status_code


def test_the_server_takes_as_many_descriptors_as_it_may(server: RunningServer) -> None:
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard or soft >= 65_536


def test_at_the_limit_connections_without_a_request_make_way(server: RunningServer) -> None:
    """Idle ones, half a head and half a body alike; who is being answered stays."""
    half_head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half"
    half_body = head("Content-Type: application/json", "Content-Length: 1000") + b"{"
    asked = {"messages": [{"role": "user", "content": "你好"}], "stream": True, "ignore_eos": True, "max_tokens": 300}
    before = len(server.log())
    with descriptors(server, 300), ExitStack() as held:
        stream = held.enter_context(server.http.stream("POST", "/v1/chat/completions", json=asked))
        lines = stream.iter_lines()
        next(lines)
        for number in range(600):
            wire = held.enter_context(connect(server))
            with suppress(ConnectionError):
                wire.sendall((b"", half_head, half_body)[number % 3])
            if number % 100 == 99:
                assert fresh_health(server) == 200
        assert "data: [DONE]" in list(lines)
        assert server.private("你好", user="at-the-limit") is not None
    told = [line for line in server.log()[before:].splitlines() if '"warning"' in line or '"error"' in line]
    assert len(told) == 1, told[:5]
    assert len(server.log()) - before < 100_000


def test_without_a_descriptor_left_the_log_says_so_in_one_line(server: RunningServer) -> None:
    """Other files may have taken those that connections were meant to have."""
    before = len(server.log())
    with descriptors(server, 5), ExitStack() as held:
        for _ in range(200):
            held.enter_context(connect(server))
        wire = held.enter_context(connect(server))
        wire.settimeout(0.5)
        wire.sendall(HEALTH)
        with suppress(TimeoutError, ConnectionError):
            wire.recv(65536)
    assert fresh_health(server) == 200
    log = server.log()[before:]
    assert "Traceback" not in log
    assert len(log) < 20_000

"""Who may speak at all: keys, hosts, origins, framing, and clients that hold connections without using them."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress
from urllib.parse import quote

import httpx
import pytest

from tests.api.conftest import KEY, OTHER_KEY
from tests.api.wire import HEALTH_S, check_error, connect, exchange, head, watching_health
from tests.running import RunningServer, private_body

GUARDED = (
    ("GET", "/metrics"), ("GET", "/api/page/nothing"), ("GET", "/openapi.json"), ("GET", "/admin/chats"),
    ("GET", "/nothing"), ("GET", "/admin/chats/group/1/messages"), ("POST", "/api/chat/group"),
    ("POST", "/api/chat/private"), ("POST", "/admin/x"), ("GET", "/health/"), ("GET", "/health/../metrics"),
    ("GET", "/metrics?x=/health"), ("GET", "/x//health"), ("GET", "/Health"), ("OPTIONS", "/api/chat/private"),
    ("HEAD", "/metrics"), ("DELETE", "/admin/chats"),
)  # fmt: skip
WRONG_KEYS: tuple[dict[str, bytes], ...] = (
    {}, {"Authorization": b""}, {"Authorization": b"Bearer"},
    {"Authorization": b"Bearer x"},
    {"Authorization": KEY.encode()}, {"Authorization": b"Basic " + KEY.encode()}, {"Cookie": b"key=" + KEY.encode()},
    {"Authorization": b"Bearer " + KEY[:-1].encode()}, {"Authorization": b"Bearer " + KEY.encode() + b"0"},
    {"Authorization": b"Bearer " + KEY.upper().encode()}, {"X-Api-Key": b"x"}, {"X-Api-Key": "密钥".encode()},
    {"Authorization": "Bearer 密钥".encode()}, {"Authorization": b"Bearer \xff\xfe\x80"}, {"X-Api-Key": b"\xe5"},
    {"Authorization": b"Bearer " + OTHER_KEY.encode()[:-1]}, {"X-Forwarded-For": b"127.0.0.1"},
    {"Authorization": f"Bearer {KEY},{OTHER_KEY}".encode()},
)  # fmt: skip


def test_without_the_key_only_health_is_open(keyed: RunningServer) -> None:
    for path in ("/health", "/ready"):
        assert keyed.http.get(path).status_code == 200
    for method, path in GUARDED:
        answer = keyed.http.request(method, path, params={"key": KEY, "api_key": KEY}, json={})
        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert check_error(answer, 401, hidden=(KEY,))["code"] == "unauthorized"


def test_wrong_keys_are_refused_whatever_their_bytes(keyed: RunningServer) -> None:
    for headers in WRONG_KEYS:
        answer = keyed.http.get("/admin/chats", headers=[(k.encode(), v) for k, v in headers.items()])
        check_error(answer, 401, hidden=(KEY, OTHER_KEY))


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["ascii", "chinese"])
def test_a_right_key_opens_every_door(keyed: RunningServer, key: str) -> None:
    ways = ((b"Authorization", b"Bearer "), (b"authorization", b"bearer  "), (b"X-API-Key", b""))
    for name, scheme in ways:
        headers = [(name, scheme + key.encode())]
        for path in ("/admin/chats", "/metrics", "/openapi.json"):
            assert keyed.http.get(path, headers=headers).status_code == 200
        body = json.dumps(private_body("你好", user="keyed", context_only=True)).encode()
        sent = [*headers, (b"Content-Type", b"application/json")]
        assert keyed.http.post("/api/chat/private", content=body, headers=sent).status_code == 200


def test_a_refused_caller_is_answered_before_its_body_is_read(keyed: RunningServer) -> None:
    status, _ = exchange(
        keyed, head("Content-Type: application/json", "Content-Length: 10", "Connection: close") + b"x" * 10
    )
    assert status == 401


HOSTS = {
    "127.0.0.1": 200, "localhost": 200, "LOCALHOST:9999": 200, "127.0.0.1:1": 200, "[::1]:80": 200, "127.1.2.3": 200,
    "evil.example": 403, "evil.example:9999": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403,
    "192.168.1.5": 403, "0.0.0.0": 403, "x/health?": 403, "127.0.0.1@evil": 403, "": 403,
    "2130706433": 403,
    "localhost@evil": 403, "evil.example/localhost": 403,
}  # fmt: skip


def test_hosts_that_are_not_this_machine_are_refused(server: RunningServer) -> None:
    for host, status in HOSTS.items():
        for path in ("/health", "/admin/chats"):
            got, read = exchange(server, head("Connection: close", method="GET", path=path, host=host))
            assert got in ((status,) if status == 200 else (400, 403)), (host, path, read)


def test_the_host_header_cannot_change_which_path_is_guarded(keyed: RunningServer) -> None:
    for host in ("x/health?", "127.0.0.1/health#", "127.0.0.1:1/health?"):
        got, _ = exchange(keyed, head("Connection: close", method="GET", path="/metrics", host=host))
        assert got in (400, 401), host


ORIGINS = (
    "null",
    "http://evil.example",
    "https://evil.example",
    "http://localhost:1",
    "file://",
    "chrome-extension://x",
    "",
)


def test_pages_of_other_sites_are_refused_and_no_cors_is_offered(server: RunningServer) -> None:
    for origin in ORIGINS:
        for answer in (
            server.http.get("/admin/chats", headers={"Origin": origin}),
            server.http.post("/api/chat/private", json={}, headers={"Origin": origin}),
        ):
            check_error(answer, 403, hidden=(origin,) if len(origin) > 4 else ())
    asked = {"Origin": server.base, "Access-Control-Request-Method": "POST"}
    for answer in (server.http.options("/api/chat/private", headers=asked), server.http.get("/health", headers=asked)):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    own = server.http.get("/health", headers={"Origin": server.base})
    assert own.status_code == 200
    assert own.headers["X-Content-Type-Options"] == "nosniff"


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
JSON = "Content-Type: application/json"
FRAMINGS: dict[str, bytes] = {
    "length and chunks": head(JSON, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks and length": head(JSON, "Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n",
    "on a GET": head("Content-Length: 5", "Transfer-Encoding: chunked", method="GET", path="/health") + b"0\r\n\r\n",
    "two lengths": head(JSON, "Content-Length: 5", "Content-Length: 6") + b"hello",
    "negative": head(JSON, "Content-Length: -1"),
    "plus": head(JSON, "Content-Length: +5") + b"hello",
    "not a number": head(JSON, "Content-Length: five"),
    "other coding": head(JSON, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "bad chunk": head(JSON, "Transfer-Encoding: chunked") + b"zz\r\n\r\n",
    "two hosts": head("Host: x", method="GET", path="/health"),
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "space before colon": head("X-A : 1", method="GET", path="/health"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",
    "control letters": b"GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "endless header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 3_000_000,
    "endless line": b"GET /" + b"a" * 3_000_000,
    "endless headers": b"GET /health HTTP/1.1\r\n" + b"X-A: 1\r\n" * 400_000,
}


def test_ambiguous_and_endless_requests_are_refused_and_the_connection_closed(server: RunningServer) -> None:
    """What follows a request that two readers may end at different places is never answered."""
    for name, data in FRAMINGS.items():
        status, read = exchange(server, data + SMUGGLED)
        assert status in (0, 400, 403, 431), (name, status)
        assert b"qqvl_" not in read, name
        assert read.count(b"HTTP/1.1 ") <= 1, name
    assert server.http.get("/health").status_code == 200


def test_idle_and_slow_clients_hold_nobody_up(server: RunningServer) -> None:
    partial = b'{"user_id": "1", '
    with ExitStack() as held:
        wires = [held.enter_context(connect(server)) for _ in range(600)]
        for wire in wires[:200]:
            wire.sendall(b"POST /api/chat/private HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half")
        for wire in wires[200:300]:
            wire.sendall(head(JSON, "Content-Length: 100000") + partial)
        with watching_health(server):
            for number in range(5):
                for wire in wires[200:300]:
                    wire.sendall(b" ")
                assert server.private("你好", user=f"beside{number}") is not None
    started = time.monotonic()
    assert server.http.get("/health").status_code == 200
    assert time.monotonic() - started < HEALTH_S


def test_a_body_that_takes_too_long_is_given_up(tight: RunningServer) -> None:
    started = time.monotonic()
    status, read = exchange(tight, head(JSON, "Content-Length: 1000") + b"{")
    assert status == 408
    assert b'"request_timeout"' in read
    assert time.monotonic() - started < 10


def test_a_head_that_takes_too_long_is_given_up_and_idle_connections_too(tight: RunningServer) -> None:
    """The second request on a connection has no more time than the first."""
    half = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half"
    answered = head(method="GET", path="/health")
    with ExitStack() as held:
        wires = [held.enter_context(connect(tight)) for _ in range(4)]
        wires[3].sendall(answered)
        assert wires[3].recv(65536).startswith(b"HTTP/1.1 200")
        for wire, sent in zip(wires, (b"", half, b"\r\n", half), strict=True):
            wire.sendall(sent)
        for wire in wires:
            while wire.recv(65536):
                pass
    assert tight.http.get("/health").status_code == 200


def test_a_client_that_goes_on_sending_after_its_answer_is_given_up(tight: RunningServer) -> None:
    with connect(tight) as wire:
        wire.sendall(head("Content-Length: 100000000") + b"x" * 1000)
        assert wire.recv(65536).startswith(b"HTTP/1.1 415")
        with suppress(ConnectionError):
            for _ in range(400):
                wire.sendall(b"x")
                time.sleep(0.05)
            pytest.fail("still open")


def test_wrong_methods_are_told_the_right_ones(server: RunningServer) -> None:
    for method, path, allowed in (
        ("GET", "/api/chat/private", "POST"),
        ("DELETE", "/admin/chats", "GET"),
        ("PUT", "/health", "GET"),
        ("POST", "/metrics", "GET"),
    ):
        answer = server.http.request(method, path, headers={"Content-Type": "application/json"} | server.owner)
        check_error(answer, 405)
        assert answer.headers["Allow"] == allowed


def test_ids_of_any_letters_are_found_again(server: RunningServer) -> None:
    for user in ("a/b", "a/messages", "a?b=c#d", "a%2Fb", "小 明", "x/../y"):
        server.private("你好", user=user, context_only=True)
        path = f"/admin/chats/private/{quote(user, safe='')}/messages"
        found = server.http.get(path)
        assert found.status_code == 200, user
        assert found.json()["id"] == user
        assert len(found.json()["messages"]) == 1


def test_clients_that_hang_up_early_leave_nothing_behind(server: RunningServer) -> None:
    for number in range(40):
        body = json.dumps(private_body("你好", user=f"gone{number % 4}", context_only=True)).encode()
        whole = head(JSON, f"Content-Length: {len(body)}") + body
        with connect(server) as wire:
            wire.sendall(whole[: len(whole) * number // 39])
    with httpx.Client(base_url=server.base, trust_env=False) as http:
        assert http.get("/health").status_code == 200
    assert "Traceback" not in server.log()


def test_a_wrong_method_or_path_is_told_as_such_whatever_is_sent_with_it(server: RunningServer) -> None:
    for path, status in (("/v1/models", 405), ("/health", 405), ("/v1/nothing", 404)):
        for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}):
            answer = server.http.post(path, content=b"x", headers=headers)
            assert answer.status_code == status, (path, headers)
    for method in ("PUT", "PATCH", "DELETE"):
        answer = server.http.request(method, "/v1/chat/completions", content=b"x")
        assert answer.status_code == 405, method

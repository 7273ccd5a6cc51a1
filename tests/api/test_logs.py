"""The log holds no word, picture, key or query of anybody, nothing can be forged into it, and bad input is one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.api.conftest import KEY
from tests.api.wire import connect, exchange, head, post_raw
from tests.pictures import base64_of, base64_picture, encoded, picture
from tests.running import RunningServer, group_body, private_body

SECRET = "机密暗号QZX9"


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_nothing_anybody_wrote_is_logged(server: RunningServer, keyed: RunningServer) -> None:
    drawn = base64_picture((9, 8, 7))
    quoted = {"text": SECRET, "user_nickname": SECRET, "images": [{"data": drawn}]}
    body = group_body(
        SECRET, group=SECRET, images=(drawn, SECRET), user_nickname=SECRET, user_card=SECRET, reply_to=quoted
    )
    assert server.post("group", body | {"message_id": SECRET, "group_name": SECRET}).status_code == 200
    server.post("private", private_body(SECRET, user=SECRET, images=(SECRET,), at_me=SECRET))
    post_raw(server, SECRET.encode())
    server.http.get("/health", params={"q": SECRET}, headers={"User-Agent": "QZX9", "Referer": "http://QZX9/"})
    server.http.get("/admin/chats", params={"token": "QZX9"})
    keyed.http.get("/admin/chats", params={"api_key": KEY}, headers={"Authorization": f"Bearer {KEY}"})
    keyed.http.get("/admin/chats", headers={"Authorization": "Bearer sk-wrong-QZX9", "X-Api-Key": "QZX9"})
    for log in (server.log(), keyed.log()):
        for word in (SECRET, "QZX9", SECRET.encode("unicode_escape").decode(), drawn[:40], KEY, "api_key"):
            assert word not in log


def test_client_strings_are_escaped_and_cut(server: RunningServer) -> None:
    start = len(server.log())
    forged = '%0a{"event": "forged", "level": "error"}%0d%0aforged line %1b[31m%e2%80%a8'
    with httpx.Client(base_url=server.base, trust_env=False) as http:
        assert http.get(f"/x{forged}").status_code == 404
        assert http.get("/" + "y" * 9000).status_code == 404
    exchange(server, head("Connection: close", "X-A: a\x0bb", method="GET", path="/z"))
    new = server.log()[start:]
    assert not [line for line in new.splitlines() if line.startswith(("forged", '{"event": "forged"'))]
    assert "\x1b" not in new
    assert "\u2028" not in new
    assert all(line.get("event") != "forged" for line in lines_of(new))
    assert max(map(len, new.splitlines())) < 1000


def test_bad_input_is_one_line_without_a_trace(server: RunningServer) -> None:
    corrupt = encoded(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05" + b"\x01\x12\x00\x03" * 3)
    bad: list[dict[str, Any]] = [
        {"user_id": "1"}, {"user_id": [], "content": "x"}, private_body("", images=("@@@",)),
        private_body("", images=(base64_of(b"\x89PNG\r\n\x1a\n" + bytes(50)),)),
        private_body("看", context_only=True, images=(base64_of(corrupt),)), private_body("",
    images=(base64_of(bytes(9)),)),
    ]  # fmt: skip
    start = len(server.log())
    for body in bad:
        assert server.post("private", body).status_code in (200, 400)
    for data in (b"", b"{", b"\xff", b"[" * 5000, b'{"a": NaN}'):
        assert post_raw(server, data).status_code == 400
    with connect(server) as wire:
        wire.sendall(b"nonsense\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 400")
    new = server.log()[start:].splitlines()
    assert len(new) == len(bad) + 5 + 1, new
    assert all(line.startswith("{") for line in new), new
    assert "Traceback" not in server.log()


def test_the_metrics_name_nobody(server: RunningServer) -> None:
    server.group("你好", group="label-QZX9", user="user-QZX9", context_only=True)
    server.http.get("/path-QZX9")
    server.http.request("QZX9", "/health")
    shown = server.http.get("/metrics").text
    assert "QZX9" not in shown
    assert "qqvl_http_requests_total" in shown


def test_the_line_of_a_message_says_whose_it_is_and_what_came_of_it(server: RunningServer) -> None:
    """On the screen and in the file; the name that its client gave it is the request's."""
    body = group_body(f"{SECRET} 你好", group="880011", user="880012", message_id="-880013", at_me=True)
    named = {"X-Request-ID": "qq-0123456789abcdef"}
    answer = server.http.post("/api/chat/group", json=body, headers=named)
    assert (answer.json()["request_id"], answer.headers["x-request-id"]) == ("qq-0123456789abcdef",) * 2
    forged = server.http.get("/health", headers={"X-Request-ID": "a b\tc"})
    assert forged.headers["x-request-id"].startswith("req-")
    file = server.data_dir / "logs" / "server.log"
    for log in (server.log(), file.read_text("utf-8")):
        (line,) = (line for line in lines_of(log) if line.get("message_id") == "-880013")
        told = {"chat": "group:880011", "user": "880012", "answered": True, "reason": "addressed"}
        assert line | told | {"request_id": "qq-0123456789abcdef", "status": 200} == line
        assert line["prompt_tokens"] > 0
        engine = [
            one
            for one in lines_of(log)
            if one["event"] == "模型答完" and one.get("request_id") == "qq-0123456789abcdef"
        ]
        assert engine[0]["completion_tokens"] == line["completion_tokens"]
        assert SECRET not in log
    assert file.stat().st_mode & 0o077 == 0


def test_errors_are_counted_by_their_code(server: RunningServer) -> None:
    def count(code: str) -> float:
        found = re.search(
            rf'^qqvl_errors_total{{code="{code}"}} (\S+)$', server.http.get("/metrics").text, re.MULTILINE
        )
        return float(found[1]) if found else 0

    before = count("not_found"), count("invalid_request")
    server.http.get("/path/of/nobody")
    server.post("private", {"user_id": []})
    assert (count("not_found"), count("invalid_request")) == (before[0] + 1, before[1] + 1)


def test_what_is_kept_is_for_the_owner_only(server: RunningServer) -> None:
    mode = Path(server.data_dir).stat().st_mode
    assert mode & 0o077 == 0

"""The log holds no word, picture, key or query of anybody, nothing can be forged into it, and bad input is one line."""

from __future__ import annotations

import json
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


def test_what_is_kept_is_for_the_owner_only(server: RunningServer) -> None:
    mode = Path(server.data_dir).stat().st_mode
    assert mode & 0o077 == 0

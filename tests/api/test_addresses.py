"""Addresses that are almost right, and requests that ask for the headers alone."""

from __future__ import annotations

import httpx
import pytest

from tests.api.wire import check_error, connect, head
from tests.running import RunningServer

ALMOST = {
    "/chat/completions": "/v1/chat/completions",
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "//v1/chat/completions": "/v1/chat/completions",
    "/v1//chat/completions": "/v1/chat/completions",
    "/v1/chat/completions/": "/v1/chat/completions",
    "/v1/chat/completions/chat/completions": "/v1/chat/completions",
    "/v1/chat/completions/v1/chat/completions": "/v1/chat/completions",
    "/api/v1/chat/completions": "/v1/chat/completions",
    "/openai/v1/chat/completions": "/v1/chat/completions",
    "/gateway/v1/completions": "/v1/completions",
    "/completions": "/v1/completions",
    "/responses": "/v1/responses",
    "/v1/v1/responses": "/v1/responses",
    "/messages": "/v1/messages",
    "/v1/v1/messages": "/v1/messages",
    "//v1/messages": "/v1/messages",
    "/v1/messages/v1/messages": "/v1/messages",
    "/v1/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/anthropic/v1/messages": "/v1/messages",
    "/v1/tokenize": "/tokenize",
    "/v1/api/chat/group": "/api/chat/group",
    "//api/chat/private": "/api/chat/private",
}
LOST = ("/v1", "/v1/", "/nothing", "/v1/embeddings", "/v1/threads/x/messages", "/x/chat/completions", "/" * 99)
GETS = ("/health", "/v1/models", "/v1/models/", "/v1/models/qqvl-demo", "/metrics", "/openapi.json", "/admin/chats")


@pytest.mark.parametrize(("path", "right"), ALMOST.items())
def test_a_wrong_base_url_is_told_the_right_path(bare: RunningServer, path: str, right: str) -> None:
    answer = bare.http.post(httpx.URL(bare.base, raw_path=path.encode()), json={"model": "qqvl-demo"})
    assert answer.status_code == 404
    body = answer.json()
    assert f"正确的地址是 {right}，" in body["error"]["message"]
    assert ("type" in body) == right.startswith("/v1/messages")
    assert ("status" in body) == right.startswith("/api")


def test_the_lists_of_models_are_found_as_well(bare: RunningServer) -> None:
    for path, right in (
        ("/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/models/Qwen/Qwen3-VL-8B-Instruct", "/v1/models/{name}"),
        ("/v1/health", "/health"),
    ):
        error = check_error(bare.http.get(httpx.URL(bare.base, raw_path=path.encode())), 404)
        assert f"正确的地址是 {right}，" in error["message"]


@pytest.mark.parametrize("path", LOST)
def test_what_is_nobodys_is_not_guessed_at(bare: RunningServer, path: str) -> None:
    answer = bare.http.post(httpx.URL(bare.base, raw_path=path.encode()), json={})
    assert "正确的地址" not in check_error(answer, 404)["message"]


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(bare: RunningServer, path: str) -> None:
    asked, whole = bare.http.head(path), bare.http.get(path)
    assert asked.status_code == whole.status_code == 200
    assert asked.content == b""
    # Both are counted, so that the next figures are longer.
    assert path == "/metrics" or asked.headers["content-length"] == str(len(whole.content))
    assert asked.headers["content-type"] == whole.headers["content-type"]
    assert asked.headers["x-request-id"]


def test_head_is_refused_as_get_is(bare: RunningServer, keyed: RunningServer) -> None:
    for path, status in (
        ("/assets/nothing.js", 404),
        ("/nothing", 404),
        ("/v1/models/nothing", 404),
        ("/v1/chat/completions", 405),
    ):
        answer = bare.http.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
    assert keyed.http.head("/health").status_code == 200
    assert keyed.http.head("/v1/models").status_code == 401


def test_a_connection_goes_on_after_a_head(bare: RunningServer) -> None:
    with connect(bare) as wire:
        wire.sendall(head(method="HEAD", path="/v1/models") + head("Connection: close", method="GET", path="/health"))
        read = b""
        while piece := wire.recv(65536):
            read += piece
    assert read.count(b"HTTP/1.1 200") == 2
    assert b'"object"' not in read
    assert b'"healthy"' in read

"""What holds at the doors to the bare model alike: sampling, models, early errors, callers who leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qqvl_server.errors import Busy, GenerationFailed, PromptTooLong, QqvlError
from qqvl_server.generation.port import TextDelta
from tests.api.stage import (
    CANARY,
    MODEL,
    Chat,
    Completions,
    EventVoice,
    Messages,
    Responses,
    Shelf,
    Stage,
    check_named,
    error_of,
)

pytestmark = pytest.mark.anyio
OPENAIS = (Chat, Completions, Responses)
DOORS = (*OPENAIS, Messages)
BAD_SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": "x"}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"stop": [str(number) for number in range(17)]}, "stop"),
    ({"stop": ["x" * 1001]}, "stop[0]"),
]


@pytest.mark.parametrize("door", OPENAIS)
@pytest.mark.parametrize(("fields", "param"), BAD_SAMPLING, ids=lambda value: json.dumps(value)[:60])
async def test_a_bad_wish_for_the_next_token_is_named(door: type[Stage], fields: dict[str, Any], param: str) -> None:
    await check_named(door, fields, param)


@pytest.mark.parametrize("door", DOORS)
async def test_an_unknown_model_is_404_that_names_what_is_served(door: type[Stage]) -> None:
    async with door.open() as on:
        answer = await on.post(model=CANARY)
        assert answer.status_code == 404
        error = answer.json()["error"]
        if door is Messages:
            assert error["type"] == "not_found_error"
        else:
            error = error_of(answer, 404)
            assert (error["type"], error["param"]) == ("invalid_request_error", "model")
            assert error["code"] == "model_not_found"
        for name in (MODEL, "second", "--any-model-name"):
            assert name in error["message"]
        assert CANARY not in answer.text
        assert not on.voice.asked


@pytest.mark.parametrize("door", DOORS)
async def test_any_model_name_is_taken_where_that_is_set(door: type[Stage]) -> None:
    async with door.open(any_name=True) as on:
        for name in (CANARY, MODEL, "second"):
            assert (await on.whole(model=name))["model"] == name
        assert (await on.whole(model=...))["model"] == MODEL


@pytest.mark.parametrize("door", DOORS)
async def test_nothing_is_stored_and_whoever_asks_for_it_is_told(door: type[Stage]) -> None:
    async with door.open() as on:
        for stream in (False, True):
            answer = await on.post(stream=stream, store=True)
            assert answer.status_code == 200
            assert answer.headers.get("X-Qqvl-Warning") == (None if door is Messages else "ignored: store")
            assert "X-Qqvl-Warning" not in (await on.post(stream=stream, store=False)).headers


@pytest.mark.parametrize("door", OPENAIS)
@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (PromptTooLong("内容太长：共 2000 token，上限 1000", limit=1000), 400, "invalid_request_error"),
        (Busy("忙", retry_after=3), 503, "server_error"),
        (GenerationFailed("这次没算成"), 500, "server_error"),
    ],
)
async def test_an_error_before_the_first_token_is_an_http_error_in_a_stream_too(
    door: type[Stage], failure: QqvlError, status: int, kind: str
) -> None:
    async with door.open(lambda _: [failure]) as on:
        for stream in (False, True):
            answer = await on.post(stream=stream)
            error = error_of(answer, status)
            assert error["message"].startswith(failure.message)
            assert (error["type"], error["code"]) == (kind, failure.code)
            assert ("Retry-After" in answer.headers) == (status == 503)
        assert on.voice.running == 0


@pytest.mark.parametrize("door", DOORS)
async def test_work_that_is_cancelled_ends(door: type[Stage]) -> None:
    never = asyncio.Event()
    async with door.open(lambda _: [never]) as on:
        asking = asyncio.create_task(on.post())
        while not on.voice.running:
            await asyncio.sleep(0)
        # As a server does that must end: whoever still waits is told to come back.
        asking.cancel()
        assert (await asking).status_code == 503
        assert on.voice.running == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("door", DOORS)
async def test_a_reader_who_leaves_ends_the_work(door: type[Stage], stream: bool) -> None:
    never = asyncio.Event()
    voice = EventVoice(lambda _: [TextDelta("好"), never])
    body = json.dumps(door.body | {"stream": stream}).encode()
    incoming = iter([{"type": "http.request", "body": body, "more_body": False}])
    left = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        for message in incoming:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": door.path, "raw_path": door.path.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")], "http_version": "1.1",
        "root_path": "",
    }  # fmt: skip
    working = asyncio.create_task(door.app(voice, Shelf())(scope, receive, send))
    async with asyncio.timeout(20):
        while not voice.running or (stream and len(sent) < 2):
            await asyncio.sleep(0.001)
        left.set()
        await working
    assert voice.running == 0

"""Upstreams that break off, are too busy, say no, or send us elsewhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from qqvl_server.api import server
from qqvl_server.api.admin import routes as admin
from qqvl_server.errors import (
    Away,
    Busy,
    DeadlineExceeded,
    InvalidRequest,
    PromptTooLong,
    QqvlError,
    UpstreamFailed,
)
from qqvl_server.generation.engines.upstream.voice import UpstreamVoice
from qqvl_server.generation.port import TextDelta, TextEvent
from qqvl_server.lifecycle import Lifecycle
from qqvl_server.observe.links import Links
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings
from tests.generation.upstream.stage import (
    KEY,
    Answer,
    Upstream,
    asks,
    chunk,
    events,
    heard,
    said,
    status,
    usage,
    voiced,
)

pytestmark = pytest.mark.anyio


def text_of(found: list[TextEvent]) -> str:
    return "".join(event.text for event in found if isinstance(event, TextDelta))


async def cut(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Hangs up before a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    "broken",
    [
        cut,
        status(500),
        status(503),
        status(429, retry_after="0"),
        events("[DONE]"),
        events(chunk({"role": "assistant"}), "[DONE]"),
        events("{not json"),
        events({"error": {"message": "out of memory", "code": 500}}),
    ],
)
async def test_before_the_first_word_it_is_asked_again(tmp_path: Path, broken: Answer) -> None:
    upstream = Upstream(broken, broken, events(*said("好")))
    async with upstream.serving(), voiced(tmp_path, upstream.url) as voice:
        assert text_of(await heard(voice, asks())) == "好"
    assert len(upstream.asked) == 3


@pytest.mark.parametrize(("broken", "error"), [(cut, UpstreamFailed), (status(429, retry_after="0"), Busy)])
async def test_three_tries_are_all(tmp_path: Path, broken: Answer, error: type[QqvlError]) -> None:
    async with Upstream(broken).serving() as upstream, voiced(tmp_path, upstream.url) as voice:
        with pytest.raises(error):
            await heard(voice, asks())
    assert len(upstream.asked) == 3


async def test_a_pause_that_is_asked_for_is_kept_and_never_beyond_the_deadline(tmp_path: Path) -> None:
    upstream = Upstream(status(429, retry_after="1"), events(*said("好")))
    async with upstream.serving(), voiced(tmp_path, upstream.url) as voice:
        began = time.monotonic()
        assert text_of(await heard(voice, asks())) == "好"
        assert time.monotonic() - began >= 1
        upstream.answers = [status(429, retry_after="60")]
        with pytest.raises(Busy) as told:
            await heard(voice, asks(seconds=20))
        assert told.value.retry_after == 60
    assert len(upstream.asked) == 3


@pytest.mark.parametrize(
    "torn",
    [
        events(chunk({"content": "半"}), "[DONE]"),
        events(chunk({"content": "半"}), usage(), "[DONE]"),
        events(chunk({"content": "半"})),
        events(chunk({"content": "半"}), b"data: " + b"x" * 1_100_000 + b"\n\n"),
        events(chunk({"content": "半"}), {"choices": [{"index": 7, "delta": {}}]}),
    ],
)
async def test_what_ends_without_a_reason_is_torn_and_not_repeated(tmp_path: Path, torn: Answer) -> None:
    metrics = Metrics()
    async with Upstream(torn).serving() as upstream, voiced(tmp_path, upstream.url, metrics=metrics) as voice:
        told = voice.generate(asks())
        assert await anext(told) == TextDelta("半")
        with pytest.raises(UpstreamFailed):
            await anext(told)
    assert len(upstream.asked) == 1
    name = upstream.url.removeprefix("http://").removesuffix("/v1")
    assert f'qqvl_upstream_requests_total{{outcome="torn",upstream="{name}"}} 1.0' in metrics.render().decode()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (status(400, {"error": {"message": f"bad {KEY} field"}}), InvalidRequest, "bad ****** field"),
        (status(422, {"detail": [{"msg": "x"}]}), InvalidRequest, "x"),
        (
            status(400, {"error": {"message": "maximum context length is 4096 tokens"}}),
            PromptTooLong,
            "4096",
        ),
        (status(401, {"error": {"message": KEY}}), UpstreamFailed, "upstream_key"),
        (status(403), UpstreamFailed, "upstream_key"),
        (status(404, {"error": {"message": "no such model"}}), UpstreamFailed, "upstream_model"),
        (status(302, location="http://127.0.0.1:9/v1"), UpstreamFailed, "upstream_url"),
    ],
)
async def test_a_no_is_final_and_told_without_our_key(
    tmp_path: Path, answer: Answer, error: type[QqvlError], words: str
) -> None:
    async with Upstream(answer).serving() as upstream, voiced(tmp_path, upstream.url) as voice:
        with pytest.raises(error) as told:
            await heard(voice, asks())
    assert words in told.value.message
    assert KEY not in told.value.message
    assert len(upstream.asked) == 1


async def test_who_hangs_up_hangs_up_upstream(tmp_path: Path) -> None:
    never = asyncio.Event()
    upstream = Upstream(events(chunk({"content": "很"}), pause=never))
    async with upstream.serving(), voiced(tmp_path, upstream.url) as voice:
        async with aclosing(voice.generate(asks())) as told:
            assert await anext(told) == TextDelta("很")
        await asyncio.wait_for(upstream.dropped.wait(), 5)


async def test_the_deadline_holds_upstream_too(tmp_path: Path) -> None:
    never = asyncio.Event()
    upstream = Upstream(events(pause=never))
    async with upstream.serving(), voiced(tmp_path, upstream.url) as voice:
        with pytest.raises(DeadlineExceeded):
            await heard(voice, asks(seconds=0.5))
        await asyncio.wait_for(upstream.dropped.wait(), 5)


async def test_nothing_of_the_environment_nor_of_the_answers_before_goes_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def with_cookie(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await events(*said("好"))(request, body)

    async def cookies(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        response = web.json_response({"error": {"message": "busy"}}, status=503)
        response.set_cookie("sticky", "one")
        return response

    upstream = Upstream(cookies, with_cookie)
    async with upstream.serving(), voiced(tmp_path, upstream.url) as voice:
        assert text_of(await heard(voice, asks())) == "好"
    assert "Cookie" not in upstream.headers[-1]
    assert upstream.headers[-1]["Authorization"] == f"Bearer {KEY}"


async def test_a_proxy_is_taken_from_the_setting(tmp_path: Path) -> None:
    """A proxy is asked for the whole address; this one answers itself."""
    async with (
        Upstream(events(*said("好"))).serving() as proxy,
        voiced(tmp_path, "http://no.such.host.invalid:8000/v1", upstream_proxy=proxy.url.removesuffix("/v1")) as voice,
    ):
        assert text_of(await heard(voice, asks())) == "好"
    assert proxy.headers[0]["Host"] == "no.such.host.invalid:8000"


class Working:
    is_draining = False


async def health_of(voice: UpstreamVoice) -> tuple[int, str, str]:
    """What the admin's door says of it."""
    life = Lifecycle("upstream")
    life.voice = voice
    service: Any = Working()
    doors = admin.build(lambda: life.status(service, None), Metrics(), Links())
    house = httpx.ASGITransport(server.build(doors, ServerSettings(), Metrics()))
    async with httpx.AsyncClient(transport=house, base_url="http://127.0.0.1") as http:
        answer = await http.get("/health")
    return answer.status_code, answer.json()["status"], answer.json()["device"]


async def test_one_that_went_is_away_and_comes_back(tmp_path: Path) -> None:
    upstream = Upstream(events(*said("好")))
    async with upstream.serving(), voiced(tmp_path, upstream.url) as voice:
        assert not voice.status().away
        upstream.models = status(503)
        async with asyncio.timeout(60):
            while not voice.status().away:
                await asyncio.sleep(0.05)
        assert voice.status().alive
        assert await health_of(voice) == (503, "away", "upstream")
        with pytest.raises(Away):
            await heard(voice, asks())
        upstream.models = None
        async with asyncio.timeout(60):
            while voice.status().away:
                await asyncio.sleep(0.05)
        assert await health_of(voice) == (200, "healthy", "upstream")
        assert text_of(await heard(voice, asks())) == "好"

"""Event streams without a door: who ends when, and what proxies see meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from qqvl_server.api.sse import EventStream, begun
from qqvl_server.errors import Busy, GenerationFailed, QqvlError

pytestmark = pytest.mark.anyio


class Line:
    """A client at the other end: what it was sent, and whether it hangs up."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.heard = asyncio.Condition()
        self.gone = asyncio.Event()
        self.stuck = False

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        async with self.heard:
            self.heard.notify_all()
        if self.stuck:
            await asyncio.Event().wait()

    async def until(self, text: str) -> None:
        async with self.heard:
            await self.heard.wait_for(lambda: text in self.text)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


class Source:
    """Chunks, the first at once, the next when ``go`` is set; knows whether it was closed."""

    def __init__(self, last: str | Exception = "b") -> None:
        self.go = asyncio.Event()
        self.closed = False
        self._last = last

    async def chunks(self) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await self.go.wait()
            if isinstance(self._last, Exception):
                raise self._last
            yield self._last
        finally:
            self.closed = True


def failure(error: QqvlError) -> str:
    return f"<{error.code}>"


async def stream_of(source: Source, ping_s: float = 60) -> EventStream:
    return EventStream(await begun(source.chunks()), failure, ping_s)


async def test_silence_is_broken_by_comments() -> None:
    source, line = Source(), Line()
    running = asyncio.create_task((await stream_of(source, 0.01))({}, line.receive, line.send))
    await line.until(": ping\n\n: ping\n\n")
    source.go.set()
    await running
    assert line.text.startswith("a: ping\n\n")
    assert line.text.endswith("b")
    assert not line.sent[-1]["more_body"]
    assert source.closed


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_reader_that_leaves_closes_the_source(stuck: bool) -> None:
    source, line = Source(), Line()
    stream = await stream_of(source)
    running = asyncio.create_task(stream({}, line.receive, line.send))
    await line.until("a")
    line.stuck = stuck
    source.go.set()
    if stuck:
        await line.until("b")
    line.gone.set()
    await running
    assert source.closed


async def test_a_stop_of_the_server_is_told_as_the_last_event() -> None:
    source, line = Source(), Line()
    running = asyncio.create_task((await stream_of(source))({}, line.receive, line.send))
    await line.until("a")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert line.text == "a<shutting_down>"
    assert not line.sent[-1]["more_body"]
    assert source.closed


@pytest.mark.parametrize(
    ("error", "told"), [(GenerationFailed("x"), "<generation_failed>"), (KeyError("x"), "<internal_error>")]
)
async def test_an_error_on_the_way_is_the_last_event(error: Exception, told: str) -> None:
    source, line = Source(error), Line()
    source.go.set()
    await (await stream_of(source))({}, line.receive, line.send)
    assert line.text == "a" + told
    assert not line.sent[-1]["more_body"]


async def test_an_error_in_place_of_the_first_chunk_is_raised() -> None:
    source = Source(Busy("x"))
    source.go.set()
    chunks = source.chunks()
    await anext(chunks)
    with pytest.raises(Busy):
        await begun(chunks)
    assert source.closed

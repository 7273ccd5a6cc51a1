"""The OpenAI door on a voice that says what a test tells it to: the real app and its guard, no model, no process."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from qqvl_server import errors
from qqvl_server.api import faults
from qqvl_server.api.desk import Desk
from qqvl_server.api.openai import routes
from qqvl_server.errors import ImageRejected, QqvlError
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    TextDelta,
    TextEvent,
    Usage,
    VoiceStatus,
)
from qqvl_server.media.image import ImageRef

Said = Iterable[TextEvent | QqvlError | asyncio.Event]
Script = Callable[[GenerationRequest], str | Said]
MODEL = "demo/model"


class EventVoice:
    """Says what ``script`` returns: a text (letter by letter), or events; an ``asyncio.Event`` is waited for."""

    def __init__(self, script: Script = lambda _: "好的", context_tokens: int = 1000) -> None:
        self._script = script
        self.context_tokens = context_tokens
        self.asked: list[GenerationRequest] = []
        self.running = 0

    def status(self) -> VoiceStatus:
        return VoiceStatus(True, True, True, "cpu")

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        return tuple(1 for _ in messages)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        self.asked.append(request)
        self.running += 1
        try:
            said = self._script(request)
            for event in spoken(said, request.choices) if isinstance(said, str) else said:
                await asyncio.sleep(0)
                if isinstance(event, asyncio.Event):
                    await event.wait()
                elif isinstance(event, QqvlError):
                    raise event
                else:
                    yield event
        finally:
            self.running -= 1

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        return tuple(0.0 for _ in candidates)

    async def warm(self, request: GenerationRequest) -> None:
        pass

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        self.asked.append(request)
        return tuple(range(len(request.raw))) if request.raw is not None else (7, 8, 9)

    async def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + number) for number in ids)

    async def aclose(self) -> None:
        pass


def spoken(text: str, choices: int = 1, reason: FinishReason = FinishReason.STOP) -> list[TextEvent]:
    events: list[TextEvent] = [TextDelta(letter, choice) for letter in text for choice in range(choices)]
    return events + [Finished(reason, Usage(5, len(text), 2), choice) for choice in range(choices)]


class Shelf:
    """Takes any address but one with ``bad`` in it, and no address where only base64 will do."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def from_url(self, url: str) -> ImageRef:
        self.asked.append(url)
        await asyncio.sleep(0)
        if "bad" in url:
            raise ImageRejected("图片已损坏，打不开")
        return ImageRef(hashlib.sha256(url.encode()).hexdigest(), "png", 64, 64, (0,), len(url))

    async def from_base64(self, data: str) -> ImageRef:
        if "://" in data:
            raise ImageRejected("图片不是有效的 base64")
        return await self.from_url(data)


class Stage:
    """``post`` speaks to the door; ``voice`` and ``shelf`` tell what reached them."""

    def __init__(self, voice: EventVoice, http: httpx.AsyncClient, shelf: Shelf) -> None:
        self.voice = voice
        self.http = http
        self.shelf = shelf

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def chat(self, **fields: Any) -> httpx.Response:
        return await self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "你好"}], **fields})

    async def request(self, **fields: Any) -> GenerationRequest:
        """What a chat with these fields came to at the voice."""
        answer = await self.chat(**fields)
        assert answer.status_code == 200, answer.text
        return self.voice.asked[-1]


def app_of(voice: EventVoice, shelf: Shelf) -> ASGIApp:
    desk = Desk(lambda: voice, shelf, (MODEL, "second"), 1_700_000_000, 30, 4)
    app = FastAPI()
    app.include_router(routes.build(desk))
    app.add_exception_handler(errors.QqvlError, faults.on_error)
    app.add_exception_handler(HTTPException, faults.on_router_error)
    return app


@asynccontextmanager
async def stage(script: Script = lambda _: "好的", context_tokens: int = 1000) -> AsyncIterator[Stage]:
    voice, shelf = EventVoice(script, context_tokens), Shelf()
    transport = httpx.ASGITransport(app_of(voice, shelf), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield Stage(voice, http, shelf)


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a finished stream; its last line is ``[DONE]``."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = answer.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""], answer.text[-300:]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def error_of(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert answer.status_code in statuses, (answer.status_code, answer.text[:500])
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error

"""The doors to the bare model on a voice that says what a test tells it to: the real routes, no model, no process."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, ClassVar, Self

import httpx
from openai.types.responses import Response as SdkResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from qqvl_server.api import server
from qqvl_server.api.anthropic import routes as anthropic
from qqvl_server.api.guard import Guard
from qqvl_server.api.model_access import ModelAccess
from qqvl_server.api.openai import routes as openai
from qqvl_server.api.responses import routes as responses
from qqvl_server.errors import ImageRejected, QqvlError
from qqvl_server.generation.constraints.grammar import constraint
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
from qqvl_server.generation.replies.speech import Speech
from qqvl_server.media.image import ImageRef
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings

Said = Iterable[TextEvent | QqvlError | asyncio.Event]
Script = Callable[[GenerationRequest], str | Said]
MODEL = "demo/model"
# Whatever a caller says that is not fit to be repeated.
CANARY = "CANARY"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>'
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class EventVoice:
    """Says what ``script`` returns: a text (letter by letter), or events; an ``asyncio.Event`` is waited for.

    What stands in its texts is read, and what is asked of them looked at, as the local voice does it.
    """

    def __init__(self, script: Script = lambda _: "好的", context_tokens: int = 1000) -> None:
        self._script = script
        self.context_tokens = context_tokens
        self.asked: list[GenerationRequest] = []
        self.running = 0

    def status(self) -> VoiceStatus:
        return VoiceStatus(True, True, True, "cpu")

    @property
    def shares_steps(self) -> bool:
        return True

    def take_seconds(self, owner: str) -> float:
        return 0.0

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        return tuple(1 for _ in messages)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        self.asked.append(request)
        self.running += 1
        try:
            constraint(request)
            speeches = [Speech(request, choice) for choice in range(request.choices)]
            said = self._script(request)
            for event in spoken(said, request.choices) if isinstance(said, str) else said:
                await asyncio.sleep(0)
                if isinstance(event, asyncio.Event):
                    await event.wait()
                elif isinstance(event, QqvlError):
                    raise event
                elif request.raw is not None:
                    yield event
                else:
                    told = speeches[event.choice]
                    match event:
                        case TextDelta(text):
                            for read in told.push(text, event.tokens):
                                yield read
                        case Finished():
                            for read in told.finish():
                                yield read
                            yield event
                        case _:
                            yield event
        finally:
            self.running -= 1

    def given_up(self, request: GenerationRequest) -> tuple[str, ...]:
        grammar = constraint(request)
        return grammar.given_up if grammar else ()

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        return tuple(0.0 for _ in candidates)

    async def warm(self, request: GenerationRequest) -> None:
        pass

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def length(self, request: GenerationRequest) -> int:
        return len(await self.tokenize(request))

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
    """A door; ``voice`` and ``shelf`` tell what reached them."""

    routes: ClassVar[ModuleType]
    path: ClassVar[str]
    # The least that it takes.
    body: ClassVar[dict[str, Any]]

    def __init__(self, voice: EventVoice, shelf: Shelf, http: httpx.AsyncClient) -> None:
        self.voice = voice
        self.shelf = shelf
        self.http = http

    @classmethod
    @asynccontextmanager
    async def open(
        cls, script: Script = lambda _: "好的", context_tokens: int = 1000, *, any_name: bool = False
    ) -> AsyncIterator[Self]:
        voice, shelf = EventVoice(script, context_tokens), Shelf()
        transport = httpx.ASGITransport(cls.app(voice, shelf, any_name=any_name))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield cls(voice, shelf, http)

    @classmethod
    def app(cls, voice: EventVoice, shelf: Shelf, *, any_name: bool = False) -> Guard:
        """The one door in a house of its own, behind its guard."""
        access = ModelAccess(lambda: voice, shelf, (MODEL, "second"), 1_700_000_000, 30, 4, any_name)
        return server.build((cls.routes.build(access),), ServerSettings(), Metrics())

    async def post(self, path: str = "", /, **fields: Any) -> httpx.Response:
        """``...`` leaves a field out."""
        body = {name: value for name, value in (self.body | fields).items() if value is not ...}
        return await self.http.post(path or self.path, json=body)

    async def whole(self, **fields: Any) -> dict[str, Any]:
        answer = await self.post(**fields)
        assert answer.status_code == 200, answer.text
        value: dict[str, Any] = answer.json()
        return value

    async def asked(self, **fields: Any) -> GenerationRequest:
        """What a request with these fields came to at the voice."""
        await self.whole(**fields)
        return self.voice.asked[-1]


class Chat(Stage):
    routes: ClassVar[ModuleType] = openai
    path = "/v1/chat/completions"
    body: ClassVar[dict[str, Any]] = {"messages": [{"role": "user", "content": "你好"}]}


class Completions(Stage):
    routes: ClassVar[ModuleType] = openai
    path = "/v1/completions"
    body: ClassVar[dict[str, Any]] = {"prompt": "你好"}


class Responses(Stage):
    routes: ClassVar[ModuleType] = responses
    path = "/v1/responses"
    body: ClassVar[dict[str, Any]] = {"input": "你好"}

    async def whole(self, **fields: Any) -> dict[str, Any]:
        """The answer, which OpenAI's own model of it takes without a complaint."""
        answer = await super().whole(**fields)
        SdkResponse.model_validate_json(json.dumps(answer))
        return answer

    async def events(self, **fields: Any) -> list[dict[str, Any]]:
        """The events of a stream, each named, numbered, and as OpenAI's own model of it."""
        events = named_events(await self.post(stream=True, **fields))
        for number, event in enumerate(events):
            _EVENT.validate_python(event)
            assert event["sequence_number"] == number
        return events


class Messages(Stage):
    routes: ClassVar[ModuleType] = anthropic
    path = "/v1/messages"
    body: ClassVar[dict[str, Any]] = {"model": MODEL, "max_tokens": 64, **Chat.body}

    async def events(self, **fields: Any) -> list[dict[str, Any]]:
        return named_events(await self.post(stream=True, **fields))


def named_events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a finished stream, each of the type it is named."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        head, _, data = block.partition("\ndata: ")
        events.append(json.loads(data))
        assert head == f"event: {events[-1]['type']}"
    return events


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


async def check_named(door: type[Stage], fields: dict[str, Any], param: str) -> None:
    """A bad field is named in OpenAI's shape, whole and streamed, without a word of it, before anything runs."""
    async with door.open() as on:
        for stream in (False, True):
            answer = await on.post(**{"stream": stream, **fields})
            error = error_of(answer, 400)
            assert error["param"] == param, error
            assert error["type"] == "invalid_request_error"
            assert CANARY not in answer.text
        assert not on.voice.asked

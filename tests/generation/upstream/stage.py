"""An upstream that does what a test tells it to, on loopback: real HTTP, wrong manners; and a voice that asks it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from qqvl_server.generation.engines.upstream import building
from qqvl_server.generation.engines.upstream.voice import UpstreamVoice
from qqvl_server.generation.port import ChatMessage, GenerationRequest, Sampling, TextEvent, TextPart, Urgency
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import Settings

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
KEY = "sk-of-ours-0123456789"
SECRET = "the cluster's"


class Upstream:
    """``answers`` are taken in order, the last again and again. ``asked`` are the calls that a voice made of its own
    accord, without those by which it finds out what this is; ``dropped`` is set when a caller hangs up."""

    def __init__(self, *answers: Answer, owner: str = "vllm", models: Answer | None = None, **entry: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.tokenized: list[dict[str, Any]] = []
        self.dropped = asyncio.Event()
        self.models = models
        self.logprobs = True
        self.sees = True
        self.tokenizes = False
        self._entry = {"id": "their-model", "owned_by": owner, "max_model_len": 4096, **entry}
        self.url = ""

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Upstream]:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._chat)
        app.router.add_post("/tokenize", self._tokenize)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"{site.name}/v1" if port else f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if self.models is not None:
            return await self.models(request, {})
        return web.json_response({"object": "list", "data": [self._entry]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("max_tokens") == 1 and not body.get("stream"):
            return self._probed(body)
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            return await answer(request, body)
        except (ConnectionError, asyncio.CancelledError):
            self.dropped.set()
            raise

    def _probed(self, body: dict[str, Any]) -> web.StreamResponse:
        if not self.sees and "image_url" in json.dumps(body):
            return web.json_response({"error": {"message": "no images"}}, status=400)
        entry = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.1}]}
        logprobs = {"content": [entry]} if self.logprobs and body.get("logprobs") else None
        return web.json_response({"choices": [{"message": {"content": "a"}, "logprobs": logprobs}]})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        """A letter is a token, a picture fifty, a frame five."""
        body = await request.json()
        self.tokenized.append(body)
        if not self.tokenizes:
            return web.json_response({"detail": "Not Found"}, status=404)
        count = len(body.get("prompt", ""))
        for message in body.get("messages", []):
            parts = message["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            count += 5 + sum(len(part["text"]) if part["type"] == "text" else 50 for part in parts)
        return web.json_response({"count": count, "max_model_len": 4096, "tokens": [1] * count})


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta or {}, "finish_reason": finish, **more}]}


def usage(prompt: int = 7, completion: int = 3, cached: int = 5) -> dict[str, Any]:
    told = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [], "usage": told | {"prompt_tokens_details": {"cached_tokens": cached}}}


def said(text: str, finish: str = "stop") -> list[Any]:
    return [*(chunk({"content": letter}) for letter in text), chunk(finish=finish), usage(), "[DONE]"]


def events(*items: Any, pause: asyncio.Event | None = None) -> Answer:
    """Streams objects as events, texts as the data of one, bytes as they are; then waits for ``pause`` and ends."""

    async def answer(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for item in items:
            data = item if isinstance(item, bytes) else f"data: {_text(item)}\n\n".encode()
            await response.write(data)
        if pause is not None:
            await pause.wait()
        return response

    return answer


def _text(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def status(code: int, body: Any = None, **headers: str) -> Answer:
    async def answer(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body or {"error": {"message": "没有"}}, status=code, headers=named)

    return answer


@asynccontextmanager
async def voiced(
    folder: Path, *urls: str, metrics: Metrics | None = None, library: ImageLibrary | None = None,
    tokenizer: Path | None = None, **settings: Any,
) -> AsyncIterator[UpstreamVoice]:  # fmt: skip
    """A voice that has looked at its upstreams and goes on watching them."""
    given = {"upstream_url": list(urls), "upstream_key": KEY, **settings}
    own = library or ImageLibrary(folder / "pictures", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024))
    voice = await asyncio.to_thread(
        building.build, Settings.model_validate({"upstream": given}), own, metrics or Metrics(), SECRET, tokenizer,
        look_every_s=0.2,
    )  # fmt: skip
    watching = asyncio.create_task(voice.watch())
    try:
        yield voice
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await voice.aclose()
        if library is None:
            own.close()


def asks(*texts: str, urgency: Urgency = Urgency.API, seconds: float = 120, **more: Any) -> GenerationRequest:
    """A request whose messages are the user's and the assistant's in turns; ``sampling`` by its fields."""
    roles = ("user", "assistant")
    fields = more.pop("sampling", {})
    told = tuple(ChatMessage(roles[n % 2], (TextPart(text),)) for n, text in enumerate(texts or ("你好",)))  # type: ignore[arg-type]
    given = {"messages": told, "owner": "api:someone", "urgency": urgency, **more}
    return GenerationRequest(
        uuid.uuid4().hex, sampling=Sampling(**{"max_new_tokens": 16, **fields}), deadline=time.monotonic() + seconds,
        **given,
    )  # fmt: skip


async def heard(voice: UpstreamVoice, request: GenerationRequest) -> list[TextEvent]:
    async with aclosing(voice.generate(request)) as told:
        return [event async for event in told]

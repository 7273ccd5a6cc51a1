"""Anthropic's protocol: POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qqvl_server.api import sse
from qqvl_server.api.anthropic import render, translate
from qqvl_server.api.anthropic.reply import MessageFold, MessageReply, Thoughts
from qqvl_server.api.anthropic.schema import MessagesBody, PromptBody, unsupported
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door
from qqvl_server.api.faults import request_id_of
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import Caller, ModelAccess, served_name
from qqvl_server.api.validation import validated
from qqvl_server.generation.port import GenerationRequest, Voice
from qqvl_server.keys import Scope


def build(access: ModelAccess) -> Door:
    router = APIRouter(prefix="/v1/messages", tags=["anthropic"])

    @router.post("", openapi_extra=request_body(MessagesBody))
    async def messages(request: Request) -> Response:
        raw = await read_object(request)
        body, left_out = validated(MessagesBody, raw), unsupported(raw)
        answer = _message(access, body, _caller(request), request_id_of(request), left_out)
        return await sse.while_connected(request, answer)

    @router.post("/count_tokens", openapi_extra=request_body(PromptBody))
    async def count_tokens(request: Request) -> Response:
        raw = await read_object(request)
        body, left_out = validated(PromptBody, raw), unsupported(raw)
        served_name(access, body.model)
        voice = access.voice()
        prompt = await translate.prompt(body, access, _caller(request), request_id_of(request), left_out)
        return JSONResponse({"input_tokens": await voice.length(prompt)}, headers=left_out.headers())

    return Door("anthropic", ("/v1/messages",), Scope.OPENAI, router, render.error_body)


async def _message(
    access: ModelAccess, body: MessagesBody, caller: Caller, request_id: str, left_out: LeftOut
) -> Response:
    model = served_name(access, body.model)
    voice = access.voice()
    asked, thoughts = await translate.message(body, access, caller, request_id, left_out)
    if body.stream:
        chunks = await sse.begun(_stream(voice, asked, thoughts, model))
        left_out.not_enforced(voice, asked)
        headers = {"request-id": request_id, **left_out.headers()}
        return sse.EventStream(chunks, functools.partial(render.failure, request_id=request_id), headers=headers)
    fold = MessageFold(model)
    reply = MessageReply(thoughts)
    async with aclosing(voice.generate(asked)) as events:
        async for event in events:
            for told in reply.take(event):
                fold.add(told)
    left_out.not_enforced(voice, asked)
    return JSONResponse(fold.whole(), headers={"request-id": request_id, **left_out.headers()})


async def _stream(voice: Voice, asked: GenerationRequest, thoughts: Thoughts, model: str) -> AsyncGenerator[str, None]:
    """Events in the order of Anthropic's documentation; none before the first token."""
    reply = MessageReply(thoughts)
    # The first event already tells the prompt's length, which the voice tells in its last; counted beside the model.
    counting = asyncio.create_task(voice.length(asked))
    opened = False
    try:
        async with aclosing(voice.generate(asked)) as events:
            async for event in events:
                if not opened:
                    opened = True
                    start = render.message(model, await counting)
                    yield render.event({"type": "message_start", "message": start})
                for told in reply.take(event):
                    yield render.event(told)
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def _caller(request: Request) -> Caller:
    caller = request.scope.get("qqvl.caller", Caller("open"))
    assert isinstance(caller, Caller)
    return caller

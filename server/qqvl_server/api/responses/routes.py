"""OpenAI's Responses in their common subset: POST /v1/responses with texts, pictures, functions and streams.

Nothing is kept, so that nothing can be asked for afterwards: callers send the whole conversation each time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qqvl_server.api import error_bodies, sse
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door
from qqvl_server.api.faults import request_id_of
from qqvl_server.api.model_access import Caller, ModelAccess, served_name
from qqvl_server.api.responses import render, translate
from qqvl_server.api.responses.reply import ResponseReply
from qqvl_server.api.responses.schema import ResponseBody, refuse_unsupported
from qqvl_server.api.validation import validated
from qqvl_server.generation.port import GenerationRequest, Voice
from qqvl_server.keys import Scope


def build(access: ModelAccess) -> Door:
    router = APIRouter(tags=["openai"])

    @router.post("/v1/responses", openapi_extra=request_body(ResponseBody))
    async def responses(request: Request) -> Response:
        raw = await read_object(request)
        refuse_unsupported(raw)
        body = validated(ResponseBody, raw)
        caller = request.scope.get("qqvl.caller", Caller("open"))
        return await sse.while_connected(request, _respond(access, body, caller, request_id_of(request)))

    return Door("openai", ("/v1/responses",), Scope.OPENAI, router, error_bodies.openai)


async def _respond(access: ModelAccess, body: ResponseBody, caller: Caller, request_id: str) -> Response:
    model = served_name(access, body.model)
    voice = access.voice()
    left_out = body.unheeded()
    asked = await translate.response(body, access, caller, request_id, voice.context_tokens, left_out)
    reply = ResponseReply(render.frame(body, model))
    events = _events(voice, asked, reply)
    if body.stream:
        begun = await sse.begun(_written(events))
        left_out.not_enforced(voice, asked)
        return sse.EventStream(begun, reply.failure, headers=left_out.headers())
    async with aclosing(events):
        async for _ in events:
            pass
    left_out.not_enforced(voice, asked)
    return JSONResponse(reply.response, headers=left_out.headers())


async def _written(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            yield render.event(event)


async def _events(voice: Voice, asked: GenerationRequest, reply: ResponseReply) -> AsyncGenerator[dict[str, Any], None]:
    """Events in the order of OpenAI's documentation; none before the first token."""
    opened = False
    async with aclosing(voice.generate(asked)) as heard:
        async for event in heard:
            if not opened:
                opened = True
                for told in reply.opening():
                    yield told
            for told in reply.take(event):
                yield told

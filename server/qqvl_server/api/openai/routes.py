"""OpenAI's protocol: POST /v1/chat/completions, /v1/completions, GET /v1/models, and vLLM's tokenizer routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qqvl_server.api import error_bodies, sse
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door
from qqvl_server.api.faults import request_id_of
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import Caller, ModelAccess, served_name
from qqvl_server.api.openai import chat, completions, models, render, tokens, translate
from qqvl_server.api.openai.completions import Completion
from qqvl_server.api.openai.schema import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Generate,
    TokenizeBody,
    refuse_unsupported,
)
from qqvl_server.api.openai.translate import Asker
from qqvl_server.api.validation import validated
from qqvl_server.keys import Scope


def build(access: ModelAccess) -> Door:
    router = APIRouter(tags=["openai"])
    models.add_to(router, access)

    @router.post("/v1/chat/completions", openapi_extra=request_body(ChatBody))
    async def chat_completions(request: Request) -> Response:
        raw = await read_object(request)
        refuse_unsupported(raw)
        body = validated(ChatBody, raw)
        return await sse.while_connected(request, _chat(access, body, _asker(access, request), _unheeded(raw)))

    @router.post("/v1/completions", openapi_extra=request_body(CompletionBody))
    async def text_completions(request: Request) -> Response:
        raw = await read_object(request)
        refuse_unsupported(raw, "echo")
        body = validated(CompletionBody, raw)
        return await sse.while_connected(request, _complete(access, body, _asker(access, request), _unheeded(raw)))

    @router.post("/tokenize", openapi_extra=request_body(TokenizeBody))
    async def tokenize(request: Request) -> Response:
        raw = await read_object(request)
        refuse_unsupported(raw)
        body, left_out = validated(TokenizeBody, raw), LeftOut()
        told = await tokens.tokenize(body, access, _asker(access, request), left_out)
        return JSONResponse(told, headers=left_out.headers())

    @router.post("/detokenize", openapi_extra=request_body(DetokenizeBody))
    async def detokenize(request: Request) -> Response:
        return JSONResponse(await tokens.detokenize(validated(DetokenizeBody, await read_object(request)), access))

    return Door("openai", ("/v1", "/tokenize", "/detokenize"), Scope.OPENAI, router, error_bodies.openai)


async def _chat(access: ModelAccess, body: ChatBody, who: Asker, left_out: LeftOut) -> Response:
    name = served_name(access, body.model)
    voice = access.voice()
    asked = await translate.chat(body, access, who, voice.context_tokens, left_out)
    envelope, thoughts = render.chat_envelope(name), body.include_reasoning is not False
    if not body.stream:
        told = await chat.whole(voice, asked, envelope, thoughts=thoughts)
        left_out.not_enforced(voice, asked)
        return JSONResponse(told, headers=left_out.headers())
    begun = await sse.begun(chat.stream(voice, asked, envelope, tell_usage=_tells_usage(body), thoughts=thoughts))
    left_out.not_enforced(voice, asked)
    return sse.EventStream(begun, render.failure, headers=left_out.headers())


async def _complete(access: ModelAccess, body: CompletionBody, who: Asker, left_out: LeftOut) -> Response:
    name = served_name(access, body.model)
    voice, asked = access.voice(), completions.read(body, who)
    completion = Completion(voice, asked, echo=bool(body.echo))
    envelope = render.text_envelope(name)
    if not body.stream:
        told = await completions.whole(completion, envelope)
        left_out.not_enforced(voice, asked[0])
        return JSONResponse(told, headers=left_out.headers())
    begun = await sse.begun(completions.stream(completion, envelope, tell_usage=_tells_usage(body)))
    left_out.not_enforced(voice, asked[0])
    return sse.EventStream(begun, render.failure, headers=left_out.headers())


def _unheeded(raw: Mapping[str, Any]) -> LeftOut:
    left_out = LeftOut()
    if raw.get("store"):
        left_out.add("store", "ignored")
    return left_out


def _tells_usage(body: Generate) -> bool:
    return bool(body.stream_options and body.stream_options.include_usage)


def _asker(access: ModelAccess, request: Request) -> Asker:
    caller = request.scope.get("qqvl.caller", Caller("open"))
    return translate.asker(access, request_id_of(request), caller.name)

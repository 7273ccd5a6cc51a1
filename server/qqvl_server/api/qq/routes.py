"""POST /api/chat/group and /api/chat/private, and what QQ says of messages later: recalled, sent."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from qqvl_server.api import error_bodies, sse
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door
from qqvl_server.api.facts import facts_of
from qqvl_server.api.faults import request_id_of
from qqvl_server.api.qq import noting, translate
from qqvl_server.api.qq.schema import (
    ChatMessageBody,
    GroupMessage,
    GroupRecall,
    GroupReply,
    GroupReport,
    GroupSent,
    PrivateMessage,
    PrivateRecall,
    PrivateReply,
    PrivateReport,
    PrivateSent,
    RecallReply,
    SentReply,
)
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming
from qqvl_server.chat.outgoing.messages import Drawn, Record, Words
from qqvl_server.chat.painting import Painting
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.speaking import Sent
from qqvl_server.errors import InvalidRequest, QqvlError
from qqvl_server.keys import Scope

M = TypeVar("M", bound=ChatMessageBody | GroupReport | PrivateReport)
B = TypeVar("B", bound=BaseModel)
_Told = Callable[[Answer, Sequence[Words | Drawn | Record], str], BaseModel]


def build(service: ChatService) -> Door:
    router = APIRouter(prefix="/api/chat", tags=["qq"])
    painting = Painting()
    if service.preferences.defaults.draw_chars:
        painting.look()

    @router.post("/group", openapi_extra=request_body(GroupMessage), response_model=GroupReply)
    async def group(request: Request) -> Response:
        body = await _read(GroupMessage, request)
        incoming = translate.group_to_incoming(body, request_id_of(request))
        told = translate.answer_to_group
        return await _answered(service, painting, request, incoming, body.group_name, told, is_streamed=body.stream)

    @router.post("/private", openapi_extra=request_body(PrivateMessage), response_model=PrivateReply)
    async def private(request: Request) -> Response:
        body = await _read(PrivateMessage, request)
        incoming = translate.private_to_incoming(body, request_id_of(request))
        told = translate.answer_to_private
        return await _answered(service, painting, request, incoming, body.user_nickname, told, is_streamed=body.stream)

    @router.post("/group/recall", openapi_extra=request_body(GroupRecall), response_model=RecallReply)
    async def group_recall(request: Request) -> Response:
        body = await _read(GroupRecall, request)
        return _told(
            RecallReply(withdraw=await service.recall(_noted(request, _group(body.group_id), body), body.message_id))
        )

    @router.post("/private/recall", openapi_extra=request_body(PrivateRecall), response_model=RecallReply)
    async def private_recall(request: Request) -> Response:
        body = await _read(PrivateRecall, request)
        return _told(
            RecallReply(withdraw=await service.recall(_noted(request, _private(body.user_id), body), body.message_id))
        )

    @router.post("/group/sent", openapi_extra=request_body(GroupSent), response_model=SentReply)
    async def group_sent(request: Request) -> Response:
        body = await _read(GroupSent, request)
        withdraw = await service.sent(_noted(request, _group(body.group_id), body), body.message_id, body.sent_ids)
        return _told(SentReply(withdraw=withdraw or None))

    @router.post("/private/sent", openapi_extra=request_body(PrivateSent), response_model=SentReply)
    async def private_sent(request: Request) -> Response:
        body = await _read(PrivateSent, request)
        withdraw = await service.sent(_noted(request, _private(body.user_id), body), body.message_id, body.sent_ids)
        return _told(SentReply(withdraw=withdraw or None))

    # One relay brings all chats: a busy one is not to spend what the others may ask.
    return Door("qq", ("/api/chat",), Scope.QQ, router, error_bodies.own, counts_by_itself=True)


async def _answered(
    service: ChatService,
    painting: Painting,
    request: Request,
    incoming: Incoming,
    chat_name: str,
    told: _Told,
    *,
    is_streamed: bool,
) -> Response:
    facts = facts_of(request.scope)
    facts |= noting.asked(incoming)
    if not is_streamed:
        answer = await service.handle(incoming, chat_name)
        facts |= noting.answered(answer)
        elements = [await painting.painted(e) for e in await service.outgoing(incoming, answer)]
        return _told(told(answer, elements, incoming.request_id))

    def failure(error: QqvlError) -> str:
        return _event("error", json.dumps(error_bodies.own(error, incoming.request_id), ensure_ascii=False))

    async def events() -> AsyncGenerator[str, None]:
        async with aclosing(service.stream(incoming, chat_name)) as stream:
            async for item in stream:
                if isinstance(item, Sent):
                    facts.update(noting.answered(item.answer))
                    elements = [await painting.painted(element) for element in item.messages]
                    yield _event("done", _json(told(item.answer, elements, incoming.request_id)))
                else:
                    yield _event("message", _json(translate.outgoing(await painting.painted(item))))

    return sse.EventStream(await sse.begun(events()), failure)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _group(group_id: str) -> ChatKey:
    return ChatKey(ChatKind.GROUP, group_id)


def _private(user_id: str) -> ChatKey:
    return ChatKey(ChatKind.PRIVATE, user_id)


def _noted(request: Request, chat: ChatKey, body: GroupReport | PrivateReport) -> ChatKey:
    facts_of(request.scope).update(noting.reported(chat, body.message_id))
    return chat


def _json(reply: BaseModel) -> str:
    return reply.model_dump_json(exclude_none=True)


def _told(reply: BaseModel) -> Response:
    return Response(_json(reply), media_type="application/json")


async def _read(model: type[M], request: Request) -> M:
    """The body, counted to its chat, reports apart from messages; to its caller where it is none.

    Raises:
        InvalidRequest, RateLimited
    """
    count: Callable[[str], Awaitable[None]] = request.scope["qqvl.count"]
    try:
        body = _validated(model, await read_object(request))
    except QqvlError:
        await count("")
        raise
    await count(_whose(body))
    return body


def _whose(body: ChatMessageBody | GroupReport | PrivateReport) -> str:
    chat = _group(body.group_id) if isinstance(body, GroupMessage | GroupReport) else _private(body.user_id)
    return str(chat) if isinstance(body, ChatMessageBody) else f"{chat} reports"


def _validated(model: type[B], value: dict[str, Any]) -> B:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Names of our own fields and list positions only: a key the client made up is never echoed.
        where = ".".join(str(step) for step in first["loc"][:4])
        raise InvalidRequest(f"字段 {where} {_REASONS.get(first['type'], '类型或取值不对')}") from None


_REASONS = {
    "missing": "没有填",
    "string_type": "应是字符串",
    "bool_type": "应是 true 或 false",
    "float_type": "应是数字",
    "tuple_type": "应是列表",
    "model_type": "应是对象",
    "string_too_long": "太长了",
    "string_too_short": "不能为空",
    "too_long": "项数太多",
    "literal_error": "和接口不符",
}

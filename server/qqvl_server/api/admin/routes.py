"""GET /health, /ready, /metrics and /admin/…: what an operator or a supervisor asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from qqvl_server.api import error_bodies
from qqvl_server.api.body import read_object
from qqvl_server.api.door import Door
from qqvl_server.chat.message import ChatKey, ChatKind, LostPicture, MessagePart, Picture, Quote, StoredMessage, Text
from qqvl_server.chat.preferences import OWN
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import NotFound
from qqvl_server.generation.port import VoiceStatus
from qqvl_server.keys import Scope
from qqvl_server.observe.links import Links
from qqvl_server.observe.metrics import Metrics

_MAX_ID: Final = 64
# Each may be null; what else it may be is said by the settings.
_OWN_SETTINGS: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {name: {} for name in sorted(OWN)}}}
        },
    }
}

# The word that ``/health`` says, and the voice's state.
Status = Callable[[], tuple[str, VoiceStatus]]


def build(service: ChatService, status: Status, metrics: Metrics, links: Links) -> tuple[Door, ...]:
    return _health(status, links), _inside(metrics), _owners(service, links)


def _health(status: Status, links: Links) -> Door:
    router = APIRouter(tags=["admin"])

    @router.get("/health")
    async def health() -> Response:
        """The spec's four fields; 503 while loading, stopping or broken. Touches no lock and no disk."""
        word, now = status()
        return JSONResponse(health_body(word, now), 200 if word == "healthy" else 503)

    @router.get("/ready")
    async def ready() -> Response:
        """503 exactly while new work is not taken: a lost QQ link is told, and takes no server from a balancer."""
        is_ready, link = is_healthy(status), links.link()
        body = {"ready": is_ready, "link": {"state": link.state, "since": link.since}}
        return JSONResponse(body, 200 if is_ready else 503)

    # Counted apart: supervisors ask for ever, and are told 503 while the model loads.
    open_to_all = frozenset({"/health", "/ready"})
    return Door("other", ("/health", "/ready"), Scope.ADMIN, router, error_bodies.openai, in_the_open=open_to_all)


def is_healthy(status: Status) -> bool:
    return status()[0] == "healthy"


def _inside(metrics: Metrics) -> Door:
    router = APIRouter(tags=["admin"])

    @router.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # The framework answers with its document by itself.
    return Door("admin", ("/metrics", "/openapi.json"), Scope.ADMIN, router, error_bodies.openai)


def _owners(service: ChatService, links: Links) -> Door:
    router = APIRouter(tags=["admin"])

    @router.get("/admin/link")
    async def link() -> dict[str, Any]:
        """How the line to QQ stands, and when it last came and went, the oldest first."""
        now = links.link()
        told = [{"self_id": c.account, "state": c.state, "at": c.at, "reason": c.reason} for c in links.changes()]
        return {"state": now.state, "since": now.since, "reason": now.reason, "changes": told}

    @router.get("/admin/chats")
    async def chats() -> dict[str, Any]:
        listed = await service.chats()
        return {
            "chats": [
                {"kind": c.key.kind, "id": c.key.id, "name": c.name, "messages": c.messages, "updated_at": c.updated_at}
                for c in listed
            ]
        }

    @router.get("/admin/chats/{kind}/{chat_id:path}/messages")
    async def messages(
        request: Request,
        kind: str,
        chat_id: str,
        before: int | None = Query(None, ge=1, le=2**62),
        limit: int = Query(100, ge=1, le=1000),
    ) -> dict[str, Any]:
        found = await service.messages(_chat(kind, chat_id), before=before, limit=limit)
        if found is None:
            raise NotFound("没有这个会话的记录")
        return {"kind": kind, "id": chat_id, "messages": [describe(message) for message in found]}

    @router.get("/admin/chats/{kind}/{chat_id:path}/settings")
    async def settings(kind: str, chat_id: str) -> dict[str, Any]:
        """What this chat has otherwise than the settings file says."""
        return {"kind": kind, "id": chat_id, "settings": service.preferences.own(_chat(kind, chat_id))}

    @router.post("/admin/chats/{kind}/{chat_id:path}/settings", openapi_extra=_OWN_SETTINGS)
    async def change(request: Request, kind: str, chat_id: str) -> dict[str, Any]:
        """Settings by name; null for as everywhere. What is not named stays."""
        chat = _chat(kind, chat_id)
        await service.preferences.change(chat, await read_object(request))
        return {"kind": kind, "id": chat_id, "settings": service.preferences.own(chat)}

    return Door("admin", ("/admin",), Scope.ADMIN, router, error_bodies.own)


def _chat(kind: str, chat_id: str) -> ChatKey:
    if kind not in tuple(ChatKind):
        raise NotFound("会话种类只有 group 和 private")
    if not 0 < len(chat_id) <= _MAX_ID:
        raise NotFound("没有这样的会话号")
    return ChatKey(ChatKind(kind), chat_id)


def health_body(word: str, status: VoiceStatus) -> dict[str, Any]:
    return {
        "status": word,
        "model_loaded": status.model_loaded,
        "processor_loaded": status.processor_loaded,
        "device": status.device,
    }


def describe(message: StoredMessage) -> dict[str, Any]:
    return {
        "seq": message.seq,
        "role": message.role,
        "speaker": {"id": message.speaker.id, "name": message.speaker.name},
        "content": "".join(_words(part) for part in message.parts),
        "images": [part.image.sha256 for part in message.parts if isinstance(part, Picture)],
        "message_id": message.message_id,
        "time": message.created_at,
    }


def _words(part: MessagePart) -> str:
    match part:
        case Text(text):
            return text
        case Quote(speaker, text):
            return f"> 引用 {speaker}: {text}\n"
        case LostPicture():
            return "[图片无法打开]"
        case Picture():
            return ""

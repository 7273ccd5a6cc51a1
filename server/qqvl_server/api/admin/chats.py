"""/admin/chats…: what was said in the chats and why, and what an owner does to one of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import Field

from qqvl_server.api import error_bodies
from qqvl_server.api.admin.auditing import Auditor
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door, Lock
from qqvl_server.api.fields import Model
from qqvl_server.api.validation import validated
from qqvl_server.chat.care import Care
from qqvl_server.chat.decision import Noted
from qqvl_server.chat.message import ChatKey, ChatKind, LostPicture, MessagePart, Picture, Quote, StoredMessage, Text
from qqvl_server.chat.preferences import OWN
from qqvl_server.chat.retelling import Retelling, Seen
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import NotFound
from qqvl_server.generation.port import ChatMessage, ImagePart, TextPart
from qqvl_server.keys import Scope

_MAX_ID: Final = 64
_AT: Final = "/admin/chats/{kind}/{chat_id:path}"
# Each may be null; what else it may be is said by the settings.
_OWN_SETTINGS: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {name: {} for name in sorted(OWN)}}}
        },
    }
}


class LineBody(Model):
    seq: Annotated[int, Field(ge=1, le=2**62)]


class MuteBody(Model):
    """``minutes`` null: until somebody says otherwise."""

    minutes: float | None = None


class BlockBody(Model):
    blocked: bool


class NothingBody(Model):
    """An empty object."""


@dataclass(frozen=True, slots=True)
class Chats:
    service: ChatService
    care: Care
    retelling: Retelling
    auditor: Auditor


def build(chats: Chats) -> Door:
    router = APIRouter(tags=["admin"])
    _add_reading(router, chats)
    _add_settings(router, chats)
    _add_seeing(router, chats)
    _add_care(router, chats)
    return Door("admin", ("/admin",), Scope.ADMIN, router, error_bodies.own, lock=Lock.WRITES)


def _add_reading(router: APIRouter, chats: Chats) -> None:
    service, care = chats.service, chats.care

    @router.get("/admin/chats")
    async def listed() -> dict[str, Any]:
        """Every chat but those that are played, the one heard last first."""
        last = await service.books.last_lines()
        return {
            "chats": [
                {"kind": c.key.kind, "id": c.key.id, "name": c.name, "messages": c.messages, "updated_at": c.updated_at,
                 "last": _last(last.get(c.key)), "muted_until": care.muted_until(c.key),
                 "blocked": care.is_blocked(c.key)}
                for c in await service.chats()
            ]
        }  # fmt: skip

    @router.get(f"{_AT}/messages")
    async def messages(
        kind: str,
        chat_id: str,
        before: int | None = Query(None, ge=1, le=2**62),
        limit: int = Query(100, ge=1, le=1000),
    ) -> dict[str, Any]:
        """What was said, the newest page first, each with why it was answered or not."""
        found = await service.messages(_chat(kind, chat_id), before=before, limit=limit)
        if found is None:
            raise NotFound("没有这个会话的记录")
        lines = [message.seq for message in found]
        # A command is no line: it is noted at the one before it, which is noted first.
        told = await service.books.decisions(_chat(kind, chat_id), limit=limit * 4, seqs=lines)
        noted = {one.seq: one for one in told}
        return {"kind": kind, "id": chat_id, "messages": [describe(m, noted.get(m.seq)) for m in found]}

    @router.get(f"{_AT}/decisions")
    async def decisions(
        kind: str,
        chat_id: str,
        before: int | None = Query(None, ge=1, le=2**62),
        limit: int = Query(50, ge=1, le=1000),
    ) -> dict[str, Any]:
        """Why the bot spoke or not, the newest first."""
        found = await service.books.decisions(_chat(kind, chat_id), before=before, limit=limit)
        told = [{"id": one.id, "seq": one.seq, "message_id": one.message_id} | decision(one) for one in found]
        return {"kind": kind, "id": chat_id, "decisions": told}


def _add_settings(router: APIRouter, chats: Chats) -> None:
    preferences = chats.service.preferences

    def told(kind: str, chat_id: str) -> dict[str, Any]:
        chat = _chat(kind, chat_id)
        effective = preferences.of(chat).model_dump(mode="json", include=set(OWN))
        effective["system_prompt"] = preferences.system_prompt(chat)
        return {"kind": kind, "id": chat_id, "settings": preferences.own(chat), "effective": effective}

    @router.get(f"{_AT}/settings")
    async def settings(kind: str, chat_id: str) -> dict[str, Any]:
        """What this chat has otherwise than everywhere, and what holds in it."""
        return told(kind, chat_id)

    @router.post(f"{_AT}/settings", openapi_extra=_OWN_SETTINGS)
    async def change(request: Request, kind: str, chat_id: str) -> dict[str, Any]:
        """Settings by name; null for as everywhere. What is not named stays."""
        chat = _chat(kind, chat_id)
        before, wanted = preferences.own(chat), await read_object(request)
        await preferences.change(chat, wanted)
        after = preferences.own(chat)
        for name in wanted:
            await chats.auditor.note(request, f"{chat} settings {name}", before.get(name), after.get(name))
        return told(kind, chat_id)


def _add_seeing(router: APIRouter, chats: Chats) -> None:
    retelling = chats.retelling

    @router.get(f"{_AT}/messages/{{seq}}/seen")
    async def seen(kind: str, chat_id: str, seq: int) -> dict[str, Any]:
        """What the model was shown for an answer, or for the line that it answers."""
        return _seen(await retelling.seen(_chat(kind, chat_id), seq))

    @router.post(f"{_AT}/messages/{{seq}}/replay", openapi_extra=request_body(NothingBody))
    async def replay(kind: str, chat_id: str, seq: int) -> dict[str, Any]:
        """The same asked once more, by the likeliest token each time. Nothing of it is kept."""
        found = await retelling.seen(_chat(kind, chat_id), seq)
        again = await retelling.replay(found)
        return {
            "text": again.text, "said": found.said, "same": again.text == found.said, "exact": not found.why,
            "usage": asdict(again.usage), "seconds": again.seconds,
        }  # fmt: skip


def _add_care(router: APIRouter, chats: Chats) -> None:
    care, note = chats.care, chats.auditor.note

    @router.post(f"{_AT}/forget", openapi_extra=request_body(LineBody))
    async def forget(request: Request, kind: str, chat_id: str) -> dict[str, Any]:
        """A line leaves the history, and what answered it."""
        chat, body = _chat(kind, chat_id), validated(LineBody, await read_object(request))
        gone = await care.forget_line(chat, body.seq)
        await note(request, f"{chat} forget", list(gone))
        return {"forgotten": list(gone)}

    @router.post(f"{_AT}/reset", openapi_extra=request_body(NothingBody))
    async def reset(request: Request, kind: str, chat_id: str) -> dict[str, bool]:
        """All that was said is deleted; settings stay."""
        chat = _chat(kind, chat_id)
        await care.reset(chat)
        await note(request, f"{chat} reset")
        return {"reset": True}

    @router.post(f"{_AT}/mute", openapi_extra=request_body(MuteBody))
    async def mute(request: Request, kind: str, chat_id: str) -> dict[str, float]:
        chat, body = _chat(kind, chat_id), validated(MuteBody, await read_object(request))
        before, until = care.muted_until(chat), await care.mute(chat, body.minutes)
        await note(request, f"{chat} mute", before, until)
        return {"muted_until": until}

    @router.post(f"{_AT}/unmute", openapi_extra=request_body(NothingBody))
    async def unmute(request: Request, kind: str, chat_id: str) -> dict[str, None]:
        chat = _chat(kind, chat_id)
        before = care.muted_until(chat)
        await care.unmute(chat)
        await note(request, f"{chat} mute", before)
        return {"muted_until": None}

    @router.post(f"{_AT}/block", openapi_extra=request_body(BlockBody))
    async def block(request: Request, kind: str, chat_id: str) -> dict[str, bool]:
        """The group, or the person of a private chat wherever he speaks: heard, never answered."""
        chat, body = _chat(kind, chat_id), validated(BlockBody, await read_object(request))
        for name, (before, after) in (await care.block(chat, blocked=body.blocked)).items():
            await note(request, f"settings {name}", before, after)
        return {"blocked": care.is_blocked(chat)}


def _chat(kind: str, chat_id: str) -> ChatKey:
    if kind not in tuple(ChatKind):
        raise NotFound("会话种类只有 group 和 private")
    if not 0 < len(chat_id) <= _MAX_ID:
        raise NotFound("没有这样的会话号")
    return ChatKey(ChatKind(kind), chat_id)


def _last(message: StoredMessage | None) -> dict[str, Any] | None:
    if message is None:
        return None
    told = describe(message, None)
    return {name: told[name] for name in ("role", "speaker", "content", "images", "time")}


def decision(noted: Noted) -> dict[str, Any]:
    told = noted.told
    return {
        "speak": noted.speak,
        "reason": told.reason,
        "score": told.score,
        "cost_ms": told.cost_ms,
        "at": told.at,
        "effort": asdict(told.effort) if told.effort is not None else None,
    }


def describe(message: StoredMessage, noted: Noted | None) -> dict[str, Any]:
    return {
        "seq": message.seq,
        "role": message.role,
        "speaker": {"id": message.speaker.id, "name": message.speaker.name},
        "content": "".join(_words(part) for part in message.parts),
        "images": [part.image.sha256 for part in message.parts if isinstance(part, Picture)],
        "message_id": message.message_id,
        "time": message.created_at,
        "decision": decision(noted) if noted is not None else None,
        "reply_seq": noted.reply_seq if noted is not None else None,
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


def _seen(seen: Seen) -> dict[str, Any]:
    return {
        "prompt": [_shown(message) for message in seen.messages],
        "tokens": seen.tokens,
        "cached_tokens": seen.noted.told.effort.cached_tokens if seen.noted.told.effort is not None else 0,
        "sampling": {name: value for name, value in asdict(seen.sampling).items() if value not in (None, (), 0.0)},
        "decision": decision(seen.noted),
        "said": seen.said,
        "exact": not seen.why,
        "why": seen.why,
    }


def _shown(message: ChatMessage) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": "".join(part.text for part in message.parts if isinstance(part, TextPart)),
        "images": [part.image.sha256 for part in message.parts if isinstance(part, ImagePart)],
    }

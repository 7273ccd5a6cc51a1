"""What is said between client and chat server, as JSON: requests made, answers read (docs/qq.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from qqvl_client.entries import Errand
from qqvl_client.errors import AnswerLostError
from qqvl_client.events import id_of
from qqvl_client.message import IncomingMessage, Picture, Quote
from qqvl_client.outgoing import Reply, outgoing_of
from qqvl_client.segments import text_of

MAX_SEGMENTS = 1000


def body_of(message: IncomingMessage) -> bytes:
    """The request's JSON: the spec's fields first, then the optional ones."""
    event = message.event
    body: dict[str, Any] = {"type": event.chat.kind}
    if event.chat.kind == "group":
        body |= {"group_id": event.chat.id, "group_name": message.group_name}
    body |= {"user_id": event.sender.id, "user_nickname": event.sender.nickname}
    if event.chat.kind == "group":
        body["user_card"] = event.sender.card
    body |= {"content": message.content, "images": _images(message.pictures), "timestamp": event.sent_at}
    optional = {
        "message_id": event.id,
        "self_id": event.chat.self_id,
        "reply_to": _quote(message.quote),
        "segments": list(message.segments) if len(message.segments) <= MAX_SEGMENTS else _gist(message.segments),
        "forward": [{"speaker": n.speaker, "user_id": n.user_id, "text": n.text} for n in message.forward],
        "message_type": event.chat.kind,
        "sub_type": event.sub_type,
        "sender_role": event.sender.role if event.chat.kind == "group" else "",
        "sender_is_bot": event.sender.is_bot,
        "at_all": event.chat.kind == "group" and event.ats_all,
        "self_nickname": message.self_nickname,
        "self_card": message.self_card,
    }
    body["at_me"] = message.at_me
    body |= {name: value for name, value in optional.items() if value}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def as_context(body: bytes) -> bytes:
    """The same request, to be remembered and not answered. Bodies hold megabytes: never parsed again for a word."""
    return _with(body, b'"context_only": true')


def as_stream(body: bytes) -> bytes:
    """The same request; what the server has finished of its answer is wanted at once."""
    return _with(body, b'"stream": true')


def _with(body: bytes, field: bytes) -> bytes:
    return body.removesuffix(b"}") + b", " + field + b"}"


def _gist(segments: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of too many, what was typed, what was forwarded, and who was mentioned; their order is the content's."""
    said = [
        {"type": kind, "text": " ".join(text_of(s.get("text")) for s in segments if s["type"] == kind)}
        for kind in ("text", "forward")
    ]
    mentions = [segment for segment in segments if segment["type"] == "at"]
    return [*(one for one in said if one["text"]), *mentions[: MAX_SEGMENTS - len(said)]]


def _images(pictures: tuple[Picture, ...]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(p.data).decode("ascii"), "format": p.format} for p in pictures]


def _quote(quote: Quote | None) -> dict[str, Any] | None:
    if quote is None:
        return None
    return {
        "id": quote.id,
        "text": quote.text,
        "user_id": quote.user_id,
        "user_nickname": quote.user_nickname,
        "images": _images(quote.pictures),
    }


def reply_of(kind: str, answer: Any) -> Reply:
    """What to say for an answer; raises AnswerLostError when it is not one of ours."""
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        raise AnswerLostError("服务器的答复里没有 status: success")
    if merged_into := text_of(answer.get("merged_into")):
        return Reply((), merged_into)
    if kind == "group" and answer.get("should_reply") is not True:
        return Reply(())
    messages = answer.get("messages")
    elements = messages if isinstance(messages, list) and messages else [{"text": answer.get("reply")}]
    return Reply(tuple(message for message in map(outgoing_of, elements) if message))


def report_of(errand: Errand) -> tuple[str, bytes]:
    """Where and what the server is told of a recall, or of messages of ours that QQ took."""
    chat, told = errand.chat, errand.told
    place = {"group_id": chat.id} if chat.kind == "group" else {"user_id": chat.id}
    body: dict[str, Any] = {**place, "self_id": chat.self_id, "message_id": told["message_id"]}
    if errand.kind == "sent":
        body["sent_ids"] = told["sent_ids"]
    elif chat.kind == "group" and told["operator_id"]:
        body["operator_id"] = told["operator_id"]
    return f"/api/chat/{chat.kind}/{errand.kind}", json.dumps(body).encode()


def withdraw_of(answer: Any) -> tuple[str, ...]:
    """The ids of our own messages that the server wants withdrawn; raises AnswerLostError for what is no answer."""
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        raise AnswerLostError("服务器的答复里没有 status: success")
    ids = answer.get("withdraw")
    return tuple(found for found in map(id_of, ids) if found) if isinstance(ids, list) else ()


def words_of(payload: bytes) -> str:
    """What an error of the server's says, or how whatever else came begins."""
    try:
        error = json.loads(payload).get("error")
        return f"{error['code']} {error['message']}"[:200]
    except (ValueError, TypeError, KeyError, AttributeError):
        return payload[:100].decode("utf-8", "replace")


def status_of(self_id: str, reason: str) -> bytes:
    """What the server is told of an account's line; `reason` says what is wrong, if anything is."""
    body = {"self_id": self_id, "link": "down" if reason else "up", "reason": reason}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

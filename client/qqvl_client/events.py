"""A OneBot frame of any shape → one frozen event. Behind this file nobody asks a raw dict what it says."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Literal, get_args

from qqvl_client.message import (
    POKE,
    AccountOffline,
    Application,
    Chat,
    ChatMessage,
    Event,
    Heartbeat,
    LineUp,
    MessageEvent,
    Recall,
    Role,
    Segment,
    Sender,
)
from qqvl_client.segments import segments_of, text_of

LOG = logging.getLogger("qqvl.events")
ROLES: tuple[Role, ...] = get_args(Role)
ROBOTS = range(2_854_196_301, 2_854_216_400)


def parse_event(raw: Mapping[str, Any]) -> Event | None:
    """What a frame with a `post_type` says, or nothing for what the client has no use for. Never raises."""
    try:
        return _parse(raw)
    # The line's edge: an event nobody foresaw must not end the loop that receives all others.
    except Exception:
        LOG.exception("收到一个没法处理的事件，略过")
        return None


def _parse(raw: Mapping[str, Any]) -> Event | None:
    match raw.get("post_type"):
        case "message":
            return _message_event(raw)
        case "meta_event" if raw.get("meta_event_type") == "lifecycle" and raw.get("sub_type") == "connect":
            return LineUp(text_of(raw.get("self_id")), stamp_of(raw))
        case "meta_event":
            status = raw.get("status")
            online = status.get("online") if isinstance(status, Mapping) else None
            return Heartbeat(stamp_of(raw), online if isinstance(online, bool) else None, text_of(raw.get("self_id")))
        case "request":
            return _application(raw)
        case "notice":
            return _notice(raw)
    return None


def _notice(raw: Mapping[str, Any]) -> Event | None:
    match raw.get("notice_type"):
        case "bot_offline":
            return AccountOffline(text_of(raw.get("message"))[:200], text_of(raw.get("self_id")))
        case "group_recall" | "friend_recall" as kind:
            return _recall(raw, "group" if kind == "group_recall" else "private")
        case "notify" if raw.get("sub_type") == "poke":
            return _poke(raw)
    return None


def _poke(raw: Mapping[str, Any]) -> MessageEvent | None:
    """A line nobody wrote. In private `user_id` is the other person, and `sender_id` who of the two poked."""
    self_id, group_id = text_of(raw.get("self_id")), text_of(raw.get("group_id"))
    other, target = text_of(raw.get("user_id")), text_of(raw.get("target_id"))
    if not (self_id and other and target):
        return None
    info = raw.get("raw_info")
    words = (
        "".join(text_of(item.get("txt")) for item in info if isinstance(item, Mapping))
        if isinstance(info, list)
        else ""
    )
    return MessageEvent(
        chat=Chat("group", group_id, self_id) if group_id else Chat("private", other, self_id),
        id="",
        sender=Sender(other if group_id else text_of(raw.get("sender_id")) or other),
        sent_at=stamp_of(raw) or time.time(),
        segments=(Segment(POKE, {"target_id": target, "words": " ".join(words.split())[:40]}),),
    )


def _application(raw: Mapping[str, Any]) -> Application | None:
    """A friend's request or an invitation; who wants to join a group that the account keeps is its people's matter."""
    kind: Literal["friend", "group"] = "group" if raw.get("request_type") == "group" else "friend"
    ours = raw.get("sub_type") == "invite" if kind == "group" else raw.get("request_type") == "friend"
    self_id, user_id, group_id, flag = (text_of(raw.get(key)) for key in ("self_id", "user_id", "group_id", "flag"))
    if not (ours and self_id and user_id and flag):
        return None
    comment = " ".join(text_of(raw.get("comment")).split())[:200]
    return Application(self_id, kind, user_id, group_id if kind == "group" else "", comment, flag)


def _recall(raw: Mapping[str, Any], kind: Literal["group", "private"]) -> Recall | None:
    """In private `user_id` is the other person, whoever of the two took it back."""
    where = text_of(raw.get("group_id" if kind == "group" else "user_id"))
    self_id, message_id = text_of(raw.get("self_id")), id_of(raw.get("message_id"))
    if not (where and self_id and message_id):
        return None
    return Recall(Chat(kind, where, self_id), message_id, text_of(raw.get("operator_id")))


def _message_event(raw: Mapping[str, Any]) -> MessageEvent | None:
    chat = _chat_of(raw)
    if chat is None:
        LOG.warning("收到一条看不出来自哪里的消息，略过")
        return None
    said = message_of(raw)
    return MessageEvent(
        chat=chat,
        id=said.id,
        sender=said.sender,
        sent_at=stamp_of(raw) or time.time(),
        segments=said.segments,
        group_name=text_of(raw.get("group_name")) if chat.kind == "group" else "",
        sub_type=text_of(raw.get("sub_type")),
    )


def message_of(raw: Mapping[str, Any]) -> ChatMessage:
    """Who said what: the part that events, lookups, records and the nodes of forwards have in common."""
    data = raw.get("data")
    inner = data if raw.get("type") == "node" and isinstance(data, Mapping) else raw
    message = inner.get("message", inner.get("content"))
    found = segments_of(message, inner.get("raw_message"))
    return ChatMessage(id_of(inner.get("message_id")), _sender_of(inner), tuple(found), stamp_of(inner))


def messages_of(raw: Any) -> list[ChatMessage]:
    """The messages of a list; what is no message in it is left out."""
    return [message_of(item) for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []


def stamp_of(raw: Mapping[str, Any]) -> float | None:
    """The `time` of a frame in seconds; some implementations count milliseconds."""
    stamp = raw.get("time")
    if isinstance(stamp, bool) or not isinstance(stamp, int | float) or not 0 < stamp < 1e18:
        return None
    return stamp / 1000 if stamp > 100_000_000_000 else float(stamp)


def id_of(value: Any) -> str:
    """A message's id; 0 is how implementations say that they know none."""
    found = "" if isinstance(value, bool) else text_of(value).strip()
    return "" if found in ("0", "0.0") else found


def _sender_of(raw: Mapping[str, Any]) -> Sender:
    told = raw.get("sender")
    sender: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    role = sender.get("role")
    # A forward's node has its speaker's name beside the content, not in a sender.
    nickname = sender.get("nickname") or raw.get("nickname") or raw.get("name")
    return Sender(
        id=text_of(raw.get("user_id") or sender.get("user_id")),
        nickname=text_of(nickname),
        card=text_of(sender.get("card")),
        role=role if role in ROLES else "",
        is_bot=_is_bot(text_of(raw.get("user_id") or sender.get("user_id")), sender),
    )


def _is_bot(user_id: str, sender: Mapping[str, Any]) -> bool:
    """Whether QQ or the implementation calls the sender a robot; ids of QQ's own robots as mirai knows them."""
    told = any(sender.get(key) is True for key in ("is_robot", "is_bot", "isRobot"))
    return told or (user_id.isdecimal() and len(user_id) <= 10 and int(user_id) in ROBOTS)


def _chat_of(raw: Mapping[str, Any]) -> Chat | None:
    """Where the event was said, or nothing when it does not say so."""
    told = raw.get("sender")
    sender: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    self_id, user_id = text_of(raw.get("self_id")), _sender_of(raw).id
    group_id = text_of(raw.get("group_id") or sender.get("group_id"))
    if raw.get("message_type") == "group":
        return Chat("group", group_id, self_id) if group_id and self_id else None
    if raw.get("message_type") != "private" or not user_id or not self_id:
        return None
    temporary = raw.get("sub_type") == "group"
    return Chat("private", user_id, self_id, via_group=group_id if temporary else "")


# On disk ------------------------------------------------------------------------------------------------


def dump_event(event: MessageEvent) -> str:
    """The event as the journal keeps it; `load_event` gives back an equal one."""
    chat, sender = event.chat, event.sender
    return json.dumps(
        {
            "chat": [chat.kind, chat.id, chat.self_id, chat.via_group],
            "id": event.id,
            "sender": [sender.id, sender.nickname, sender.card, sender.role, sender.is_bot],
            "sent_at": event.sent_at,
            "segments": [[segment.type, segment.data] for segment in event.segments],
            "group_name": event.group_name,
            "sub_type": event.sub_type,
        }
    )


def load_event(text: str) -> MessageEvent | None:
    """An event from the journal; nothing when it says no chat. Journals of 0.1.0 hold raw frames."""
    kept = json.loads(text)
    if "post_type" in kept:
        event = parse_event(kept)
        return event if isinstance(event, MessageEvent) else None
    return MessageEvent(
        chat=Chat(*kept["chat"]),
        id=kept["id"],
        sender=Sender(*kept["sender"]),
        sent_at=kept["sent_at"],
        segments=tuple(Segment(kind, data) for kind, data in kept["segments"]),
        group_name=kept["group_name"],
        sub_type=kept["sub_type"],
    )

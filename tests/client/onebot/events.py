"""Events and segments in the shapes NapCat really sends."""

from __future__ import annotations

import itertools
import time
from typing import Any

SELF_ID = 10001
Event = dict[str, Any]
Segment = dict[str, Any]
_ids = itertools.count(1_000_000_001)


def text(words: str) -> Segment:
    return {"type": "text", "data": {"text": words}}


def image(url: str = "", file: str = "A1B2C3.jpg", **more: Any) -> Segment:
    """The file's name says .jpg whatever the bytes are."""
    data = {"summary": "", "file": file, "sub_type": 0, "url": url, "file_size": "12345"}
    return {"type": "image", "data": data | more}


def at(qq: int | str) -> Segment:
    return {"type": "at", "data": {"qq": str(qq)}}


def reply(message_id: int | str) -> Segment:
    return {"type": "reply", "data": {"id": str(message_id)}}


def face(number: int, name: str = "/微笑") -> Segment:
    data = {"id": str(number), "raw": {"faceIndex": number, "faceText": name}, "resultId": None, "chainCount": None}
    return {"type": "face", "data": data}


def _message(message: Any, user_id: int, nickname: str, more: Event) -> Event:
    number = next(_ids)
    array = message if isinstance(message, list) else [text(message)]
    words = (s["data"]["text"] for s in array if isinstance(s, dict) and s.get("type") == "text")
    base: Event = {
        "self_id": SELF_ID,
        "user_id": user_id,
        "time": int(time.time()),
        "message_id": number,
        "message_seq": number,
        "real_id": number,
        "real_seq": "77",
        "sender": {"user_id": user_id, "nickname": nickname, "card": ""},
        "raw_message": "".join(words),
        "font": 14,
        "message": array,
        "message_format": "array",
        "post_type": "message",
    }
    return base | more


def group_message(message: Any, group_id: int, user_id: int = 20002, nickname: str = "张三", **more: Any) -> Event:
    event = _message(message, user_id, nickname, {"message_type": "group", "sub_type": "normal"})
    event["sender"] |= {"card": "三哥", "role": "member"}
    return event | {"group_id": group_id, "group_name": "测试群"} | more


def private_message(message: Any, user_id: int, nickname: str = "张三", **more: Any) -> Event:
    event = _message(message, user_id, nickname, {"message_type": "private", "sub_type": "friend"})
    return event | {"target_id": SELF_ID} | more


def as_string(event: Event, message: str) -> Event:
    """The same event as NapCat sends it when its message format is `string`."""
    return event | {"message": message, "raw_message": message, "message_format": "string"}


def lifecycle() -> Event:
    meta = {"post_type": "meta_event", "meta_event_type": "lifecycle", "sub_type": "connect"}
    return {"time": int(time.time()), "self_id": SELF_ID} | meta


def heartbeat(interval_ms: int = 30000, online: bool = True) -> Event:
    meta = {"post_type": "meta_event", "meta_event_type": "heartbeat", "interval": interval_ms}
    status = {"online": online, "good": True}
    return {"time": int(time.time()), "self_id": SELF_ID, "status": status} | meta


def recall(of: Event, operator_id: int | None = None) -> Event:
    """The notice that a message, group or private, was taken back."""
    notice = {"post_type": "notice", "time": int(time.time()), "self_id": SELF_ID, "user_id": of["user_id"]}
    if of["message_type"] == "private":
        return notice | {"notice_type": "friend_recall", "message_id": of["message_id"]}
    place = {"group_id": of["group_id"], "operator_id": operator_id or of["user_id"]}
    return notice | place | {"notice_type": "group_recall", "message_id": of["message_id"]}


def friend_request(user_id: int, comment: str = "", **more: Any) -> Event:
    base = {"post_type": "request", "request_type": "friend", "time": int(time.time()), "self_id": SELF_ID}
    return base | {"user_id": user_id, "comment": comment, "flag": f"flag-{next(_ids)}"} | more


def invitation(group_id: int, user_id: int, **more: Any) -> Event:
    return friend_request(user_id, request_type="group", sub_type="invite", group_id=group_id) | more


def poke(user_id: int, target_id: int, words: tuple[str, ...] = ("戳了戳",), **more: Any) -> Event:
    """NapCat's notice; with `group_id` in a group, else in private, where `user_id` is the other person."""
    info = [{"col": "1", "nm": "", "type": "qq", "uid": "u_1"}, *({"txt": word, "type": "nor"} for word in words)]
    notice = {"post_type": "notice", "notice_type": "notify", "sub_type": "poke", "time": int(time.time())}
    return notice | {"self_id": SELF_ID, "user_id": user_id, "target_id": target_id, "raw_info": info} | more

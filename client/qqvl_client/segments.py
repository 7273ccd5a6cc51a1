"""OneBot messages of any shape → checked segments, and segments → the text a model reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qqvl_client.message import Segment

CQ_CODE = re.compile(r"\[CQ:([A-Za-z0-9_.-]+)((?:,[^,\[\]]*)*)\]")
PICTURES = frozenset({"image", "mface", "marketface"})
FORWARDS = frozenset({"forward", "node"})


def segments_of(event: Mapping[str, Any]) -> list[Segment]:
    """The event's segments, whether it came as an array, a CQ string, or only `raw_message` is usable."""
    message = event.get("message")
    if isinstance(message, str):
        return parse_cq(message)
    if isinstance(message, Mapping):
        message = [message]
    if isinstance(message, list):
        found = [checked(item) for item in message]
        if any(found):
            return [segment for segment in found if segment]
    raw = event.get("raw_message")
    return parse_cq(raw) if isinstance(raw, str) else []


def checked(item: Any) -> Segment | None:
    """A segment whose `type` is a string and whose `data` is a mapping, or nothing."""
    if isinstance(item, str):
        return Segment("text", {"text": item}) if item else None
    if not isinstance(item, Mapping) or not isinstance(item.get("type"), str):
        return None
    data = item.get("data")
    return Segment(item["type"], dict(data) if isinstance(data, Mapping) else {})


def parse_cq(text: str) -> list[Segment]:
    """The string form of OneBot v11: text with [CQ:type,key=value] codes in it."""
    found: list[Segment] = []
    last = 0
    for match in CQ_CODE.finditer(text):
        _add_text(found, text[last : match.start()])
        pairs = (pair.partition("=") for pair in match[2].split(",") if pair)
        found.append(Segment(match[1], {key: _unescape(value, "&#44;", ",") for key, _, value in pairs}))
        last = match.end()
    _add_text(found, text[last:])
    return found


def _add_text(found: list[Segment], text: str) -> None:
    if text:
        found.append(Segment("text", {"text": _unescape(text)}))


def _unescape(text: str, *more: str) -> str:
    # "&amp;" last: "&amp;#91;" is the text "&#91;", not a bracket.
    pairs = ("&#91;", "[", "&#93;", "]", *more, "&amp;", "&")
    for code, char in zip(pairs[::2], pairs[1::2], strict=True):
        text = text.replace(code, char)
    return text


def describe(segment: Segment) -> str:
    """Plain words for a segment that needs no lookup; unknown kinds become a short note."""
    data = segment.data
    match segment.type:
        case "text":
            return text_of(data.get("text"))
        case "face" | "sface":
            return f"[表情:{face_name(data)}]"
        case "image" | "mface" | "marketface":
            return "[图片]"
        case "markdown":
            return text_of(data.get("content")) or "[Markdown 消息]"
        case "json":
            return _card(data.get("data"))
        case "file" | "onlinefile":
            name = text_of(data.get("file_name") or data.get("name") or data.get("file"))
            return f"[文件:{_bare_name(name)}]" if name else "[文件]"
        case "dice" | "rps":
            kind = "骰子" if segment.type == "dice" else "猜拳"
            result = text_of(data.get("result"))
            return f"[{kind}:{result}]" if result else f"[{kind}]"
        case _:
            return NOTES.get(segment.type, f"[不支持的消息:{segment.type[:20]}]")


NOTES: Mapping[str, str] = {
    "record": "[语音]",
    "video": "[视频]",
    "xml": "[卡片消息]",
    "miniapp": "[小程序]",
    "poke": "[戳一戳]",
    "shake": "[窗口抖动]",
    "location": "[位置]",
    "contact": "[名片]",
    "share": "[链接分享]",
    "music": "[音乐分享]",
    "flashtransfer": "[闪传文件]",
    "keyboard": "",
    "forward": "[聊天记录]",
    "node": "[聊天记录]",
    "reply": "",
}


def face_name(data: Mapping[str, Any]) -> str:
    """NapCat's own name for a face ("/微笑"), else its number."""
    raw = data.get("raw")
    name = raw.get("faceText") if isinstance(raw, Mapping) else None
    return text_of(name or data.get("text") or data.get("id") or "?").strip("/[]")[:20]


def text_of(value: Any) -> str:
    """A string for whatever a client put where a string belongs; nothing for nothing."""
    if value is None or isinstance(value, dict | list):
        return ""
    # JSON can carry half a character (a lone surrogate), which neither SQLite nor UTF-8 can.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def sender_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    sender = event.get("sender")
    return sender if isinstance(sender, Mapping) else {}


def _bare_name(path: str) -> str:
    return re.split(r"[\\/]", path)[-1][:100]


def _card(payload: Any) -> str:
    try:
        card = json.loads(payload) if isinstance(payload, str) else payload
    except ValueError:
        card = None
    words = card.get("prompt") or card.get("desc") if isinstance(card, Mapping) else None
    return f"[卡片:{text_of(words)[:200]}]" if words else "[卡片消息]"

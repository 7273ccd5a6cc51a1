"""Segments → the plain words a model reads in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qqvl_client.cards import read_card, told
from qqvl_client.message import Segment
from qqvl_client.segments import text_of

CARDS = frozenset({"json", "xml", "ark", "miniapp", "lightapp"})
FILES = frozenset({"file", "onlinefile"})
NO_NAMES = frozenset({"", "图片", "动画表情", "表情", "商城表情"})
"""What implementations write as a picture's summary when they mean nothing by it."""


def describe(segment: Segment) -> str:
    """Plain words for a segment that needs no lookup; unknown kinds become a short note with what words they have."""
    data = segment.data
    match segment.type:
        case "text":
            return text_of(data.get("text"))
        case "at":
            return f"@{at_name(data) or text_of(data.get('qq'))}"
        case "face" | "sface":
            return f"[表情:{face_name(data)}]"
        case "image" | "mface" | "marketface":
            return "[图片]"
        case "markdown":
            return text_of(data.get("content") or data.get("data")) or "[Markdown 消息]"
        case "dice" | "rps":
            return _note("骰子" if segment.type == "dice" else "猜拳", data, "result")
        case kind if kind in CARDS:
            card = read_card(data.get("data", data))
            words = told(card.words, card.link)
            return f"[卡片:{words}]" if words else "[小程序]" if kind == "miniapp" else "[卡片消息]"
        case kind if kind in FILES:
            name = file_name(data)
            return _note("文件", {"name": name, "size": size_of(data)}, "name", "size")
        case "video":
            return video_note(data, video_length(data))
        case _:
            return _named(segment)


def _named(segment: Segment) -> str:
    data = segment.data
    match segment.type:
        case "share":
            return _note("链接分享", data, "title", "content", "url")
        case "location":
            place = ",".join(text for key in ("lat", "lon") if (text := text_of(data.get(key))))
            return _note("位置", {**data, "place": place}, "title", "content", "place")
        case "music":
            number = "" if data.get("title") else f"{text_of(data.get('type'))} {text_of(data.get('id'))}".strip()
            return _note("音乐分享", {**data, "number": number}, "title", "singer", "content", "url", "number")
        case "contact":
            kind = {"qq": "QQ", "group": "群"}.get(text_of(data.get("type")), "")
            return _note("名片", {"who": f"{kind} {text_of(data.get('id'))}".strip()}, "who")
        case "flashtransfer":
            return _note("闪传文件", data, "title", "name")
        case "poke":
            return _note("戳一戳", data, "name")
        case "tts":
            return text_of(data.get("text")) or "[语音]"
        case kind if kind in NOTES:
            return NOTES[kind]
    words = told(tuple(text_of(data.get(key)) for key in ("text", "title", "content", "summary", "name")))
    return f"[不支持的消息:{segment.type[:20]}{'｜' if words else ''}{words}]"


NOTES: Mapping[str, str] = {
    "record": "[语音]",
    "shake": "[窗口抖动]",
    "keyboard": "",
    "anonymous": "",
    "forward": "[聊天记录]",
    "node": "[聊天记录]",
    "reply": "",
}


def at_name(data: Mapping[str, Any]) -> str:
    """The name an @ itself carries; everybody has one."""
    return "全体成员" if text_of(data.get("qq")) == "all" else text_of(data.get("name")).lstrip("@")


def face_name(data: Mapping[str, Any]) -> str:
    """NapCat's own name for a face ("/微笑"), else its number."""
    raw = data.get("raw")
    name = raw.get("faceText") if isinstance(raw, Mapping) else None
    return text_of(name or data.get("text") or data.get("id") or "?").strip("/[]")[:20]


def sticker_name(segment: Segment) -> str:
    """What a sticker is called, where it has a name that says something."""
    if segment.type == "image" and "emoji_id" not in segment.data:
        return ""
    name = text_of(segment.data.get("summary") or segment.data.get("name")).strip("[]/ ")[:20]
    return "" if name in NO_NAMES else name


def file_name(data: Mapping[str, Any]) -> str:
    names = (data.get(key) for key in ("file_name", "fileName", "name", "file"))
    return re.split(r"[\\/]", next((text for name in names if (text := text_of(name))), ""))[-1][:100]


def size_of(data: Mapping[str, Any]) -> str:
    """A file's size for people; nothing where it is not told."""
    told_size = text_of(data.get("file_size") or data.get("size"))
    size = float(told_size) if told_size.isdecimal() and len(told_size) < 16 else 0.0
    if not size:
        return ""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def video_length(data: Mapping[str, Any]) -> float | None:
    """A video's length in seconds, where told."""
    for key in ("duration", "length", "time", "seconds"):
        value = data.get(key)
        value = float(value) if isinstance(value, str) and value.isdecimal() and len(value) < 9 else value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6:
            return float(value)
    return None


def video_note(data: Mapping[str, Any], seconds: float | None) -> str:
    length = ""
    if seconds:
        minutes, rest = divmod(max(round(seconds), 1), 60)
        length = f"{minutes} 分 {rest} 秒" if minutes else f"{rest} 秒"
    return _note("视频", {"length": length, "size": size_of(data)}, "length", "size")


def _note(kind: str, data: Mapping[str, Any], *keys: str) -> str:
    words = told(tuple(text_of(data.get(key)) for key in keys))
    return f"[{kind}:{words}]" if words else f"[{kind}]"

"""OneBot messages of any shape → checked segments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qqvl_client.message import Segment

CQ_CODE = re.compile(r"\[CQ:([A-Za-z0-9_.-]+)((?:,[^,\[\]]*)*)\]")
PICTURES = frozenset({"image", "mface", "marketface"})
FORWARDS = frozenset({"forward", "node"})


def segments_of(message: Any, raw_message: Any = None) -> list[Segment]:
    """The message's segments, whether it is an array, a CQ string, or only `raw_message` is usable."""
    if isinstance(message, str):
        return parse_cq(message)
    if isinstance(message, Mapping):
        message = [message]
    if isinstance(message, list):
        found = [checked(item) for item in message]
        if any(found):
            return [segment for segment in found if segment]
    return parse_cq(raw_message) if isinstance(raw_message, str) else []


def is_unfinished(segments: Sequence[Segment]) -> bool:
    """Only pictures, or only a call: its speaker will say what for."""
    kinds = {s.type for s in segments if s.type != "text" or text_of(s.data.get("text")).strip()}
    return bool(kinds) and kinds <= PICTURES | {"at"}


def checked(item: Any) -> Segment | None:
    """A segment whose `type` is a string and whose `data` is a mapping, or nothing."""
    if isinstance(item, str):
        return Segment("text", {"text": item}) if item else None
    if not isinstance(item, Mapping) or not isinstance(item.get("type"), str):
        return None
    data = item.get("data")
    return Segment(text_of(item["type"]), dict(data) if isinstance(data, Mapping) else {})


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


def text_of(value: Any) -> str:
    """A string for whatever a client put where a string belongs; nothing for nothing."""
    if value is None or isinstance(value, dict | list):
        return ""
    # JSON can carry half a character (a lone surrogate), which neither SQLite nor UTF-8 can.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _add_text(found: list[Segment], text: str) -> None:
    if text:
        found.append(Segment("text", {"text": _unescape(text)}))


def _unescape(text: str, *more: str) -> str:
    # "&amp;" last: "&amp;#91;" is the text "&#91;", not a bracket.
    pairs = ("&#91;", "[", "&#93;", "]", *more, "&amp;", "&")
    for code, char in zip(pairs[::2], pairs[1::2], strict=True):
        text = text.replace(code, char)
    return text

"""Words that mean a picture shown before, and which one: it is shown again beside them. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from qqvl_server.chat.message import EncodedPicture, Incoming, MessagePart, Picture, Quote, StoredMessage, Text

_POINTERS: Final = (
    *(
        "这张图",
        "这幅图",
        "这图",
        "这个图",
        "这张照片",
        "这个表情",
        "那张图",
        "那张照片",
        "上面的图",
        "上面那张",
        "上图",
    ),
    *("前面的图", "刚才的图", "刚发的图", "刚才那张", "我发的图", "图里", "图上", "图中", "照片里", "this picture"),
    *("this image", "this photo", "the picture", "the image", "the photo", "picture above", "image above"),
)
_ZH: Final = "一二三四五六七八九十"
_EN: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_FROM_THE_END: Final = (
    re.compile(rf"倒数第\s?([{_ZH}]|\d{{1,2}})\s?(?:张|幅|个(?:图|表情|照片))"),
    re.compile(rf"\b({'|'.join(_EN)})(?:[ -]to)?[ -]last (?:picture|image|photo)\b"),
    re.compile(rf"\b({'|'.join(_EN)}) (?:picture|image|photo) from the end\b"),
)
_LAST: Final = re.compile(r"最后(?:那|这)?一?[张幅](?:图|照片)|\b(?:last|latest) (?:picture|image|photo)\b")
# How far back a picture may be: in lines, and in seconds where nothing says which one is meant.
_NEAR_LINES: Final = 40
_FAR_LINES: Final = 300
_NEAR_S: Final = 3600
# Of what was said beside it.
_MAX_SAID: Final = 100


def from_the_end(text: str) -> int:
    """Which picture a text names by its place from the end: 1 for the last one, 0 where it names none."""
    text = text.lower()
    for pattern in _FROM_THE_END:
        if found := pattern.search(text):
            word = found.group(1)
            if word.isdecimal():
                return int(word)
            return 1 + (_ZH.index(word) if word in _ZH else _EN.index(word))
    return 1 if _LAST.search(text) else 0


def looks_back(incoming: Incoming) -> int:
    """How many earlier lines are to be searched for the picture that a text without one means; 0 where it means
    none."""
    if any(isinstance(part, EncodedPicture) for part in incoming.parts):
        return 0
    text = _said(incoming).lower()
    if from_the_end(text):
        return _FAR_LINES
    return _NEAR_LINES if any(word in text for word in _POINTERS) else 0


def pointed_at(incoming: Incoming, before: Sequence[StoredMessage]) -> tuple[MessagePart, ...]:
    """The picture that it means, as if its line were quoted: the chat's n-th from the end, or its speaker's latest;
    nothing where it stands right before, or long ago.

    ``before`` are the lines before it, oldest first.
    """
    if number := from_the_end(_said(incoming)):
        return _from_the_end(number, before)
    now = time.time()
    for place, line in enumerate(reversed(before)):
        pictures = shown_in(line)
        if pictures and line.speaker.id == incoming.speaker.id and now - line.created_at <= _NEAR_S:
            return _again(line, pictures[-1], "") if place else ()
    return ()


def _said(incoming: Incoming) -> str:
    return incoming.text if incoming.typed is None else incoming.typed


def shown_in(line: StoredMessage) -> tuple[Picture, ...]:
    """The pictures a line itself shows, not those of what it quotes."""
    return tuple(part for part in line.parts if isinstance(part, Picture) and not part.quoted)


def _from_the_end(number: int, before: Sequence[StoredMessage]) -> tuple[MessagePart, ...]:
    left = number
    for place, line in enumerate(reversed(before)):
        pictures = shown_in(line)
        if left <= len(pictures):
            is_last = place == 0 and number == 1
            return () if is_last else _again(line, pictures[-left], f"（倒数第 {number} 张图）")
        left -= len(pictures)
    return ()


def _again(line: StoredMessage, picture: Picture, place: str) -> tuple[MessagePart, ...]:
    said = "".join(part.text for part in line.parts if isinstance(part, Text)).strip()[:_MAX_SAID]
    return Quote(line.speaker.name, (said or "[图片]") + place, line.message_id or ""), replace(picture, quoted=True)

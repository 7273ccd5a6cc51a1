"""History becomes what the model sees: append-only lines, cut in large steps. No database, no template, no torch.

Turn n+1 of a chat renders to turn n's messages plus the new ones, so that an engine can reuse its KV prefix:
nothing that changes (clock, counter) stands before the history, and the cut moves by half a window at a time.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from qqvl_server.chat.message import ChatKind, LostPicture, Picture, Quote, StoredMessage, Text
from qqvl_server.chat.pointing import shown_in
from qqvl_server.generation.port import ChatMessage, ImagePart, Part, TextPart
from qqvl_server.media.image import ImageRef

MAX_NAME: Final = 32
MAX_QUOTE: Final = 300
LOST: Final = "[图片无法打开]"
EXPIRED: Final = "[图片已过期]"
LEFT_OUT: Final = "[图片]"
CAPTIONED: Final = "[图片：{}]"
# Pictures that follow one another so soon are numbered together.
_IN_ONE_GO_S: Final = 600
# The end of what ``header`` writes; the same end in user text is bent, whatever stands before it.
_HEADER_END = re.compile(r"(QQ\s*[:：]\s*\d+\s*)\]", re.IGNORECASE)
_BRACKETS = str.maketrans("[]", "［］")


def unbracketed(text: str) -> str:
    """Text on one line in which nothing passes for one of the bracketed words written here."""
    flat = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co") else c for c in text)
    return " ".join(flat.translate(_BRACKETS).split())


def safe_name(name: str) -> str:
    """A name on one line that cannot close or open a header: controls, line breaks and brackets are replaced."""
    return unbracketed(name)[:MAX_NAME] or "无名"


def header(name: str, user_id: str) -> str:
    """Who speaks, at the start of a group line: ``[张三 QQ:10001] ``."""
    return f"[{safe_name(name)} QQ:{safe_name(user_id)}] "


def safe_text(text: str) -> str:
    """Text in which nothing passes for a header."""
    return _HEADER_END.sub(r"\1］", text)


def system_message(text: str) -> tuple[ChatMessage, ...]:
    return (ChatMessage("system", (TextPart(text),)),) if text else ()


def numbering(history: Sequence[StoredMessage]) -> list[tuple[int, ...]]:
    """For each line, the numbers of its pictures among those its speaker showed in one go: since the bot last spoke,
    never long apart, the same picture once, without what it quotes. None where its one picture is the first of it, as
    all are of the bare interface, which answers every line, that hold one. No later line matters."""
    shown: dict[str, tuple[list[str], float]] = {}
    numbers: list[tuple[int, ...]] = []
    for message in history:
        if message.role == "assistant":
            shown.clear()
        own = [picture.image.sha256 for picture in shown_in(message)]
        if not own:
            numbers.append(())
            continue
        album, last = shown.get(message.speaker.id, ([], 0.0))
        if message.created_at - last > _IN_ONE_GO_S:
            album = []
        album += [picture for picture in dict.fromkeys(own) if picture not in album]
        shown[message.speaker.id] = album, message.created_at
        numbers.append(tuple(album.index(picture) + 1 for picture in own) if len(album) > 1 else ())
    return numbers


def render(
    message: StoredMessage,
    kind: ChatKind,
    shown: Callable[[ImageRef], ImageRef | str],
    numbers: Sequence[int] = (),
) -> ChatMessage:
    """One stored line as one chat message: header and text first, then its pictures, as the spec orders them.

    ``shown`` gives a picture as it is shown, or the words for one that is not; ``numbers`` those of its own pictures.
    """
    if message.role == "assistant":
        return ChatMessage("assistant", (TextPart("".join(p.text for p in message.parts if isinstance(p, Text))),))
    lead = header(message.speaker.name, message.speaker.id) if kind is ChatKind.GROUP else ""
    parts: list[Part] = []
    text = lead
    number = iter(numbers)
    for part in message.parts:
        if isinstance(part, Picture):
            image = shown(part.image)
            text += f"（第 {next(number)} 张图）" if numbers and not part.quoted else ""
            if isinstance(image, str):
                text += image
                continue
            if text:
                parts.append(TextPart(text))
                text = ""
            parts.append(ImagePart(image))
        else:
            text += _words(part)
    if text or not parts:
        parts.append(TextPart(text))
    return ChatMessage("user", tuple(parts))


def _words(part: Text | LostPicture | Quote) -> str:
    match part:
        case Text():
            return safe_text(part.text)
        case Quote():
            said = " ".join(part.text.split())
            said = said if len(said) <= MAX_QUOTE else said[:MAX_QUOTE] + "…"
            return f"> 引用 {safe_name(part.speaker)}: {safe_text(said)}\n"
        case LostPicture():
            return LOST


def with_time(message: ChatMessage, now: time.struct_time) -> ChatMessage:
    """The newest message, told with the time. In the next prompt it is without: nothing before it ever changes."""
    day = "一二三四五六日"[now.tm_wday]
    text = f"\n（现在是 {now.tm_year} 年 {now.tm_mon} 月 {now.tm_mday} 日 星期{day} {now.tm_hour:02}:{now.tm_min:02}）"
    return replace(message, parts=(*message.parts, TextPart(text)))


def cut(counts: Sequence[int], budget: int) -> int:
    """Index of the first message to keep.

    Keeps everything while it fits. When it does not, drops from the front until what is left fills at most half
    the budget, so that the next cut is many turns away and the prefix stays valid until then. The last message is
    always kept.
    """
    total = sum(counts)
    if total <= budget:
        return 0
    start = 0
    while start < len(counts) - 1 and total > budget // 2:
        total -= counts[start]
        start += 1
    return start


def shorten(message: ChatMessage, keep: float) -> ChatMessage:
    """The same message with about ``keep`` (0–1) of its text and pictures: the last pictures, both ends of the text."""
    images = [part for part in message.parts if isinstance(part, ImagePart)]
    dropped = set(map(id, images[: len(images) - int(len(images) * keep)]))
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            if id(part) not in dropped:
                parts.append(part)
            continue
        room = int(len(part.text) * keep)
        text = part.text
        if len(text) > 64:
            half = max(room // 2, 24)
            text = text[:half] + "……（中间太长，已省略）……" + text[len(text) - half // 2 :]
        parts.append(TextPart(text))
    return ChatMessage(message.role, tuple(parts))

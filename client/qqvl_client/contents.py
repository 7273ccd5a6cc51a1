"""Segments → pieces in order: words, and pictures still to be fetched. Names are looked up, forwards are opened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qqvl_client.cards import Card, read_card
from qqvl_client.errors import LineError
from qqvl_client.events import messages_of
from qqvl_client.formats import PICTURE_NAMES
from qqvl_client.message import POKE, Chat, ChatMessage, ForwardNode, Segment, Sender
from qqvl_client.notes import CARDS, at_name, describe, file_name, sticker_name, video_length
from qqvl_client.onebot import OneBot
from qqvl_client.segments import FORWARDS, PICTURES, text_of

LOG = logging.getLogger("qqvl.contents")
DEPTH = 4
LINES = 100
CHARS = 8000
CUT = "\n（后面的内容略）"


@dataclass(frozen=True, slots=True)
class Words:
    """Something said. `segment` is how the chat server is told of it."""

    text: str
    segment: dict[str, Any]
    nodes: tuple[ForwardNode, ...] = ()
    """The lines of the record that begins here."""
    video: Mapping[str, Any] | None = None
    """What is told of a video whose length is not."""


@dataclass(frozen=True, slots=True)
class PictureSource:
    """A picture not fetched yet: what its segment says about it."""

    data: Mapping[str, Any]
    is_file: bool = False
    is_forwarded: bool = False


Piece = Words | PictureSource


class ContentReader:
    """Knows the line for lookups; fetches no picture."""

    def __init__(self, onebot: OneBot) -> None:
        self._onebot = onebot

    async def pieces(self, chat: Chat, segments: Sequence[Segment]) -> list[Piece]:
        if segments and segments[0].type == POKE:
            return [await self._poke(chat, segments[0])]
        names = await self._names(chat, segments)
        found: list[Piece] = []
        for segment in segments:
            if card := forward_card(segment):
                found += await self._forward(chat, {"id": card.forward_id}, card)
            elif segment.type in FORWARDS:
                found += await self._forward(chat, segment.data, Card())
            else:
                found += _plain(segment, names)
        return found

    async def _poke(self, chat: Chat, poke: Segment) -> Words:
        target = text_of(poke.data.get("target_id"))
        if target == chat.self_id:
            name = "你"
        elif chat.kind == "group":
            name = await self._onebot.member_name(chat.self_id, chat.id, target)
        else:
            name = await self._onebot.nickname(chat.self_id, target)
        text = f"[戳一戳:{text_of(poke.data.get('words')) or '戳了戳'} {name or target}]"
        return Words(text, {"type": "poke", "text": text})

    async def _names(self, chat: Chat, segments: Sequence[Segment]) -> dict[str, str]:
        """The names of everybody who is @-ed, asked for side by side."""
        named = {text_of(s.data.get("qq")): at_name(s.data) for s in segments if s.type == "at"}
        unknown = [user_id for user_id, name in named.items() if user_id and not name]
        if chat.kind == "group":
            asked = await asyncio.gather(*(self._onebot.member_name(chat.self_id, chat.id, who) for who in unknown))
            named.update(zip(unknown, asked, strict=True))
        return {user_id: name or user_id for user_id, name in named.items()}

    async def _forward(self, chat: Chat, data: Mapping[str, Any], card: Card) -> list[Piece]:
        record = _Record()
        await self._open(chat, data, 1, record)
        if not record.lines:
            for line in card.preview:
                record.start_line("", Sender(), line)
        if not record.lines:
            text = "[聊天记录：内容取不到]"
            return [Words(text, {"type": "forward", "text": text})]
        return record.pieces()

    async def _open(self, chat: Chat, data: Mapping[str, Any], depth: int, record: _Record) -> None:
        indent = "　" * (depth - 1)
        for message in await self._messages(chat, data):
            if record.is_full:
                return
            deeper = [s for s in message.segments if _forward_data(s) is not None and depth < DEPTH]
            rest = [s for s in message.segments if s not in deeper]
            if rest or not deeper:
                record.start_line(indent, message.sender)
                for segment in rest:
                    record.add(segment)
            for segment in deeper:
                record.start_line(indent, message.sender, "[聊天记录]")
                await self._open(chat, _forward_data(segment) or {}, depth + 1, record)

    async def _messages(self, chat: Chat, data: Mapping[str, Any]) -> list[ChatMessage]:
        if isinstance(data.get("content"), list):
            return messages_of(data["content"])
        try:
            return await self._onebot.forward(chat.self_id, text_of(data.get("id")))
        except LineError as error:
            LOG.info("合并转发取不到：%s", error)
            return []


@dataclass
class _Record:
    """A forward being written down, within limits of lines and characters; says where it was cut."""

    parts: list[str | PictureSource] = field(default_factory=list)
    nodes: list[ForwardNode] = field(default_factory=list)
    lines: int = 0
    chars: int = 0
    is_full: bool = False

    def start_line(self, indent: str, speaker: Sender, text: str = "") -> None:
        """The lines of a preview have no speaker: he is among their words."""
        if self.lines >= LINES:
            self._cut()
        if self.is_full:
            return
        named = bool(speaker.name or speaker.id or not text)
        self._write(("\n" if self.lines else "") + indent + (f"{speaker.name or '?'}：" if named else ""))
        self.nodes.append(ForwardNode(speaker.name, speaker.id, ""))
        self.lines += 1
        self._say(text)

    def add(self, segment: Segment) -> None:
        for piece in _plain(segment, {}):
            if isinstance(piece, Words):
                self._say(piece.text)
            elif not self.is_full:
                self._note("[图片]")
                self.parts.append(PictureSource(piece.data, piece.is_file, is_forwarded=True))

    def pieces(self) -> list[Piece]:
        texts = ["[聊天记录]\n", *self.parts, "\n[聊天记录结束]\n"]
        found: list[Piece] = []
        for part in texts:
            last = found[-1] if found else None
            if isinstance(part, PictureSource):
                found.append(part)
                continue
            text = last.text + part if isinstance(last, Words) else part
            if isinstance(last, Words):
                found.pop()
            found.append(Words(text, {"type": "forward", "text": text}))
        first = found[0]
        assert isinstance(first, Words)
        return [replace(first, nodes=tuple(self.nodes)), *found[1:]]

    def _say(self, text: str) -> None:
        self._note(text[: CHARS - self.chars])
        self._write(text)

    def _note(self, text: str) -> None:
        if not self.is_full:
            self.nodes[-1] = replace(self.nodes[-1], text=self.nodes[-1].text + text)

    def _write(self, text: str) -> None:
        if self.is_full:
            return
        self.parts.append(text[: CHARS - self.chars])
        self.chars += len(text)
        if self.chars > CHARS:
            self._cut()

    def _cut(self) -> None:
        if not self.is_full:
            self.parts.append(CUT)
        self.is_full = True


def forward_card(segment: Segment) -> Card | None:
    """The card of a forwarded record that came as a card, as QQ's clients tell it to some implementations."""
    if segment.type not in CARDS:
        return None
    card = read_card(segment.data.get("data", segment.data))
    return card if card.forward_id or card.preview else None


def _forward_data(segment: Segment) -> Mapping[str, Any] | None:
    """What leads to the record a segment forwards; nothing for other segments."""
    if segment.type in FORWARDS:
        return segment.data
    card = forward_card(segment)
    return {"id": card.forward_id} if card and card.forward_id else None


def _plain(segment: Segment, names: Mapping[str, str]) -> list[Piece]:
    """A segment that is no forward."""
    kind, data = segment.type, segment.data
    if kind in PICTURES:
        name = sticker_name(segment)
        text = f"[表情:{name}]"
        # Not as text: what a sticker is called its sender did not say.
        return [*([Words(text, {"type": "mface", "text": text})] if name else []), PictureSource(data)]
    if kind == "at":
        user_id = text_of(data.get("qq"))
        name = names.get(user_id) or at_name(data) or user_id
        return [Words(f"@{name}", {"type": "at", "user_id": user_id, "name": name, "text": f"@{name} "})]
    if kind == "reply":
        return [Words("", {"type": "reply", "id": text_of(data.get("id"))})]
    words = describe(segment)
    number = {"id": text_of(data.get("id"))} if kind == "face" else {}
    video = data if kind == "video" and not video_length(data) else None
    note = Words(words, {"type": kind, "text": words, **number}, video=video)
    if kind == "file" and file_name(data).lower().endswith(PICTURE_NAMES):
        return [note, PictureSource(data, is_file=True)]
    return [note]

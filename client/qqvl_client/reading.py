"""Raw message event → IncomingMessage: names looked up, quotes and forwards opened, pictures fetched."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qqvl_client.errors import LineError, PictureError
from qqvl_client.forwards import ForwardReader
from qqvl_client.images import PictureFetcher
from qqvl_client.message import Chat, IncomingMessage, Picture, Quote, Segment
from qqvl_client.onebot import OneBot
from qqvl_client.segments import FORWARDS, PICTURES, describe, segments_of, sender_of, text_of
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.reading")
PARALLEL_PICTURES = 8
TOO_MUCH = "一条消息里的图片合计太大"


@dataclass
class _Draft:
    """What reading one list of segments has found so far."""

    words: list[str] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    sources: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    """Where in `segments` a picture stands, and its segment's data."""
    at_me: bool = False

    def add(self, words: str, segment: dict[str, Any]) -> None:
        self.words.append(words)
        self.segments.append(segment)

    @property
    def content(self) -> str:
        """The words in one string; a name that was @-ed never runs into what follows it."""
        text = ""
        after_at = False
        for words, segment in zip(self.words, self.segments, strict=True):
            text += f" {words}" if after_at and words and not words[0].isspace() else words
            after_at = segment["type"] == "at"
        return text.strip("\n")


class Reader:
    """Reads events; knows the line and the picture fetcher, never the chat server."""

    def __init__(self, settings: Settings, onebot: OneBot, pictures: PictureFetcher) -> None:
        self._settings = settings
        self._onebot = onebot
        self._pictures = pictures
        self._forwards = ForwardReader(onebot)
        self._slots = asyncio.Semaphore(PARALLEL_PICTURES)

    async def read(self, chat: Chat, event: Mapping[str, Any], context_only: bool) -> IncomingMessage:
        found = segments_of(event)
        (draft, pictures), quote, group_name = await asyncio.gather(
            self._contents(chat, found), self._quote(chat, found), self._group_name(chat, event)
        )
        quote = quote and self._trimmed(quote, sum(len(picture.data) for picture in pictures))
        sender = sender_of(event)
        return IncomingMessage(
            chat=chat,
            message_id=text_of(event.get("message_id")),
            user_id=user_of(event),
            nickname=text_of(sender.get("nickname")),
            card=text_of(sender.get("card")),
            group_name=group_name,
            content=draft.content,
            pictures=pictures,
            segments=tuple(draft.segments),
            at_me=draft.at_me or (quote is not None and quote.user_id == chat.self_id),
            quote=quote,
            sent_at=sent_at(event),
            sub_type=text_of(event.get("sub_type")),
            context_only=context_only,
        )

    async def _contents(self, chat: Chat, found: list[Segment]) -> tuple[_Draft, tuple[Picture, ...]]:
        draft = _Draft()
        names = await self._names(chat, found)
        for segment in found:
            await self._add(draft, chat, segment, names)
        return draft, await self._fetch(draft, chat)

    async def _names(self, chat: Chat, found: list[Segment]) -> dict[str, str]:
        """The names of everybody who is @-ed, asked for side by side."""
        named = {text_of(s.data.get("qq")): text_of(s.data.get("name")).lstrip("@") for s in found if s.type == "at"}
        unknown = [user_id for user_id, name in named.items() if not name and user_id not in ("", "all")]
        if chat.kind == "group":
            asked = await asyncio.gather(*(self._onebot.member_name(chat.self_id, chat.id, who) for who in unknown))
            named.update(zip(unknown, asked, strict=True))
        return {user_id: name or user_id for user_id, name in named.items()} | {"all": "全体成员"}

    async def _add(self, draft: _Draft, chat: Chat, segment: Segment, names: Mapping[str, str]) -> None:
        kind, data = segment.type, segment.data
        if kind in PICTURES:
            draft.sources.append((len(draft.segments), data))
            draft.add("", {"type": "image"})
        elif kind == "at":
            user_id = text_of(data.get("qq"))
            name = names[user_id]
            draft.at_me |= user_id == chat.self_id
            draft.add(f"@{name}", {"type": "at", "user_id": user_id, "name": name, "text": f"@{name} "})
        elif kind == "reply":
            draft.add("", {"type": "reply", "id": text_of(data.get("id"))})
        elif kind in FORWARDS:
            text = await self._forwards.read(chat, data)
            draft.add(text, {"type": "forward", "text": text})
        elif kind in ("text", "face"):
            words = describe(segment)
            number = {"id": text_of(data.get("id"))} if kind == "face" else {}
            draft.add(words, {"type": kind, "text": words, **number})
        else:
            draft.add(describe(segment), {"type": kind, "text": describe(segment)})

    async def _fetch(self, draft: _Draft, chat: Chat) -> tuple[Picture, ...]:
        """Fetch the draft's pictures side by side, keep their order, and write down what failed."""
        if not draft.sources:
            return ()
        most = self._settings.pictures_per_message
        async with self._slots:
            got = await asyncio.gather(*(self._picture(chat, data) for _, data in draft.sources[:most]))
        results: list[Picture | PictureError] = [*got]
        results += [PictureError("一条消息里的图片太多")] * (len(draft.sources) - most)
        kept: list[Picture] = []
        room = self._settings.message_max_mb * 1_000_000
        for (place, _), result in zip(draft.sources, results, strict=True):
            if isinstance(result, Picture) and len(result.data) > room:
                result = PictureError(TOO_MUCH)
            if isinstance(result, PictureError):
                note = f"[图片未能获取：{result}]"
                draft.words[place] = note
                draft.segments[place] = {"type": "text", "text": note}
                continue
            room -= len(result.data)
            draft.segments[place] = {"type": "image", "index": len(kept)}
            kept.append(result)
        return tuple(kept)

    async def _picture(self, chat: Chat, data: Mapping[str, Any]) -> Picture | PictureError:
        try:
            return await self._pictures.fetch(data, lambda file: self._onebot.image(chat.self_id, file))
        except PictureError as error:
            LOG.warning("一张图片没有取到（%s），文字照常处理", error)
            return error

    async def _quote(self, chat: Chat, found: list[Segment]) -> Quote | None:
        quote_id = next((i for s in found if s.type == "reply" and (i := text_of(s.data.get("id")))), "")
        if not quote_id:
            return None
        try:
            event = await self._onebot.message(chat.self_id, quote_id)
        except LineError as error:
            LOG.info("被引用的消息 %s 取不到：%s", quote_id, error)
            return Quote(quote_id, "[被引用的消息已取不到]")
        draft, pictures = await self._contents(chat, [s for s in segments_of(event) if s.type != "reply"])
        sender = sender_of(event)
        name = text_of(sender.get("card") or sender.get("nickname"))
        return Quote(quote_id, draft.content, user_of(event), name, pictures)

    def _trimmed(self, quote: Quote, taken_bytes: int) -> Quote:
        """The quote with as many of its pictures as the message's own leave room for."""
        room = self._settings.message_max_mb * 1_000_000 - taken_bytes
        kept = 0
        for picture in quote.pictures:
            room -= len(picture.data)
            kept += room >= 0
        if kept == len(quote.pictures):
            return quote
        return replace(quote, pictures=quote.pictures[:kept], text=f"{quote.text}[图片未能获取：{TOO_MUCH}]")

    async def _group_name(self, chat: Chat, event: Mapping[str, Any]) -> str:
        if chat.kind != "group":
            return ""
        return text_of(event.get("group_name")) or await self._onebot.group_name(chat.self_id, chat.id)


def user_of(event: Mapping[str, Any]) -> str:
    return text_of(event.get("user_id") or sender_of(event).get("user_id"))


def sent_at(event: Mapping[str, Any]) -> float:
    stamp = event.get("time")
    if isinstance(stamp, bool) or not isinstance(stamp, int | float) or stamp <= 0:
        return time.time()
    # Some implementations count milliseconds.
    return stamp / 1000 if stamp > 100_000_000_000 else float(stamp)


def chat_of(event: Mapping[str, Any]) -> Chat | None:
    """Where the event was said, or nothing when it does not say so."""
    self_id, user_id = text_of(event.get("self_id")), user_of(event)
    group_id = text_of(event.get("group_id") or sender_of(event).get("group_id"))
    if event.get("message_type") == "group":
        return Chat("group", group_id, self_id) if group_id and self_id else None
    if event.get("message_type") != "private" or not user_id or not self_id:
        return None
    temporary = event.get("sub_type") == "group"
    return Chat("private", user_id, self_id, via_group=group_id if temporary else "")

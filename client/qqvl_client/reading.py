"""MessageEvent → IncomingMessage: names looked up, quotes and forwards opened, pictures fetched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qqvl_client.contents import ContentReader, PictureSource, Piece, Words
from qqvl_client.errors import LineError, PictureError
from qqvl_client.formats import INLINE
from qqvl_client.images import RESOLVE, PictureFetcher
from qqvl_client.message import Chat, IncomingMessage, MessageEvent, Picture, Quote, Segment, Sender
from qqvl_client.notes import video_note
from qqvl_client.onebot import OneBot
from qqvl_client.segments import text_of
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.reading")
PARALLEL_PICTURES = 8
VIDEOS = 2
"""So many of a message's videos are asked for their length."""
TOO_MUCH = "一条消息里的图片合计太大"
TOO_MANY = "一条消息里的图片太多"


@dataclass(frozen=True, slots=True)
class _Contents:
    """What one list of segments was read as; a picture not fetched is a note among the words."""

    words: tuple[Words, ...]
    pictures: tuple[Picture, ...]

    @property
    def text(self) -> str:
        """The words in one string; a name that was @-ed never runs into what follows it."""
        text = ""
        after_at = False
        for piece in self.words:
            words = piece.text
            text += f" {words}" if after_at and words and not words[0].isspace() else words
            after_at = piece.segment["type"] == "at"
        return text.strip("\n")


class Reader:
    """Reads events; knows the line and the picture fetcher, never the chat server."""

    def __init__(self, settings: Settings, onebot: OneBot, pictures: PictureFetcher) -> None:
        self._settings = settings
        self._onebot = onebot
        self._pictures = pictures
        self._contents = ContentReader(onebot)
        self._slots = asyncio.Semaphore(PARALLEL_PICTURES)

    async def read(self, event: MessageEvent) -> IncomingMessage:
        chat = event.chat
        contents, quote, group_name, (nickname, card), sender = await asyncio.gather(
            self._read(chat, event.segments),
            self._quote(event),
            self._group_name(event),
            self._own_names(chat),
            self._sender(event),
        )
        quote = quote and self._trimmed(quote, sum(len(picture.data) for picture in contents.pictures))
        return IncomingMessage(
            event=replace(event, sender=sender),
            content=contents.text,
            group_name=group_name,
            pictures=contents.pictures,
            segments=tuple(piece.segment for piece in contents.words),
            forward=tuple(node for piece in contents.words for node in piece.nodes),
            at_me=event.ats_self or self._pokes_us(event) or (quote is not None and quote.user_id == chat.self_id),
            quote=quote,
            self_nickname=nickname,
            self_card=card if card != nickname else "",
        )

    async def _read(self, chat: Chat, segments: Sequence[Segment]) -> _Contents:
        return await self._fetch(chat, await self._contents.pieces(chat, segments))

    async def _fetch(self, chat: Chat, pieces: list[Piece]) -> _Contents:
        """Fetch the pictures side by side, keep their order, and write down what failed."""
        pieces = await self._with_lengths(pieces)
        places = self._affordable(pieces)
        got: list[Picture | PictureError] = []
        if places:
            async with self._slots:
                got = await asyncio.gather(*(self._picture(chat, pieces[place]) for place in places))
        results = dict(zip(places, got, strict=True))
        words: list[Words] = []
        kept: list[Picture] = []
        room = self._settings.message_max_mb * 1_000_000
        for place, piece in enumerate(pieces):
            if isinstance(piece, Words):
                words.append(piece)
                continue
            result = results.get(place, PictureError(TOO_MANY))
            if isinstance(result, Picture) and len(result.data) > room:
                result = PictureError(TOO_MUCH)
            if isinstance(result, PictureError):
                note = f"[图片未能获取：{result}]"
                words.append(Words(note, {"type": "text", "text": note}))
                continue
            room -= len(result.data)
            # A record's lines need a word where the picture stands: "甲：" alone would say nothing.
            text = "[图片]" if piece.is_forwarded else ""
            words.append(Words(text, {"type": "image", "index": len(kept)}))
            kept.append(result)
        return _Contents(tuple(words), tuple(kept))

    async def _with_lengths(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces, with the lengths of the first videos in their notes."""
        found = list(pieces)
        at = [i for i, piece in enumerate(pieces) if isinstance(piece, Words) and piece.video is not None][:VIDEOS]
        lengths = await asyncio.gather(*(self._video_length(pieces[i]) for i in at))
        for i, seconds in zip(at, lengths, strict=True):
            piece = pieces[i]
            assert isinstance(piece, Words)
            text = video_note(piece.video or {}, seconds)
            found[i] = replace(piece, text=text, segment={**piece.segment, "text": text})
        return found

    async def _video_length(self, piece: Piece) -> float | None:
        return await self._pictures.video_length(piece.video) if isinstance(piece, Words) and piece.video else None

    def _affordable(self, pieces: list[Piece]) -> list[int]:
        """Where the pictures stand that will be fetched: the message's own before those it forwards."""
        own = [at for at, p in enumerate(pieces) if isinstance(p, PictureSource) and not p.is_forwarded]
        forwarded = [at for at, p in enumerate(pieces) if isinstance(p, PictureSource) and p.is_forwarded]
        own = own[: self._settings.pictures_per_message]
        room = min(self._settings.pictures_in_forwards, self._settings.pictures_per_message - len(own))
        return sorted(own + forwarded[:room])

    async def _picture(self, chat: Chat, source: Piece) -> Picture | PictureError:
        assert isinstance(source, PictureSource)
        try:
            return await self._pictures.fetch(source.data, self._fresh(chat, source))
        except PictureError as error:
            LOG.warning("一张图片没有取到（%s），文字照常处理", error)
            return error

    def _fresh(self, chat: Chat, source: PictureSource) -> RESOLVE | None:
        """How to ask for a fresh address; nothing when there is no name to ask by."""
        if source.is_file:
            file_id = text_of(source.data.get("file_id"))
            return (lambda: self._onebot.file(chat, file_id)) if file_id else None
        name = source.data.get("file")
        if not isinstance(name, str) or not name or name.lower().startswith(INLINE):
            return None
        return lambda: self._onebot.image(chat.self_id, name)

    async def _quote(self, event: MessageEvent) -> Quote | None:
        told: dict[str, Any] = next((s.data for s in event.segments if s.type == "reply" and s.data.get("id")), {})
        quote_id = text_of(told.get("id"))
        if not quote_id:
            return None
        # Some implementations put the quoted words beside the id.
        words, user_id = text_of(told.get("text")), text_of(told.get("qq"))
        try:
            message = await self._onebot.message(event.chat.self_id, quote_id)
        except LineError as error:
            LOG.info("被引用的消息 %s 取不到：%s", quote_id, error)
            return Quote(quote_id, words or "[被引用的消息已取不到]", user_id)
        contents = await self._read(event.chat, [s for s in message.segments if s.type != "reply"])
        text = contents.text if contents.text.strip() or contents.pictures else words or "[被引用的消息已撤回]"
        return Quote(quote_id, text, message.sender.id or user_id, message.sender.name, contents.pictures)

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

    async def _group_name(self, event: MessageEvent) -> str:
        if event.chat.kind != "group":
            return ""
        return event.group_name or await self._onebot.group_name(event.chat.self_id, event.chat.id)

    def _pokes_us(self, event: MessageEvent) -> bool:
        return self._settings.poke_calls and event.poked_id == event.chat.self_id

    async def _sender(self, event: MessageEvent) -> Sender:
        """The sender, with the name that a notice or a crooked event leaves out."""
        sender, chat = event.sender, event.chat
        if sender.name or not sender.id:
            return sender
        if chat.kind == "group":
            return replace(sender, nickname=await self._onebot.member_name(chat.self_id, chat.id, sender.id))
        return replace(sender, nickname=await self._onebot.nickname(chat.self_id, sender.id))

    async def _own_names(self, chat: Chat) -> tuple[str, str]:
        """What the account is called, by itself and in this group; only groups need telling whom they mean."""
        if chat.kind != "group":
            return "", ""
        nickname, card = await asyncio.gather(
            self._onebot.own_nickname(chat.self_id), self._onebot.member_name(chat.self_id, chat.id, chat.self_id)
        )
        return nickname, card


def bare_message(event: MessageEvent) -> IncomingMessage:
    """The least a message can be read as: its plain words."""
    words = "".join(text_of(s.data.get("text")) for s in event.segments if s.type == "text")
    return IncomingMessage(event, words or "[读不出的消息]", event.group_name, at_me=event.ats_self)

"""What the database knows of one message: read beside a server or without one, and never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Row, make_url, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from qqvl_server.chat.message import LostPicture, MessagePart, Picture, Quote, Text
from qqvl_server.chat.records import to_message
from qqvl_server.chat.tables import ANSWERS, CHATS, DECISIONS, MESSAGES, SENT
from qqvl_server.errors import StorageFailed

_LONGEST: Final = 300


@dataclass(frozen=True, slots=True)
class Kept:
    """A line of a chat and what came of it; ``at`` in seconds since the epoch. What is None is not known (any more).

    ``sent_ids`` are QQ's names for our answer.
    """

    chat: str
    at: float
    user: str | None = None
    name: str | None = None
    text: str | None = None
    speak: bool | None = None
    reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    seconds: float | None = None
    reply: str | None = None
    sent_ids: tuple[str, ...] = ()


def kept_of(url: str, message_id: str, chat: str | None) -> Sequence[Kept]:
    """Blocking: the messages of that id, in ``chat`` (``group:123``) or in all; none without a
    database.

    Raises StorageFailed: it cannot be read.
    """
    place = make_url(url)
    if place.get_backend_name() == "sqlite":
        if not place.database or not Path(place.database).is_file():
            return ()
        place = make_url(f"sqlite+aiosqlite:///file:{Path(place.database).absolute()}?mode=ro&uri=true")
    return asyncio.run(_kept(place, message_id, chat))


async def _kept(place: URL, message_id: str, chat: str | None) -> Sequence[Kept]:
    engine = create_async_engine(place)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_read, message_id, chat)
    except (SQLAlchemyError, OSError) as error:
        raise StorageFailed("数据库读不了，或是另一个版本写的") from error
    finally:
        await engine.dispose()


def _read(connection: Connection, message_id: str, chat: str | None) -> list[Kept]:
    wanted = select(CHATS.c.id, CHATS.c.kind, CHATS.c.external_id)
    if chat is not None:
        kind, _, external_id = chat.partition(":")
        wanted = wanted.where(CHATS.c.kind == kind, CHATS.c.external_id == external_id)
    chats = {row.id: f"{row.kind}:{row.external_id}" for row in connection.execute(wanted)}
    seqs: dict[tuple[int, int], float] = {}
    for table in (MESSAGES, DECISIONS, ANSWERS):
        # A recalled message has left the first; its decision is no word of it.
        rows = connection.execute(
            select(table.c.chat_id, table.c.seq, table.c.created_at).where(table.c.message_id == message_id)
        )
        for row in rows:
            if row.chat_id in chats and row.seq is not None:
                seqs.setdefault((row.chat_id, row.seq), row.created_at)
    return [_told(connection, chats[chat_id], chat_id, seq, at, message_id) for (chat_id, seq), at in seqs.items()]


def _told(connection: Connection, chat: str, chat_id: int, seq: int, at: float, message_id: str) -> Kept:
    line = _first(connection, MESSAGES, MESSAGES.c.chat_id == chat_id, MESSAGES.c.seq == seq)
    if line is not None and line.message_id != message_id:
        line = None
    decision = _first(connection, DECISIONS, DECISIONS.c.chat_id == chat_id, DECISIONS.c.seq == seq)
    answer = _first(connection, ANSWERS, ANSWERS.c.chat_id == chat_id, ANSWERS.c.seq == seq)
    sent: Sequence[str] = ()
    if answer is not None and answer.reply_seq is not None:
        known = select(SENT.c.sent_id).where(SENT.c.chat_id == chat_id, SENT.c.reply_seq == answer.reply_seq)
        sent = list(connection.execute(known.order_by(SENT.c.id)).scalars())
    return Kept(
        chat, at,
        user=line.speaker_id if line is not None else None,
        name=line.speaker_name if line is not None else None,
        text=_text(to_message(line).parts) if line is not None else None,
        speak=decision.speak if decision is not None else None,
        reason=(decision.reason if decision is not None else answer.reason if answer is not None else None) or None,
        prompt_tokens=decision.prompt_tokens if decision is not None else None,
        cached_tokens=decision.cached_tokens if decision is not None else None,
        seconds=decision.seconds if decision is not None else None,
        reply=answer.reply[:_LONGEST] if answer is not None else None,
        sent_ids=tuple(sent),
    )  # fmt: skip


def _first(connection: Connection, table: Any, *conditions: Any) -> Row[Any] | None:
    return connection.execute(select(table).where(*conditions).order_by(table.c.id.desc()).limit(1)).first()


def _text(parts: Iterable[MessagePart]) -> str:
    """Words as they are, anything else by its kind."""
    names = {Picture: "[图片]", LostPicture: "[没看成的图片]"}
    words = []
    for part in parts:
        if isinstance(part, Text):
            words.append(part.text)
        elif isinstance(part, Quote):
            words.append(f"[引用 {part.speaker}]")
        else:
            words.append(names[type(part)])
    return "".join(words)[:_LONGEST]

"""The statements on chats and their lines. Each runs in the transaction of the connection it is given."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from sqlalchemy import Text as SqlText
from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import TRIAL, ChatKey, MessagePart, Picture, Quote, Speaker, StoredMessage
from qqvl_server.chat.records import part_from_json, part_to_json, to_message
from qqvl_server.chat.tables import CHATS, MESSAGES, METADATA

RECALLED = "[已撤回]"


def is_chat(chat: ChatKey) -> tuple[Any, Any]:
    return CHATS.c.kind == chat.kind.value, CHATS.c.external_id == chat.id


async def chat_id_of(connection: AsyncConnection, chat: ChatKey, name: str = "") -> int:
    """The chat's row, made where there is none."""
    row = (await connection.execute(select(CHATS.c.id, CHATS.c.name).where(*is_chat(chat)))).first()
    now = time.time()
    if row is None:
        inserted = await connection.execute(
            CHATS.insert().values(
                kind=chat.kind.value, external_id=chat.id, name=name, next_seq=1, window_start=1, updated_at=now
            )
        )
        assert inserted.inserted_primary_key is not None
        return int(inserted.inserted_primary_key[0])
    await connection.execute(update(CHATS).where(CHATS.c.id == row.id).values(updated_at=now, name=name or row.name))
    return int(row.id)


async def delete_old_trials(connection: AsyncConnection, before: float) -> None:
    """Played chats that nobody has spoken in since ``before``, in seconds since the epoch."""
    old = CHATS.c.external_id.like(f"{TRIAL}%"), CHATS.c.updated_at < before
    for chat_id in (await connection.execute(select(CHATS.c.id).where(*old))).scalars().all():
        await delete_chat(connection, chat_id)


async def delete_unspoken(connection: AsyncConnection) -> None:
    """Chats that are known by a recall or a command alone, once nothing of that is kept any more."""
    hanging = [table for table in METADATA.sorted_tables if "chat_id" in table.c]
    bare = (~exists().where(table.c.chat_id == CHATS.c.id) for table in hanging)
    await connection.execute(delete(CHATS).where(CHATS.c.next_seq == 1, *bare))


async def delete_chat(connection: AsyncConnection, chat_id: int) -> None:
    """A chat with all that hangs on it."""
    for table in reversed(METADATA.sorted_tables):
        if "chat_id" in table.c:
            await connection.execute(delete(table).where(table.c.chat_id == chat_id))
    await connection.execute(delete(CHATS).where(CHATS.c.id == chat_id))


async def last_seq(connection: AsyncConnection, chat_id: int) -> int:
    """The number of the chat's newest line, whether it is still there or not."""
    return int((await connection.execute(select(CHATS.c.next_seq).where(CHATS.c.id == chat_id))).scalar_one()) - 1


async def append(
    connection: AsyncConnection,
    chat_id: int,
    role: str,
    speaker: Speaker,
    parts: Sequence[MessagePart],
    identity: Identity | None,
) -> StoredMessage:
    taken = await connection.execute(
        update(CHATS).where(CHATS.c.id == chat_id).values(next_seq=CHATS.c.next_seq + 1).returning(CHATS.c.next_seq)
    )
    row = {
        "chat_id": chat_id,
        "seq": int(taken.scalar_one()) - 1,
        "role": role,
        "speaker_id": speaker.id,
        "speaker_name": speaker.name,
        "parts": [part_to_json(part) for part in parts],
        "message_id": identity and identity.message_id,
        "digest": identity and identity.digest,
        "created_at": time.time(),
    }
    stored = await connection.execute(MESSAGES.insert().values(row).returning(MESSAGES))
    return to_message(stored.one())


async def delete_lines(connection: AsyncConnection, chat_id: int, seqs: Collection[int]) -> None:
    await connection.execute(delete(MESSAGES).where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.seq.in_(seqs)))


async def blank_quotes(
    connection: AsyncConnection, chat_id: int, after: int, ids: Collection[str], pictures: Collection[str]
) -> None:
    """What lines behind ``after`` quote of messages that are gone; ``pictures`` are their SHA-256."""
    # SQLite and PostgreSQL both keep JSON as it was written, so that an id stands in its text.
    written = [json.dumps(quoted)[1:-1] for quoted in ids]
    named = or_(*(MESSAGES.c.parts.cast(SqlText).contains(quoted, autoescape=True) for quoted in written))
    rows = await connection.execute(
        select(MESSAGES.c.id, MESSAGES.c.parts).where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.seq > after, named)
    )
    for row in rows.all():
        parts = [part_from_json(part) for part in row.parts]
        if any(isinstance(part, Quote) and part.id in ids for part in parts):
            kept = [_without(part, ids) for part in parts if not _shows(part, pictures)]
            await connection.execute(
                update(MESSAGES).where(MESSAGES.c.id == row.id).values(parts=[part_to_json(part) for part in kept])
            )


def _without(part: MessagePart, ids: Collection[str]) -> MessagePart:
    return Quote("", RECALLED, part.id) if isinstance(part, Quote) and part.id in ids else part


def _shows(part: MessagePart, pictures: Collection[str]) -> TypeGuard[Picture]:
    return isinstance(part, Picture) and part.image.sha256 in pictures


async def caption(connection: AsyncConnection, chat_id: int, sha256: str, text: str) -> int:
    """Write a caption to a picture wherever the chat shows it; gives to how many lines."""
    named = MESSAGES.c.parts.cast(SqlText).contains(sha256, autoescape=True)
    rows = await connection.execute(select(MESSAGES.c.id, MESSAGES.c.parts).where(MESSAGES.c.chat_id == chat_id, named))
    lines = 0
    for row in rows.all():
        parts = [part_from_json(part) for part in row.parts]
        told = [replace(part, caption=text) if _shows(part, (sha256,)) else part for part in parts]
        if told != parts:
            written = [part_to_json(part) for part in told]
            await connection.execute(update(MESSAGES).where(MESSAGES.c.id == row.id).values(parts=written))
            lines += 1
    return lines


async def page(
    connection: AsyncConnection, chat: ChatKey, before: int | None, limit: int
) -> tuple[StoredMessage, ...] | None:
    """The newest ``limit`` lines below ``before``, oldest first; None when the chat was never heard of."""
    chat_id = (await connection.execute(select(CHATS.c.id).where(*is_chat(chat)))).scalar()
    if chat_id is None:
        return None
    query = select(MESSAGES).where(MESSAGES.c.chat_id == chat_id)
    if before is not None:
        query = query.where(MESSAGES.c.seq < before)
    rows = (await connection.execute(query.order_by(MESSAGES.c.seq.desc()).limit(limit))).all()
    return tuple(to_message(row) for row in reversed(rows))

"""The statements that an owner's look at the chats needs: last lines, and one line with what answers it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.message import ChatKey, ChatKind, Picture, StoredMessage
from qqvl_server.chat.records import to_message
from qqvl_server.chat.rows import answers, chats
from qqvl_server.chat.tables import ANSWERS, CHATS, LEDGER, MESSAGES


async def last_of_each(connection: AsyncConnection) -> dict[ChatKey, StoredMessage]:
    newest = select(MESSAGES.c.chat_id, func.max(MESSAGES.c.seq).label("seq")).group_by(MESSAGES.c.chat_id).subquery()
    rows = await connection.execute(
        select(MESSAGES, CHATS.c.kind, CHATS.c.external_id)
        .join(newest, and_(newest.c.chat_id == MESSAGES.c.chat_id, newest.c.seq == MESSAGES.c.seq))
        .join(CHATS, CHATS.c.id == MESSAGES.c.chat_id)
    )
    return {ChatKey(ChatKind(row.kind), row.external_id): to_message(row) for row in rows}


async def forget(connection: AsyncConnection, chat_id: int, seq: int) -> tuple[int, ...]:
    """Delete a line, and the answer to it with it; which lines are gone, none where there is no such line."""
    row = await _line(connection, chat_id, seq)
    if row is None:
        return ()
    gone, ids = [seq], [row.message_id] if row.message_id else []
    reply_seq = seq if row.role == "assistant" else await _reply_to(connection, chat_id, seq)
    if reply_seq is not None:
        ids += await answers.sent_ids(connection, chat_id, reply_seq)
        await answers.blank(connection, chat_id, reply_seq)
        gone = sorted({seq, reply_seq})
    lines = await connection.execute(select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.seq.in_(gone)))
    pictures = [p.image.sha256 for line in lines for p in to_message(line).parts if isinstance(p, Picture)]
    await chats.delete_lines(connection, chat_id, gone)
    if ids:
        await chats.blank_quotes(connection, chat_id, min(gone), ids, pictures)
    return tuple(gone)


async def day(connection: AsyncConnection, day: str) -> list[dict[str, Any]]:
    """What people and groups had of the bot on a day, who had most first; a name where they have a chat."""
    named = and_(
        CHATS.c.external_id == LEDGER.c.external_id,
        CHATS.c.kind == func.replace(LEDGER.c.kind, "user", ChatKind.PRIVATE.value),
    )
    rows = await connection.execute(
        select(LEDGER, CHATS.c.name)
        .join(CHATS, named, isouter=True)
        .where(LEDGER.c.day == day)
        .order_by(LEDGER.c.seconds.desc())
        .limit(1000)
    )
    return [
        {"kind": r.kind, "id": r.external_id, "name": r.name or "", "messages": r.messages, "seconds": r.seconds}
        for r in rows
    ]


async def _line(connection: AsyncConnection, chat_id: int, seq: int) -> Row[Any] | None:
    found = await connection.execute(select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.seq == seq))
    return found.first()


async def _reply_to(connection: AsyncConnection, chat_id: int, seq: int) -> int | None:
    found = await connection.execute(
        select(ANSWERS.c.reply_seq).where(ANSWERS.c.chat_id == chat_id, ANSWERS.c.seq == seq)
    )
    return next((reply_seq for reply_seq in found.scalars() if reply_seq is not None), None)

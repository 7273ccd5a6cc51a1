"""The statements that let go of what is older than it may be, a little at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import Table, delete, select
from sqlalchemy import Text as SqlText
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.records import pictures_in
from qqvl_server.chat.tables import (
    ANSWERS,
    CONVERSATION_MESSAGES,
    CONVERSATIONS,
    DECISIONS,
    LEDGER,
    MESSAGES,
    RECALLS,
    SENT,
)

BATCH: Final = 500
_TALKS: Final = 20
_PAGE: Final = 1000


async def drop_lines(connection: AsyncConnection, before: float) -> int:
    """Up to ``BATCH`` lines said before ``before``, in seconds since the epoch, and all that is kept about that time;
    gives how many lines there were."""
    old = select(MESSAGES.c.id).where(MESSAGES.c.created_at < before).order_by(MESSAGES.c.id).limit(BATCH)
    ids = list((await connection.execute(old)).scalars())
    await connection.execute(delete(MESSAGES).where(MESSAGES.c.id.in_(ids)))
    for table in (ANSWERS, SENT, RECALLS, DECISIONS, LEDGER):
        await connection.execute(delete(table).where(table.c.created_at < before))
    return len(ids)


async def drop_conversations(connection: AsyncConnection, before: float) -> int:
    """A few of the page's that nothing was said in since ``before``; gives how many."""
    old = select(CONVERSATIONS.c.id).where(CONVERSATIONS.c.updated_at < before).limit(_TALKS)
    ids = list((await connection.execute(old)).scalars())
    await connection.execute(delete(CONVERSATION_MESSAGES).where(CONVERSATION_MESSAGES.c.conversation_id.in_(ids)))
    await connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.id.in_(ids)))
    return len(ids)


async def named_pictures(connection: AsyncConnection) -> AsyncIterator[set[str]]:
    """The SHA-256 of every picture that is named somewhere, page by page."""
    for table, column in ((MESSAGES, MESSAGES.c.parts), (CONVERSATION_MESSAGES, CONVERSATION_MESSAGES.c.images)):
        async for texts in _pages(connection, table, column):
            yield pictures_in(texts)


async def _pages(connection: AsyncConnection, table: Table, column: Any) -> AsyncIterator[list[str]]:
    last = 0
    while True:
        query = select(table.c.id, column.cast(SqlText).label("text")).where(table.c.id > last)
        rows = (await connection.execute(query.order_by(table.c.id).limit(_PAGE))).all()
        yield [row.text for row in rows]
        if len(rows) < _PAGE:
            return
        last = rows[-1].id

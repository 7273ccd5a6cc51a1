"""What is forgotten when, and the statements that do it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.rows import chats
from qqvl_server.chat.tables import ANSWERS, DECISIONS, LEDGER, RECALLS, SENT

_DAY_S: Final = 86400
# A client retries for minutes; a week covers any journal it may replay.
ANSWER_LIFETIME_S: Final = 7 * _DAY_S
# How long it is known which messages are ours, and why we spoke.
_MONTH_S: Final = 30 * _DAY_S
_LIFETIMES: Final = {
    ANSWERS: ANSWER_LIFETIME_S, RECALLS: ANSWER_LIFETIME_S, SENT: _MONTH_S, DECISIONS: _MONTH_S, LEDGER: _MONTH_S
}  # fmt: skip


async def sweep(connection: AsyncConnection, now: float) -> None:
    """``now`` is in seconds since the epoch, as answers are dated."""
    for table, lifetime_s in _LIFETIMES.items():
        await connection.execute(delete(table).where(table.c.created_at < now - lifetime_s))
    await chats.delete_old_trials(connection, now - _DAY_S)
    await chats.delete_unspoken(connection)

"""The statements that read decisions for those who look at the bot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.decision import Effort, Noted, Told
from qqvl_server.chat.tables import ANSWERS, DECISIONS

# What came twice under one id has an answer of its own each time. The id is what there is an index on.
_ANSWERED: Final = and_(
    ANSWERS.c.chat_id == DECISIONS.c.chat_id,
    ANSWERS.c.message_id == DECISIONS.c.message_id,
    ANSWERS.c.seq == DECISIONS.c.seq,
)


async def page(
    connection: AsyncConnection, chat_id: int, before: int | None, limit: int, seqs: Sequence[int] | None
) -> tuple[Noted, ...]:
    """The newest ``limit`` whose id is below ``before``; of the lines ``seqs`` alone, where they are given."""
    query = select(DECISIONS, ANSWERS.c.reply_seq).join(ANSWERS, _ANSWERED, isouter=True)
    query = query.where(DECISIONS.c.chat_id == chat_id)
    if before is not None:
        query = query.where(DECISIONS.c.id < before)
    if seqs is not None:
        query = query.where(DECISIONS.c.seq.in_(seqs))
    rows = await connection.execute(query.order_by(DECISIONS.c.id.desc()).limit(limit))
    return tuple(map(_noted, rows))


async def spoken(connection: AsyncConnection, chat_id: int, seq: int) -> Noted | None:
    """Of a line that was answered by the model, or of the answer ``seq`` to one; the last of those it covers."""
    asked = select(ANSWERS.c.reply_seq).where(ANSWERS.c.chat_id == chat_id, ANSWERS.c.seq == seq)
    query = (
        select(DECISIONS, ANSWERS.c.reply_seq)
        .join(ANSWERS, _ANSWERED, isouter=True)
        .where(
            DECISIONS.c.chat_id == chat_id,
            DECISIONS.c.window_lines.is_not(None),
            or_(DECISIONS.c.seq == seq, ANSWERS.c.reply_seq == seq, ANSWERS.c.reply_seq.in_(asked)),
        )
    )
    row = (await connection.execute(query.order_by(DECISIONS.c.id.desc()).limit(1))).first()
    return None if row is None else _noted(row)


def _noted(row: Row[Any]) -> Noted:
    effort = None
    if row.window_lines is not None:
        effort = Effort(row.window_lines, row.prompt_tokens, row.cached_tokens, row.seconds, row.model)
    told = Told(row.reason, row.score, row.cost_ms, row.created_at, effort)
    return Noted(row.id, row.seq, row.message_id, row.speak, told, row.reply_seq)

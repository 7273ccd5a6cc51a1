"""The statements on answers, decisions, and what QQ calls the messages we sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Row, and_, case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.decision import Activity, Decision, Effort, Reason, Told
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer
from qqvl_server.chat.tables import ANSWERS, DECISIONS, MESSAGES, SENT, is_of

# QQ lets nobody withdraw what is older.
WITHDRAWABLE_S: Final = 120
_HOUR_S: Final = 3600
_DAY_S: Final = 86400
_TURNED_TO_US: Final = tuple(reason.value for reason in (Reason.ADDRESSED, Reason.NAME, Reason.REPLY))
_BLANK: Final = {"reply": "", "should_reply": False, "warnings": []}


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it is kept: ``seq`` is the line that was answered, ``reply_seq`` the line that answers it."""

    answer: Answer
    now: float
    seq: int | None = None
    reply_seq: int | None = None


async def remember(connection: AsyncConnection, chat_id: int, identity: Identity | None, kept: Kept) -> None:
    """Keep what the door says, for whoever asks again."""
    if identity is None:
        return
    answer = kept.answer
    await connection.execute(
        ANSWERS.insert().values(
            chat_id=chat_id,
            message_id=identity.message_id,
            digest=identity.digest,
            should_reply=answer.should_reply,
            reply=answer.reply,
            warnings=list(answer.warnings),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            created_at=kept.now,
            reason=str(answer.reason),
            merged_into=answer.merged_into,
            seq=kept.seq,
            reply_seq=kept.reply_seq,
        )
    )


async def note(
    connection: AsyncConnection,
    chat_id: int,
    seq: int,
    message_id: str | None,
    decision: Decision,
    effort: Effort | None,
    at: float | None = None,
) -> None:
    """``at`` is in seconds since the epoch; now, where it is None."""
    await connection.execute(
        DECISIONS.insert().values(
            chat_id=chat_id,
            seq=seq,
            message_id=message_id,
            speak=decision.speak,
            reason=decision.reason.value,
            score=decision.score,
            cost_ms=decision.cost_ms,
            created_at=time.time() if at is None else at,
            **(asdict(effort) if effort is not None else {}),
        )
    )


async def last_told(connection: AsyncConnection, chat_id: int) -> Told | None:
    """Why we last spoke in a chat, and what it took. What is told of a command is none of the talk."""
    found = await connection.execute(
        select(DECISIONS)
        .where(DECISIONS.c.chat_id == chat_id, DECISIONS.c.speak, DECISIONS.c.reason != Reason.COMMAND.value)
        .order_by(DECISIONS.c.id.desc())
        .limit(1)
    )
    row = found.first()
    if row is None:
        return None
    effort = None
    if row.window_lines is not None:
        effort = Effort(row.window_lines, row.prompt_tokens, row.cached_tokens, row.seconds, row.model)
    return Told(row.reason, row.score, row.cost_ms, row.created_at, effort)


async def last_notice(connection: AsyncConnection, chat_id: int, reason: Reason, whom: str) -> float | None:
    """When a line of the talk was last answered for ``reason``; of one person's where ``whom`` is not empty. What a
    command says belongs to no line."""
    line = and_(MESSAGES.c.chat_id == ANSWERS.c.chat_id, MESSAGES.c.seq == ANSWERS.c.seq)
    told = (
        select(func.max(ANSWERS.c.created_at))
        .join(MESSAGES, line)
        .where(ANSWERS.c.chat_id == chat_id, ANSWERS.c.reason == reason.value, ANSWERS.c.should_reply)
    )
    at: float | None = (await connection.execute(told.where(MESSAGES.c.speaker_id == whom) if whom else told)).scalar()
    return at


async def activity(connection: AsyncConnection, chat_id: int, now: float) -> Activity:
    """What was said in the last day that nobody had asked for."""
    spoke = DECISIONS.c.created_at
    found = await connection.execute(
        select(func.max(spoke), func.count(), func.count(case((spoke > now - _HOUR_S, 1)))).where(
            DECISIONS.c.chat_id == chat_id,
            DECISIONS.c.speak,
            DECISIONS.c.reason.in_((Reason.ALWAYS.value, Reason.SMART.value)),
            spoke > now - _DAY_S,
        )
    )
    last, in_day, in_hour = found.one()
    return Activity(last, in_hour, in_day, await _unanswered(connection, chat_id, now) if last is not None else 0)


async def _unanswered(connection: AsyncConnection, chat_id: int, now: float) -> int:
    """How often in a row, within a day, we joined a talk and nobody turned to us."""
    mine = DECISIONS.c.chat_id == chat_id, DECISIONS.c.created_at > now - _DAY_S
    turned = select(func.coalesce(func.max(DECISIONS.c.id), 0)).where(*mine, DECISIONS.c.reason.in_(_TURNED_TO_US))
    joined = DECISIONS.c.speak, DECISIONS.c.reason == Reason.SMART.value
    found = await connection.execute(
        select(func.count()).where(*mine, *joined, DECISIONS.c.id > turned.scalar_subquery())
    )
    return int(found.scalar_one())


def to_answer(row: Row[Any]) -> Answer:
    return Answer(
        reply=row.reply,
        should_reply=row.should_reply,
        warnings=tuple(row.warnings),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        reason=row.reason,
        merged_into=row.merged_into,
    )


async def newest_of(connection: AsyncConnection, chat_id: int, message_id: str) -> Row[Any] | None:
    """The last answer under an id that may have come twice."""
    found = await connection.execute(
        select(ANSWERS)
        .where(ANSWERS.c.chat_id == chat_id, ANSWERS.c.message_id == message_id)
        .order_by(ANSWERS.c.id.desc())
        .limit(1)
    )
    return found.first()


async def found(connection: AsyncConnection, chat_id: int, identity: Identity) -> Row[Any] | None:
    """What was answered to this very message."""
    rows = await connection.execute(select(ANSWERS).where(ANSWERS.c.chat_id == chat_id, is_of(ANSWERS, identity)))
    return rows.first()


async def is_known(connection: AsyncConnection, chat_id: int, identity: Identity) -> bool:
    return await found(connection, chat_id, identity) is not None


async def blank(connection: AsyncConnection, chat_id: int, reply_seq: int) -> None:
    """Nobody is told this reply again."""
    await connection.execute(
        update(ANSWERS).where(ANSWERS.c.chat_id == chat_id, ANSWERS.c.reply_seq == reply_seq).values(_BLANK)
    )


async def blank_one(connection: AsyncConnection, answer_id: int) -> None:
    await connection.execute(update(ANSWERS).where(ANSWERS.c.id == answer_id).values(_BLANK))


async def blank_asides(connection: AsyncConnection, chat_id: int, message_id: str) -> bool:
    """What was said to commands, which are no lines of the talk; whether there was any."""
    mine = ANSWERS.c.chat_id == chat_id, ANSWERS.c.message_id == message_id, ANSWERS.c.seq.is_(None)
    blanked = await connection.execute(update(ANSWERS).where(*mine, ANSWERS.c.reply != "").values(_BLANK))
    return bool(blanked.rowcount)


async def blank_all(connection: AsyncConnection, chat_id: int) -> None:
    await connection.execute(update(ANSWERS).where(ANSWERS.c.chat_id == chat_id).values(_BLANK))


async def report(connection: AsyncConnection, chat_id: int, reply_seq: int, ids: Sequence[str], now: float) -> None:
    """Add to what QQ calls the messages of a reply, in order."""
    known = set(await _sent(connection, chat_id, reply_seq))
    for sent_id in ids:
        if sent_id not in known:
            known.add(sent_id)
            await connection.execute(
                SENT.insert().values(chat_id=chat_id, sent_id=sent_id, reply_seq=reply_seq, created_at=now)
            )


async def sent_ids(connection: AsyncConnection, chat_id: int, reply_seq: int) -> tuple[str, ...]:
    return tuple(await _sent(connection, chat_id, reply_seq))


async def withdrawable(connection: AsyncConnection, chat_id: int, reply_seq: int, now: float) -> list[str]:
    """Those that QQ would still let us withdraw, in the order they were sent."""
    return await _sent(connection, chat_id, reply_seq, since=now - WITHDRAWABLE_S)


async def _sent(connection: AsyncConnection, chat_id: int, reply_seq: int, since: float = 0) -> list[str]:
    rows = await connection.execute(
        select(SENT.c.sent_id)
        .where(SENT.c.chat_id == chat_id, SENT.c.reply_seq == reply_seq, SENT.c.created_at > since)
        .order_by(SENT.c.id)
    )
    return list(rows.scalars())


async def reply_sent_as(connection: AsyncConnection, chat_id: int, sent_id: str) -> int | None:
    """The number of our line of which QQ's id this is, of the newest if there are several."""
    found = await connection.execute(
        select(SENT.c.reply_seq)
        .where(SENT.c.chat_id == chat_id, SENT.c.sent_id == sent_id)
        .order_by(SENT.c.reply_seq.desc())
        .limit(1)
    )
    return found.scalar()

"""The statements on recalls: a message that left QQ leaves the history, whichever of the two is told first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, Picture
from qqvl_server.chat.records import to_message
from qqvl_server.chat.rows import answers, chats
from qqvl_server.chat.tables import ANSWERS, MESSAGES, RECALLS, is_of

# A recall that came first waits so long for a message without a time of its own.
_PATIENCE_S: Final = 600
_SKEW_S: Final = 120
# Recalls that wait for a message nobody knows: the oldest of a chat's, and of all, make room. Anybody who may recall
# could name any number of them.
_WAITING_IN_CHAT: Final = 100
_WAITING: Final = 2000
_SILENT: Final = Answer("", should_reply=False, reason="silent")


@dataclass(frozen=True, slots=True)
class Recalled:
    """What became of a recall: our messages that may still be withdrawn, and whether any words have left."""

    withdraw: tuple[str, ...] = ()
    wiped: bool = False


async def recall(
    connection: AsyncConnection, chat_id: int, message_id: str, coming: Identity | None, now: float
) -> Recalled:
    """``coming`` is the message meant, where it is on its way and maybe not stored."""
    earlier = await _newest(connection, chat_id, message_id)
    line = await _line(connection, chat_id, message_id, coming, earlier)
    if coming is None:
        ours = await answers.reply_sent_as(connection, chat_id, message_id)
        if ours is not None and (line is None or ours > line.seq) and not _is_done(earlier, ours):
            return await _recall_ours(connection, chat_id, message_id, ours, now)
        if line is None:
            wiped = await answers.blank_asides(connection, chat_id, message_id)
            if earlier is None:
                await _note(connection, chat_id, message_id, None, None, None, [], now)
                await _make_room(connection, chat_id)
            return Recalled(() if earlier is None else tuple(earlier.withdraw), wiped)
    return await _recall_line(connection, chat_id, message_id, coming, line, now)


async def swallows(connection: AsyncConnection, chat_id: int, identity: Identity, now: float) -> bool:
    """Whether the message that comes now was recalled already; one that waited for it has met it."""
    rows = await connection.execute(
        select(RECALLS).where(
            RECALLS.c.chat_id == chat_id,
            RECALLS.c.message_id == identity.message_id,
            or_(RECALLS.c.digest == identity.digest, RECALLS.c.seq.is_(None)),
        )
    )
    for row in rows.all():
        if row.seq is not None:
            return True
        # Sent after the recall, it is another message under the same id.
        sent_at = identity.sent_at
        if sent_at <= row.created_at + _SKEW_S if sent_at is not None else now - row.created_at <= _PATIENCE_S:
            last = await chats.last_seq(connection, chat_id)
            await connection.execute(
                update(RECALLS).where(RECALLS.c.id == row.id).values(seq=last, digest=identity.digest)
            )
            return True
    return False


async def is_recalled(connection: AsyncConnection, chat_id: int, message_id: str, digest: str | None) -> bool:
    found = await connection.execute(
        select(RECALLS.c.id).where(
            RECALLS.c.chat_id == chat_id, RECALLS.c.message_id == message_id, RECALLS.c.digest == digest
        )
    )
    return found.first() is not None


async def reported_late(connection: AsyncConnection, chat_id: int, reply_seq: int, ids: list[str]) -> bool:
    """Whether what was answered has left by now; its recall then knows what was sent, too."""
    found = await connection.execute(
        select(RECALLS).where(RECALLS.c.chat_id == chat_id, RECALLS.c.reply_seq == reply_seq)
    )
    rows = found.all()
    for row in rows:
        known = [*row.withdraw, *(sent_id for sent_id in ids if sent_id not in row.withdraw)]
        await connection.execute(update(RECALLS).where(RECALLS.c.id == row.id).values(withdraw=known))
    return bool(rows)


async def _newest(connection: AsyncConnection, chat_id: int, message_id: str) -> Row[Any] | None:
    found = await connection.execute(
        select(RECALLS)
        .where(RECALLS.c.chat_id == chat_id, RECALLS.c.message_id == message_id)
        .order_by(RECALLS.c.id.desc())
        .limit(1)
    )
    return found.first()


async def _line(
    connection: AsyncConnection, chat_id: int, message_id: str, coming: Identity | None, earlier: Row[Any] | None
) -> Row[Any] | None:
    """The newest line of that id, if it is newer than what was recalled under it before."""
    query = select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.message_id == message_id)
    if coming is not None:
        query = query.where(is_of(MESSAGES, coming))
    elif earlier is not None and earlier.seq is not None:
        query = query.where(MESSAGES.c.seq > earlier.seq)
    return (await connection.execute(query.order_by(MESSAGES.c.seq.desc()).limit(1))).first()


def _is_done(earlier: Row[Any] | None, reply_seq: int) -> bool:
    return earlier is not None and earlier.seq is not None and earlier.seq >= reply_seq


async def _recall_line(
    connection: AsyncConnection,
    chat_id: int,
    message_id: str,
    coming: Identity | None,
    line: Row[Any] | None,
    now: float,
) -> Recalled:
    digest: str | None = line.digest if line is not None else coming.digest if coming is not None else None
    answered = await _answer_to(connection, chat_id, message_id, digest)
    reply_seq = answered.reply_seq if answered is not None else None
    withdraw, gone, ids = [], [], [message_id]
    pictures: list[str] = []
    if line is not None:
        gone.append(int(line.seq))
        pictures = [part.image.sha256 for part in to_message(line).parts if isinstance(part, Picture)]
    if reply_seq is not None:
        gone.append(reply_seq)
        ids += await answers.sent_ids(connection, chat_id, reply_seq)
        withdraw = await answers.withdrawable(connection, chat_id, reply_seq, now)
        await answers.blank(connection, chat_id, reply_seq)
    elif answered is not None:
        # What a command said is no line of the talk.
        await answers.blank_one(connection, answered.id)
    if answered is None and digest is not None:
        await answers.remember(
            connection, chat_id, Identity(message_id, digest, digest, None), answers.Kept(_SILENT, now)
        )
    if gone:
        await chats.delete_lines(connection, chat_id, gone)
        await chats.blank_quotes(connection, chat_id, min(gone), ids, pictures)
    last = await chats.last_seq(connection, chat_id)
    seq = last if line is None else int(line.seq)
    await _note(connection, chat_id, message_id, digest, seq, reply_seq, withdraw, now)
    return Recalled(tuple(withdraw), wiped=line is not None or answered is not None)


async def _recall_ours(
    connection: AsyncConnection, chat_id: int, message_id: str, reply_seq: int, now: float
) -> Recalled:
    ids = await answers.sent_ids(connection, chat_id, reply_seq)
    await answers.blank(connection, chat_id, reply_seq)
    await chats.delete_lines(connection, chat_id, [reply_seq])
    await chats.blank_quotes(connection, chat_id, reply_seq, ids, ())
    await _note(connection, chat_id, message_id, None, reply_seq, reply_seq, [], now)
    return Recalled(wiped=True)


async def _answer_to(connection: AsyncConnection, chat_id: int, message_id: str, digest: str | None) -> Row[Any] | None:
    found = await connection.execute(
        select(ANSWERS).where(
            ANSWERS.c.chat_id == chat_id, ANSWERS.c.message_id == message_id, ANSWERS.c.digest == digest
        )
    )
    return found.first()


async def _make_room(connection: AsyncConnection, chat_id: int) -> None:
    waiting = RECALLS.c.seq.is_(None)
    for mine, most in (((waiting, RECALLS.c.chat_id == chat_id), _WAITING_IN_CHAT), ((waiting,), _WAITING)):
        oldest_kept = select(RECALLS.c.id).where(*mine).order_by(RECALLS.c.id.desc()).offset(most - 1).limit(1)
        await connection.execute(delete(RECALLS).where(*mine, RECALLS.c.id < oldest_kept.scalar_subquery()))


async def _note(
    connection: AsyncConnection,
    chat_id: int,
    message_id: str,
    digest: str | None,
    seq: int | None,
    reply_seq: int | None,
    withdraw: list[str],
    now: float,
) -> None:
    await connection.execute(
        RECALLS.insert().values(
            chat_id=chat_id,
            message_id=message_id,
            digest=digest,
            seq=seq,
            reply_seq=reply_seq,
            withdraw=withdraw,
            created_at=now,
        )
    )

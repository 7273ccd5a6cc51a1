"""The statements that leave nothing of one person: what he said, what answered it, and where others name him."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row, Table, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.message import ChatKind
from qqvl_server.chat.rows import answers, chats
from qqvl_server.chat.tables import (
    ANSWERS,
    AUDIT,
    CHAT_SETTINGS,
    CHATS,
    CONVERSATION_MESSAGES,
    CONVERSATIONS,
    DECISIONS,
    LEDGER,
    MESSAGES,
    PAGE_SETTINGS,
    PLAYS,
    RECALLS,
    SENT,
)
from qqvl_server.chat.traces import GONE, SOMEBODY, Eraser, Traces

_PAGE: Final = 500
# Columns that hold words of people, or of the model about them. Lines of chats are rewritten part by part.
WORDS: Final = {
    ANSWERS: ("reply", "warnings"),
    CHATS: ("name",),
    CONVERSATIONS: ("title", "system_prompt", "tools"),
    CONVERSATION_MESSAGES: ("text", "reasoning", "tool_calls", "tool_results", "error"),
    PLAYS: ("name", "script"),
    AUDIT: ("what", "before", "after"),
}


@dataclass(frozen=True, slots=True)
class Found:
    traces: Traces
    lines: int
    chats: int


@dataclass(slots=True)
class Erased:
    """``lines`` that left, places ``changed`` in what others said; ``shown`` are the pictures that are still named."""

    lines: int = 0
    changed: int = 0
    shown: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Gone:
    """Of one chat: the numbers of the person's lines and of those that answered, QQ's ids of them, the pictures."""

    said: set[int] = field(default_factory=set)
    replies: set[int] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)


async def look(connection: AsyncConnection, person: str) -> Found:
    mine = MESSAGES.c.speaker_id == person, MESSAGES.c.role == "user"
    names: set[str] = set()
    texts: set[str] = set()
    places: set[int] = set()
    lines = 0
    for row in await connection.execute(
        select(MESSAGES.c.chat_id, MESSAGES.c.speaker_name, MESSAGES.c.parts).where(*mine)
    ):
        lines += 1
        places.add(row.chat_id)
        names.add(row.speaker_name.strip())
        texts.update(part["text"].strip() for part in row.parts if part["type"] == "text")
    private = select(CHATS.c.name).where(CHATS.c.kind == ChatKind.PRIVATE.value, CHATS.c.external_id == person)
    names.update(name.strip() for name in (await connection.execute(private)).scalars())
    others = MESSAGES.c.speaker_id != person
    for few in _chunks(names):
        shared = select(MESSAGES.c.speaker_name).where(others, MESSAGES.c.speaker_name.in_(few)).distinct()
        names.difference_update((await connection.execute(shared)).scalars().all())
    groups = select(CHATS.c.name).where(CHATS.c.kind == ChatKind.GROUP.value)
    names.difference_update(name.strip() for name in (await connection.execute(groups)).scalars())
    return Found(Traces(person, tuple(sorted(names - {""})), tuple(sorted(texts - {""}))), lines, len(places))


async def erase(connection: AsyncConnection, eraser: Eraser, tell: Callable[[str], object]) -> Erased:
    """In one transaction that writes; again, it finds what the traces still find."""
    person, done = eraser.traces.person, Erased()
    private = select(CHATS.c.id).where(CHATS.c.kind == ChatKind.PRIVATE.value, CHATS.c.external_id == person)
    for chat_id in (await connection.execute(private)).scalars().all():
        count = await connection.execute(select(MESSAGES.c.id).where(MESSAGES.c.chat_id == chat_id))
        done.lines += len(count.all())
        await chats.delete_chat(connection, chat_id)
    gone, his = await _said(connection, person)
    for chat_id, of_chat in gone.items():
        await _add_replies(connection, chat_id, of_chat)
        await _delete(connection, chat_id, of_chat)
        done.lines += len(of_chat.said | of_chat.replies)
    await connection.execute(delete(LEDGER).where(LEDGER.c.kind == "user", LEDGER.c.external_id == person))
    others = await _shown_by_others(connection)
    done.changed += await _rewrite_lines(connection, eraser, gone, his - others, done.shown, tell)
    for table, columns in WORDS.items():
        done.changed += await _rewrite(connection, table, columns, eraser)
    async for row in _paged(connection, CONVERSATION_MESSAGES, ("images",)):
        done.shown.update(image["sha256"] for image in row.images)
    return done


async def _said(connection: AsyncConnection, person: str) -> tuple[dict[int, _Gone], set[str]]:
    """The person's lines by chat, and the pictures he sent."""
    gone: dict[int, _Gone] = defaultdict(_Gone)
    pictures: set[str] = set()
    columns = MESSAGES.c.chat_id, MESSAGES.c.seq, MESSAGES.c.message_id, MESSAGES.c.parts
    mine = MESSAGES.c.speaker_id == person, MESSAGES.c.role == "user"
    for row in await connection.execute(select(*columns).where(*mine)):
        gone[row.chat_id].said.add(row.seq)
        if row.message_id:
            gone[row.chat_id].ids.add(row.message_id)
        pictures.update(_own(row.parts))
    return gone, pictures


async def _add_replies(connection: AsyncConnection, chat_id: int, gone: _Gone) -> None:
    answered = select(ANSWERS.c.seq, ANSWERS.c.reply_seq).where(
        ANSWERS.c.chat_id == chat_id, ANSWERS.c.reply_seq.is_not(None)
    )
    rows = (await connection.execute(answered)).all()
    gone.replies.update(row.reply_seq for row in rows if row.seq in gone.said)
    # Of answers that are kept no longer, whose line follows the question.
    known = {row.reply_seq for row in rows}
    for few in _chunks(gone.said):
        following = select(MESSAGES.c.seq).where(
            MESSAGES.c.chat_id == chat_id, MESSAGES.c.role == "assistant", MESSAGES.c.seq.in_([seq + 1 for seq in few])
        )
        gone.replies.update(seq for seq in (await connection.execute(following)).scalars() if seq not in known)
    for few in _chunks(gone.replies):
        named = select(SENT.c.sent_id).where(SENT.c.chat_id == chat_id, SENT.c.reply_seq.in_(few))
        gone.ids.update((await connection.execute(named)).scalars())


async def _delete(connection: AsyncConnection, chat_id: int, gone: _Gone) -> None:
    for few in _chunks(gone.said | gone.replies):
        await chats.delete_lines(connection, chat_id, few)
    for table, column, values in (
        (ANSWERS, ANSWERS.c.seq, gone.said),
        (ANSWERS, ANSWERS.c.message_id, gone.ids),
        (DECISIONS, DECISIONS.c.seq, gone.said),
        (DECISIONS, DECISIONS.c.message_id, gone.ids),
        (RECALLS, RECALLS.c.message_id, gone.ids),
        (RECALLS, RECALLS.c.reply_seq, gone.replies),
        (SENT, SENT.c.reply_seq, gone.replies),
    ):
        for some in _chunks(values):
            await connection.execute(delete(table).where(table.c.chat_id == chat_id, column.in_(some)))
    for reply_seq in gone.replies:
        # It answered others as well.
        await answers.blank(connection, chat_id, reply_seq)


async def _shown_by_others(connection: AsyncConnection) -> set[str]:
    """Pictures that somebody else has sent, in a chat or to the model."""
    shown: set[str] = set()
    async for row in _paged(connection, MESSAGES, ("parts",)):
        shown.update(_own(row.parts))
    async for row in _paged(connection, CONVERSATION_MESSAGES, ("images",)):
        shown.update(image["sha256"] for image in row.images)
    return shown


async def _rewrite_lines(
    connection: AsyncConnection,
    eraser: Eraser,
    gone: dict[int, _Gone],
    pictures: set[str],
    shown: set[str],
    tell: Callable[[str], object],
) -> int:
    """What others said, without the person and without ``pictures``; gives in how many lines that changed something."""
    changed = looked = 0
    names = set(eraser.traces.names)
    nothing = _Gone()
    async for row in _paged(connection, MESSAGES, ("chat_id", "parts")):
        ids = gone.get(row.chat_id, nothing).ids
        parts = [
            _quoting_nobody(part, ids, names, eraser)
            for part in row.parts
            if not (part["type"] == "image" and part["sha256"] in pictures)
        ]
        if parts != row.parts:
            await connection.execute(update(MESSAGES).where(MESSAGES.c.id == row.id).values(parts=parts))
            changed += 1
        shown.update(part["sha256"] for part in parts if part["type"] == "image")
        looked += 1
        tell(f"看过 {looked} 句别人的话")
    return changed


def _quoting_nobody(part: dict[str, Any], ids: set[str], names: set[str], eraser: Eraser) -> dict[str, Any]:
    if part["type"] == "quote" and (part.get("id", "") in ids - {""} or part["speaker"].strip() in names):
        return {**part, "speaker": SOMEBODY, "text": GONE, "id": ""}
    if part["type"] == "image":
        return {**part, "caption": eraser.text(part["caption"])} if part.get("caption") else part
    return {**part, **{name: eraser.text(part[name]) for name in ("speaker", "text") if name in part}}


async def _rewrite(connection: AsyncConnection, table: Table, columns: Sequence[str], eraser: Eraser) -> int:
    changed = 0
    async for row in _paged(connection, table, columns):
        before = {name: getattr(row, name) for name in columns}
        after = {name: eraser.value(value) for name, value in before.items()}
        new = {name: value for name, value in after.items() if value != before[name]}
        if new:
            await connection.execute(update(table).where(table.c.id == row.id).values(new))
            changed += 1
    return changed


async def _paged(connection: AsyncConnection, table: Table, columns: Sequence[str]) -> AsyncIterator[Row[Any]]:
    last = 0
    while True:
        query = select(table.c.id, *(table.c[name] for name in columns)).where(table.c.id > last)
        rows = (await connection.execute(query.order_by(table.c.id).limit(_PAGE))).all()
        for row in rows:
            yield row
        if len(rows) < _PAGE:
            return
        last = rows[-1].id


def _own(parts: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (part["sha256"] for part in parts if part["type"] == "image" and not part.get("quoted"))


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    rest = list(values)
    while rest:
        few, rest = rest[:_PAGE], rest[_PAGE:]
        yield few


async def settings_naming(connection: AsyncConnection, eraser: Eraser) -> tuple[str, ...]:
    """Settings that an owner made and that name the person: they are his word, and stay."""
    query = select(CHAT_SETTINGS.c.name, CHAT_SETTINGS.c.value).union_all(
        select(PAGE_SETTINGS.c.name, PAGE_SETTINGS.c.value)
    )
    rows = (await connection.execute(query)).all()
    return tuple(sorted({row.name for row in rows if eraser.value(row.value) != row.value}))

"""The chat history on disk: what is asked of the database (``database.py``). Knows SQL, no model and no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.database import Database
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import (
    Answer,
    ChatKey,
    ChatKind,
    MessagePart,
    Speaker,
    StoredMessage,
    Text,
)
from qqvl_server.chat.records import part_to_json, to_message
from qqvl_server.chat.tables import ANSWERS, CHATS, MESSAGES, is_of
from qqvl_server.errors import StorageFailed

_DAY_S: Final = 86400
# A client retries for minutes; a week covers any journal it may replay.
ANSWER_LIFETIME_S: Final = 7 * _DAY_S
# What a gap counts for that is longer than a day: a clock that jumped tells no more than that some time went by.
_GAP_S: Final = 3600


@dataclass(frozen=True, slots=True)
class ChatSummary:
    key: ChatKey
    name: str
    messages: int
    updated_at: float


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that has no number yet."""

    chat: ChatKey
    chat_name: str
    speaker: Speaker
    parts: tuple[MessagePart, ...]
    identity: Identity | None


class _Clock:
    """Time by which answers grow old: goes on with the last one written, and no faster than this process lives.

    The wall clock is believed when it says that less than a day has passed since then. Set forward by a month it would
    otherwise have every answer swept, and each repeated message answered twice.
    """

    def __init__(self, last: float | None) -> None:
        now = time.time()
        if last is not None and not 0 <= now - last <= _DAY_S:
            now = last + (_GAP_S if now > last else 0)
        self._offset = now - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset


class Store:
    """Use as ``async with Store.open(url)``; every method raises ``StorageFailed`` when the database does."""

    def __init__(self, database: Database, clock: _Clock) -> None:
        self._write = database.write
        self._read = database.read
        self._database = database
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, is_ours: Callable[[], bool] = lambda: True, *, sweep_s: float = _DAY_S
    ) -> AsyncIterator[Self]:
        """Args:
            is_ours: whether the folder the database lies in is still the one that this process has locked.
            sweep_s: seconds between looks for answers that nobody will ask for again.

        Raises:
            StorageFailed: what is wrong with it and what to do.
        """
        async with Database.open(url, is_ours) as database:
            async with database.read() as connection:
                last = (await connection.execute(select(func.max(ANSWERS.c.created_at)))).scalar()
            store = cls(database, _Clock(last))
            await store._forget_old_answers()
            sweeping = asyncio.create_task(store._sweep(sweep_s))
            try:
                yield store
            finally:
                sweeping.cancel()
                with suppress(asyncio.CancelledError):
                    await sweeping

    @property
    def trouble(self) -> str | None:
        """A word for what keeps anything from being stored until somebody mends it; None while all is well."""
        return self._database.trouble

    async def add_message(self, draft: Draft) -> StoredMessage:
        """Make a message durable. A resend returns the stored line instead."""

        async def add(connection: AsyncConnection) -> StoredMessage:
            chat_id = await _chat_id(connection, draft.chat, draft.chat_name)
            if draft.identity is not None:
                known = await connection.execute(
                    select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, is_of(MESSAGES, draft.identity))
                )
                row = known.first()
                if row is not None:
                    return to_message(row)
            return await _append(connection, chat_id, "user", draft.speaker, draft.parts, draft.identity)

        return await self._write(add)

    async def add_answer(self, chat: ChatKey, identity: Identity | None, answer: Answer, bot: Speaker) -> None:
        """Commit the reply and what the door will say about it, in one transaction."""

        async def add(connection: AsyncConnection) -> None:
            chat_id = await _chat_id(connection, chat, "")
            if answer.reply and answer.should_reply:
                await _append(connection, chat_id, "assistant", bot, (Text(answer.reply),), None)
            await self._remember(connection, chat_id, identity, answer)

        await self._write(add)

    async def find_answer(self, chat: ChatKey, identity: Identity) -> Answer | None:
        async with self._read() as connection:
            found = await connection.execute(
                select(ANSWERS).join(CHATS, CHATS.c.id == ANSWERS.c.chat_id).where(*_is(chat), is_of(ANSWERS, identity))
            )
            row = found.first()
            if row is None:
                return None
            return Answer(
                reply=row.reply,
                should_reply=row.should_reply,
                warnings=tuple(row.warnings),
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
            )

    async def window(self, chat: ChatKey, until: int) -> tuple[StoredMessage, ...]:
        """Lines from the window's start up to and including ``until``, oldest first."""
        async with self._read() as connection:
            rows = await connection.execute(
                select(MESSAGES)
                .join(CHATS, CHATS.c.id == MESSAGES.c.chat_id)
                .where(*_is(chat), MESSAGES.c.seq >= CHATS.c.window_start, MESSAGES.c.seq <= until)
                .order_by(MESSAGES.c.seq)
            )
            return tuple(to_message(row) for row in rows)

    async def move_window(self, chat: ChatKey, start: int) -> None:
        moved = update(CHATS).where(*_is(chat)).values(window_start=start)
        await self._write(lambda connection: connection.execute(moved))

    async def reset(self, chat: ChatKey, chat_name: str, identity: Identity | None, answer: Answer) -> None:
        """Delete a chat's history and remember the command's own answer, in one transaction.

        Of earlier answers only this is kept, that they were given: a resend is met with silence.
        """

        async def empty(connection: AsyncConnection) -> None:
            chat_id = await _chat_id(connection, chat, chat_name)
            await connection.execute(delete(MESSAGES).where(MESSAGES.c.chat_id == chat_id))
            await connection.execute(
                update(ANSWERS).where(ANSWERS.c.chat_id == chat_id).values(reply="", should_reply=False, warnings=[])
            )
            await self._remember(connection, chat_id, identity, answer)

        await self._write(empty)
        await self._database.empty_log()

    async def chats(self) -> tuple[ChatSummary, ...]:
        """Every chat, the one heard last first."""
        async with self._read() as connection:
            rows = await connection.execute(
                select(CHATS, func.count(MESSAGES.c.id).label("messages"))
                .join(MESSAGES, MESSAGES.c.chat_id == CHATS.c.id, isouter=True)
                .group_by(CHATS.c.id)
                .order_by(CHATS.c.updated_at.desc())
            )
            return tuple(
                ChatSummary(ChatKey(ChatKind(r.kind), r.external_id), r.name, r.messages, r.updated_at) for r in rows
            )

    async def messages(self, chat: ChatKey, *, before: int | None, limit: int) -> tuple[StoredMessage, ...] | None:
        """The newest ``limit`` lines below ``before``, oldest first; None when the chat was never heard of."""
        async with self._read() as connection:
            chat_id = (await connection.execute(select(CHATS.c.id).where(*_is(chat)))).scalar()
            if chat_id is None:
                return None
            query = select(MESSAGES).where(MESSAGES.c.chat_id == chat_id)
            if before is not None:
                query = query.where(MESSAGES.c.seq < before)
            rows = (await connection.execute(query.order_by(MESSAGES.c.seq.desc()).limit(limit))).all()
            return tuple(to_message(row) for row in reversed(rows))

    async def _sweep(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            # The next time is soon enough, and whoever wanted something stored has been told.
            with suppress(StorageFailed):
                await self._forget_old_answers()

    async def _forget_old_answers(self) -> None:
        old = delete(ANSWERS).where(ANSWERS.c.created_at < self._clock.now() - ANSWER_LIFETIME_S)
        await self._write(lambda connection: connection.execute(old))

    async def _remember(
        self, connection: AsyncConnection, chat_id: int, identity: Identity | None, answer: Answer
    ) -> None:
        if identity is None:
            return
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
                created_at=self._clock.now(),
            )
        )


def sqlite_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'qqvl.sqlite3'}"


def _is(chat: ChatKey) -> tuple[Any, Any]:
    return CHATS.c.kind == chat.kind.value, CHATS.c.external_id == chat.id


async def _chat_id(connection: AsyncConnection, chat: ChatKey, name: str) -> int:
    row = (await connection.execute(select(CHATS.c.id, CHATS.c.name).where(*_is(chat)))).first()
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


async def _append(
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

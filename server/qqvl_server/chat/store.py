"""The chat history on disk. The one file that talks to the database; knows SQL, no model and no HTTP.

SQLite in WAL mode with ``synchronous=FULL``: a commit that returned survives a kill and a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). The same statements run on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import alembic.command
import alembic.config
from sqlalchemy import Connection, delete, event, func, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

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
from qqvl_server.observe.logs import logger

# A client retries for minutes; a week covers any journal it may replay.
ANSWER_LIFETIME_S: Final = 7 * 86400
_UNSAVED: Final = "聊天记录写不进磁盘，这条消息没有保存，请检查剩余空间"


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


class Store:
    """Use as ``async with Store.open(url)``; every method raises ``StorageFailed`` when the database does."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite has one writer; queueing here keeps a busy moment from becoming "database is locked".
        self._writing = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        engine = create_async_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _durable_sqlite)
        try:
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(_migrate)
                store = cls(engine)
                await store._forget_old_answers()
            except (SQLAlchemyError, OSError) as error:
                raise StorageFailed("打不开聊天记录数据库：请检查 --data-dir 能否写入、磁盘是否已满") from error
            yield store
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._writing, self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            logger().error("数据库写入失败", kind=type(error).__name__)
            raise StorageFailed(_UNSAVED) from error

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            logger().error("数据库读取失败", kind=type(error).__name__)
            raise StorageFailed("聊天记录读不出来，请检查磁盘") from error

    async def add_message(self, draft: Draft) -> StoredMessage:
        """Make a message durable. A resend returns the stored line instead."""
        async with self._write() as connection:
            chat_id = await _chat_id(connection, draft.chat, draft.chat_name)
            if draft.identity is not None:
                known = await connection.execute(
                    select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, is_of(MESSAGES, draft.identity))
                )
                row = known.first()
                if row is not None:
                    return to_message(row)
            return await _append(connection, chat_id, "user", draft.speaker, draft.parts, draft.identity)

    async def add_answer(self, chat: ChatKey, identity: Identity | None, answer: Answer, bot: Speaker) -> None:
        """Commit the reply and what the door will say about it, in one transaction."""
        async with self._write() as connection:
            chat_id = await _chat_id(connection, chat, "")
            if answer.reply and answer.should_reply:
                await _append(connection, chat_id, "assistant", bot, (Text(answer.reply),), None)
            await _remember(connection, chat_id, identity, answer)

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
        async with self._write() as connection:
            await connection.execute(update(CHATS).where(*_is(chat)).values(window_start=start))

    async def reset(self, chat: ChatKey, chat_name: str, identity: Identity | None, answer: Answer) -> None:
        """Delete a chat's history and remember the command's own answer, in one transaction.

        Of earlier answers only this is kept, that they were given: a resend is met with silence.
        """
        async with self._write() as connection:
            chat_id = await _chat_id(connection, chat, chat_name)
            await connection.execute(delete(MESSAGES).where(MESSAGES.c.chat_id == chat_id))
            await connection.execute(
                update(ANSWERS).where(ANSWERS.c.chat_id == chat_id).values(reply="", should_reply=False, warnings=[])
            )
            await _remember(connection, chat_id, identity, answer)
        if self._engine.dialect.name == "sqlite":
            # The log still holds what was deleted. Best effort: the deletion itself is committed.
            with contextlib.suppress(SQLAlchemyError):
                async with self._writing, self._engine.connect() as connection:
                    await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

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

    async def _forget_old_answers(self) -> None:
        async with self._write() as connection:
            await connection.execute(delete(ANSWERS).where(ANSWERS.c.created_at < time.time() - ANSWER_LIFETIME_S))


def sqlite_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'qqvl.sqlite3'}"


def _durable_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # ``secure_delete``: what /reset deletes is overwritten, not left in free pages.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


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


async def _remember(connection: AsyncConnection, chat_id: int, identity: Identity | None, answer: Answer) -> None:
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
            created_at=time.time(),
        )
    )

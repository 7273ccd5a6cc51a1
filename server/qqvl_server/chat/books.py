"""What is kept of chats besides what was said: own settings, captions, why we spoke, who used how much. Knows SQL."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.clock import Clock
from qqvl_server.chat.database import Database
from qqvl_server.chat.decision import Activity, Charge, Decision, Noted, Reason, Told, Usage
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Picture, StoredMessage
from qqvl_server.chat.records import to_message
from qqvl_server.chat.rows import answers, chats, decisions, ledger, lines
from qqvl_server.chat.tables import ANSWERS, CHAT_SETTINGS, CHATS, MESSAGES

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
# What other servers are told.
_NEWS: Final = "chat settings"


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of a chat: its lines and since when, those the model is shown, and one person's."""

    lines: int = 0
    since: float | None = None
    shown: int = 0
    by_asker: int = 0


class Books:
    """Every method raises ``StorageFailed`` when the database does. Settings are read once and kept at hand."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._chosen: dict[ChatKey, dict[str, Any]] = {}
        # Grows with every change, here or by another server.
        self.version = 0
        database.among.listen(self._heard)

    async def load(self) -> None:
        before = None
        # What is changed here while it is read is newer than what is read.
        while before != self.version:
            before = self.version
            chosen = await self._read()
        self._chosen = chosen
        self.version += 1

    async def _read(self) -> dict[ChatKey, dict[str, Any]]:
        chosen: dict[ChatKey, dict[str, Any]] = {}
        async with self._database.read() as connection:
            rows = await connection.execute(
                select(CHATS.c.kind, CHATS.c.external_id, CHAT_SETTINGS.c.name, CHAT_SETTINGS.c.value).join(
                    CHATS, CHATS.c.id == CHAT_SETTINGS.c.chat_id
                )
            )
            for row in rows:
                chosen.setdefault(ChatKey(ChatKind(row.kind), row.external_id), {})[row.name] = row.value
        return chosen

    async def _heard(self, news: str | None) -> None:
        if news in (None, _NEWS):
            await self.load()

    def chosen(self, chat: ChatKey) -> Mapping[str, Any]:
        """What this chat has of its own: values as JSON has them, not looked over."""
        return self._chosen.get(chat, _NOTHING)

    async def choose(self, chat: ChatKey, values: Mapping[str, Any]) -> None:
        """Keep settings for a chat; None is as everywhere."""

        async def keep(connection: AsyncConnection) -> None:
            chat_id = await chats.chat_id_of(connection, chat)
            for name, value in values.items():
                await connection.execute(
                    delete(CHAT_SETTINGS).where(CHAT_SETTINGS.c.chat_id == chat_id, CHAT_SETTINGS.c.name == name)
                )
                if value is not None:
                    row = {"chat_id": chat_id, "name": name, "value": value, "created_at": time.time()}
                    await connection.execute(CHAT_SETTINGS.insert().values(row))
            await self._database.among.tell(connection, _NEWS)

        await self._database.write(keep)
        own = {name: value for name, value in {**self.chosen(chat), **values}.items() if value is not None}
        self._chosen[chat] = own
        self.version += 1

    async def forget(self, chat: ChatKey) -> None:
        """Delete a chat with all that is kept of it."""

        async def delete_it(connection: AsyncConnection) -> None:
            chat_id = await _known(connection, chat)
            if chat_id is not None:
                await chats.delete_chat(connection, chat_id)
                await self._database.among.tell(connection, _NEWS)

        await self._database.write(delete_it)
        await self._database.empty_log()
        self._chosen.pop(chat, None)
        self.version += 1

    async def charge(self, charges: Sequence[Charge]) -> None:
        """What was computed though nothing came of it."""
        if charges:
            await self._database.write(lambda connection: ledger.add(connection, charges))

    async def used(self, kind: str, external_id: str) -> Usage:
        """Today, by a ``user`` or a ``group``."""
        async with self._database.read() as connection:
            return await ledger.used(connection, kind, external_id)

    async def activity(self, chat: ChatKey, now: float) -> Activity:
        """What we said of ourselves in the day before ``now``, in seconds since the epoch."""
        async with self._database.read() as connection:
            chat_id = await _known(connection, chat)
            return Activity() if chat_id is None else await answers.activity(connection, chat_id, now)

    async def decisions(
        self, chat: ChatKey, *, before: int | None = None, limit: int = 50, seqs: Sequence[int] | None = None
    ) -> tuple[Noted, ...]:
        """Why we spoke in a chat or did not, the newest first; of the lines ``seqs`` alone, where they are given."""
        async with self._database.read() as connection:
            chat_id = await _known(connection, chat)
            return () if chat_id is None else await decisions.page(connection, chat_id, before, limit, seqs)

    async def spoken(self, chat: ChatKey, seq: int) -> Noted | None:
        """Of the line ``seq``, or of the one that it answers, why the model was asked, and what that took."""
        async with self._database.read() as connection:
            chat_id = await _known(connection, chat)
            return None if chat_id is None else await decisions.spoken(connection, chat_id, seq)

    async def last_lines(self) -> dict[ChatKey, StoredMessage]:
        async with self._database.read() as connection:
            return await lines.last_of_each(connection)

    async def day(self, day: str) -> list[dict[str, Any]]:
        """The ledger of a day, ``2026-11-29``."""
        async with self._database.read() as connection:
            return await lines.day(connection, day)

    async def forget_line(self, chat: ChatKey, seq: int) -> tuple[int, ...]:
        """Delete a line and what answered it; which are gone."""

        async def work(connection: AsyncConnection) -> tuple[int, ...]:
            chat_id = await _known(connection, chat)
            return () if chat_id is None else await lines.forget(connection, chat_id, seq)

        gone = await self._database.write(work)
        await self._database.empty_log()
        return gone

    def now(self) -> float:
        """In seconds since the epoch, as answers are dated."""
        return self._clock.now()

    async def last_notice(self, chat: ChatKey, reason: Reason, whom: str = "") -> float | None:
        """When a line was last answered with a word for ``reason``: anybody's, or what ``whom`` said."""
        async with self._database.read() as connection:
            chat_id = await _known(connection, chat)
            return None if chat_id is None else await answers.last_notice(connection, chat_id, reason, whom)

    async def note(self, chat: ChatKey, message_id: str | None, decision: Decision) -> None:
        """A decision about what is no line of the chat: a command."""

        async def add(connection: AsyncConnection) -> None:
            chat_id = await chats.chat_id_of(connection, chat)
            last = await chats.last_seq(connection, chat_id)
            await answers.note(connection, chat_id, last, message_id, decision, None)

        await self._database.write(add)

    async def last_told(self, chat: ChatKey) -> Told | None:
        async with self._database.read() as connection:
            chat_id = await _known(connection, chat)
            return None if chat_id is None else await answers.last_told(connection, chat_id)

    async def kept(self, chat: ChatKey, asker: str) -> Kept:
        async with self._database.read() as connection:
            row = (await connection.execute(select(CHATS).where(*chats.is_chat(chat)))).first()
            if row is None:
                return Kept()
            mine = MESSAGES.c.chat_id == row.id
            count, since = (
                await connection.execute(select(func.count(), func.min(MESSAGES.c.created_at)).where(mine))
            ).one()
            shown = await _count(connection, mine, MESSAGES.c.seq >= row.window_start)
            said = await _count(connection, mine, MESSAGES.c.role == "user", MESSAGES.c.speaker_id == asker)
            return Kept(count, since, shown, said)

    async def caption(self, chat: ChatKey, sha256: str, text: str) -> bool:
        """Keep a picture's caption with every line of the chat that shows it; false where none does any more."""

        async def write(connection: AsyncConnection) -> bool:
            chat_id = await _known(connection, chat)
            return chat_id is not None and await chats.caption(connection, chat_id, sha256, text) > 0

        return await self._database.write(write)

    async def begin_anew(self, chat: ChatKey) -> None:
        """From now on the model is shown what comes; nothing is deleted."""
        start = update(CHATS).where(*chats.is_chat(chat)).values(window_start=CHATS.c.next_seq)
        await self._database.write(lambda connection: connection.execute(start))

    async def undo(
        self, chat: ChatKey, chat_name: str, identity: Identity | None, done: Answer, nothing: Answer
    ) -> Answer:
        """Delete the last answer and what it answered, and keep what is told about it, all at once."""

        async def forget(connection: AsyncConnection) -> Answer:
            chat_id = await chats.chat_id_of(connection, chat, chat_name)
            if identity is not None:
                row = await answers.found(connection, chat_id, identity)
                if row is not None:
                    return answers.to_answer(row)
            told = done if await _undo(connection, chat_id) else nothing
            await answers.remember(connection, chat_id, identity, answers.Kept(told, self._clock.now()))
            return told

        told = await self._database.write(forget)
        await self._database.empty_log()
        return told


async def _known(connection: AsyncConnection, chat: ChatKey) -> int | None:
    return (await connection.execute(select(CHATS.c.id).where(*chats.is_chat(chat)))).scalar()


async def _count(connection: AsyncConnection, *where: Any) -> int:
    return int((await connection.execute(select(func.count()).select_from(MESSAGES).where(*where))).scalar_one())


async def _undo(connection: AsyncConnection, chat_id: int) -> bool:
    """Whether there was a turn to drop."""
    last = (
        select(MESSAGES.c.seq)
        .where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.role == "assistant")
        .order_by(MESSAGES.c.seq.desc())
        .limit(1)
    )
    reply_seq = (await connection.execute(last)).scalar()
    if reply_seq is None:
        return False
    answered = await connection.execute(
        select(ANSWERS.c.seq, ANSWERS.c.message_id).where(
            ANSWERS.c.chat_id == chat_id, ANSWERS.c.reply_seq == reply_seq, ANSWERS.c.seq.is_not(None)
        )
    )
    rows = answered.all()
    seqs = [int(row.seq) for row in rows]
    if not seqs:
        # Said by a client that gives no ids.
        before = select(func.max(MESSAGES.c.seq)).where(
            MESSAGES.c.chat_id == chat_id, MESSAGES.c.role == "user", MESSAGES.c.seq < reply_seq
        )
        seqs = [seq for seq in (await connection.execute(before)).scalars() if seq is not None]
    gone = [*seqs, reply_seq]
    rows_gone = await connection.execute(
        select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, MESSAGES.c.seq.in_(gone))
    )
    pictures = [p.image.sha256 for row in rows_gone for p in to_message(row).parts if isinstance(p, Picture)]
    ids = [row.message_id for row in rows] + list(await answers.sent_ids(connection, chat_id, reply_seq))
    await answers.blank(connection, chat_id, reply_seq)
    await chats.delete_lines(connection, chat_id, gone)
    if ids:
        await chats.blank_quotes(connection, chat_id, min(gone), ids, pictures)
    return True

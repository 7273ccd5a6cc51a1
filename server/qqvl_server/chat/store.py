"""The chat history on disk: what is asked of the database (``database.py``). Knows SQL, no model and no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.books import Books
from qqvl_server.chat.clock import Clock
from qqvl_server.chat.conversations.store import ConversationStore
from qqvl_server.chat.database import Database
from qqvl_server.chat.decision import Charge, Decision, Effort
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import TRIAL, Answer, ChatKey, ChatKind, MessagePart, Speaker, StoredMessage, Text
from qqvl_server.chat.records import to_message
from qqvl_server.chat.rows import answers, chats, ledger, recalls
from qqvl_server.chat.rows.recalls import Recalled
from qqvl_server.chat.tables import ANSWERS, CHATS, DECISIONS, LEDGER, MESSAGES, RECALLS, SENT, is_of
from qqvl_server.errors import StorageFailed

_DAY_S: Final = 86400
# A client retries for minutes; a week covers any journal it may replay.
ANSWER_LIFETIME_S: Final = 7 * _DAY_S
# How long it is known which messages are ours, and why we spoke.
_MONTH_S: Final = 30 * _DAY_S
_LIFETIMES: Final = {
    ANSWERS: ANSWER_LIFETIME_S, RECALLS: ANSWER_LIFETIME_S, SENT: _MONTH_S, DECISIONS: _MONTH_S, LEDGER: _MONTH_S
}  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one message of a turn. ``covered``: the turn's reply answers it. ``aside``: what is told is no
    part of the talk. ``effort`` is what it took, where the model spoke."""

    identity: Identity | None
    answer: Answer
    seq: int | None = None
    decision: Decision | None = None
    covered: bool = False
    aside: bool = False
    effort: Effort | None = None


class Store:
    """Use as ``async with Store.open(url)``; every method raises ``StorageFailed`` when the database does."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._write = database.write
        self._read = database.read
        self.database = database
        self._clock = clock
        self.books = Books(database, clock)
        self.conversations = ConversationStore(database)

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
            store = cls(database, Clock(last))
            await store.books.load()
            await store.conversations.begin()
            await store._forget_old()
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
        return self.database.trouble

    async def add_message(self, draft: Draft) -> StoredMessage | None:
        """Make a message durable. A resend returns the stored line instead; None for one that was recalled."""

        async def add(connection: AsyncConnection) -> StoredMessage | None:
            chat_id = await chats.chat_id_of(connection, draft.chat, draft.chat_name)
            if draft.identity is not None:
                known = await connection.execute(
                    select(MESSAGES).where(MESSAGES.c.chat_id == chat_id, is_of(MESSAGES, draft.identity))
                )
                row = known.first()
                if row is not None:
                    return to_message(row)
                if await recalls.swallows(connection, chat_id, draft.identity, self._clock.now()):
                    return None
            return await chats.append(connection, chat_id, "user", draft.speaker, draft.parts, draft.identity)

        return await self._write(add)

    async def add_answers(
        self, chat: ChatKey, outcomes: Sequence[Outcome], bot: Speaker, charges: Sequence[Charge] = ()
    ) -> None:
        """Commit a reply, what the door will say about each message that shared the turn, and whom it cost what, in
        one transaction. One of them at most has a reply; what was recalled in between keeps its silence.
        """

        async def add(connection: AsyncConnection) -> None:
            chat_id = await chats.chat_id_of(connection, chat)
            fresh = [
                outcome
                for outcome in outcomes
                if outcome.identity is None or not await answers.is_known(connection, chat_id, outcome.identity)
            ]
            spoken = (o.answer for o in fresh if not o.aside and o.answer.should_reply)
            said = next((answer.reply for answer in spoken if answer.reply), None)
            line = said and await chats.append(connection, chat_id, "assistant", bot, (Text(said),), None)
            for outcome in fresh:
                told_by = line.seq if line and outcome.covered else None
                kept = answers.Kept(outcome.answer, self._clock.now(), outcome.seq, told_by)
                await answers.remember(connection, chat_id, outcome.identity, kept)
                if outcome.seq is not None and outcome.decision is not None:
                    message_id = outcome.identity.message_id if outcome.identity else None
                    at = outcome.identity.sent_at if outcome.identity and chat.is_trial else None
                    decision, effort = outcome.decision, outcome.effort
                    await answers.note(connection, chat_id, outcome.seq, message_id, decision, effort, at)
            await ledger.add(connection, charges)

        await self._write(add)

    async def add_command(self, chat: ChatKey, chat_name: str, identity: Identity | None, answer: Answer) -> None:
        """Keep a command's answer for whoever asks again; it is no part of the talk."""

        async def add(connection: AsyncConnection) -> None:
            chat_id = await chats.chat_id_of(connection, chat, chat_name)
            if identity is None or not await answers.is_known(connection, chat_id, identity):
                await answers.remember(connection, chat_id, identity, answers.Kept(answer, self._clock.now()))

        await self._write(add)

    async def find_answer(self, chat: ChatKey, identity: Identity) -> Answer | None:
        async with self._read() as connection:
            found = await connection.execute(
                select(ANSWERS)
                .join(CHATS, CHATS.c.id == ANSWERS.c.chat_id)
                .where(*chats.is_chat(chat), is_of(ANSWERS, identity))
            )
            row = found.first()
            return None if row is None else answers.to_answer(row)

    async def recall(self, chat: ChatKey, message_id: str, coming: Identity | None) -> Recalled:
        """A message left QQ: it leaves the history too, now or when it comes, and what answered it with it.

        Again, it gives the same. An id that came twice means its newest line; ``coming`` is the message meant where it
        is on its way, stored or not.
        """

        async def forget(connection: AsyncConnection) -> Recalled:
            chat_id = await chats.chat_id_of(connection, chat)
            return await recalls.recall(connection, chat_id, message_id, coming, self._clock.now())

        recalled = await self._write(forget)
        if recalled.wiped:
            await self.database.empty_log()
        return recalled

    async def sent(self, chat: ChatKey, message_id: str, ids: Sequence[str]) -> tuple[str, ...]:
        """Note QQ's ids of our own messages; those that are to be withdrawn, because what they answer has left."""

        async def add(connection: AsyncConnection) -> tuple[str, ...]:
            # A report is no reason to know of a chat in which nothing was said.
            chat_id = (await connection.execute(select(CHATS.c.id).where(*chats.is_chat(chat)))).scalar()
            row = await answers.newest_of(connection, chat_id, message_id) if chat_id is not None else None
            if chat_id is None or row is None:
                return ()
            if row.reply_seq is None:
                # Parts of an answer went out before its question was recalled.
                is_gone = await recalls.is_recalled(connection, chat_id, message_id, row.digest)
                return tuple(ids) if is_gone else ()
            await answers.report(connection, chat_id, row.reply_seq, ids, self._clock.now())
            late = await recalls.reported_late(connection, chat_id, row.reply_seq, list(ids))
            return tuple(ids) if late else ()

        return await self._write(add)

    async def is_ours(self, chat: ChatKey, message_id: str) -> bool:
        """Whether QQ gave this id to a message of ours."""
        async with self._read() as connection:
            chat_id = (await connection.execute(select(CHATS.c.id).where(*chats.is_chat(chat)))).scalar()
            return chat_id is not None and await answers.reply_sent_as(connection, chat_id, message_id) is not None

    async def window(self, chat: ChatKey, until: int) -> tuple[StoredMessage, ...]:
        """Lines from the window's start up to and including ``until``, oldest first."""
        async with self._read() as connection:
            rows = await connection.execute(
                select(MESSAGES)
                .join(CHATS, CHATS.c.id == MESSAGES.c.chat_id)
                .where(*chats.is_chat(chat), MESSAGES.c.seq >= CHATS.c.window_start, MESSAGES.c.seq <= until)
                .order_by(MESSAGES.c.seq)
            )
            return tuple(to_message(row) for row in rows)

    async def move_window(self, chat: ChatKey, start: int) -> None:
        moved = update(CHATS).where(*chats.is_chat(chat)).values(window_start=start)
        await self._write(lambda connection: connection.execute(moved))

    async def reset(self, chat: ChatKey, chat_name: str, identity: Identity | None, answer: Answer) -> None:
        """Delete a chat's history and remember the command's own answer, in one transaction.

        Of earlier answers only this is kept, that they were given: a resend is met with silence.
        """

        async def empty(connection: AsyncConnection) -> None:
            chat_id = await chats.chat_id_of(connection, chat, chat_name)
            await connection.execute(delete(MESSAGES).where(MESSAGES.c.chat_id == chat_id))
            await answers.blank_all(connection, chat_id)
            await answers.remember(connection, chat_id, identity, answers.Kept(answer, self._clock.now()))

        await self._write(empty)
        await self.database.empty_log()

    async def chats(self) -> tuple[ChatSummary, ...]:
        """Every chat but those that are played, the one heard last first."""
        async with self._read() as connection:
            rows = await connection.execute(
                select(CHATS, func.count(MESSAGES.c.id).label("messages"))
                .join(MESSAGES, MESSAGES.c.chat_id == CHATS.c.id, isouter=True)
                .where(CHATS.c.external_id.not_like(f"{TRIAL}%"))
                .group_by(CHATS.c.id)
                .order_by(CHATS.c.updated_at.desc())
            )
            return tuple(
                ChatSummary(ChatKey(ChatKind(r.kind), r.external_id), r.name, r.messages, r.updated_at) for r in rows
            )

    async def messages(self, chat: ChatKey, *, before: int | None, limit: int) -> tuple[StoredMessage, ...] | None:
        """The newest ``limit`` lines below ``before``, oldest first; None when the chat was never heard of."""
        async with self._read() as connection:
            return await chats.page(connection, chat, before, limit)

    async def _sweep(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            # The next time is soon enough, and whoever wanted something stored has been told.
            with suppress(StorageFailed):
                await self._forget_old()

    async def _forget_old(self) -> None:
        async def sweep(connection: AsyncConnection) -> None:
            for table, lifetime_s in _LIFETIMES.items():
                await connection.execute(delete(table).where(table.c.created_at < self._clock.now() - lifetime_s))
            await chats.delete_old_trials(connection, self._clock.now() - _DAY_S)
            await chats.delete_unspoken(connection)

        await self._write(sweep)


def sqlite_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'qqvl.sqlite3'}"

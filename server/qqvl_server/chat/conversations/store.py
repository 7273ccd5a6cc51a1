"""Conversations on disk: the statements. Each is somebody's, and nobody else finds it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Row, delete, func, or_, select, update
from sqlalchemy import Text as SqlText
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.conversations.values import Conversation, Listed, Said, Status, ToolResult, leaf
from qqvl_server.chat.database import Database
from qqvl_server.chat.tables import CONVERSATION_MESSAGES, CONVERSATIONS
from qqvl_server.errors import NotFound
from qqvl_server.generation.port import ToolCall, Usage
from qqvl_server.media.image import ImageRef

_TITLE: Final = 40
_PREVIEW: Final = 80
_PICTURE: Final = "图片"
# Of each conversation in a list: how many messages it has, and what was said last in the branch that is shown. Blanks
# are folded later, so more is taken than is shown; a long answer is not read whole.
_COUNT: Final = (
    select(func.count())
    .where(CONVERSATION_MESSAGES.c.conversation_id == CONVERSATIONS.c.id)
    .correlate(CONVERSATIONS)
    .scalar_subquery()
    .label("message_count")
)
_LAST: Final = (
    select(func.substr(CONVERSATION_MESSAGES.c.text, 1, 4 * _PREVIEW))
    .where(CONVERSATION_MESSAGES.c.public_id == CONVERSATIONS.c.head)
    .correlate(CONVERSATIONS)
    .scalar_subquery()
    .label("last_text")
)


def new_id(kind: str) -> str:
    """``kind`` is a letter: c for conversations, m for messages."""
    return f"{kind}_{secrets.token_hex(8)}"


class ConversationStore:
    """Every method raises ``StorageFailed`` when the database does, and ``NotFound`` for what is not ``owner``'s."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self) -> None:
        """Answers that a server which ended left unfinished stay as far as they came; those of others go on."""
        ended = {"status": Status.INTERRUPTED.value, "error": "服务器在答到一半时停了"}

        async def work(connection: AsyncConnection) -> None:
            unfinished = CONVERSATION_MESSAGES.c.status == Status.RUNNING.value
            rows = await connection.execute(
                select(CONVERSATION_MESSAGES.c.id, CONVERSATIONS.c.public_id)
                .join(CONVERSATIONS, CONVERSATIONS.c.id == CONVERSATION_MESSAGES.c.conversation_id)
                .where(unfinished)
            )
            for row in rows.all():
                if not await self._database.among.is_held(connection, row.public_id):
                    mine = CONVERSATION_MESSAGES.c.id == row.id
                    await connection.execute(update(CONVERSATION_MESSAGES).where(mine).values(ended))

        await self._database.write(work)

    def alone(self, public_id: str) -> AbstractAsyncContextManager[None]:
        """The only answer that is being made in a conversation, among all servers. Raises StorageFailed."""
        return self._database.among.lane(public_id)

    async def create(self, owner: str, title: str, values: Mapping[str, Any]) -> Conversation:
        """``values`` are ``system_prompt``, ``sampling`` and ``tools``, where there are any."""
        now = time.time()
        made = Conversation(
            new_id("c"), owner, title, bool(title), values.get("system_prompt", ""), None, now, now,
            dict(values.get("sampling", {})), dict(values.get("tools", {})),
        )  # fmt: skip
        row = {**asdict(made), "public_id": made.id}
        del row["id"]
        await self._database.write(lambda connection: connection.execute(CONVERSATIONS.insert().values(row)))
        return made

    async def listed(self, owner: str, words: str, before: float | None, limit: int) -> tuple[Listed, ...]:
        """The newest first; those that hold ``words`` in their title or in what was said."""
        query = select(CONVERSATIONS, _COUNT, _LAST).where(CONVERSATIONS.c.owner == owner)
        if before is not None:
            query = query.where(CONVERSATIONS.c.updated_at < before)
        if words:
            said = select(CONVERSATION_MESSAGES.c.conversation_id).where(
                CONVERSATION_MESSAGES.c.conversation_id == CONVERSATIONS.c.id,
                CONVERSATION_MESSAGES.c.text.icontains(words, autoescape=True),
            )
            query = query.where(or_(CONVERSATIONS.c.title.icontains(words, autoescape=True), said.exists()))
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(CONVERSATIONS.c.updated_at.desc()).limit(limit))
            return tuple(map(_listed, rows))

    async def find(self, owner: str, public_id: str) -> Conversation:
        async with self._database.read() as connection:
            return _conversation(await _row(connection, owner, public_id))

    async def messages(self, owner: str, public_id: str) -> tuple[Said, ...]:
        """All branches, the oldest first."""
        async with self._database.read() as connection:
            return await _messages(connection, (await _row(connection, owner, public_id)).id)

    async def change(self, owner: str, public_id: str, values: Mapping[str, Any]) -> Conversation:
        """``title`` (empty for one that is made), ``system_prompt``, ``sampling``, ``tools``, ``head`` (then its newest
        leaf)."""

        async def work(connection: AsyncConnection) -> Conversation:
            row = await _row(connection, owner, public_id)
            written = dict(values)
            if "title" in written:
                written["titled"] = bool(written["title"])
            if not written.get("title", True) or "head" in written:
                said = await _messages(connection, row.id)
                if "head" in written:
                    if written["head"] not in {message.id for message in said}:
                        raise NotFound("这个对话里没有这条消息")
                    written["head"] = leaf(said, written["head"])
                if not written.get("title", True):
                    written["title"] = _made_title(said[0]) if said else ""
            if written:
                await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == row.id).values(written))
            return _conversation(await _row(connection, owner, public_id))

        return await self._database.write(work)

    async def add(self, owner: str, public_id: str, said: Sequence[Said]) -> Conversation:
        """Add messages, each the parent of the next; the last is the new head."""

        async def work(connection: AsyncConnection) -> Conversation:
            row = await _row(connection, owner, public_id)
            for message in said:
                await connection.execute(CONVERSATION_MESSAGES.insert().values(_as_row(message, row.id)))
            written = {"head": said[-1].id, "updated_at": time.time()}
            if not row.title and said[0].role == "user":
                written["title"] = _made_title(said[0])
            await connection.execute(update(CONVERSATIONS).where(CONVERSATIONS.c.id == row.id).values(written))
            return _conversation(await _row(connection, owner, public_id))

        return await self._database.write(work)

    async def save(self, said: Said) -> None:
        """A message as far as it has come; of one that was deleted meanwhile nothing is kept."""
        row = _as_row(said, None)
        del row["conversation_id"]
        mine = CONVERSATION_MESSAGES.c.public_id == said.id
        await self._database.write(lambda c: c.execute(update(CONVERSATION_MESSAGES).where(mine).values(row)))

    async def delete(self, owner: str, public_id: str | None) -> int:
        """One, or all of ``owner``'s; how many there were."""

        async def work(connection: AsyncConnection) -> int:
            meant = select(CONVERSATIONS.c.id).where(CONVERSATIONS.c.owner == owner)
            if public_id is not None:
                meant = meant.where(CONVERSATIONS.c.public_id == public_id)
            ids = list((await connection.execute(meant)).scalars())
            messages = CONVERSATION_MESSAGES.c.conversation_id.in_(ids)
            await connection.execute(delete(CONVERSATION_MESSAGES).where(messages))
            await connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.id.in_(ids)))
            return len(ids)

        gone = await self._database.write(work)
        await self._database.empty_log()
        if public_id is not None and not gone:
            raise NotFound("没有这个对话")
        return gone

    async def shows(self, owner: str, sha256: str) -> bool:
        """Whether a picture is in one of ``owner``'s conversations."""
        async with self._database.read() as connection:
            found = await connection.execute(
                select(CONVERSATION_MESSAGES.c.id)
                .join(CONVERSATIONS, CONVERSATIONS.c.id == CONVERSATION_MESSAGES.c.conversation_id)
                .where(
                    CONVERSATIONS.c.owner == owner,
                    CONVERSATION_MESSAGES.c.images.cast(SqlText).contains(sha256, autoescape=True),
                )
                .limit(1)
            )
            return found.first() is not None


async def _row(connection: AsyncConnection, owner: str, public_id: str) -> Row[Any]:
    query = select(CONVERSATIONS).where(CONVERSATIONS.c.owner == owner, CONVERSATIONS.c.public_id == public_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFound("没有这个对话")
    return row


async def _messages(connection: AsyncConnection, conversation_id: int) -> tuple[Said, ...]:
    mine = CONVERSATION_MESSAGES.c.conversation_id == conversation_id
    rows = await connection.execute(select(CONVERSATION_MESSAGES).where(mine).order_by(CONVERSATION_MESSAGES.c.id))
    return tuple(map(_said, rows))


def _listed(row: Row[Any]) -> Listed:
    return Listed(_conversation(row), " ".join((row.last_text or "").split())[:_PREVIEW], int(row.message_count))


def _made_title(first: Said) -> str:
    return " ".join(first.text.split())[:_TITLE] or _PICTURE


def _conversation(row: Row[Any]) -> Conversation:
    return Conversation(
        row.public_id, row.owner, row.title, row.titled, row.system_prompt, row.head, row.created_at, row.updated_at,
        row.sampling, row.tools,
    )  # fmt: skip


def _as_row(said: Said, conversation_id: int | None) -> dict[str, Any]:
    row = asdict(said)
    row["public_id"] = row.pop("id")
    return row | {"status": said.status.value, "conversation_id": conversation_id}


def _said(row: Row[Any]) -> Said:
    return Said(
        row.public_id, row.parent, row.role, row.text, row.created_at,
        tuple(ImageRef(**{**image, "frames": tuple(image["frames"])}) for image in row.images), row.reasoning,
        tuple(ToolCall(**call) for call in row.tool_calls), Status(row.status), row.finish_reason, row.error,
        row.model, Usage(**row.usage) if row.usage else None, row.first_token_s, row.seconds,
        tuple(ToolResult(**result) for result in row.tool_results),
    )  # fmt: skip

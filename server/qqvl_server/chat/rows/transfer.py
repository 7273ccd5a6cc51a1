"""One chat's rows as values of JSON, and back: every column but those that number rows here."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import JSON, Boolean, Column, Float, Table, TypeDecorator, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.message import ChatKey, ChatKind, Picture, Quote, Text
from qqvl_server.chat.records import part_from_json
from qqvl_server.chat.rows import chats
from qqvl_server.chat.tables import ANSWERS, CHAT_SETTINGS, CHATS, DECISIONS, MESSAGES, RECALLS, SENT
from qqvl_server.errors import ConfigError

TABLES: Final = {table.name: table for table in (MESSAGES, ANSWERS, SENT, RECALLS, DECISIONS, CHAT_SETTINGS)}
_OURS: Final = ("id", "chat_id")
_MOST: Final = 2**63 - 1

Rows = dict[str, list[dict[str, Any]]]


async def whole(connection: AsyncConnection, chat: ChatKey) -> tuple[dict[str, Any], Rows] | None:
    """A chat and what hangs on it; None where it was never heard of."""
    found = (await connection.execute(select(CHATS).where(*chats.is_chat(chat)))).mappings().first()
    if found is None:
        return None
    rows: Rows = {}
    for name, table in TABLES.items():
        kept = await connection.execute(select(table).where(table.c.chat_id == found["id"]).order_by(table.c.id))
        rows[name] = [_without_ours(dict(row)) for row in kept.mappings()]
    return _without_ours(dict(found)), rows


def taken(chat: ChatKey) -> ConfigError:
    return ConfigError(f"这里已经有 {chat} 了，没有动它：加 --replace 换掉，或用 --into 读成另一个")


async def is_there(connection: AsyncConnection, chat: ChatKey) -> bool:
    return (await connection.execute(select(CHATS.c.id).where(*chats.is_chat(chat)))).first() is not None


async def put(connection: AsyncConnection, about: dict[str, Any], rows: Rows, *, replace: bool) -> None:
    """Raises ConfigError: the chat is there already and is not to be replaced; nothing was changed then."""
    chat = ChatKey(ChatKind(about["kind"]), about["external_id"])
    there = (await connection.execute(select(CHATS.c.id).where(*chats.is_chat(chat)))).scalar()
    if there is not None:
        if not replace:
            raise taken(chat)
        await chats.delete_chat(connection, there)
    made = await connection.execute(CHATS.insert().values(about))
    assert made.inserted_primary_key is not None
    chat_id = made.inserted_primary_key[0]
    for name, kept in rows.items():
        for row in kept:
            await connection.execute(TABLES[name].insert().values(chat_id=chat_id, **row))


def check(about: Any, rows: Any) -> None:
    """Raises ValueError, with what is wrong: not as ``whole`` gives it."""
    _check_row(CHATS, about, "chat")
    if not isinstance(rows, dict) or set(rows) != set(TABLES):
        raise ValueError(f"要有 {'、'.join(TABLES)}")
    for name, kept in rows.items():
        if not isinstance(kept, list):
            raise ValueError(f"{name} 应是列表")
        for number, row in enumerate(kept, 1):
            _check_row(TABLES[name], row, f"{name} 的第 {number} 个")
    seqs = [row["seq"] for row in rows[MESSAGES.name]]
    if len(set(seqs)) != len(seqs) or max(seqs, default=0) >= about["next_seq"]:
        raise ValueError("messages 的 seq 有重复的，或不小于 chat 的 next_seq")
    for number, row in enumerate(rows[MESSAGES.name], 1):
        _check_parts(row["parts"], f"messages 的第 {number} 个")
        if row["role"] not in ("user", "assistant"):
            raise ValueError(f"messages 的第 {number} 个的 role 要是 user 或 assistant")


def _check_row(table: Table, row: Any, what: str) -> None:
    columns = {column.name: column for column in table.c if column.name not in _OURS}
    if not isinstance(row, dict) or set(row) != set(columns):
        raise ValueError(f"{what}要正好有 {'、'.join(columns)}")
    for name, column in columns.items():
        if not _fits(column, row[name]):
            raise ValueError(f"{what}的 {name} 不对")


def _fits(column: Column[Any], value: Any) -> bool:
    if value is None:
        return bool(column.nullable)
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    if isinstance(kind, JSON):
        return True
    if isinstance(kind, Boolean):
        return isinstance(value, bool)
    if isinstance(kind, Float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind.python_type is int:
        return isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= _MOST
    length = getattr(kind, "length", None)
    return isinstance(value, str) and "\0" not in value and (length is None or len(value) <= length)


def _check_parts(parts: Any, what: str) -> None:
    try:
        is_sound = all(_is_sound(part) for part in parts)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{what}的 parts 不对") from error
    if not is_sound:
        raise ValueError(f"{what}的 parts 不对")


def _is_sound(part: dict[str, Any]) -> bool:
    """As a store wrote it, maybe one of an older version."""
    match part_from_json(part):
        case Text(text):
            return isinstance(text, str)
        case Quote(speaker, text, quoted_id):
            return all(isinstance(word, str) for word in (speaker, text, quoted_id))
        case Picture(image, quoted, caption):
            sizes = (image.width, image.height, image.size, *image.frames)
            return (
                isinstance(quoted, bool)
                and isinstance(caption, str)
                and isinstance(image.format, str)
                and re.fullmatch("[0-9a-f]{64}", image.sha256) is not None
                and all(isinstance(size, int) and size >= 0 for size in sizes)
            )
        case _:
            return part == {"type": "lost_image"}


def _without_ours(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _OURS}

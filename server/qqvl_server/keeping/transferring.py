"""``qqvl export`` and ``import``: one chat as JSON, pictures included. What is read back and written again is equal."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server.chat.database import Database
from qqvl_server.chat.message import ChatKey, ChatKind
from qqvl_server.chat.rows import transfer
from qqvl_server.errors import ConfigError
from qqvl_server.keeping.archive import sync
from qqvl_server.keeping.copying import hashes
from qqvl_server.keeping.places import PICTURES, Places

FORMAT: Final = "qqvl-chat"
VERSION: Final = 1
_HASH: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Document:
    """``about`` is the chat's own row, ``rows`` what hangs on it, ``pictures`` their bytes by SHA-256."""

    chat: ChatKey
    about: dict[str, Any]
    rows: transfer.Rows
    pictures: Mapping[str, bytes]

    def missing(self, where: Places) -> set[str]:
        """Pictures that are named and neither here nor in the data folder."""
        named = hashes(json.dumps(row["parts"]) for row in self.rows["messages"])
        return {name for name in named if name not in self.pictures and not picture(where, name).is_file()}


@asynccontextmanager
async def opened(where: Places) -> AsyncIterator[Database]:
    """The database as it is: a broken one is told of, not set aside. Raises StorageFailed."""
    async with Database.open(where.url, lambda: True, sets_aside=False) as database:
        yield database


def picture(where: Places, sha256: str) -> Path:
    return where.data / PICTURES / sha256[:2] / sha256


async def export(where: Places, chat: ChatKey, *, with_pictures: bool) -> str:
    """Raises ConfigError: there is no such chat. StorageFailed."""
    async with opened(where) as database, database.read() as connection:
        found = await transfer.whole(connection, chat)
    if found is None:
        raise ConfigError(f"没有 {chat} 这个会话；聊过的会话在网页的“机器人”里")
    about, rows = found
    named = sorted(hashes(json.dumps(row["parts"]) for row in rows["messages"])) if with_pictures else []
    kept = {}
    for name in named:
        with contextlib.suppress(FileNotFoundError):
            kept[name] = base64.b64encode(picture(where, name).read_bytes()).decode()
    return _as_text({"format": FORMAT, "version": VERSION, "chat": about, **rows, "pictures": kept})


def _as_text(document: Mapping[str, Any]) -> str:
    """A line for each row, so that two of them can be compared."""
    parts = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            shown = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in value) + "\n]"
        else:
            shown = json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(name)}: {shown}")
    # A lone surrogate, as some clients send, is no UTF-8.
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode("utf-8", "replace").decode()


def write(file: Path, text: str) -> None:
    """Whole or not at all, for the owner's eyes only. Raises ConfigError."""
    try:
        handle, draft = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                written.write(text)
                written.flush()
                os.fsync(written.fileno())
            os.replace(draft, file)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(draft)
    except OSError as error:
        raise ConfigError(f"写不了 {file}：{error.strerror}。请检查文件夹、权限和剩余空间") from error


def read(file: Path, into: ChatKey | None) -> Document:
    """Looked over in every part. Raises ConfigError: what is wrong with it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"读不了 {file}：{error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} 不是 JSON，或者没有写完") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ConfigError(f"{file} 不是 export 写的文件")
    if found.pop("version", None) != VERSION:
        raise ConfigError(f"{file} 是别的版本的 qqvl 导出的，这里只认第 {VERSION} 版：请用同样新的 qqvl")
    about, kept = found.pop("chat", None), found.pop("pictures", None)
    try:
        transfer.check(about, found)
        if about["kind"] not in list(ChatKind):
            raise ValueError("chat 的 kind 要是 group 或 private")
        pictures = _pictures(kept)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} 的内容不对：{error}") from error
    if into is not None:
        about |= {"kind": into.kind.value, "external_id": into.id}
    return Document(ChatKey(ChatKind(about["kind"]), about["external_id"]), about, found, pictures)


def _pictures(kept: Any) -> dict[str, bytes]:
    if not isinstance(kept, dict):
        raise ValueError("pictures 应是“哈希: base64”")
    pictures = {}
    for name, text in kept.items():
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError):
            data = b""
        if not _HASH.fullmatch(name) or hashlib.sha256(data).hexdigest() != name:
            raise ValueError(f"图片 {name[:12]} 坏了，和它的哈希对不上")
        pictures[name] = data
    return pictures


async def put(where: Places, document: Document, *, replace: bool) -> None:
    """In folders that are claimed: all of it or nothing but pictures.

    Raises ConfigError: the chat is there already. StorageFailed.
    """
    async with opened(where) as database:
        if not replace and await database.write(lambda connection: transfer.is_there(connection, document.chat)):
            raise transfer.taken(document.chat)
        # First: a line must not name what is not there.
        for name, data in document.pictures.items():
            _keep(picture(where, name), data)
        await database.write(
            lambda connection: transfer.put(connection, document.about, document.rows, replace=replace)
        )
        await database.empty_log()


def _keep(path: Path, data: bytes) -> None:
    try:
        if path.is_file() and path.stat().st_size == len(data):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # The library clears away what begins so, after a kill.
        handle, draft = tempfile.mkstemp(dir=path.parent.parent, prefix="tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync(path.parent)
    except OSError as error:
        raise ConfigError(f"图片写不进 {path.parent.parent}：{error.strerror}。请检查权限和剩余空间") from error

"""SQLite files, copied while their programs write, or looked at before they are put in place. Knows no rows but played
chats and pictures."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from qqvl_server.chat import inspection
from qqvl_server.chat.message import TRIAL
from qqvl_server.errors import QqvlError
from qqvl_server.keeping.archive import Tell

_PAGES: Final = 4096
_BUSY_S: Final = 30
_HASH: Final = re.compile(r'"sha256": ?"([0-9a-f]{64})"')
# Where pictures are named, as JSON.
_NAMED: Final = ("SELECT parts FROM messages", "SELECT images FROM conversation_messages")


def copy(source: Path, target: Path, tell: Tell) -> None:
    """The state of one moment, whoever writes meanwhile. ``target`` is one file without a log.

    Raises:
        QqvlError: the copy is not whole: the source is damaged.
    """
    try:
        with closing(_opened(source)) as here, closing(sqlite3.connect(target, isolation_level=None)) as there:
            # Held open, the snapshot stays the same; without it every commit of others would begin the copy anew.
            here.execute("BEGIN")
            here.execute("SELECT count(*) FROM sqlite_master").fetchone()
            here.backup(
                there,
                pages=_PAGES,
                progress=lambda _, left, total: tell(f"{source.name} {100 * (total - left) // max(total, 1)} %"),
            )
            here.execute("ROLLBACK")
            there.execute("PRAGMA journal_mode=DELETE")
            os.chmod(target, 0o600)
            _check(there, source)
    except sqlite3.Error as error:
        raise QqvlError(f"{source} 备份不了：{error}") from error


def without_trials(file: Path) -> dict[str, int]:
    """Take played chats out of a copy of the server's database; gives how many chats and lines are left."""
    played = "SELECT id FROM chats WHERE external_id LIKE ?"
    counts: dict[str, int] = {}
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        database.execute("PRAGMA secure_delete=ON")
        for table in tables:
            if any(column[1] == "chat_id" for column in database.execute(f"PRAGMA table_info({table})")):
                database.execute(f"DELETE FROM {table} WHERE chat_id IN ({played})", (f"{TRIAL}%",))
        database.execute("DELETE FROM chats WHERE external_id LIKE ?", (f"{TRIAL}%",))
        database.execute("VACUUM")
        for name in ("chats", "messages"):
            counts[name] = database.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    return counts


def pictures(file: Path) -> set[str]:
    """The SHA-256 of every picture that a database names."""
    found: set[str] = set()
    with closing(_opened(file)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for query in _NAMED:
            if query.split()[-1] in tables:
                found.update(hashes(text for (text,) in database.execute(query)))
    return found


def hashes(texts: Iterable[str]) -> set[str]:
    return {found for text in texts for found in _HASH.findall(text)}


def check(file: Path, *, is_ours: bool) -> None:
    """Raises QqvlError: it is damaged; StorageFailed, where it ``is_ours``: written by a later version."""
    try:
        with closing(_opened(file)) as database:
            _check(database, file)
            written = database.execute("SELECT version_num FROM alembic_version").fetchone() if is_ours else None
    except sqlite3.Error as error:
        raise QqvlError(f"备份里的 {file.name} 坏了：换一个备份；现在的数据没有动") from error
    inspection.refuse_later(f"{file.name}（备份里的）", written[0] if written else None)


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", _BUSY_S, uri=True, isolation_level=None)


def _check(database: sqlite3.Connection, file: Path) -> None:
    if database.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
        raise QqvlError(f"数据库 {file} 已损坏，没有做成：重新启动服务，坏的会改名留底")

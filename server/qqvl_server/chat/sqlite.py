"""SQLite under the store: how a connection is made durable, and whether its files are still where they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from qqvl_server.chat import inspection
from qqvl_server.errors import ConfigError


class Place:
    """Where the database's files were when it was opened: they may be moved away and others put there while it runs.

    What is written then goes to files that nobody will find again, and SQLite does not say so.
    """

    def __init__(self, database: str | None, is_ours: Callable[[], bool]) -> None:
        self._is_ours = is_ours
        names = (database, f"{database}-wal", f"{database}-shm") if database else ()
        self._known = {name: os.stat(name) for name in names if os.path.exists(name)}

    def is_kept(self) -> bool:
        try:
            return self._is_ours() and all(os.path.samestat(os.stat(n), was) for n, was in self._known.items())
        except OSError:
            return False


def _durable_sqlite(connection: Any, _record: Any) -> None:
    # Without this the driver begins transactions when it thinks fit, and savepoints outside of any.
    connection.isolation_level = None
    cursor = connection.cursor()
    # ``secure_delete``: what /reset deletes is overwritten, not left in free pages.
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
    for pragma in (f"busy_timeout={inspection.BUSY_S * 1000}", *pragmas):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that began as a reader is refused when another program has written meanwhile.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def engine(url: str) -> AsyncEngine:
    """Raises ConfigError: an address of neither kind."""
    try:
        is_sqlite = make_url(url).drivername == "sqlite+aiosqlite"
    except ArgumentError:
        is_sqlite = False
    if not is_sqlite:
        raise ConfigError("database_url 只能是 postgresql://用户:密码@主机/库名；用 SQLite 就留空")
    made = create_async_engine(url)
    event.listen(made.sync_engine, "connect", _durable_sqlite)
    event.listen(made.sync_engine, "begin", _begin_sqlite)
    return made

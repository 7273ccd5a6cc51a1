"""The database looked over without being changed: before a start, and for who asks what is wrong. Knows no rows."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
from pathlib import Path
from typing import Final

import alembic.config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from qqvl_server.chat import causes
from qqvl_server.errors import StorageFailed

# How long another program may keep it locked: when we start or run, and when somebody waits for a word about it.
BUSY_S: Final = 5
_PATIENCE_S: Final = 2
_NEWEST: Final = "SELECT max(created_at) FROM answers"
_WRITTEN_BY: Final = "SELECT version_num FROM alembic_version"


def scripts() -> tuple[alembic.config.Config, ScriptDirectory]:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config, ScriptDirectory.from_config(config)


@functools.cache
def _revisions() -> tuple[frozenset[str], str | None]:
    """All that this program knows, and the newest: read once, because Alembic runs every script to tell."""
    ours = scripts()[1]
    return frozenset(script.revision for script in ours.walk_revisions()), ours.get_current_head()


def is_newest(name: str, written: str | None) -> bool:
    """Whether ``written``, a revision or None for an empty database, needs no migration.

    Raises:
        StorageFailed: it is none that this program knows.
    """
    known, newest = _revisions()
    if written is not None and written not in known:
        raise causes.from_later(name, written, newest)
    return written == newest


def look_over(file: str, busy_s: float = BUSY_S) -> None:
    """Before anything is changed in it. Malformed somewhere, it would only say so when a message comes there.

    Raises:
        StorageFailed: it is damaged, or another program's.
        sqlite3.Error: it cannot be read.
    """
    if not os.path.exists(file):
        return
    with contextlib.closing(sqlite3.connect(file, timeout=busy_s)) as connection:
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise StorageFailed(causes.DAMAGED_AT_START.format(name=Path(file).name))
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "alembic_version" not in tables:
            raise StorageFailed(causes.FOREIGN_AT_START.format(name=Path(file).name))


def examine(url: str) -> bool:
    """Whether there is a database at ``url`` yet. It is read through, and a place to write in asked for and given back.

    Raises:
        StorageFailed: it cannot be used; what is wrong and what to do.
    """
    file = make_url(url).database if make_url(url).get_backend_name() == "sqlite" else None
    name = Path(file).name if file else make_url(url).get_backend_name()
    try:
        if file is None:
            is_newest(name, asyncio.run(_asked(url)))
            return True
        if not os.path.exists(file):
            return False
        look_over(file, _PATIENCE_S)
        with contextlib.closing(sqlite3.connect(file, timeout=_PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            written = connection.execute(_WRITTEN_BY).fetchone()
            connection.execute("ROLLBACK")
        is_newest(name, written[0] if written else None)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise causes.at_start(error, name) from error
    return True


def newest(url: str) -> float | None:
    """When the last answer was stored, in seconds of the epoch; None where none is or it is not told."""
    file = make_url(url).database if make_url(url).get_backend_name() == "sqlite" else None
    if file is None or not os.path.exists(file):
        return None
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=_PATIENCE_S)) as connection:
            found = connection.execute(_NEWEST).fetchone()[0]
    except sqlite3.Error:
        return None
    return float(found) if isinstance(found, int | float) else None


async def _asked(url: str) -> str | None:
    """The revision of another database than SQLite; None where it is empty."""
    engine = create_async_engine(url)

    def revision(connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text(_WRITTEN_BY)).scalar()

    try:
        async with engine.connect() as connection:
            return await connection.run_sync(revision)
    finally:
        await engine.dispose()

"""The database looked over without being changed: before a start, and for who asks what is wrong. Knows no rows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

import alembic.config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from qqvl_server.chat import causes, postgres
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


def refuse_later(name: str, written: str | None) -> None:
    """Raises StorageFailed: ``written``, a revision, is none that this program knows."""
    ours = scripts()[1]
    if written is not None and written not in {script.revision for script in ours.walk_revisions()}:
        raise causes.from_later(name, written, ours.get_current_head())


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
    if postgres.is_address(url):
        return _examine_shared(url)
    file = make_url(url).database
    if file is None:
        return False
    name = Path(file).name
    try:
        if not os.path.exists(file):
            return False
        look_over(file, _PATIENCE_S)
        with contextlib.closing(sqlite3.connect(file, timeout=_PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            written = connection.execute(_WRITTEN_BY).fetchone()
            connection.execute("ROLLBACK")
        refuse_later(name, written[0] if written else None)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise causes.at_start(error, name) from error
    return True


def newest(url: str) -> float | None:
    """When the last answer was stored, in seconds of the epoch; None where none is or it is not told."""
    file = None if postgres.is_address(url) else make_url(url).database
    if file is None or not os.path.exists(file):
        return None
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=_PATIENCE_S)) as connection:
            found = connection.execute(_NEWEST).fetchone()[0]
    except sqlite3.Error:
        return None
    return float(found) if isinstance(found, int | float) else None


def _examine_shared(url: str) -> bool:
    name = postgres.name_of(url)
    try:
        refuse_later(name, asyncio.run(_asked(url)))
    except (SQLAlchemyError, OSError) as error:
        raise postgres.at_start(error, name) from error
    return True


async def _asked(url: str) -> str | None:
    """The revision of a PostgreSQL database; None where it is empty."""
    engine = postgres.engine(url)

    def revision(connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text(_WRITTEN_BY)).scalar()

    try:
        async with engine.connect() as connection:
            return await connection.run_sync(revision)
    finally:
        await engine.dispose()

"""The database looked over without being changed: before a start, and for who asks what is wrong. Knows no rows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
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


def file_of(url: str) -> str | None:
    """SQLite's file; None for another database."""
    place = make_url(url)
    return place.database if place.get_backend_name() == "sqlite" else None


def refuse_later(name: str, written: str | None) -> None:
    """Raises StorageFailed: ``written``, a revision, is none that this program knows."""
    ours = scripts()[1]
    if written is not None and written not in {script.revision for script in ours.walk_revisions()}:
        raise causes.from_later(name, written, ours.get_current_head())


def look_over(file: str, busy_s: float = BUSY_S) -> None:
    """Before anything is changed in it. Malformed somewhere, it would only say so when a message comes there.

    Raises:
        sqlite3.DatabaseError: it is broken (``causes.is_damage``), or cannot be read.
        StorageFailed: another program's.
    """
    if not os.path.exists(file):
        return
    # Read only: the last connection that closes would write the log into a file that may be broken.
    with contextlib.closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", busy_s, uri=True)) as opened:
        found = opened.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            broken = sqlite3.DatabaseError(found[0])
            broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise broken
        tables = {row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "alembic_version" not in tables:
            raise StorageFailed(causes.FOREIGN_AT_START.format(name=Path(file).name))


def set_aside_broken(file: str) -> Path | None:
    """Before a start: a file that is broken goes out of the way, whole and under a new name, which is given.

    Raises as ``look_over``, but for damage.
    """
    try:
        look_over(file)
    except sqlite3.DatabaseError as error:
        if not causes.is_damage(error):
            raise
        return _set_aside(Path(file))
    return None


def _set_aside(file: Path) -> Path:
    stamp = f"{file.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    aside = next(file.with_name(name) for name in names if not file.with_name(name).exists())
    log = file.with_name(f"{file.name}-wal")
    # The log first and as a copy: a kill in between must not leave the file without the log that belongs to it, and a
    # log without its file would be deleted by SQLite.
    if log.exists() and log.stat().st_size:
        shutil.copy2(log, aside.with_name(f"{aside.name}-wal"))
    os.replace(file, aside)
    for left in ("-wal", "-shm"):
        file.with_name(f"{file.name}{left}").unlink(missing_ok=True)
    return aside


def examine(url: str) -> bool:
    """Whether there is a database at ``url`` yet. It is read through, and a place to write in asked for and given back.

    Raises:
        StorageFailed: it cannot be used; what is wrong and what to do.
    """
    file = file_of(url)
    name = Path(file).name if file else make_url(url).get_backend_name()
    try:
        if file is None:
            refuse_later(name, asyncio.run(_asked(url)))
            return True
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
    file = file_of(url)
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

"""Stores for tests that are not about making a database: the migrated file is made once and copied."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

from qqvl_server.chat.database import Database
from qqvl_server.chat.store import Store, sqlite_url

_migrated = b""


@asynccontextmanager
async def store_in(folder: Path) -> AsyncIterator[Store]:
    """As ``Store.open`` does it on the database in ``folder``; where there is none yet, on a new one."""
    file = _file(folder)
    if not file.exists():
        file.write_bytes(await _empty())
    async with Store.open(sqlite_url(folder)) as store:
        yield store


async def _empty() -> bytes:
    """What migrations make of nothing; they take longer than most of these tests."""
    global _migrated
    if not _migrated:
        with tempfile.TemporaryDirectory() as made:
            async with Database.open(sqlite_url(Path(made)), lambda: True):
                pass
            _migrated = _file(Path(made)).read_bytes()
    return _migrated


def _file(folder: Path) -> Path:
    return Path(make_url(sqlite_url(folder)).database or "")

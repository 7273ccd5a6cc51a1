"""Settings of the whole server that were changed in the browser, by ``section.name``. Knows SQL, no setting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine, delete, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from qqvl_server.chat import postgres
from qqvl_server.chat.database import Database
from qqvl_server.chat.tables import PAGE_SETTINGS
from qqvl_server.errors import ConfigError, StorageFailed

# What other servers are told.
_NEWS: Final = "page settings"


class PageSettings:
    """Every method raises ``StorageFailed`` when the database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listen(self, changed: Callable[[Mapping[str, Any]], None]) -> None:
        """``changed`` is called with all that is kept when another server has changed some of it."""

        async def heard(news: str | None) -> None:
            if news in (None, _NEWS):
                changed(await self.kept())

        self._database.among.listen(heard)

    async def kept(self) -> dict[str, Any]:
        """Values as JSON has them, not looked over."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(PAGE_SETTINGS.c.name, PAGE_SETTINGS.c.value))
            return {row.name: row.value for row in rows}

    async def keep(self, values: Mapping[str, Any]) -> None:
        """None is as without the page."""

        async def work(connection: Any) -> None:
            await connection.execute(delete(PAGE_SETTINGS).where(PAGE_SETTINGS.c.name.in_(list(values))))
            for name, value in values.items():
                if value is not None:
                    row = {"name": name, "value": value, "created_at": time.time()}
                    await connection.execute(PAGE_SETTINGS.insert().values(row))
            await self._database.among.tell(connection, _NEWS)

        await self._database.write(work)


def kept_at(url: str) -> dict[str, Any]:
    """What is kept in a database that a server may be using; nothing where there is none. Blocking; changes nothing."""
    if postgres.is_address(url):
        return asyncio.run(_kept_among_servers(url))
    place = make_url(url)
    if place.get_backend_name() != "sqlite" or not place.database or not Path(place.database).is_file():
        return {}
    engine = create_engine(f"sqlite:///file:{Path(place.database).absolute()}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            return {row.name: row.value for row in connection.execute(select(PAGE_SETTINGS))}
    except SQLAlchemyError:
        # Another version's, or one that a server is writing: what can be told is told without it.
        return {}
    finally:
        engine.dispose()


async def _kept_among_servers(url: str) -> dict[str, Any]:
    try:
        engine = postgres.engine(url)
    except ConfigError:
        return {}
    try:
        async with engine.connect() as connection:
            return {row.name: row.value for row in await connection.execute(select(PAGE_SETTINGS))}
    except (SQLAlchemyError, StorageFailed, OSError):
        return {}
    finally:
        await engine.dispose()

"""The secret that marks of chats are made with: made once in the database that all copies of this server share."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from qqvl_server.chat.database import Database
from qqvl_server.chat.tables import PAGE_SETTINGS
from qqvl_server.errors import StorageFailed

# Beside what the page keeps, under a name that no setting has.
_NAME: Final = "cluster secret"


class ClusterSecret:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def kept(self) -> str:
        """The same for every copy, and after every restart. Raises StorageFailed."""
        known = await self._known()
        if known is not None:
            return known
        made = secrets.token_hex(32)

        async def work(connection: Any) -> None:
            row = {"name": _NAME, "value": made, "created_at": time.time()}
            await connection.execute(PAGE_SETTINGS.insert().values(row))

        try:
            await self._database.write(work)
        except (StorageFailed, IntegrityError):
            # Another copy was first: names are unique.
            known = await self._known()
            if known is None:
                raise
            return known
        return made

    async def _known(self) -> str | None:
        wanted = select(PAGE_SETTINGS.c.value).where(PAGE_SETTINGS.c.name == _NAME)
        async with self._database.read() as connection:
            found = (await connection.execute(wanted)).scalar()
        return str(found) if found is not None else None

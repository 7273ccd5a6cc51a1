"""Plays that are kept for another time: scripts of groups that were tried in the browser. Knows SQL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.database import Database
from qqvl_server.chat.tables import PLAYS
from qqvl_server.errors import InvalidRequest, NotFound

_MOST: Final = 500


@dataclass(frozen=True, slots=True)
class KeptPlay:
    """``name`` is its only one's; ``lines`` is how long it is."""

    id: str
    name: str
    lines: int
    updated_at: float


class Plays:
    """Every method raises ``StorageFailed`` when the database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> tuple[KeptPlay, ...]:
        """The newest first."""
        columns = (PLAYS.c.public_id, PLAYS.c.name, PLAYS.c.lines, PLAYS.c.updated_at)
        async with self._database.read() as connection:
            rows = await connection.execute(select(*columns).order_by(PLAYS.c.updated_at.desc()))
            return tuple(KeptPlay(*row) for row in rows)

    async def get(self, play_id: str) -> dict[str, Any]:
        """The script. Raises NotFound."""
        async with self._database.read() as connection:
            script = (
                await connection.execute(select(PLAYS.c.script).where(PLAYS.c.public_id == play_id))
            ).scalar_one_or_none()
        if script is None:
            raise NotFound("没有这个脚本")
        return dict(script)

    async def keep(self, name: str, lines: int, script: Mapping[str, Any]) -> KeptPlay:
        """In place of the one of that name, where there is one. Raises InvalidRequest: there are too many."""
        now = time.time()

        async def work(connection: AsyncConnection) -> KeptPlay:
            values = {"lines": lines, "script": dict(script), "updated_at": now}
            old = (await connection.execute(select(PLAYS.c.public_id).where(PLAYS.c.name == name))).scalar()
            if old is not None:
                await connection.execute(update(PLAYS).where(PLAYS.c.name == name).values(values))
                return KeptPlay(old, name, lines, now)
            if (await connection.execute(select(func.count()).select_from(PLAYS))).scalar_one() >= _MOST:
                raise InvalidRequest(f"最多存 {_MOST} 个脚本，请先删掉一些")
            made = f"p_{secrets.token_hex(8)}"
            row = values | {"public_id": made, "name": name, "created_at": now}
            await connection.execute(PLAYS.insert().values(row))
            return KeptPlay(made, name, lines, now)

        return await self._database.write(work)

    async def delete(self, play_id: str) -> None:
        """Raises NotFound."""

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(delete(PLAYS).where(PLAYS.c.public_id == play_id))).rowcount

        if not await self._database.write(work):
            raise NotFound("没有这个脚本")

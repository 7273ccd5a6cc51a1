"""Who changed what of the bot, when, from what to what: kept for as long as the database. Knows SQL."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import null, select

from qqvl_server.chat.database import Database
from qqvl_server.chat.tables import AUDIT

# Longer values are cut: what a whole persona was is in the backup.
_MOST: Final = 4000


@dataclass(frozen=True, slots=True)
class Change:
    """``who`` is a key's name or ``local``; ``before`` and ``after`` are as JSON has them, None for nothing."""

    who: str
    address: str
    what: str
    before: Any = None
    after: Any = None
    id: int = 0
    at: float = 0.0


class Audit:
    """Every method raises ``StorageFailed`` when the database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, change: Change) -> None:
        row = {
            "who": change.who, "address": change.address, "what": change.what, "before": _bounded(change.before),
            "after": _bounded(change.after), "created_at": time.time(),
        }  # fmt: skip
        await self._database.write(lambda connection: connection.execute(AUDIT.insert().values(row)))

    async def page(self, before: int | None, limit: int) -> tuple[Change, ...]:
        """The newest ``limit`` whose id is below ``before``."""
        query = select(AUDIT) if before is None else select(AUDIT).where(AUDIT.c.id < before)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(AUDIT.c.id.desc()).limit(limit))
            return tuple(Change(r.who, r.address, r.what, r.before, r.after, r.id, r.created_at) for r in rows)


def _bounded(value: Any) -> Any:
    if value is None:
        return null()
    return f"{value[:_MOST]}…" if isinstance(value, str) and len(value) > _MOST else value

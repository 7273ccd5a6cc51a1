"""The statements on the ledger: what people and groups had of the bot, day by day."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.decision import Charge, Usage
from qqvl_server.chat.tables import LEDGER


def today() -> str:
    """The day by this machine's clock, as people count them."""
    return time.strftime("%Y-%m-%d")


async def add(connection: AsyncConnection, charges: Sequence[Charge]) -> None:
    """In a transaction that writes."""
    day, now = today(), time.time()
    for charge in charges:
        used = charge.usage
        added = await connection.execute(
            update(LEDGER)
            .where(*_is_day_of(day, charge.kind, charge.id))
            .values(messages=LEDGER.c.messages + used.messages, seconds=LEDGER.c.seconds + used.seconds, created_at=now)
        )
        if not added.rowcount:
            row = {"day": day, "kind": charge.kind, "external_id": charge.id, "created_at": now}
            await connection.execute(LEDGER.insert().values(messages=used.messages, seconds=used.seconds, **row))


async def used(connection: AsyncConnection, kind: str, external_id: str) -> Usage:
    """Today."""
    found = await connection.execute(
        select(LEDGER.c.messages, LEDGER.c.seconds).where(*_is_day_of(today(), kind, external_id))
    )
    row = found.first()
    return Usage() if row is None else Usage(row.messages, row.seconds)


def _is_day_of(day: str, kind: str, external_id: str) -> tuple[Any, Any, Any]:
    return LEDGER.c.day == day, LEDGER.c.kind == kind, LEDGER.c.external_id == external_id

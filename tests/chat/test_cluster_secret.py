"""The secret of marks: made once, the same for every copy that shares the database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qqvl_server.chat.cluster_secret import ClusterSecret
from qqvl_server.chat.store import Store, sqlite_url

pytestmark = pytest.mark.anyio


async def test_it_is_made_once_whoever_asks_first(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        found = await asyncio.gather(*(ClusterSecret(store.database).kept() for _ in range(5)))
    async with Store.open(sqlite_url(tmp_path)) as store:
        again = await ClusterSecret(store.database).kept()
    assert set(found) == {again}
    assert len(again) == 64

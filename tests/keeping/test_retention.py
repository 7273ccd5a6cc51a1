"""What is kept for no longer than the settings say: only that goes, all of it goes, and only while nobody waits."""

from __future__ import annotations

import asyncio
import os
import time

from qqvl_server.chat.retention import Retention
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.settings import StorageSettings
from tests.keeping.conftest import GROUP, PRIVATE, SECRET, Kept, grow_old, let_go


def files(kept: Kept) -> list[bool]:
    return [(kept.data / "images" / name[:2] / name).exists() for name in kept.pictures]


def test_what_is_too_old_leaves_no_byte_and_what_is_not_stays(kept: Kept) -> None:
    grow_old(kept, days=40, but="今天吃什么")
    let_go(kept, history_days=50, conversation_days=50, picture_days=50)
    assert len(kept.texts()) == 8
    assert files(kept) == [True] * 3
    let_go(kept, history_days=30)
    assert kept.texts() == ["今天吃什么"]
    assert kept.texts(PRIVATE) == []
    assert files(kept) == [False] * 3
    assert SECRET.encode() in kept.bytes()["qqvl.sqlite3"]
    let_go(kept, conversation_days=30)
    data = b"".join(data for name, data in kept.bytes().items() if name.startswith("qqvl.sqlite3"))
    assert SECRET.encode() not in data
    assert "吃面".encode() not in data


def test_pictures_that_nobody_looked_at_for_long_leave_by_themselves(kept: Kept) -> None:
    for path in (kept.data / "images").glob("*/*"):
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    let_go(kept, history_days=365)
    assert files(kept) == [True] * 3
    let_go(kept, picture_days=30)
    assert files(kept) == [False] * 3
    assert len(kept.texts()) == 8


def test_nothing_is_let_go_while_somebody_waits(kept: Kept) -> None:
    grow_old(kept, days=40, but="今天吃什么")
    busy = asyncio.Event()

    class Shelf:
        def drop(self, before: float, keep: object = ()) -> int:
            return 0

    async def work() -> None:
        async with Store.open(sqlite_url(kept.data)) as store:
            looked = 0

            def is_busy() -> bool:
                nonlocal looked
                looked += 1
                busy.set()
                return looked == 1

            sweeping = asyncio.create_task(Retention(store, Shelf(), StorageSettings(history_days=30), is_busy).sweep())
            await busy.wait()
            assert len(await store.window(GROUP, until=99)) == 8
            await sweeping
            assert len(await store.window(GROUP, until=99)) == 1

    asyncio.run(work())

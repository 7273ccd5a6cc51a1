"""Several servers on one PostgreSQL: one truth, whoever of them is asked, and clear words when it is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qqvl_server.chat import inspection
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import ChatKey, ChatKind, Speaker, Text
from qqvl_server.chat.store import Draft, Store
from qqvl_server.errors import ConfigError, StorageFailed
from qqvl_server.process import is_held, locked
from tests.databases import Cluster

pytestmark = pytest.mark.anyio
CHAT = ChatKey(ChatKind.GROUP, "1")
ZHANG = Speaker("10001", "张三")


def named(message_id: str) -> Identity:
    return Identity(message_id, f"digest of {message_id}", "undated", None)


def said(words: str, message_id: str | None = None, chat: ChatKey = CHAT) -> Draft:
    return Draft(chat, "", ZHANG, (Text(words),), named(message_id) if message_id else None)


async def refused(url: str) -> str:
    with pytest.raises((StorageFailed, ConfigError)) as raised:
        async with Store.open(url):
            pass
    assert "\n" not in raised.value.message
    return raised.value.message


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
async def test_an_address_may_be_spelled_as_any_program_does(postgres: Cluster, scheme: str) -> None:
    url = postgres.database().replace("postgresql", scheme, 1)
    async with Store.open(f"{url}&ssl=disable&application_name=bot") as store:
        assert await store.add_message(said("早")) is not None


async def test_servers_that_start_together_on_an_empty_database_all_start(postgres: Cluster) -> None:
    url = postgres.database()

    async def start() -> int:
        async with Store.open(url) as store:
            return len(await store.chats())

    beside = [asyncio.to_thread(asyncio.run, start()) for _ in range(3)]
    assert await asyncio.gather(start(), *beside) == [0] * 4


async def test_what_keeps_it_from_starting_is_one_line_that_names_the_database(postgres: Cluster) -> None:
    url = postgres.database()
    place = str(postgres.folder)
    assert "没有 PostgreSQL 数据库" in (told := await refused(url.replace("/t", "/no", 1)))
    assert place in told
    assert "不认" in await refused(url.replace("qqvl@", "nobody:secret@", 1))
    assert "连不上" in (told := await refused("postgresql://qqvl:secret@127.0.0.1:1/qqvl"))
    assert "127.0.0.1:1/qqvl" in told
    assert "secret" not in told
    assert "写法" in await refused("postgresql://qqvl@127.0.0.1:port/qqvl")
    assert "postgresql://" in await refused("mysql://qqvl@127.0.0.1/qqvl")
    assert "postgresql://" in await refused("no address")
    postgres.sql("CREATE TABLE chats (id int)", url)
    assert "不是 qqvl 的" in await refused(url)
    with postgres.frozen():
        assert "没有回应" in await refused(url)


async def test_one_that_a_later_version_wrote_names_both_versions(postgres: Cluster) -> None:
    url = postgres.database()
    async with Store.open(url):
        pass
    assert inspection.newest(url) is None
    postgres.sql("UPDATE alembic_version SET version_num = '9001'", url)
    assert "9001" in await refused(url)
    with pytest.raises(StorageFailed, match="9001"):
        await asyncio.to_thread(inspection.examine, url)


@pytest.mark.long
async def test_a_frozen_database_hangs_nobody_and_is_used_again(postgres: Cluster) -> None:
    """As a turn finds it: ``tests/chat/test_servers.py``."""
    async with Store.open(postgres.database()) as store:
        await store.add_message(said("早", "m1"))
        with postgres.frozen():
            attempts = store.add_message(said("在吗", "m2")), store.find_answer(CHAT, named("m1"))
            async with asyncio.timeout(60):
                failed = await asyncio.gather(*attempts, return_exceptions=True)
        for error in failed:
            assert isinstance(error, StorageFailed)
            assert "数据库" in error.message
            assert "磁盘" not in error.message
        later = await store.add_message(said("好", "m3"))
        assert later is not None


async def test_a_database_that_is_restarted_is_used_again(postgres: Cluster) -> None:
    async with Store.open(postgres.database()) as store:
        await store.add_message(said("早", "m1"))
        postgres.stop()
        try:
            with pytest.raises(StorageFailed, match="数据库"):
                await store.add_message(said("在吗", "m2"))
        finally:
            postgres.start()
        later = await store.add_message(said("好", "m3"))
        assert later is not None
        assert len(await store.window(CHAT, until=9)) == 2


def test_servers_may_share_a_folder_that_holds_no_history_but_nobody_has_it_alone_meanwhile(tmp_path: Path) -> None:
    with locked(tmp_path, with_others=True) as is_ours, locked(tmp_path, with_others=True):
        assert is_ours()
        assert is_held(tmp_path)
        with pytest.raises(ConfigError, match="另一个"), locked(tmp_path):
            pass
    assert not is_held(tmp_path)
    with locked(tmp_path), pytest.raises(ConfigError, match="另一个"), locked(tmp_path, with_others=True):
        pass

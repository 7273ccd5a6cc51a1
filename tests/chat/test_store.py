"""The history on disk: durable, numbered, and migrated from the oldest schema on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, LostPicture, Picture, Quote, Speaker, Text
from qqvl_server.chat.store import Draft, Store, sqlite_url
from qqvl_server.errors import StorageFailed
from qqvl_server.media.image import ImageRef

pytestmark = pytest.mark.anyio
CHAT = ChatKey(ChatKind.GROUP, "1")
ZHANG = Speaker("10001", "张三")
BOT = Speaker("bot", "bot")
PARTS = (Quote("李四", "早"), Text("看"), Picture(ImageRef("a" * 64, "gif", 3, 4, (0, 2), 5)), LostPicture())


def named(message_id: str) -> Identity:
    return Identity(message_id, f"digest of {message_id}", "undated", None)


async def test_every_kind_of_part_survives_a_restart(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        written = await store.add_message(Draft(CHAT, "群", ZHANG, PARTS, named("m1")))
    async with Store.open(sqlite_url(tmp_path)) as store:
        assert await store.window(CHAT, until=99) == (written,)
        assert written is not None
        assert written.parts == PARTS
        (summary,) = await store.chats()
    assert (summary.key, summary.name, summary.messages) == (CHAT, "群", 1)


async def test_the_same_message_is_stored_once(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        first = await store.add_message(Draft(CHAT, "", ZHANG, (Text("a"),), named("m1")))
        again = await store.add_message(Draft(CHAT, "", ZHANG, (Text("b"),), named("m1")))
        elsewhere = await store.add_message(Draft(ChatKey(ChatKind.PRIVATE, "1"), "", ZHANG, (Text("c"),), named("m1")))
    assert again == first
    assert elsewhere is not None
    assert elsewhere.parts == (Text("c"),)


async def test_numbers_are_never_used_twice_even_after_a_reset(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        for n in range(3):
            await store.add_message(Draft(CHAT, "", ZHANG, (Text(str(n)),), None))
        await store.reset(CHAT, "", named("r"), Answer("清空", True))
        after = await store.add_message(Draft(CHAT, "", ZHANG, (Text("新"),), None))
        assert after is not None
        assert after.seq == 4
        assert await store.find_answer(CHAT, named("r")) == Answer("清空", True)


async def test_paging_walks_back_through_all_messages(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        for n in range(7):
            await store.add_message(Draft(CHAT, "", ZHANG, (Text(str(n)),), None))
        newest = await store.messages(CHAT, before=None, limit=3)
        assert newest is not None
        older = await store.messages(CHAT, before=newest[0].seq, limit=10)
        assert older is not None
    assert [m.seq for m in (*older, *newest)] == list(range(1, 8))


async def test_the_database_is_durable_and_whole(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        await store.add_message(Draft(CHAT, "", ZHANG, (Text("a"),), None))
        with sqlite3.connect(tmp_path / "qqvl.sqlite3") as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT version_num FROM alembic_version").fetchone() == ("0008",)
        database.close()


async def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "qqvl.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageFailed):
        async with Store.open(sqlite_url(tmp_path)):
            pass


async def test_hostile_ids_are_only_words(tmp_path: Path) -> None:
    odd = [ChatKey(ChatKind.GROUP, word) for word in ("%", "_", "1' OR '1'='1", "group:1", "一", "1", " ")]
    async with Store.open(sqlite_url(tmp_path)) as store:
        for chat in odd:
            await store.add_message(Draft(chat, "", ZHANG, (Text(chat.id),), named("m")))
        for chat in odd:
            (only,) = await store.window(chat, until=9)
            assert only.parts == (Text(chat.id),)


async def test_a_report_of_what_was_never_said_makes_no_chat(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        assert await store.sent(CHAT, "m1", ["s1", "s2"]) == ()
        assert await store.chats() == ()
        assert not await store.is_ours(CHAT, "s1")

"""The history on disk: durable, numbered, and migrated from the oldest schema on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, LostPicture, Picture, Quote, Speaker, Text
from qqvl_server.chat.store import Draft, Outcome, Store, sqlite_url
from qqvl_server.media.image import ImageRef

pytestmark = pytest.mark.anyio
CHAT = ChatKey(ChatKind.GROUP, "1")
ZHANG = Speaker("10001", "张三")
BOT = Speaker("bot", "bot")
PARTS = (Quote("李四", "早"), Text("看"), Picture(ImageRef("a" * 64, "gif", 3, 4, (0, 2), 5)), LostPicture())


def named(message_id: str) -> Identity:
    return Identity(message_id, f"digest of {message_id}", "undated", None)


async def test_every_kind_of_part_survives_a_restart(database: str) -> None:
    async with Store.open(database) as store:
        written = await store.add_message(Draft(CHAT, "群", ZHANG, PARTS, named("m1")))
    async with Store.open(database) as store:
        assert await store.window(CHAT, until=99) == (written,)
        assert written is not None
        assert written.parts == PARTS
        (summary,) = await store.chats()
    assert (summary.key, summary.name, summary.messages) == (CHAT, "群", 1)


async def test_the_same_message_is_stored_once(database: str) -> None:
    async with Store.open(database) as store:
        first = await store.add_message(Draft(CHAT, "", ZHANG, (Text("a"),), named("m1")))
        again = await store.add_message(Draft(CHAT, "", ZHANG, (Text("b"),), named("m1")))
        elsewhere = await store.add_message(Draft(ChatKey(ChatKind.PRIVATE, "1"), "", ZHANG, (Text("c"),), named("m1")))
    assert again == first
    assert elsewhere is not None
    assert elsewhere.parts == (Text("c"),)


async def test_numbers_are_never_used_twice_even_after_a_reset(database: str) -> None:
    async with Store.open(database) as store:
        for n in range(3):
            await store.add_message(Draft(CHAT, "", ZHANG, (Text(str(n)),), None))
        await store.reset(CHAT, "", named("r"), Answer("清空", True))
        after = await store.add_message(Draft(CHAT, "", ZHANG, (Text("新"),), None))
        assert after is not None
        assert after.seq == 4
        assert await store.find_answer(CHAT, named("r")) == Answer("清空", True)


async def test_paging_walks_back_through_all_messages(database: str) -> None:
    async with Store.open(database) as store:
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


async def test_hostile_ids_are_only_words(database: str) -> None:
    odd = [ChatKey(ChatKind.GROUP, word) for word in ("%", "_", "1' OR '1'='1", "group:1", "一", "1", " ")]
    async with Store.open(database) as store:
        for chat in odd:
            await store.add_message(Draft(chat, "", ZHANG, (Text(chat.id),), named("m")))
        for chat in odd:
            (only,) = await store.window(chat, until=9)
            assert only.parts == (Text(chat.id),)


async def test_a_report_of_what_was_never_said_makes_no_chat(database: str) -> None:
    async with Store.open(database) as store:
        assert await store.sent(CHAT, "m1", ["s1", "s2"]) == ()
        assert await store.chats() == ()
        assert not await store.is_ours(CHAT, "s1")


async def test_what_no_database_can_keep_is_replaced(database: str) -> None:
    """A NUL, half a letter: in words, names and ids, in what is stored, asked for, and told again."""
    chat = ChatKey(ChatKind.GROUP, "1\0\udc00")
    draft = Draft(
        chat, "群\0", Speaker("10001\0", "张\ud83d"), (Text("a\0b\udc00"), Quote("\0", "\ud83d", "\0")), named("m\0")
    )
    async with Store.open(database) as store:
        written = await store.add_message(draft)
        assert written is not None
        assert written.parts == (Text("a\ufffdb\ufffd"), Quote("\ufffd", "\ufffd", "\ufffd"))
        assert await store.add_message(draft) == written
        assert await store.window(chat, until=9) == (written,)
        told = Answer("\ud83d\ude00\0", True, warnings=("\0",))
        await store.add_answers(chat, [Outcome(named("m\0"), told, 1, covered=True)], BOT)
        assert await store.find_answer(chat, named("m\0")) == Answer("😀\ufffd", True, warnings=("\ufffd",))
        for _ in range(2):
            assert await store.sent(chat, "m\0", ["s\0"]) == ()
        assert await store.is_ours(chat, "s\0")
        await store.books.choose(chat, {"system_prompt": "\0"})
    async with Store.open(database) as store:
        (summary,) = await store.chats()
        assert store.books.chosen(summary.key) == {"system_prompt": "\ufffd"}
        talk = await store.conversations.create(
            "local", "\0", {"system_prompt": "\udc00", "sampling": {"stop": ["\0"]}}
        )
        assert (await store.conversations.find("local", talk.id)).title == "\ufffd"
        assert [one.conversation.id for one in await store.conversations.listed("local", "\0", None, 9)] == [talk.id]

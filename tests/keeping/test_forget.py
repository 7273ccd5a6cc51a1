"""Forgetting a person: no byte of him is left, and nothing of anybody else is gone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from qqvl_server.chat.columns import JSON, Text
from qqvl_server.chat.message import Quote
from qqvl_server.chat.message import Text as Words
from qqvl_server.chat.page_settings import PageSettings
from qqvl_server.chat.rows.oblivion import WORDS
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.chat.tables import METADATA
from tests.keeping.conftest import GROUP, LI, SECRET, ZHANG, Kept, say

# As UTF-8 and as JSON writes them.
TRACES = {form for word in (ZHANG.name, SECRET, "悄悄话") for form in (word.encode(), json.dumps(word)[1:-1].encode())}


def left(kept: Kept) -> set[str]:
    return {name for name, data in kept.bytes().items() if b"10001" in data or any(t in data for t in TRACES)}


def test_no_byte_of_a_person_is_left_and_nothing_else_is_gone(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"qqvl.sqlite3", "client/client.log", "client/journal-0123456789ab.db", "logs/qqvl.log"} <= left(kept)
    assert kept.run("forget", "10001", "--dry-run") == 0
    assert "2 句话" in capsys.readouterr().out
    assert "qqvl.sqlite3" in left(kept)
    assert kept.run("forget", "10001", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left"] == []
    assert left(kept) == set()
    assert kept.texts() == ["真的吗", "哦", "@某人 在吗 某人", "某人不在", "今天吃什么", "吃面"]
    mine, ours, theirs = (kept.data / "images" / name[:2] / name for name in kept.pictures)
    assert (mine.exists(), ours.exists(), theirs.exists()) == (False, True, True)
    log = (kept.data / "logs" / "qqvl.log").read_text()
    assert "10002 说了什么" in log
    assert "别的" in (kept.data / "client" / "client.log").read_text()
    with closing(sqlite3.connect(kept.data / "client" / "journal-0123456789ab.db")) as journal:
        ((event, body),) = journal.execute("SELECT event, body FROM entry").fetchall()
        assert json.loads(event)["segments"] == [["text", {"text": "@某人 来"}]]
        assert json.loads(body) == {"content": "@某人 来", "user_id": LI.id}
        assert journal.execute("SELECT count(*) FROM known").fetchone() == (1,)
    asyncio.run(_others_are_whole(kept))
    # A person who was never there, or is no more.
    assert kept.run("forget", "10001") == 0


async def _others_are_whole(kept: Kept) -> None:
    async with Store.open(sqlite_url(kept.data)) as store:
        assert {chat.name for chat in await store.chats()} == {"测试群", ""}
        (talk,) = await store.conversations.listed("local", "", None, 9)
        assert "某人 是谁" in talk.conversation.title
        lines = await store.messages(GROUP, before=None, limit=99)
        assert lines is not None
        quotes = [part for line in lines for part in line.parts if isinstance(part, Quote)]
        assert {(quote.speaker, quote.text, quote.id) for quote in quotes} == {("某人", "[已忘记]", "")}
        assert await store.books.used("user", LI.id) != await store.books.used("user", ZHANG.id)
        await say(store, ZHANG, "m1", (Words("我回来了"),), "欢迎")


def test_names_that_others_have_too_and_pieces_of_longer_words_stay(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    kept = Kept(data, ("", "", ""))

    async def talk() -> None:
        async with Store.open(sqlite_url(data)) as store:
            for who, message_id in (("10001", "a"), ("10002", "b")):
                await say(store, type(LI)(who, "小明"), message_id, (Words("嗨"),), "")
            await say(store, type(LI)("10001", "An"), "c", (Words("嗨"),), "")
            await say(store, LI, "d", (Words("小明 And An 110001 10001 说 @An"),), "")
            await PageSettings(store.database).keep({"chat.deny_users": ["10001"]})

    asyncio.run(talk())
    assert kept.run("forget", "10001") == 0
    assert kept.texts() == ["嗨", "小明 And 某人 110001 某人 说 @某人"]


def test_what_the_owner_wrote_is_told_of_and_left(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    async def ban() -> None:
        async with Store.open(sqlite_url(kept.data)) as store:
            await PageSettings(store.database).keep({"chat.deny_users": ["10001"]})

    asyncio.run(ban())
    (kept.data / "personas" / "cat.md").write_text("10001 是主人")
    (kept.data / "qqvl.sqlite3.broken-1").write_bytes(b"10001")
    assert kept.run("forget", "10001", "--json") == 0
    told = json.loads(capsys.readouterr().out)["left"]
    assert len(told) == 3
    assert any("chat.deny_users" in line for line in told)
    assert left(kept) == {"personas/cat.md", "qqvl.sqlite3.broken-1", "qqvl.sqlite3"}


def test_every_column_of_words_is_looked_through() -> None:
    """One that is added to a table must be: or it stands here, with the reason."""
    no_words = {
        "messages.speaker_name", "messages.parts",  # part by part
        "recalls.withdraw", "decisions.model", "conversation_messages.model",  # ids of ours, names of models
        "conversation_messages.images", "conversation_messages.usage", "conversations.sampling",  # hashes, numbers
        "chat_settings.value", "page_settings.value",  # the owner's word: told of
    }  # fmt: skip
    wordy = {
        f"{table.name}.{column.name}" for table in METADATA.tables.values() for column in table.c
        if isinstance(column.type, Text | JSON)
    }  # fmt: skip
    looked = {f"{table.name}.{name}" for table, names in WORDS.items() for name in names}
    assert wordy - looked == no_words


def test_what_is_no_number_of_qq_is_refused(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("12", "群主", "1000x", ""):
        assert kept.run("forget", number) == 2
        assert "QQ 号" in capsys.readouterr().err


def test_nothing_is_forgotten_or_restored_while_the_client_runs(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    assert kept.run("backup", str(tmp_path / "b.qqvl.tar")) == 0
    with (kept.data / "client" / "journal-0123456789ab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (("forget", "10001"), ("restore", str(tmp_path / "b.qqvl.tar"))):
            capsys.readouterr()
            assert kept.run(*words) == 2
            assert "客户端" in capsys.readouterr().err

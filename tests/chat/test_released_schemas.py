"""Databases of every schema that was ever released, with what was in them: written by the code of its day.

``tests/fixtures/schemas`` holds them as SQL. A new migration adds one: the code before it, filled by its own store.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from qqvl_server.chat import inspection
from qqvl_server.chat.identity import Identity, identify
from qqvl_server.chat.message import ChatKey, ChatKind, Incoming, Picture, Quote, Speaker, StoredMessage, Text
from qqvl_server.chat.store import Draft, Store, sqlite_url

pytestmark = pytest.mark.anyio
DUMPS = sorted((Path(__file__).parents[1] / "fixtures" / "schemas").glob("*.sql"))
GROUP, PRIVATE = ChatKey(ChatKind.GROUP, "20001"), ChatKey(ChatKind.PRIVATE, "10001")
ZHANG = Speaker("10001", "张三")


def restored(dump: Path, folder: Path) -> None:
    """As if it had been written just now: answers are kept for a week."""
    with closing(sqlite3.connect(folder / "qqvl.sqlite3")) as database:
        database.executescript(dump.read_text(encoding="utf-8"))
        (last,) = database.execute("SELECT max(created_at) FROM answers").fetchone()
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if any(column[1] == "created_at" for column in database.execute(f"PRAGMA table_info({table})")):
                database.execute(f"UPDATE {table} SET created_at = created_at + ?", (time.time() - last,))
        database.commit()


def resent(chat: ChatKey, message_id: str, words: str) -> Identity:
    found = identify(Incoming("r", chat, ZHANG, (Text(words),), 1_700_000_000.0, message_id))
    assert found is not None
    return found


def texts(lines: tuple[StoredMessage, ...] | None) -> list[str]:
    assert lines is not None
    return ["".join(part.text for part in line.parts if isinstance(part, Text)) for line in lines]


def test_every_schema_has_a_dump() -> None:
    released = {script.revision for script in inspection.scripts()[1].walk_revisions()}
    assert {dump.stem for dump in DUMPS} == released


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.stem)
async def test_what_an_older_version_kept_is_all_there(dump: Path, tmp_path: Path) -> None:
    restored(dump, tmp_path)
    for _ in range(2):
        async with Store.open(sqlite_url(tmp_path)) as store:
            lines = await store.messages(GROUP, before=None, limit=99)
            assert texts(lines)[:3] == ["晚上吃什么", "吃火锅", "我也去"]
            assert lines is not None
            assert isinstance(lines[0].parts[1], Picture)
            assert isinstance(lines[2].parts[0], Quote)
            assert texts(await store.messages(PRIVATE, before=None, limit=99)) == ["你好", "你好呀"]
            assert {chat.name for chat in await store.chats()} == {"测试群", "张三"}
            # Whoever asks again gets what he was told then.
            answer = await store.find_answer(PRIVATE, resent(PRIVATE, "p1", "你好"))
            assert answer is not None
            assert answer.reply == "你好呀"
            again = Draft(PRIVATE, "", ZHANG, (Text("你好"),), resent(PRIVATE, "p1", "你好"))
            line = await store.add_message(again)
            assert line is not None
            assert line.seq == 1
            if dump.stem >= "0005":
                assert store.books.chosen(GROUP) == {"group_reply": "all"}
                assert await store.books.day("2026-11-29")
            if dump.stem >= "0007":
                (talk,) = await store.conversations.listed("local", "", None, 9)
                assert (talk.conversation.title, talk.preview) == ("写一首诗", "秋雨")
            await store.add_message(Draft(GROUP, "", ZHANG, (Text("新的"),), None))
    assert texts(lines)[3:] == ["新的"]

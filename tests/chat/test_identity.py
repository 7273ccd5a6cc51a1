"""A resend is the same message again, and nothing else is: an id alone is a number of one QQ process."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine

from qqvl_server.chat import migrations
from qqvl_server.chat.message import ChatKey, ChatKind, EncodedPicture, Incoming, Quote, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.chat.tables import METADATA
from qqvl_server.errors import GenerationFailed
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice

pytestmark = pytest.mark.anyio
CHAT = ChatKey(ChatKind.GROUP, "1")
NOON = 1_700_000_000.0
FIRST = Incoming("r", CHAT, Speaker("10001", "张三"), (Text("我叫小明"),), NOON, "10001", self_id="7")
SEEN = replace(FIRST, parts=(Text("看"), EncodedPicture("aGVsbG8=")))


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        yield ChatService(store, lambda: voice, PictureShelf(), ChatSettings(), GenerationSettings(), 4)


def counting() -> ScriptedVoice:
    """Says how many turns there were."""
    voice = ScriptedVoice(lambda _: f"第{len(voice.asked)}次")
    return voice


async def said(service: ChatService) -> list[str]:
    lines = await service.messages(CHAT, before=None, limit=100) or ()
    return ["".join(p.text for p in m.parts if isinstance(p, Text)) for m in lines if m.role == "user"]


NEW: list[tuple[str, Incoming, dict[str, Any]]] = [
    ("other words", FIRST, {"parts": (Text("你好"),)}),
    ("another speaker", FIRST, {"speaker": Speaker("10002", "张三")}),
    ("another day", FIRST, {"sent_at": NOON + 86400}),
    ("the next second", FIRST, {"sent_at": NOON + 1}),
    ("no time", FIRST, {"sent_at": None}),
    ("another account", FIRST, {"self_id": "8"}),
    ("a picture more", FIRST, {"parts": (*FIRST.parts, EncodedPicture("aGVsbG8="))}),
    ("another picture", SEEN, {"parts": (Text("看"), EncodedPicture("aGVsbG9v"))}),
    ("no id", FIRST, {"message_id": None}),
]
SAME: list[tuple[str, Incoming, dict[str, Any]]] = [
    ("all of it", FIRST, {}),
    ("a new card", FIRST, {"speaker": Speaker("10001", "三哥")}),
    ("the picture's base64 spelled anew", SEEN, {"parts": (Text("看"), EncodedPicture("data:;base64,aGVs\nbG8"))}),
    ("a quote found recalled", FIRST, {"parts": (Quote("李四", "[已取不到]"), *FIRST.parts)}),
    ("a quoted picture lost", SEEN, {"parts": (Quote("李四", "早"), EncodedPicture("eA==", quoted=True), *SEEN.parts)}),
    ("another look at who was addressed", FIRST, {"at_me": True}),
]


@pytest.mark.parametrize(("first", "change"), [row[1:] for row in NEW], ids=[row[0] for row in NEW])
async def test_anything_else_under_the_same_id_is_stored_and_answered(
    tmp_path: Path, first: Incoming, change: dict[str, Any]
) -> None:
    voice = counting()
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(first, "")).reply == "第1次"
        assert (await service.handle(replace(first, **change), "")).reply == "第2次"
        assert len(await said(service)) == 2
        # Both are known from now on.
        assert (await service.handle(first, "")).reply == "第1次"
        expected = "第3次" if "message_id" in change else "第2次"
        assert (await service.handle(replace(first, **change), "")).reply == expected


@pytest.mark.parametrize(("first", "change"), [row[1:] for row in SAME], ids=[row[0] for row in SAME])
async def test_a_resend_gets_the_first_answer_also_after_a_restart(
    tmp_path: Path, first: Incoming, change: dict[str, Any]
) -> None:
    voice = counting()
    async with opened(tmp_path, voice) as service:
        await service.handle(first, "")
        assert (await service.handle(replace(first, **change), "")).reply == "第1次"
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(replace(first, **change), "")).reply == "第1次"
        assert len(await said(service)) == 1


async def test_at_once_each_message_has_one_turn(tmp_path: Path) -> None:
    """Three messages of one id, four times each, one of them spelled in two ways."""
    voice = counting()
    voice.gate.clear()
    other = replace(SEEN, parts=(Text("看"), EncodedPicture("data:;base64,aGVsbG8")))
    async with opened(tmp_path, voice) as service:
        sent = [FIRST, replace(FIRST, parts=(Text("你好"),)), SEEN, other] * 4
        turns = [asyncio.create_task(service.handle(message, "")) for message in sent]
        while not voice.asked:
            await asyncio.sleep(0.01)
        voice.gate.set()
        answers = await asyncio.gather(*turns)
        assert answers == answers[:4] * 4
        # They share one turn; the last has its reply.
        assert [answer.reply for answer in answers[:4]] == ["", "", "第1次", "第1次"]
        assert [answer.merged_into for answer in answers[:4]] == ["10001", "10001", None, None]
        assert len(await said(service)) == 3
    assert len(voice.asked) == 1


async def test_a_failed_message_is_asked_again_under_its_own_line(tmp_path: Path) -> None:
    outcome: list[Any] = [GenerationFailed("坏了"), GenerationFailed("坏了"), "好了", "也好了"]
    voice = ScriptedVoice(lambda _: outcome.pop(0))
    other = replace(FIRST, parts=(Text("你好"),))
    async with opened(tmp_path, voice) as service:
        for message in (FIRST, other):
            with pytest.raises(GenerationFailed):
                await service.handle(message, "")
        assert (await service.handle(FIRST, "")).reply == "好了"
        assert (await service.handle(other, "")).reply == "也好了"
        assert await said(service) == ["我叫小明", "你好"]


# Databases of before ----------------------------------------------------------------------------------------


def upgrade(connection: Connection, revision: str) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(next(iter(migrations.__path__)))))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, revision)


def old_database(folder: Path, answered_at: float) -> None:
    """What the schema before digests kept of ``FIRST``, its answer, and a message of which nothing else is known."""
    engine = create_engine(f"sqlite:///{folder / 'qqvl.sqlite3'}")
    with engine.begin() as connection:
        upgrade(connection, "0001")
        connection.exec_driver_sql("INSERT INTO chats VALUES (1, 'group', '1', '群', 4, 1, 0)")
        parts = '[{"type": "text", "text": "我叫小明"}]'
        row = "INSERT INTO messages VALUES (?, 1, ?, ?, ?, '', ?, ?, ?)"
        connection.exec_driver_sql(row, (1, 1, "user", "10001", parts, "10001", answered_at))
        connection.exec_driver_sql(row, (2, 2, "assistant", "bot", parts, None, answered_at))
        connection.exec_driver_sql(row, (3, 3, "user", "10001", parts, "unanswered", answered_at))
        for key in ("10001", "gone"):
            connection.exec_driver_sql(
                "INSERT INTO answers VALUES (NULL, 1, ?, 1, '旧答复', '[]', 1, 1, ?)", (key, answered_at)
            )
    engine.dispose()


async def test_answers_and_lines_of_an_older_version_are_still_known(tmp_path: Path) -> None:
    now = time.time()
    old_database(tmp_path, now)
    voice = counting()
    first = replace(FIRST, sent_at=now - 1)
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(first, "")).reply == "旧答复"
        assert (await service.handle(replace(first, parts=(Text("你好"),)), "")).reply == "第1次"
        assert (await service.handle(replace(first, sent_at=now + 3600), "")).reply == "第2次"
        assert (await service.handle(replace(first, message_id="unanswered"), "")).reply == "第3次"
        assert await said(service) == ["我叫小明", "我叫小明", "你好", "我叫小明"]


async def test_lines_older_than_answers_are_kept_are_nobodys_resend(tmp_path: Path) -> None:
    old_database(tmp_path, time.time() - 30 * 86400)
    async with opened(tmp_path, counting()) as service:
        assert (await service.handle(replace(FIRST, sent_at=None), "")).reply == "第1次"
        assert len(await said(service)) == 3


async def test_a_migrated_database_is_whole_and_has_the_tables_of_the_code(tmp_path: Path) -> None:
    old_database(tmp_path, time.time())
    async with Store.open(sqlite_url(tmp_path)):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'qqvl.sqlite3'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert connection.exec_driver_sql("PRAGMA integrity_check").all() == [("ok",)]
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    engine.dispose()


async def test_a_migration_that_was_killed_halfway_starts_again(tmp_path: Path) -> None:
    """All of it is one transaction: what a kill leaves is the old schema, whole."""
    old_database(tmp_path, time.time())
    engine = create_engine(f"sqlite:///{tmp_path / 'qqvl.sqlite3'}")
    with engine.connect() as connection:
        upgrade(connection, "head")
        connection.rollback()
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    async with opened(tmp_path, counting()) as service:
        assert len(await said(service)) == 2

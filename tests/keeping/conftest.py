"""A data folder as a bot leaves it: chats, a page's conversation, pictures, personas, a client's journal, logs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server import cli
from qqvl_server.chat.audit import Audit, Change
from qqvl_server.chat.conversations.store import new_id
from qqvl_server.chat.conversations.values import Said
from qqvl_server.chat.decision import Charge, Decision, Effort, Reason, Usage
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import (
    Answer,
    ChatKey,
    ChatKind,
    MessagePart,
    Picture,
    Quote,
    Speaker,
    Text,
)
from qqvl_server.chat.retention import Retention
from qqvl_server.chat.store import Draft, Outcome, Store, sqlite_url
from qqvl_server.media.image import ImageLimits, ImageRef
from qqvl_server.media.library import ImageLibrary
from qqvl_server.settings import StorageSettings

GROUP, PRIVATE = ChatKey(ChatKind.GROUP, "20001"), ChatKey(ChatKind.PRIVATE, "10001")
ELSEWHERE = ChatKey(ChatKind.GROUP, "20002")
ZHANG, LI, BOT = Speaker("10001", "张三丰swordfish"), Speaker("10002", "李四"), Speaker("", "小助手")
SECRET = "我家的门牌号是长安街一百零八号"
JOURNAL = """
CREATE TABLE entry (id INTEGER PRIMARY KEY, event TEXT NOT NULL, said_at REAL NOT NULL, taken_at REAL NOT NULL,
  context_only INTEGER NOT NULL, state TEXT NOT NULL, texts TEXT NOT NULL, next_part INTEGER NOT NULL,
  part_open INTEGER NOT NULL, body BLOB);
CREATE TABLE errand (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, chat TEXT NOT NULL, told TEXT NOT NULL,
  made_at REAL NOT NULL);
CREATE TABLE seen (key TEXT PRIMARY KEY, chat TEXT NOT NULL, sent_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE known (identity BLOB PRIMARY KEY, taken_at REAL NOT NULL) WITHOUT ROWID;
PRAGMA user_version=1;
"""


@dataclass(frozen=True)
class Kept:
    """``pictures``: one only Zhang has sent, one that Li has sent as well, one of Li's."""

    data: Path
    pictures: tuple[str, str, str]

    def run(self, *words: str) -> int:
        return cli.main([*words, "--data-dir", str(self.data)])

    def bytes(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.data)): p.read_bytes() for p in self.data.rglob("*") if p.is_file()}

    def texts(self, chat: ChatKey = GROUP) -> list[str]:
        async def read() -> list[str]:
            async with Store.open(sqlite_url(self.data)) as store:
                lines = await store.messages(chat, before=None, limit=999) or ()
                return ["".join(p.text for p in line.parts if isinstance(p, Text)) for line in lines]

        return asyncio.run(read())


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return fill(tmp_path_factory.mktemp("kept") / "data")


@pytest.fixture
def kept(_filled: Kept, tmp_path: Path) -> Kept:
    shutil.copytree(_filled.data, tmp_path / "data")
    return replace(_filled, data=tmp_path / "data")


def fill(data: Path) -> Kept:
    refs = tuple(picture(data, content) for content in (b"mine", b"ours", b"theirs"))
    asyncio.run(_history(data, refs))
    (data / "personas").mkdir()
    (data / "personas" / "cat.md").write_text("---\nname: 猫\n---\n你是一只猫", encoding="utf-8")
    (data / "logs").mkdir()
    (data / "logs" / "qqvl.log").write_text(f"10001 说了什么\n10002 说了什么\n{ZHANG.name}\n", encoding="utf-8")
    _journal(data / "client")
    return Kept(data, (refs[0].sha256, refs[1].sha256, refs[2].sha256))


def picture(data: Path, content: bytes) -> ImageRef:
    sha256 = hashlib.sha256(content).hexdigest()
    path = data / "images" / sha256[:2] / sha256
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return ImageRef(sha256, "PNG", 8, 8, (0,), len(content))


def named(message_id: str) -> Identity:
    return Identity(message_id, hashlib.sha256(message_id.encode()).hexdigest(), "undated", None)


async def say(
    store: Store, who: Speaker, message_id: str, parts: tuple[MessagePart, ...], reply: str, chat: ChatKey = GROUP
) -> None:
    line = await store.add_message(Draft(chat, "测试群", who, parts, named(message_id)))
    assert line is not None
    effort = Effort(1, 12, 0, 0.5, "demo") if reply else None
    decision = Decision(bool(reply), Reason.ADDRESSED if reply else Reason.SILENT)
    answer = Answer(reply, bool(reply), (), 12, 3)
    outcome = Outcome(named(message_id), answer, line.seq, decision, bool(reply), effort=effort)
    await store.add_answers(chat, [outcome], BOT, [Charge("user", who.id, Usage(1, 0.5))] if reply else [])
    if reply:
        await store.sent(chat, message_id, [f"s{message_id}"])


async def _history(data: Path, refs: tuple[ImageRef, ...]) -> None:
    mine, ours, theirs = map(Picture, refs)
    async with Store.open(sqlite_url(data)) as store:
        await say(store, ZHANG, "m1", (Text(SECRET), mine, ours), f"记住了：{SECRET}")
        await say(store, LI, "m2", (Quote(ZHANG.name, SECRET, "m1"), Picture(mine.image, True), Text("真的吗")), "")
        await say(store, LI, "m3", (Quote("小助手", f"记住了：{SECRET}", "sm1"), Text("哦")), "")
        await say(store, LI, "m4", (Text(f"@{ZHANG.name} 在吗 10001"), ours, theirs), f"{ZHANG.name}不在")
        await say(store, LI, "m5", (Text("今天吃什么"),), "吃面")
        await say(store, ZHANG, "p1", (Text("悄悄话"),), "嗯", PRIVATE)
        await store.books.caption(GROUP, refs[1].sha256, f"{ZHANG.name}的猫")
        await store.books.choose(GROUP, {"group_reply": "all"})
        await store.recall(ELSEWHERE, "x1", None)
        talk = await store.conversations.create("local", "", {})
        asked = Said(new_id("m"), None, "user", f"10001 是谁？他说：{SECRET}", time.time())
        await store.conversations.add("local", talk.id, [asked])
        await Audit(store.database).add(Change("local", "127.0.0.1", "chat.mute private:10001", None, ZHANG.name))


def _journal(folder: Path) -> None:
    folder.mkdir()
    (folder / "client.log").write_text(f"群 20001 的 10001 撤回了\n{json.dumps(ZHANG.name)}\n别的\n", encoding="utf-8")
    with closing(sqlite3.connect(folder / "journal-0123456789ab.db", isolation_level=None)) as journal:
        journal.executescript("PRAGMA journal_mode=WAL; PRAGMA secure_delete=OFF;" + JOURNAL)
        for number, (who, words) in enumerate([(ZHANG, SECRET), (LI, f"@{ZHANG.name} 来")], 1):
            event: dict[str, Any] = {
                "chat": ["group", "20001", "7", ""],
                "id": f"j{number}",
                "sender": [who.id, who.name, "", "member", False],
            }
            event |= {"sent_at": 1.0, "segments": [["text", {"text": words}]], "group_name": "测试群", "sub_type": ""}
            body = json.dumps({"content": words, "user_id": who.id}).encode()
            row: tuple[Any, ...] = (number, json.dumps(event), 1.0, 1.0, 0, "ready", "[]", 0, 0, body)
            journal.execute("INSERT INTO entry VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        journal.execute(
            "INSERT INTO seen VALUES ('private:10001', ?, 1.0)", (json.dumps(["private", "10001", "7", ""]),)
        )
        told = json.dumps({"message_id": "m1", "operator_id": "10001"})
        journal.execute(
            "INSERT INTO errand VALUES (1, 'recall', ?, ?, 1.0)", (json.dumps(["group", "20001", "7", ""]), told)
        )
        journal.execute("INSERT INTO known VALUES (?, 1.0)", (b"0" * 16,))


def grow_old(kept: Kept, *, days: int, but: str) -> None:
    """All of it, but the line that says ``but``; what is written next is written now."""
    with closing(sqlite3.connect(kept.data / "qqvl.sqlite3")) as database:
        for table in ("messages", "answers", "decisions", "sent", "ledger", "recalls"):
            database.execute(f"UPDATE {table} SET created_at = created_at - ?", (days * 86400,))
        database.execute("UPDATE conversations SET updated_at = updated_at - ?", (days * 86400,))
        database.execute(
            "UPDATE messages SET created_at = ? WHERE parts LIKE ?", (time.time(), f"%{json.dumps(but)[1:-1]}%")
        )
        database.execute("UPDATE answers SET created_at = ? WHERE id = (SELECT max(id) FROM answers)", (time.time(),))
        database.commit()
    for path in (kept.data / "images").glob("*/*"):
        os.utime(path, (time.time() - days * 86400,) * 2)


def let_go(kept: Kept, **settings: int) -> None:
    """One sweep, as a server makes it."""

    async def sweep() -> None:
        library = ImageLibrary(kept.data / "images", 10**9, ImageLimits(10**6, 10**6, 4, 1024))
        wanted = StorageSettings(**(settings or {"history_days": 30, "conversation_days": 30}))
        async with Store.open(sqlite_url(kept.data)) as store:
            await Retention(store, library, wanted, lambda: False).sweep()
        library.close()

    asyncio.run(sweep())

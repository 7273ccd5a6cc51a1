"""Backups: taken while the bot runs, refused where they are not whole, and put back in one piece."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from qqvl_server.chat.message import ChatKey, ChatKind, Text
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.process import locked
from tests.keeping.conftest import ELSEWHERE, GROUP, LI, PRIVATE, Kept, say

NAME = "qqvl.sqlite3"


def test_what_was_backed_up_comes_back_and_the_old_stays_aside(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.qqvl.tar"
    before, said = kept.bytes(), kept.texts()
    assert kept.run("backup", str(file)) == 0
    told = capsys.readouterr().out
    assert f"restore {file}" in told
    assert "3 张图片" in told
    assert file.stat().st_mode & 0o777 == 0o600
    (kept.data / "personas" / "cat.md").unlink()
    (kept.data / "personas" / "dog.md").write_text("后来的")
    asyncio.run(_say_more(kept))
    assert kept.run("restore", str(file), "--json") == 0
    aside = Path(json.loads(capsys.readouterr().out)["aside"])
    assert kept.texts() == said
    after = kept.bytes()
    for name in (
        "personas/cat.md",
        "logs/qqvl.log",
        "client/client.log",
        *(f"images/{p[:2]}/{p}" for p in kept.pictures),
    ):
        assert after[name] == before[name]
    assert "personas/dog.md" not in after
    assert (aside / "personas" / "dog.md").read_text() == "后来的"
    assert "后来的话" in Kept(aside, kept.pictures).texts()
    with closing(sqlite3.connect(kept.data / "client" / "journal-0123456789ab.db")) as journal:
        assert journal.execute("SELECT count(*) FROM entry").fetchone() == (2,)


async def _say_more(kept: Kept) -> None:
    async with Store.open(sqlite_url(kept.data)) as store:
        await say(store, LI, "later", (Text("后来的话"),), "")


def test_a_backup_is_of_one_moment_while_others_write_and_leaves_plays_out(kept: Kept, tmp_path: Path) -> None:
    async def work() -> None:
        with locked(kept.data) as is_ours:
            async with Store.open(sqlite_url(kept.data), is_ours) as store:
                await say(store, LI, "t1", (Text("试群"),), "", ChatKey(ChatKind.GROUP, "try-1"))
                backing = asyncio.create_task(asyncio.to_thread(kept.run, "backup", str(tmp_path / "b.qqvl.tar")))
                number = 0
                while not backing.done():
                    await say(store, LI, f"n{number}", (Text("长" * 2000),), "")
                    number += 1
                assert await backing == 0
                assert store.trouble is None
                assert kept.run("restore", str(tmp_path / "b.qqvl.tar")) == 2

    asyncio.run(work())
    fresh = Kept(tmp_path / "fresh", kept.pictures)
    assert fresh.run("restore", str(tmp_path / "b.qqvl.tar")) == 0
    lines = fresh.texts()
    assert lines[:8] == kept.texts()[:8]
    assert set(lines[8:]) <= {"长" * 2000}
    with closing(sqlite3.connect(fresh.data / NAME)) as database:
        assert database.execute("SELECT count(*) FROM chats WHERE external_id LIKE 'try-%'").fetchone() == (0,)


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def changed(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data.replace("你是一只猫".encode(), "你是一只狗".encode()))


def later(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"version": 1', b'"version": 9'))


def no_archive(file: Path) -> None:
    file.write_bytes(b"nothing of the kind" * 999)


def out_of_the_folder(file: Path) -> None:
    with tarfile.open(file, "w") as tar:
        tar.add(__file__, "server/../../escaped")


def gone(file: Path) -> None:
    file.unlink()


def test_a_backup_that_is_not_whole_changes_nothing(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.qqvl.tar"
    assert kept.run("backup", str(file)) == 0
    whole, before = file.read_bytes(), kept.bytes()
    for harm in (cut_short, changed, later, no_archive, out_of_the_folder, gone):
        file.write_bytes(whole)
        harm(file)
        capsys.readouterr()
        assert kept.run("restore", str(file)) == 1, harm.__name__
        assert kept.bytes() == before
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert not (tmp_path / "escaped").exists()


def test_a_later_versions_database_is_refused_in_a_line(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(kept.data / NAME)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9001'")
        database.commit()
    file = tmp_path / "b.qqvl.tar"
    assert kept.run("backup", str(file)) == 0
    before = kept.bytes()
    capsys.readouterr()
    assert kept.run("restore", str(file)) == 1
    told = capsys.readouterr().err
    assert "9001" in told
    assert told.count("\n") == 1
    assert kept.bytes() == before
    assert kept.run("export", "group:20001") == 1
    assert "9001" in capsys.readouterr().err


# One chat ----------------------------------------------------------------------------------------------------


def test_a_chat_that_is_read_back_is_exported_equal(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.json"
    assert kept.run("export", "group:20001", str(file)) == 0
    assert kept.run("import", str(file)) == 2
    assert "--replace" in capsys.readouterr().err
    fresh = Kept(tmp_path / "fresh", kept.pictures)
    for flags in ((), ("--replace",)):
        assert fresh.run("import", str(file), *flags) == 0
        assert fresh.run("export", "group:20001", str(tmp_path / "again.json")) == 0
        assert (tmp_path / "again.json").read_text() == file.read_text()
    assert fresh.texts() == kept.texts()
    for name in kept.pictures:
        assert (fresh.data / "images" / name[:2] / name).read_bytes() == (
            kept.data / "images" / name[:2] / name
        ).read_bytes()
    assert fresh.run("import", str(file), "--into", "group:7") == 0
    assert fresh.texts(ChatKey(ChatKind.GROUP, "7")) == kept.texts()
    asyncio.run(_goes_on(fresh))


async def _goes_on(kept: Kept) -> None:
    async with Store.open(sqlite_url(kept.data)) as store:
        assert store.books.chosen(GROUP) == {"group_reply": "all"}
        await say(store, LI, "new", (Text("接着聊"),), "好")


def test_what_is_no_export_is_refused_with_what_is_wrong(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.json"
    assert kept.run("export", str(PRIVATE), str(file)) == 0
    good = json.loads(file.read_text())
    spoiled = [
        ({**good, "format": "other"}, "export"),
        ({**good, "version": 9}, "版本"),
        ({**good, "messages": [{**good["messages"][0], "parts": [{"type": "text"}]}]}, "parts"),
        ({**good, "messages": [{**good["messages"][0], "seq": "1"}]}, "seq"),
        ({**good, "messages": [good["messages"][0]] * 2}, "重复"),
        ({**good, "chat": {**good["chat"], "kind": "room"}}, "kind"),
        ({**good, "pictures": {"00" * 32: "AAAA"}}, "图片"),
        ({**good, "more": 1}, "messages"),
        ([], "export"),
    ]
    for document, word in spoiled:
        file.write_text(json.dumps(document))
        capsys.readouterr()
        assert Kept(tmp_path / "fresh", kept.pictures).run("import", str(file)) == 2, word
        told = capsys.readouterr().err
        assert word in told
        assert told.count("\n") == 1
    assert kept.run("export", "group:404") == 2
    assert kept.run("export", "404") == 2
    assert kept.run("export", str(ELSEWHERE)) == 0

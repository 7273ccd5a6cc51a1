"""The database when things go wrong around it: other programs, other versions, damage, clocks, slow disks."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat.database import Database
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Speaker, StoredMessage, Text
from qqvl_server.chat.store import Draft, Outcome, Store, sqlite_url
from qqvl_server.errors import StorageFailed
from qqvl_server.observe import logs
from qqvl_server.settings import ObserveSettings

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quiet_root")]
CHAT = ChatKey(ChatKind.PRIVATE, "1")
ZHANG = Speaker("10001", "张三")
NAME = "qqvl.sqlite3"
MONTH_S = 31 * 86400


def named(message_id: str) -> Identity:
    return Identity(message_id, f"digest of {message_id}", "undated", None)


def said(words: str, message_id: str | None = None, chat: ChatKey = CHAT) -> Draft:
    return Draft(chat, "", ZHANG, (Text(words),), named(message_id) if message_id else None)


async def fill(folder: Path, lines: int = 3) -> None:
    async with Store.open(sqlite_url(folder)) as store:
        for number in range(lines):
            await store.add_message(said("很长的话" * 200, f"m{number}"))


async def refused(folder: Path) -> str:
    """What a start says that does not come to be; the file is left as it was."""
    before = (folder / NAME).read_bytes()
    with pytest.raises(StorageFailed) as raised:
        async with Store.open(sqlite_url(folder)):
            pass
    assert (folder / NAME).read_bytes() == before
    assert "\n" not in raised.value.message
    return raised.value.message


async def set_aside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A start goes on with a new database; what was there keeps every byte under another name, and a line says so."""
    before = {path.name.removeprefix(NAME): path.read_bytes() for path in folder.glob(f"{NAME}*")}
    before.pop("-shm", None)
    logs.configure(ObserveSettings(log_format="json"))
    async with Store.open(sqlite_url(folder)) as store:
        assert await store.window(CHAT, until=999) == ()
        assert await store.add_message(said("新的", "m1")) is not None
        aside = {path.name.partition(".broken-")[2]: path.read_bytes() for path in folder.glob("*.broken-*")}
        stamp = min(aside)
        assert {name.removeprefix(stamp): kept for name, kept in aside.items()} == before
    told = [line for line in capsys.readouterr().err.splitlines() if stamp in line]
    assert len(told) == 1
    assert "已损坏" in told[0]
    assert "restore" in told[0]
    async with Store.open(sqlite_url(folder)) as store:
        assert len(await store.window(CHAT, until=999)) == 1


async def test_what_is_no_database_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).write_bytes(b"this is no database" * 100)
    await set_aside(tmp_path, capsys)


async def test_a_broken_one_is_set_aside_with_the_log_of_a_server_that_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with Store.open(sqlite_url(folder)) as store:
        for number in range(200):
            await store.add_message(said("很长的话" * 200, f"m{number}"))
        with sqlite3.connect(folder / NAME) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        other.close()
        await store.add_message(said("最后一句", "last"))
        shutil.copytree(folder, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    with (tmp_path / "killed" / NAME).open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(65536))
    await set_aside(tmp_path / "killed", capsys)


async def test_a_kill_while_one_is_set_aside_leaves_no_log_of_the_old_to_the_new(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        await store.add_message(said("旧的", "m1"))
        shutil.copy(tmp_path / f"{NAME}-wal", tmp_path / "log")
    (tmp_path / NAME).unlink()
    (tmp_path / "log").rename(tmp_path / f"{NAME}-wal")
    async with Store.open(sqlite_url(tmp_path)) as store:
        assert await store.window(CHAT, until=999) == ()
        assert await store.add_message(said("新的", "m1")) is not None


async def test_several_are_opened_at_once_in_one_loop_and_beside_it(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    beside = asyncio.create_task(asyncio.to_thread(asyncio.run, fill(folders[0])))
    async with asyncio.timeout(60):
        await asyncio.gather(*map(fill, folders[1:]), beside)
    for folder in folders:
        async with Store.open(sqlite_url(folder)) as store:
            assert len(await store.window(CHAT, until=99)) == 3


async def test_damage_in_the_middle_is_found_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await fill(tmp_path, 200)
    size = (tmp_path / NAME).stat().st_size
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(os.urandom(8192))
    await set_aside(tmp_path, capsys)


async def test_a_database_cut_short_is_found_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await fill(tmp_path, 200)
    os.truncate(tmp_path / NAME, (tmp_path / NAME).stat().st_size // 2 // 4096 * 4096)
    await set_aside(tmp_path, capsys)


async def test_one_that_a_later_version_wrote_names_both_versions(tmp_path: Path) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / NAME) as database:
        (ours,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = '9001'")
    database.close()
    told = await refused(tmp_path)
    assert "9001" in told
    assert ours in told


async def test_a_database_of_another_program_is_told_as_such(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("CREATE TABLE messages (text)")
    database.close()
    assert "不是 qqvl 的" in await refused(tmp_path)


async def test_one_that_another_program_has_locked_is_told_as_such(tmp_path: Path) -> None:
    await fill(tmp_path)
    database = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageFailed, match="另一个程序锁着"):
            async with Store.open(sqlite_url(tmp_path)):
                pass
    finally:
        database.close()


async def test_damage_that_comes_while_it_runs_is_told_and_shows(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        for number in range(50):
            await store.add_message(said("很长的话" * 200, f"m{number}"))
        with sqlite3.connect(tmp_path / NAME) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        with (tmp_path / NAME).open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom((tmp_path / NAME).stat().st_size - 4096))
        assert store.trouble is None
        for number in range(20):
            with pytest.raises(StorageFailed, match="已损坏"):
                await store.add_message(said("新的", f"n{number}", ChatKey(ChatKind.GROUP, str(number))))
        assert store.trouble == "storage_damaged"


def move_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()


def swap_database(folder: Path) -> None:
    shutil.copy(folder / NAME, folder / "copy")
    os.replace(folder / "copy", folder / NAME)


def delete_log(folder: Path) -> None:
    (folder / f"{NAME}-wal").unlink()


def delete_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [move_folder, swap_database, delete_log, delete_all])
async def test_nothing_is_acknowledged_once_the_files_are_not_where_they_were(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with Store.open(sqlite_url(folder)) as store:
        await store.add_message(said("早", "m1"))
        await store.add_answers(CHAT, [Outcome(named("m1"), Answer("早", True))], ZHANG)
        assert store.trouble is None
        harm(folder)
        for attempt in (
            lambda: store.add_message(said("在吗", "m2")),
            lambda: store.add_answers(CHAT, [Outcome(named("m3"), Answer("在", True))], ZHANG),
            lambda: store.find_answer(CHAT, named("m1")),
            lambda: store.reset(CHAT, "", named("m4"), Answer("清空", True)),
            lambda: store.move_window(CHAT, 1),
        ):
            with pytest.raises(StorageFailed, match="移走"):
                await attempt()
        assert store.trouble == "storage_lost"


async def test_a_folder_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with Store.open(sqlite_url(folder)) as store:
        await store.add_message(said("早", "m1"))
        folder.rename(tmp_path / "elsewhere")
        while not store.trouble:
            await asyncio.sleep(0.01)
        (tmp_path / "elsewhere").rename(folder)
        later = await store.add_message(said("好", "m2"))
        assert later is not None
        assert later.seq == 2
        assert not store.trouble
    async with Store.open(sqlite_url(folder)) as store:
        assert len(await store.window(CHAT, until=9)) == 2


async def test_readers_that_are_cut_short_do_not_look_like_a_moved_database(tmp_path: Path) -> None:
    """Each closes a connection; with the last of them SQLite would delete its log."""
    async with Store.open(sqlite_url(tmp_path)) as store:
        for number in range(20):
            reading = asyncio.create_task(store.window(CHAT, until=number))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
        await store.add_message(said("早"))
        assert store.trouble is None


async def test_a_clock_that_jumps_a_month_sweeps_nothing(tmp_path: Path) -> None:
    """Set forward: what was written an hour ago looks a month old. Set back: what is written now looks oldest."""
    for jump_s in (MONTH_S, -MONTH_S):
        async with Store.open(sqlite_url(tmp_path)) as store:
            await store.add_answers(CHAT, [Outcome(named(f"before{jump_s}"), Answer("早", True))], ZHANG)
        with sqlite3.connect(tmp_path / NAME) as database:
            database.execute("UPDATE answers SET created_at = created_at - ?", (jump_s,))
        database.close()
        for start in range(3):
            async with Store.open(sqlite_url(tmp_path)) as store:
                assert await store.find_answer(CHAT, named(f"before{jump_s}")) is not None
                await store.add_answers(CHAT, [Outcome(named(f"after{jump_s}{start}"), Answer("好", True))], ZHANG)
    async with Store.open(sqlite_url(tmp_path)) as store:
        for name in ("before-2678400", "before2678400", "after26784000", "after-26784002"):
            assert await store.find_answer(CHAT, named(name)) is not None, name


async def test_old_answers_are_swept_at_the_start_and_while_it_runs(tmp_path: Path) -> None:
    async def age(message_id: str, days: float) -> None:
        with sqlite3.connect(tmp_path / NAME) as database:
            database.execute(
                "UPDATE answers SET created_at = ? WHERE message_id = ?", (time.time() - days * 86400, message_id)
            )
        database.close()

    async with Store.open(sqlite_url(tmp_path)) as store:
        for name in ("new", "old", "kept"):
            await store.add_answers(CHAT, [Outcome(named(name), Answer("早", True))], ZHANG)
    await age("old", 7.5)
    await age("kept", 6.5)
    async with Store.open(sqlite_url(tmp_path), sweep_s=0.01) as store:
        assert await store.find_answer(CHAT, named("old")) is None
        assert await store.find_answer(CHAT, named("kept")) is not None
        await age("kept", 7.5)
        while await store.find_answer(CHAT, named("kept")) is not None:
            await asyncio.sleep(0.01)
        assert await store.find_answer(CHAT, named("new")) is not None


async def test_those_who_write_together_fail_apart(tmp_path: Path) -> None:
    """One that errs, one that goes away: the others in the same commit are stored all the same."""

    async def wrong(connection: AsyncConnection) -> None:
        await connection.execute(text("INSERT INTO chats (id) VALUES (NULL)"))

    async def broken(connection: AsyncConnection) -> None:
        await connection.execute(text("UPDATE chats SET name = 'half'"))
        raise ZeroDivisionError

    async def store_one(connection: AsyncConnection) -> int:
        found = await connection.execute(
            text("INSERT INTO chats (kind, external_id, name, next_seq, window_start, updated_at)"
                 " VALUES ('group', (SELECT count(*) FROM chats), '', 1, 1, 0) RETURNING id")
        )  # fmt: skip
        return int(found.scalar_one())

    async with Store.open(sqlite_url(tmp_path)):
        pass
    async with Database.open(sqlite_url(tmp_path), lambda: True) as database:
        jobs = [asyncio.create_task(database.write(work)) for work in (store_one, wrong, store_one, broken, store_one)]
        gone = asyncio.create_task(database.write(store_one))
        await asyncio.sleep(0)
        gone.cancel()
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, StorageFailed, int, ZeroDivisionError, int]
        async with database.read() as connection:
            names = (await connection.execute(text("SELECT name FROM chats"))).scalars().all()
        assert names == [""] * 3


async def test_many_chats_at_once_are_numbered_without_gaps(tmp_path: Path) -> None:
    async with Store.open(sqlite_url(tmp_path)) as store:
        chats = [ChatKey(ChatKind.GROUP, str(number)) for number in range(20)]

        async def talk(chat: ChatKey) -> list[StoredMessage]:
            lines = [await store.add_message(said(str(n), f"m{n}", chat)) for n in range(5)]
            return [line for line in lines if line is not None]

        told = await asyncio.gather(*map(talk, chats))
        assert [[line.seq for line in lines] for lines in told] == [[1, 2, 3, 4, 5]] * 20
        assert [await store.window(chat, until=9) for chat in chats] == [tuple(lines) for lines in told]

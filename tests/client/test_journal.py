"""The journal: repeats, restarts, and a file that is damaged, locked, moved or of another version."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from onebot.chat import answer_for
from onebot.events import group_message, image, private_message, text
from onebot.process import ClientProcess
from onebot.server import OneBotServer
from onebot.world import Stack, World

from qqvl_client.errors import SettingsError
from qqvl_client.events import parse_event
from qqvl_client.journal import Journal, open_journal
from qqvl_client.ledger import Draft
from qqvl_client.message import MessageEvent, Recall
from qqvl_client.outgoing import Outgoing
from qqvl_client.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def event_of(words: str = "你好", **more: Any) -> MessageEvent:
    found = parse_event(group_message(words, 1) | {"message_id": 7, "time": 1_700_000_000} | more)
    assert isinstance(found, MessageEvent)
    return found


async def taken(journal: Journal, *events: MessageEvent) -> list[bool]:
    """Which of these the journal takes."""
    return [entry is not None for entry in await journal.take([Draft(event, 1.0) for event in events])]


@pytest.fixture
async def journals(tmp_path: Path) -> AsyncIterator[Callable[..., Journal]]:
    """Opens the journal of this test, again and again, as one process after another does."""
    opened: list[Journal] = []

    def start(**more: Any) -> Journal:
        opened.append(Journal(tmp_path / "j.db", **more))
        return opened[-1]

    yield start
    for journal in opened:
        await journal.aclose()


# Repeats ------------------------------------------------------------------------------------------------

ANOTHER: dict[str, dict[str, Any]] = {
    "speaker": {"user_id": 5},
    "second": {"time": 1_700_000_001},
    "chat": {"group_id": 2},
    "account": {"self_id": 2},
    "words": {"message": [text("别的")]},
    "picture": {"message": [image("http://h/a")]},
}


@pytest.mark.parametrize("kind", ANOTHER)
async def test_an_id_alone_makes_no_repeat(journals: Callable[..., Journal], kind: str) -> None:
    journal = journals()
    assert await taken(journal, event_of(), event_of(**ANOTHER[kind]), event_of()) == [True, True, False]


async def test_another_picture_is_another_message_a_fresh_link_to_it_is_not(journals: Callable[..., Journal]) -> None:
    links = ["http://h/d?fileid=1&rkey=a", "http://h/d?fileid=1&rkey=b", "http://h/d?fileid=2&rkey=b"]
    events = [event_of(message=[image(link)]) for link in links]
    assert await taken(journals(), *events) == [True, False, True]


@pytest.mark.parametrize("unknown", [0, "0", "", None, False])
async def test_no_id_is_no_repeat(journals: Callable[..., Journal], unknown: Any) -> None:
    event = event_of(message_id=unknown)
    assert event.id == ""
    assert await taken(journals(), event, event) == [True, True]


async def test_a_repeat_is_known_after_a_restart(journals: Callable[..., Journal]) -> None:
    assert await taken(journals(), event_of()) == [True]
    assert await taken(journals(), event_of(), event_of("别的")) == [False, True]


async def test_a_restarted_napcat_that_counts_anew_is_answered(stack: Stack, chat_id: int) -> None:
    first = await stack.onebot.event(group_message("重启前", chat_id))
    await stack.onebot.replied(chat_id)
    await stack.onebot.event(first | {"message": [text("重启后")], "time": first["time"] + 60})
    assert [s.text for s in await stack.onebot.replied(chat_id, 2)] == ["答：重启前", "答：重启后"]


async def test_messages_whose_id_is_0_are_all_answered_and_carry_none(stack: Stack, chat_id: int) -> None:
    for words in ("一", "二", "二"):
        await stack.onebot.event(group_message(words, chat_id, message_id=0))
    assert [s.text for s in await stack.onebot.replied(chat_id, 3)] == ["答：一", "答：二", "答：二"]
    assert all("message_id" not in body for body in stack.chat.of(chat_id))
    assert all(sent.quoted is None for sent in stack.onebot.to(chat_id))


# Over restarts ------------------------------------------------------------------------------------------


SAID = (
    Outgoing("a"),
    Outgoing("b", ({"type": "text", "data": {"text": "b"}}, {"type": "face", "data": {"id": "1"}})),
    Outgoing("c", nodes=({"type": "node", "data": {"name": "c"}},)),
)


async def test_a_message_goes_on_where_it_stood(journals: Callable[..., Journal]) -> None:
    first = journals()
    (entry,) = await first.take([Draft(event_of(), 5.0)])
    assert entry is not None
    await first.ready(entry, b"body")
    second = journals()
    (again,) = second.unfinished
    assert again == replace(entry, state="ready")
    assert await second.body(again) == b"body"
    await second.opened(await second.answered(again, SAID), 1, is_open=True)
    third = journals()
    (last,) = third.unfinished
    assert (last.messages, last.next_part, last.part_open) == (SAID, 1, True)
    await third.done([last.id])
    assert journals().unfinished == []


async def test_nothing_that_was_said_stays_once_it_is_done(journals: Callable[..., Journal], tmp_path: Path) -> None:
    def words() -> set[str]:
        data = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        return {word for word in ("swordfish", "hunter2", "long ago") if word.encode() in data}

    with closing(sqlite3.connect(tmp_path / "j.db", isolation_level=None)) as before:
        before.executescript(
            "PRAGMA secure_delete=OFF; CREATE TABLE entry (x); INSERT INTO entry VALUES ('long ago'); DROP TABLE entry"
        )
    assert words() == {"long ago"}
    journal = journals()
    assert words() == set()
    recalled, reset = await journal.take([Draft(event_of("swordfish", message_id=n), 1.0) for n in (1, 2)])
    assert recalled is not None
    assert reset is not None
    await journal.ready(reset, b"swordfish" * 9000)
    answered = await journal.answered(reset, [Outgoing("hunter2", ({"type": "text", "data": {"text": "hunter2"}},))])
    entry, errand = await journal.delivered(answered, 1, "s1")
    assert errand is not None
    await journal.settle(errand)
    errand = await journal.recall(Recall(recalled.chat, recalled.message_id, "5"))
    assert words() == {"swordfish", "hunter2"}
    await journal.done([entry.id, recalled.id])
    await journal.settle(errand)
    assert words() == set()
    assert await taken(journal, event_of("swordfish", message_id=1), event_of("new", message_id=3)) == [False, True]


async def test_a_journal_that_runs_for_ever_stays_small(journals: Callable[..., Journal]) -> None:
    journal = journals(keep_s=-1)
    entries = await journal.take([Draft(event_of(f"{number}"), 1.0) for number in range(1000)])
    await journal.done([entry.id for entry in entries if entry])
    assert journal.open_count == 0
    assert await taken(journals(), event_of("0")) == [True]


OLD = """
CREATE TABLE message (
  id INTEGER PRIMARY KEY,
  self_id TEXT NOT NULL, kind TEXT NOT NULL, chat_id TEXT NOT NULL, via_group TEXT NOT NULL,
  message_id TEXT NOT NULL, sent_at REAL NOT NULL, taken_at REAL NOT NULL,
  context_only INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'taken',
  event TEXT, body BLOB, texts TEXT, next_part INTEGER NOT NULL DEFAULT 0, part_open INTEGER NOT NULL DEFAULT 0
);
"""


async def test_what_the_first_version_left_unfinished_is_taken_over(
    journals: Callable[..., Journal], tmp_path: Path
) -> None:
    raw = group_message("旧的", 1)
    with sqlite3.connect(tmp_path / "j.db") as old:
        old.executescript(OLD)
        row = "INSERT INTO message VALUES (?,'10001','group','1','','7',1.0,2.0,0,?,?,?,NULL,0,0)"
        old.execute(row, (4, "ready", json.dumps(raw), b"body"))
        old.execute(row, (5, "done", None, None))
    old.close()
    journal = journals()
    (entry,) = journal.unfinished
    assert (entry.event, entry.state) == (parse_event(raw), "ready")
    assert await journal.body(entry) == b"body"


# Files that cannot be used at the start -----------------------------------------------------------------


def file_of(folder: Path) -> Path:
    return next(folder.glob("journal-*.db"))


async def opened_once(folder: Path) -> Path:
    """A journal with one open message in it; its file."""
    journal = open_journal(Settings(data_dir=folder), folder)
    await taken(journal, event_of())
    await journal.aclose()
    # The lock is this process's own from here on: a new folder entry stands for the next start.
    next(folder.glob("*.lock")).unlink()
    return file_of(folder)


async def test_a_broken_file_is_put_aside(tmp_path: Path) -> None:
    file = await opened_once(tmp_path)
    file.write_bytes(b"no database" * 1000)
    Path(f"{file}-wal").write_bytes(b"old")
    journal = open_journal(Settings(), tmp_path)
    assert await taken(journal, event_of()) == [True]
    await journal.aclose()
    assert len(list(tmp_path.glob("*.broken-*"))) == 1


async def test_what_a_half_broken_file_still_gives_is_kept(tmp_path: Path) -> None:
    journal = open_journal(Settings(), tmp_path)
    await taken(journal, *(event_of(f"{number} " + "长" * 3000) for number in range(50)))
    await journal.aclose()
    next(tmp_path.glob("*.lock")).unlink()
    file = file_of(tmp_path)
    whole = file.read_bytes()
    middle = len(whole) // 4096 * 3 // 4 * 4096
    file.write_bytes(whole[:middle] + b"\xff" * 8192 + whole[middle + 8192 :])
    again = open_journal(Settings(), tmp_path)
    assert 0 < len(again.unfinished) <= 50
    await again.aclose()


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Another program in the middle of a transaction on the file."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_a_locked_file_is_not_a_broken_one(tmp_path: Path) -> None:
    file = await opened_once(tmp_path)
    with held(file), pytest.raises(SettingsError, match="别的程序占着"):
        open_journal(Settings(stop_grace_s=0), tmp_path)
    assert list(tmp_path.glob("*.broken-*")) == []
    next(tmp_path.glob("*.lock")).unlink()
    journal = open_journal(Settings(), tmp_path)
    assert len(journal.unfinished) == 1
    await journal.aclose()


async def test_a_newer_versions_file_is_left_alone(tmp_path: Path) -> None:
    file = await opened_once(tmp_path)
    with sqlite3.connect(file) as newer:
        newer.execute("PRAGMA user_version=9")
    newer.close()
    with pytest.raises(SettingsError, match=r"第 9 版.*第 1 版"):
        open_journal(Settings(), tmp_path)
    assert list(tmp_path.glob("*.broken-*")) == []


# Files that go wrong while the client runs --------------------------------------------------------------


async def hang(_: Any) -> Any:
    await asyncio.sleep(60)


async def answered(onebot: OneBotServer, chat_id: int, words: str) -> dict[str, Any]:
    event = await onebot.event(private_message(words, chat_id))
    await onebot.until(lambda: f"答：{words}" in [s.text for s in onebot.to(chat_id)], f"an answer to {words}")
    return event


def overwrite(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))
    Path(f"{file}-wal").write_bytes(b"")


def unlink(file: Path) -> None:
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()


def move_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))


def replace_folder(file: Path) -> None:
    move_folder(file)
    shutil.copytree(file.parent.with_name("moved"), file.parent)


MISHAPS = [overwrite, unlink, move_folder, replace_folder]


@pytest.mark.parametrize("mishap", MISHAPS)
async def test_a_journal_that_goes_wrong_in_mid_run_costs_no_message_and_repeats_none(
    world: World, tmp_path: Path, chat_id: int, mishap: Callable[[Path], None]
) -> None:
    folder = tmp_path / "data"
    async with ClientProcess(folder, world.settings(), cwd=tmp_path) as client:
        await world.onebot.line()
        before = await answered(world.onebot, chat_id, "之前")
        mishap(file_of(folder))
        during = [await answered(world.onebot, chat_id, f"当中{number}") for number in range(3)]
        await client.logged("重开一本" if mishap is overwrite else "又能写盘了")
        during.append(await answered(world.onebot, chat_id, "好了"))
        await client.kill()
        await client.start()
        await world.onebot.line()
        for event in (before, *during):
            await world.onebot.event(event)
        await answered(world.onebot, chat_id, "之后")
    texts = [sent.text for sent in world.onebot.to(chat_id)]
    assert texts == ["答：之前", "答：当中0", "答：当中1", "答：当中2", "答：好了", "答：之后"]
    assert "Traceback" not in client.log


async def test_a_kill_while_another_program_holds_the_journal_repeats_and_loses_nothing(
    world: World, tmp_path: Path, chat_id: int, other_id: int
) -> None:
    async with ClientProcess(tmp_path, world.settings() | {"server_timeout_s": 60}) as client:
        await world.onebot.line()
        first = await answered(world.onebot, chat_id, "之前")
        with held(file_of(tmp_path)):
            second = await answered(world.onebot, chat_id, "占着的时候")
            await client.logged("被别的程序占着")
            world.chat.scripts[str(other_id)] = hang
            await world.onebot.event(private_message("还没答", other_id))
            await world.chat.asked(other_id)
            await client.kill()
        world.chat.scripts[str(other_id)] = answer_for
        await client.start()
        await world.onebot.replied(other_id)
        await world.onebot.event(first)
        await world.onebot.event(second)
        await answered(world.onebot, chat_id, "之后")
    assert [sent.text for sent in world.onebot.to(chat_id)] == ["答：之前", "答：占着的时候", "答：之后"]
    assert [sent.text for sent in world.onebot.to(other_id)] == ["答：还没答"]


async def test_a_journal_held_for_a_while_is_written_again(world: World, tmp_path: Path, chat_id: int) -> None:
    async with ClientProcess(tmp_path, world.settings()) as client:
        await world.onebot.line()
        with held(file_of(tmp_path)):
            await answered(world.onebot, chat_id, "占着的时候")
        await client.logged("又能写盘了")
        assert list(tmp_path.glob("*.spill")) == []
        assert await client.stop() == 0
    assert "没答完" not in client.log

"""kill -9 at every step of every command: afterwards all is as before, or all is as after it.

The command runs in a forked process that ends itself, without a word, at its n-th step on the disk.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import Text
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.keeping.finishing import finish
from tests.keeping.conftest import GROUP, LI, Kept, fill, grow_old, let_go, say

STEPS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect", "shutil.move", "shutil.rmtree"})
FORK = multiprocessing.get_context("fork")


def killed_at(step: int | None, kept: Kept, words: tuple[str, ...] | Callable[[Kept], None]) -> int:
    """How many steps on the disk and statements of SQL the command came to; all of them where ``step`` is None."""
    steps = FORK.Value("i", 0)

    def took_a_step(*_: object) -> None:
        steps.value += 1
        if steps.value == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in STEPS or is_write:
            took_a_step()

    def work() -> None:
        # In a process of its own, which nobody comes back from.
        sys.addaudithook(look)
        connect = sqlite3.connect

        def traced(*arguments: Any, **more: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **more)
            connection.set_trace_callback(took_a_step)
            return connection

        sqlite3.connect = traced  # type: ignore[assignment]
        os._exit(kept.run(*words) if isinstance(words, tuple) else words(kept) or 0)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == (0 if step is None else -signal.SIGKILL)
    return int(steps.value)


def points(kept: Kept, words: tuple[str, ...] | Callable[[Kept], None], most: int) -> range:
    """Up to ``most`` steps, evenly from the first to the last."""
    last = killed_at(None, kept, words)
    return range(1, last + 1, -(-last // most))


def state(kept: Kept) -> str:
    """What the next start finds: history, pictures and whose words are where."""
    finish(kept.data, sqlite_url(kept.data), lambda _: None)

    async def read() -> object:
        async with Store.open(sqlite_url(kept.data)) as store:
            return [
                (str(chat.key), [repr(m) for m in await store.messages(chat.key, before=None, limit=99) or ()])
                for chat in sorted(await store.chats(), key=lambda c: str(c.key))
            ]

    files = {n: d.hex() for n, d in kept.bytes().items() if n.startswith(("images", "personas", "client/client.log"))}
    hidden = [n for n in kept.bytes() if n.startswith((".restoring", ".unfinished", "client/.restoring"))]
    return json.dumps([asyncio.run(read()), files, hidden])


def prepare(folder: Path) -> Kept:
    """A backup and an export beside a folder that has gone on since, by a line and a persona."""
    kept = fill(folder / "data")
    assert kept.run("backup", str(folder / "b.qqvl.tar")) == 0
    assert kept.run("export", str(GROUP), str(folder / "chat.json")) == 0

    async def more() -> None:
        async with Store.open(sqlite_url(kept.data)) as store:
            await say(store, LI, "later", (Text("后来的话"),), "")

    asyncio.run(more())
    (kept.data / "personas" / "dog.md").write_text("后来的")
    return kept


COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "restore": lambda folder: ("restore", str(folder / "b.qqvl.tar")),
    "import": lambda folder: ("import", str(folder / "chat.json"), "--replace"),
    "forget": lambda folder: ("forget", "10001"),
}


def matrix(tmp_path: Path, command: str, most: int) -> tuple[int, int]:
    """How many of ``most`` kills left what was before, and how many what comes after."""
    prepare(tmp_path / "origin")
    words = COMMANDS[command](tmp_path / "run")

    def fresh() -> Kept:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "origin", tmp_path / "run")
        return Kept(tmp_path / "run" / "data", ("", "", ""))

    before, kept = state(fresh()), fresh()
    steps = points(kept, words, most)
    after = state(kept)
    assert before != after
    seen = {before: 0, after: 0}
    for step in steps:
        kept = fresh()
        killed_at(step, kept, words)
        found = state(kept)
        assert found in seen, f"killed at step {step}"
        seen[found] += 1
    return seen[before], seen[after]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_leaves_before_or_after(tmp_path: Path, command: str) -> None:
    assert sum(matrix(tmp_path, command, most=4)) > 2


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_at_any_step_leaves_before_or_after(tmp_path: Path, command: str) -> None:
    before, after = matrix(tmp_path, command, most=150)
    assert before > 0
    assert after > 0


@pytest.mark.parametrize("most", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_a_killed_backup_leaves_the_one_before_or_the_new(tmp_path: Path, most: int) -> None:
    kept, file = fill(tmp_path / "data"), tmp_path / "b.qqvl.tar"
    words = ("backup", str(file))
    assert kept.run(*words) == 0
    for step in points(kept, words, most):
        killed_at(step, kept, words)
        fresh = Kept(tmp_path / "fresh", kept.pictures)
        assert fresh.run("restore", str(file)) == 0
        assert fresh.texts() == kept.texts()
        shutil.rmtree(fresh.data)
    assert kept.run(*words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "b.qqvl.tar"}


@pytest.mark.parametrize("most", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_a_kill_while_old_things_are_let_go_leaves_whole_lines_and_the_rest_goes_later(
    tmp_path: Path, most: int
) -> None:
    origin = fill(tmp_path / "origin")
    grow_old(origin, days=40, but="今天吃什么")

    def fresh() -> Kept:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(origin.data, tmp_path / "run")
        return Kept(tmp_path / "run", origin.pictures)

    kept = fresh()
    said = kept.texts()
    steps = points(kept, let_go, most)
    assert kept.texts() == ["今天吃什么"]
    for step in steps:
        kept = fresh()
        killed_at(step, kept, let_go)
        assert kept.texts() in (said, ["今天吃什么"])
        let_go(kept)
        assert kept.texts() == ["今天吃什么"]

"""``qqvl forget``: one person leaves everything that is kept, and every byte of it is looked through afterwards.

What he is found by is written down first (``unfinished``), and leaves last: a kill in between is made good by whoever
comes next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server.chat.rows import oblivion
from qqvl_server.chat.traces import Eraser, Traces
from qqvl_server.errors import ConfigError
from qqvl_server.keeping import backing_up, journals, unfinished
from qqvl_server.keeping.archive import Tell
from qqvl_server.keeping.places import PICTURES, Places
from qqvl_server.keeping.transferring import opened

_OVERLAP: Final = 1 << 16
_CHUNK: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Plan:
    """``lines`` in ``chats`` are the person's; of ``traces``, names and texts are not known once they are gone."""

    traces: Traces
    lines: int = 0
    chats: int = 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """``left`` are files and settings that name the person still. ``is_incomplete``: one of them should not."""

    person: str
    lines: int
    changed: int
    pictures: int
    log_lines: int
    left: tuple[str, ...]
    is_incomplete: bool


async def look(where: Places, person: str) -> Plan:
    async with opened(where) as database, database.read() as connection:
        found = await oblivion.look(connection, person)
    return Plan(found.traces, found.lines, found.chats)


async def forget(where: Places, plan: Plan, tell: Tell) -> Forgotten:
    """In folders that are claimed. Raises StorageFailed, ConfigError: it goes on with the next command or start."""
    traces = plan.traces
    told = {"person": traces.person, "names": list(traces.names), "texts": list(traces.texts)}
    unfinished.mark(where.data, {"kind": "forget", "client": str(where.client), **told})
    return await carry_out(where, plan, tell)


def plan_of(told: Mapping[str, Any]) -> Plan:
    return Plan(Traces(told["person"], tuple(told["names"]), tuple(told["texts"])))


async def carry_out(where: Places, plan: Plan, tell: Tell) -> Forgotten:
    """What was written down, from the start: what is done already is found done."""
    eraser = Eraser(plan.traces)
    async with opened(where) as database:
        erased = await database.write(lambda connection: oblivion.erase(connection, eraser, tell))
        tell("正在把数据库重写一遍")
        await database.compact()
        async with database.read() as connection:
            settings = await oblivion.settings_naming(connection, eraser)
    try:
        pictures = _drop_pictures(where, erased.shown)
        changed = journals.clean(where, eraser)
        log_lines = sum(journals.clean_log(path, eraser) for path in journals.logs(where))
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"只忘掉了一半：{error}。先解决它，再运行一次就接着做完") from error
    unfinished.unmark(where.data)
    left = [str(path) for path in _naming(where, eraser, tell)]
    # Where a setting names him the database does, and cannot be told from one that is not clean.
    files = [file for file in left if not (settings and file == str(where.database))]
    is_incomplete = any(_is_ours(where, Path(file)) for file in files)
    told = [*files, *(f"设置 {name}（是你定的）" for name in settings)]
    return Forgotten(
        plan.traces.person, erased.lines, erased.changed + changed, pictures, log_lines, tuple(told), is_incomplete
    )


def _drop_pictures(where: Places, shown: set[str]) -> int:
    """Pictures that nothing names any more: whose they were is not known."""
    gone = [path for path in (where.data / PICTURES).glob("*/*") if path.name not in shown]
    gone += (where.data / PICTURES).glob("tmp*")
    for path in gone:
        path.unlink()
    return len(gone)


def _naming(where: Places, eraser: Eraser, tell: Tell) -> Iterator[Path]:
    """Every byte of every file, in both folders."""
    looked = 0
    for folder in dict.fromkeys((where.data, *([] if where.client.is_relative_to(where.data) else [where.client]))):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                looked += 1
                tell(f"看过 {looked} 个文件")
                if _is_named_in(path, eraser):
                    yield path


def _is_named_in(path: Path, eraser: Eraser) -> bool:
    before = b""
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            if eraser.is_named_in(before + data):
                return True
            before = data[-_OVERLAP:]
    return False


def _is_ours(where: Places, path: Path) -> bool:
    """Whether the programs wrote it: not what the owner wrote, and not what was set aside for him."""
    inside = path.relative_to(where.data).parts if path.is_relative_to(where.data) else path.parts
    aside = any(part.startswith(backing_up.ASIDE) or backing_up.BROKEN in part for part in inside)
    own = path in set(backing_up.own_files(where)) or backing_up.RETURNED in inside
    return not aside and not own

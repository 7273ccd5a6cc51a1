"""``qqvl restore``: a backup unpacked beside what is there, looked over, and put in its place; the old is kept aside.

What is moved where is written down first (``unfinished``). From then on the new state is certain: a kill in between is
made good by whoever comes next, the server's start or another of these commands.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server.errors import ConfigError
from qqvl_server.keeping import archive, backing_up, copying
from qqvl_server.keeping.archive import Tell
from qqvl_server.keeping.places import JOURNALS, Places
from qqvl_server.keeping.unfinished import Move, mark, read, swap, unmark

_STAGE: Final = ".restoring"


@dataclass(frozen=True, slots=True)
class Restored:
    """``aside``: where the old is kept; None where there was nothing. ``settings``: those of the backup, if any."""

    made_at: str
    aside: Path | None
    settings: Path | None
    counts: dict[str, Any]


def restore(where: Places, file: Path, tell: Tell) -> Restored:
    """In folders that are claimed.

    Raises:
        QqvlError: the backup cannot be used; nothing was changed.
        ConfigError: the folder cannot be written; nothing was changed.
    """
    stamp = f"{backing_up.ASIDE}{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        manifest, moves = _prepared(where, file, stamp, tell)
    except OSError as error:
        raise ConfigError(f"写不进 {where.data}：{error.strerror}。请检查权限和剩余空间") from error
    swap(moves)
    unmark(where.data)
    _clear(where)
    aside, returned = where.data / stamp, where.data / backing_up.RETURNED
    counts = {name: count for name, count in manifest.items() if name in ("chats", "messages", "pictures")}
    settings = returned if (returned / "qqvl.yaml").is_file() else None
    return Restored(str(manifest.get("created_at", "")), aside if aside.is_dir() else None, settings, counts)


def _prepared(where: Places, file: Path, stamp: str, tell: Tell) -> tuple[dict[str, Any], tuple[Move, ...]]:
    """Unpack, look over, and write down what is to be moved."""
    _clear(where)
    stage = where.data / _STAGE
    try:
        stage.mkdir(mode=0o700)
        manifest = archive.unpack(file, stage, tell)
        backing_up.check_kind(manifest, where)
        _check(stage, where)
        moves = tuple(_moves(where, stage, stamp))
        mark(where.data, {"kind": "restore", "moves": [move.told() for move in moves]})
    except BaseException:
        if read(where.data) is None:
            _clear(where)
        raise
    return manifest, moves


def _clear(where: Places) -> None:
    """What was unpacked and is not wanted."""
    for folder in {where.data, where.client, *([where.database.parent] if where.database else [])}:
        shutil.rmtree(folder / _STAGE, ignore_errors=True)


def _check(stage: Path, where: Places) -> None:
    """Raises QqvlError, StorageFailed: a database of the backup is damaged, or from a later version."""
    if where.database is not None:
        copying.check(stage / backing_up.DATABASE, is_ours=True)
    for journal in (stage / "client").glob(JOURNALS):
        copying.check(journal, is_ours=False)


def _moves(where: Places, stage: Path, stamp: str) -> Iterator[Move]:
    """What leaves without a successor comes first: a log must not meet a database that is not its own."""
    coming = _staged(where, stage)
    leaving = (*_sides(where.database), *backing_up.own_entries(where), *_journals(where))
    succeeded = [old for old in leaving if old in coming]
    for old in leaving:
        if old not in coming:
            yield Move(None, old, old.parent / stamp / old.name)
    for old in succeeded:
        yield Move(coming.pop(old), old, old.parent / stamp / old.name)
    for final, new in coming.items():
        yield Move(new, final, None)


def _staged(where: Places, stage: Path) -> dict[Path, Path]:
    """What the backup brings, by where it goes."""
    found: dict[Path, Path] = {}
    for top in sorted((stage / "server").glob("*")):
        is_database = f"server/{top.name}" == backing_up.DATABASE
        found[where.database if is_database and where.database else where.data / top.name] = top
    for top in sorted((stage / "client").glob("*")):
        found[where.client / top.name] = top
    if (stage / "settings").is_dir():
        found[where.data / backing_up.RETURNED] = stage / "settings"
    return {final: _beside(final, new, where.data) for final, new in found.items()}


def _beside(final: Path, new: Path, data: Path) -> Path:
    """Where it can be renamed into its place: a rename crosses no disks."""
    if final.parent == data:
        return new
    folder = final.parent / _STAGE
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(shutil.move(new, folder / final.name))


def _sides(database: Path | None) -> Iterator[Path]:
    if database is not None:
        yield from (path for tail in ("-wal", "-shm", "") if (path := Path(f"{database}{tail}")).exists())


def _journals(where: Places) -> Iterator[Path]:
    for pattern in (f"{JOURNALS}-*", JOURNALS, "journal-*.spill"):
        yield from sorted(where.client.glob(pattern))

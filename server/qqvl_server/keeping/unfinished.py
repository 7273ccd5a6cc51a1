"""What a command has begun and must be finished, whoever is killed in between: written down before anything changes.

Knows files; no database.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server.errors import QqvlError
from qqvl_server.keeping.archive import sync

_MARK: Final = ".unfinished.json"


@dataclass(frozen=True, slots=True)
class Move:
    """``old`` leaves for ``aside`` and ``new`` takes its place. Either may be None: nothing comes, or nothing was."""

    new: Path | None
    old: Path
    aside: Path | None

    def told(self) -> list[str | None]:
        return [None if path is None else str(path) for path in (self.new, self.old, self.aside)]


def mark(data: Path, told: Mapping[str, Any]) -> None:
    """Whole or not at all, and durable."""
    draft = data / f"{_MARK}.new"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, data / _MARK)
    sync(data)


def unmark(data: Path) -> None:
    (data / _MARK).unlink(missing_ok=True)
    sync(data)


def read(data: Path) -> dict[str, Any] | None:
    """What was begun; None where nothing was. Raises QqvlError: it cannot be read."""
    try:
        found: dict[str, Any] = json.loads((data / _MARK).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise QqvlError(f"读不了 {data / _MARK}：上次没做完的事接不下去。请检查权限和磁盘") from error
    return found


def finish_restore(data: Path, told: Mapping[str, Any]) -> None:
    swap(Move(*(None if path is None else Path(path) for path in one)) for one in told["moves"])  # type: ignore[arg-type]
    unmark(data)


def swap(moves: Iterable[Move]) -> None:
    """May be done again from the start after a kill anywhere in it."""
    folders: set[Path] = set()
    for move in moves:
        is_waiting = move.new is None or move.new.exists()
        if move.aside is not None and is_waiting and not move.aside.exists():
            move.aside.parent.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.replace(move.old, move.aside)
            folders.add(move.aside.parent)
        if move.new is not None and move.new.exists():
            os.replace(move.new, move.old)
        folders.add(move.old.parent)
    for folder in folders:
        sync(folder)

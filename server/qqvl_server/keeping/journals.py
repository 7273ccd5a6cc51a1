"""The client's journals and logs without one person. The client is a stranger: its files are a contract, as JSON is.

A journal's tables are ``entry`` (``event``, ``texts``, ``body``), ``errand`` (``chat``, ``told``) and ``seen``
(``chat``); beside it lies ``*.spill``, a line of JSON each. What it knows messages by are digests, which stay: without
them the client would fetch what it has answered once more.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from qqvl_server.chat.message import ChatKind
from qqvl_server.chat.traces import Eraser
from qqvl_server.keeping.places import JOURNALS, LOGS, Places

_JSON: Final = {"entry": ("event", "texts", "body"), "errand": ("chat", "told"), "seen": ("key", "chat")}
_BLANK: Final = "（已忘记）".encode()
_LINE: Final = 1 << 20


def clean(where: Places, eraser: Eraser) -> int:
    """Rows of the journals and lines of their files that left or were changed."""
    changed = 0
    for journal in sorted(where.client.glob(JOURNALS)):
        changed += _clean_journal(journal, eraser)
    for spill in sorted(where.client.glob("journal-*.spill")):
        changed += _clean_spill(spill, eraser)
    return changed


def _clean_journal(path: Path, eraser: Eraser) -> int:
    changed = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA secure_delete=ON")
        database.execute("BEGIN IMMEDIATE")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            changed += _clean_table(database, table, eraser)
        database.execute("COMMIT")
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return changed


def _clean_table(database: sqlite3.Connection, table: str, eraser: Eraser) -> int:
    """His rows leave; in others' he is not named any more. A table that is not known loses what names him."""
    names = [column[1] for column in database.execute(f"PRAGMA table_info({table})")]
    key = next((column[1] for column in database.execute(f"PRAGMA table_info({table})") if column[5]), "rowid")
    changed = 0
    for values in database.execute(f"SELECT * FROM {table}").fetchall():
        row = dict(zip(names, values, strict=True))
        named = {name: value for name, value in row.items() if _names(value, eraser)}
        if not named:
            continue
        changed += 1
        if table in _JSON and not _is_his(row, eraser.traces.person):
            for name in named:
                new = _rewritten(row[name], eraser)
                database.execute(f"UPDATE {table} SET {name} = ? WHERE {key} = ?", (new, row[key]))
        else:
            database.execute(f"DELETE FROM {table} WHERE {key} = ?", (row[key],))
    return changed


def _names(value: Any, eraser: Eraser) -> bool:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return isinstance(data, bytes) and eraser.is_named_in(data)


def _is_his(row: dict[str, Any], person: str) -> bool:
    """Whether he said it, or it belongs to his private chat."""
    event, chat, told = (_parsed(row.get(name)) for name in ("event", "chat", "told"))
    event = event if isinstance(event, dict) else {}
    told = told if isinstance(told, dict) else {}
    chat = chat or event.get("chat")
    speakers = [str(event.get("user_id", "")), *(str(one) for one in (event.get("sender") or [""])[:1])]
    is_private = isinstance(chat, list) and chat[:2] == [ChatKind.PRIVATE.value, person]
    return is_private or person in (*speakers, str(told.get("operator_id", "")), str(told.get("user_id", "")))


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str | bytes) else None
    except ValueError:
        return None


def _rewritten(value: Any, eraser: Eraser) -> Any:
    found = _parsed(value)
    new = json.dumps(eraser.value(found)) if found is not None else ""
    return new.encode() if isinstance(value, bytes) else new


def _clean_spill(path: Path, eraser: Eraser) -> int:
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not eraser.is_named_in(line)]
    if kept != lines:
        draft = path.with_suffix(".spill.new")
        draft.write_bytes(b"".join(kept))
        os.replace(draft, path)
    return len(lines) - len(kept)


def logs(where: Places) -> Iterator[Path]:
    """Files of logs, of both programs and of what they use."""
    for folder in {where.data, where.client}:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).parts[:-1]
            is_log = ".log" in path.name or any(LOGS in part for part in inside)
            if is_log and path.is_file() and not path.is_symlink():
                yield path


def clean_log(path: Path, eraser: Eraser) -> int:
    """Lines that name him are blotted out where they stand: another program may be writing behind them."""
    blotted = 0
    with path.open("r+b") as file:
        while True:
            start = file.tell()
            line = file.readline(_LINE)
            if not line:
                return blotted
            if eraser.is_named_in(line):
                end = b"\n" if line.endswith(b"\n") else b""
                room = len(line) - len(end)
                file.seek(start)
                file.write((_BLANK if room >= len(_BLANK) else b"").ljust(room) + end)
                file.flush()
                file.seek(start + len(line))
                blotted += 1

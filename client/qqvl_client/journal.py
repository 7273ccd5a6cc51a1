"""What was taken and not yet answered, on disk, so that neither a kill nor a restart loses or repeats a message.

A row goes taken → ready (request body written) → answered (texts known) → done. `part_open` is set before a
part is handed to the line and cleared after, so a restart knows which part may already be in the chat.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qqvl_client.errors import SettingsError
from qqvl_client.message import Chat
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.journal")
SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY,
  self_id TEXT NOT NULL, kind TEXT NOT NULL, chat_id TEXT NOT NULL, via_group TEXT NOT NULL,
  message_id TEXT NOT NULL, sent_at REAL NOT NULL, taken_at REAL NOT NULL,
  context_only INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'taken',
  event TEXT, body BLOB, texts TEXT, next_part INTEGER NOT NULL DEFAULT 0, part_open INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS once ON message (self_id, kind, chat_id, message_id, sent_at) WHERE message_id != '';
CREATE INDEX IF NOT EXISTS open ON message (state) WHERE state != 'done';
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One taken message, as far as it has come."""

    id: int
    chat: Chat
    message_id: str
    sent_at: float
    taken_at: float
    context_only: bool
    state: Literal["taken", "ready", "answered", "done"]
    event: dict[str, Any]
    texts: tuple[str, ...]
    next_part: int
    part_open: bool


class Journal:
    """A small SQLite file; every method is one short transaction, callable from any thread."""

    def __init__(self, path: Path | None, keep_s: float = 172_800) -> None:
        self.is_closed = False
        self._keep_s = keep_s
        self._finished = 0
        self._lock = threading.Lock()
        self._on_disk = path is not None
        self._db = _connect(path or ":memory:")
        # NORMAL loses nothing to a killed process, only to a power cut in the last moments.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + SCHEMA)

    def close(self) -> None:
        with self._lock:
            self.is_closed = True
            self._db.close()

    def take(
        self, chat: Chat, message_id: str, sent_at: float, context_only: bool, event: Mapping[str, Any]
    ) -> int | None:
        """Write a message down; nothing when this very message is already there."""
        row = self._run(
            "INSERT OR IGNORE INTO message (self_id, kind, chat_id, via_group, message_id, sent_at, taken_at,"
            " context_only, event) VALUES (?,?,?,?,?,?,?,?,?) RETURNING id",
            (
                *(chat.self_id, chat.kind, chat.id, chat.via_group, message_id, sent_at, time.time()),
                *(context_only, json.dumps(event, ensure_ascii=True)),
            ),
        )
        return row[0]["id"] if row else None

    def ready(self, entry_id: int, body: bytes) -> None:
        self._run("UPDATE message SET state='ready', body=? WHERE id=?", (body, entry_id))

    def body(self, entry_id: int) -> bytes:
        return bytes(self._run("SELECT body FROM message WHERE id=?", (entry_id,))[0]["body"] or b"")

    def answered(self, entry_id: int, texts: Sequence[str]) -> None:
        """The server has answered: from here on it is never asked about this message again."""
        packed = json.dumps(list(texts))
        self._run("UPDATE message SET state='answered', body=NULL, texts=? WHERE id=?", (packed, entry_id))

    def part(self, entry_id: int, number: int, is_open: bool) -> None:
        self._run("UPDATE message SET next_part=?, part_open=? WHERE id=?", (number, is_open, entry_id))

    def only_context(self, entry_id: int) -> None:
        self._run("UPDATE message SET context_only=1, state='taken', body=NULL WHERE id=?", (entry_id,))

    def done(self, entry_id: int) -> None:
        """Finished, one way or another; the row stays for a while to recognise repeats."""
        sql = "UPDATE message SET state='done', event=NULL, body=NULL, texts=NULL WHERE id=?"
        self._run(sql, (entry_id,))
        self._finished += 1
        if self._finished % 500 == 0:
            self.forget()

    def entry(self, entry_id: int) -> Entry:
        return _entry(self._run("SELECT * FROM message WHERE id=?", (entry_id,))[0])

    def unfinished(self) -> list[Entry]:
        return [_entry(row) for row in self._run("SELECT * FROM message WHERE state != 'done' ORDER BY id")]

    def forget(self) -> None:
        """Drop finished rows past their time."""
        before = time.time() - self._keep_s
        self._run("DELETE FROM message WHERE state='done' AND taken_at < ?", (before,))

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if not self._on_disk:
                    raise
                LOG.error("流水账写不了盘（%s），改记在内存里：现在停掉会丢没答完的消息", error)
                self._move_to_memory()
                return self._db.execute(sql, values).fetchall()

    def _move_to_memory(self) -> None:
        memory = _connect(":memory:")
        self._db.backup(memory)
        self._db.close()
        self._db, self._on_disk = memory, False


def _connect(where: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(where, check_same_thread=False, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        id=row["id"],
        chat=Chat(row["kind"], row["chat_id"], row["self_id"], row["via_group"]),
        message_id=row["message_id"],
        sent_at=row["sent_at"],
        taken_at=row["taken_at"],
        context_only=bool(row["context_only"]),
        state=row["state"],
        event=json.loads(row["event"] or "{}"),
        texts=tuple(json.loads(row["texts"] or "[]")),
        next_part=row["next_part"],
        part_open=bool(row["part_open"]),
    )


def open_journal(settings: Settings, folder: Path) -> Journal:
    """The journal of this pair of NapCat and server: two bots may share a folder."""
    pair = f"{settings.adapter_address}|{settings.server_url}"
    path = folder / f"journal-{hashlib.sha256(pair.encode()).hexdigest()[:12]}.db"
    _claim(path.with_suffix(".lock"), settings.stop_grace_s + 1)
    keep_s = settings.journal_keep_h * 3600
    try:
        journal = Journal(path, keep_s)
        journal.forget()
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(f".broken-{int(time.time())}")
        LOG.error("流水账 %s 读不了（%s），改名为 %s 后重开一本", path.name, error, aside.name)
        path.rename(aside)
        journal = Journal(path, keep_s)
    return journal


def _claim(lock: Path, patience_s: float) -> None:
    """Hold `lock` until this process ends; a client started twice would answer everything twice."""
    if sys.platform == "win32":
        return
    import fcntl

    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + patience_s
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                LOG.info("已有一个客户端连着同一个 NapCat 和服务器，等它停下（最多 %.0f 秒）……", patience_s)
                told = True
            if time.monotonic() > until:
                raise SettingsError("已有一个客户端连着同一个 NapCat 和服务器，不能再开一个") from None
            time.sleep(0.1)

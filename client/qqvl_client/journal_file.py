"""The journal's SQLite file: opened, read, written, put aside. Every failure is one of three JournalErrors."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qqvl_client.entries import Changes, Entry, Seen, dump_chat, dump_errand, load_chat, load_errand
from qqvl_client.errors import JournalDamagedError, JournalError, JournalLockedError, JournalUnwritableError
from qqvl_client.events import dump_event, load_event
from qqvl_client.outgoing import dump_outgoing, load_outgoing

VERSION = 1
MAGIC = b"SQLite format 3\0"
SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
  id INTEGER PRIMARY KEY, event TEXT NOT NULL, said_at REAL NOT NULL, taken_at REAL NOT NULL,
  context_only INTEGER NOT NULL, state TEXT NOT NULL, texts TEXT NOT NULL,
  next_part INTEGER NOT NULL, part_open INTEGER NOT NULL, body BLOB
);
CREATE TABLE IF NOT EXISTS errand (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, chat TEXT NOT NULL, told TEXT NOT NULL, made_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, chat TEXT NOT NULL, sent_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known (identity BLOB PRIMARY KEY, taken_at REAL NOT NULL) WITHOUT ROWID;
"""
UPDATE = """
UPDATE entry SET context_only=?, state=?, texts=?, next_part=?, part_open=?,
  body = CASE WHEN ?='ready' THEN COALESCE(?, body) END WHERE id=?
"""
INSERT = """
INSERT INTO entry (context_only, state, texts, next_part, part_open, body, id, event, said_at, taken_at)
VALUES (?,?,?,?,?,?,?,?,?,?)
"""
SEEN_LONGER_S = 5 * 86_400
"""A chat may be silent for longer than its messages are known."""
BUSY_S = 0.5
"""How long a statement waits for another program; it waits in the journal's own thread."""
# https://www.sqlite.org/rescode.html, primary codes. A plain SQL error means that the tables are not ours.
_LOCKED = frozenset({5, 6})
_DAMAGED = frozenset({1, 11, 26})


class JournalFile:
    """One connection, used by one thread at a time; opened again by the next use after a failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        self._wal_bytes = 0
        self.holds_finished = False
        """Whether the log still has words of what is finished."""

    def load(self) -> Changes:
        """Open, check the whole file and read it."""
        with _told():
            db = self._opened()
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise JournalDamagedError(str(verdict))
            _adopt(db)
            # Versions before left what they deleted in free pages.
            db.execute("VACUUM")
            self.empty_log()
            return _read(db)

    def write(self, changes: Changes) -> None:
        """All of it in one transaction, in the file that lies in the folder now."""
        try:
            with _told():
                self._write(self._opened(), changes)
                self._verify()
            self.holds_finished |= None in changes.entries.values() or None in changes.errands.values()
        except JournalLockedError:
            raise
        except (JournalDamagedError, JournalUnwritableError):
            self.close()
            raise

    def empty_log(self) -> None:
        """What was deleted is overwritten in the file, but still stands in the log. Best effort: it is tried again."""
        with suppress(sqlite3.Error, OSError, JournalError):
            (busy, *_) = self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                self._wal_bytes = 0
                self.holds_finished = False

    def body(self, entry_id: int) -> bytes | None:
        """A request's body; nothing when the file does not give it."""
        with suppress(sqlite3.Error, OSError, JournalError):
            row = self._opened().execute("SELECT body FROM entry WHERE id=?", (entry_id,)).fetchone()
            return bytes(row["body"]) if row and row["body"] is not None else None
        return None

    def salvage(self) -> Changes:
        """Whatever rows a damaged file still gives."""
        found = Changes()
        with suppress(sqlite3.Error, OSError, ValueError):
            db = _connect(self.path)
            try:
                for row in db.execute("SELECT * FROM entry"):
                    _add(found, row)
                _add_errands(found, db)
            finally:
                with suppress(sqlite3.Error):
                    found.known = dict(map(tuple, db.execute("SELECT identity, taken_at FROM known")))
                db.close()
        return found

    def set_aside(self) -> Path:
        """Rename the file, and what SQLite keeps beside it, out of the way."""
        self.close()
        aside = self.path.with_suffix(f".broken-{int(time.time())}")
        with _told():
            for tail in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.replace(f"{self.path}{tail}", f"{aside}{tail}")
        return aside

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            db = _connect(self.path)
            try:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    raise JournalUnwritableError(f"它是更新的版本写的（第 {version} 版，本程序认得第 {VERSION} 版）")
                # NORMAL loses nothing to a killed process, only to a power cut in the last moments.
                db.executescript(
                    f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON; {SCHEMA}"
                )
                db.execute(f"PRAGMA user_version={VERSION}")
            except BaseException:
                db.close()
                raise
            self._db, self._place, self._wal_bytes = db, _place_of(self.path), 0
        return self._db

    def _verify(self) -> None:
        """What was written lies where the next start will look: SQLite keeps writing into a file that is gone, and
        into one that somebody has written over, for as long as its memory holds the pages."""
        if _place_of(self.path) != self._place:
            raise JournalUnwritableError("文件被移走或换掉了")
        with open(self.path, "rb") as file:
            head = file.read(len(MAGIC))
        wal_bytes = os.stat(f"{self.path}-wal").st_size
        if head != MAGIC or wal_bytes < self._wal_bytes:
            raise JournalDamagedError("文件被别人改写了")
        self._wal_bytes = wal_bytes

    def _write(self, db: sqlite3.Connection, changes: Changes) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            for entry_id, entry in changes.entries.items():
                if entry is None:
                    db.execute("DELETE FROM entry WHERE id=?", (entry_id,))
                else:
                    _put(db, entry, changes.bodies.get(entry_id))
            for errand_id, errand in changes.errands.items():
                db.execute("DELETE FROM errand WHERE id=?", (errand_id,))
                if errand is not None:
                    db.execute("INSERT INTO errand VALUES (?,?,?,?,?)", (errand_id, *dump_errand(errand)))
            db.executemany("INSERT OR REPLACE INTO known VALUES (?,?)", changes.known.items())
            rows = ((key, dump_chat(seen.chat), seen.sent_at) for key, seen in changes.seen.items())
            db.executemany("INSERT OR REPLACE INTO seen VALUES (?,?,?)", rows)
            if changes.forget_before:
                db.execute("DELETE FROM seen WHERE sent_at < ?", (changes.forget_before - SEEN_LONGER_S,))
                db.execute("DELETE FROM known WHERE taken_at < ?", (changes.forget_before,))
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise


@contextmanager
def _told() -> Iterator[None]:
    """SQLite's and the system's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _LOCKED:
            raise JournalLockedError("被别的程序占着") from None
        raise (JournalDamagedError if code in _DAMAGED else JournalUnwritableError)(str(error)) from None
    except OSError as error:
        raise JournalUnwritableError(str(error)) from None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _place_of(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _put(db: sqlite3.Connection, entry: Entry, body: bytes | None) -> None:
    state = (entry.context_only, entry.state, _messages(entry), entry.next_part, entry.part_open)
    if db.execute(UPDATE, (*state, entry.state, body, entry.id)).rowcount == 0:
        kept = body if entry.state == "ready" else None
        db.execute(INSERT, (*state, kept, entry.id, dump_event(entry.event), entry.said_at, entry.taken_at))


def _messages(entry: Entry) -> str:
    return json.dumps([dump_outgoing(message) for message in entry.messages])


def _read(db: sqlite3.Connection) -> Changes:
    found = Changes(known=dict(map(tuple, db.execute("SELECT identity, taken_at FROM known ORDER BY taken_at"))))
    columns = "id, event, said_at, taken_at, context_only, state, texts, next_part, part_open, body IS NOT NULL AS body"
    for row in db.execute(f"SELECT {columns} FROM entry ORDER BY id"):
        _add(found, row)
    _add_errands(found, db)
    for key, chat, sent_at in db.execute("SELECT key, chat, sent_at FROM seen"):
        found.seen[key] = Seen(load_chat(chat), sent_at)
    return found


def _add_errands(found: Changes, db: sqlite3.Connection) -> None:
    for row in db.execute("SELECT id, kind, chat, told, made_at FROM errand ORDER BY id"):
        found.errands[row["id"]] = load_errand(*row)


def _add(found: Changes, row: sqlite3.Row) -> None:
    event = load_event(row["event"])
    if event is None:
        return
    found.entries[row["id"]] = Entry(
        id=row["id"],
        event=event,
        said_at=row["said_at"],
        taken_at=row["taken_at"],
        context_only=bool(row["context_only"]),
        # Without its body it has to be read anew.
        state="taken" if row["state"] == "ready" and not row["body"] else row["state"],
        messages=tuple(map(load_outgoing, json.loads(row["texts"]))),
        next_part=row["next_part"],
        part_open=bool(row["part_open"]),
    )
    if isinstance(row["body"], bytes):
        found.bodies[row["id"]] = row["body"]


def _adopt(db: sqlite3.Connection) -> None:
    """Take over what 0.1.0 left unfinished in its table of another shape."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name='message'").fetchone():
        return
    db.executescript(
        """BEGIN;
        INSERT OR IGNORE INTO entry
          SELECT id, event, sent_at, taken_at, context_only, state, COALESCE(texts, '[]'), next_part, part_open, body
          FROM message WHERE state != 'done' AND event IS NOT NULL;
        DROP TABLE message;
        COMMIT;"""
    )

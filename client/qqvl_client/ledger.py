"""The journal's entries in memory, and their way to disk: now, or as soon as the disk works again.

Memory is right and the file follows. While the file cannot be written (locked by another program, disk full, folder
gone) changes are appended to a file beside it, so that a kill in the meantime neither loses nor repeats a message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qqvl_client.entries import Changes, Entry, identity_of
from qqvl_client.errors import JournalDamagedError, JournalError, JournalLockedError
from qqvl_client.journal_file import JournalFile
from qqvl_client.message import MessageEvent
from qqvl_client.spill import Spill

LOG = logging.getLogger("qqvl.journal")
RETRY_S = 2.0
KNOWN = 50_000
SWEEP_EVERY = 500


@dataclass(frozen=True, slots=True)
class Draft:
    """A message about to be taken."""

    event: MessageEvent
    said_at: float
    context_only: bool = False


class Ledger:
    """Used by one thread at a time."""

    def __init__(self, path: Path, keep_s: float) -> None:
        self.file = JournalFile(path)
        self._spill = Spill(path.with_suffix(".spill"))
        self._keep_s = keep_s
        self._entries: dict[int, Entry] = {}
        self._known: dict[bytes, float] = {}
        self._behind = Changes()
        self._trouble = ""
        self._retry_at = 0.0
        self._next_id = 1
        self._finished = 0

    @property
    def is_behind(self) -> bool:
        """Whether the file lacks something that memory has."""
        return bool(self._trouble)

    @property
    def open_count(self) -> int:
        return len(self._entries)

    def open(self) -> list[Entry]:
        """Read what an earlier run left; raises JournalError when the file cannot be used at all."""
        found = Changes()
        try:
            found = self.file.load()
        except JournalDamagedError as error:
            found = self.file.salvage()
            self._set_aside(error)
            self.file.load()
            self.file.write(found)
        spilled = self._spill.read()
        if spilled.entries or spilled.known:
            self.file.write(spilled)
            found = self.file.load()
        self._spill.clear()
        self._entries = {number: entry for number, entry in found.entries.items() if entry is not None}
        self._known = dict(list(found.known.items())[-KNOWN:])
        self._next_id = max(self._entries, default=0) + 1
        self._commit(Changes(forget_before=time.time() - self._keep_s))
        return list(self._entries.values())

    def take(self, drafts: Sequence[Draft]) -> list[Entry | None]:
        """Write messages down; nothing in the place of one that is here already."""
        changes, now = Changes(), time.time()
        taken: list[Entry | None] = []
        for draft in drafts:
            identity = identity_of(draft.event)
            if identity is not None and (identity in self._known or identity in changes.known):
                taken.append(None)
                continue
            entry = Entry(self._next_id, draft.event, draft.said_at, now, draft.context_only)
            self._next_id += 1
            changes.entries[entry.id] = entry
            if identity is not None:
                changes.known[identity] = now
            taken.append(entry)
        self._commit(changes)
        self._known |= changes.known
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return taken

    def save(self, entry: Entry, body: bytes | None = None) -> Entry:
        self._commit(Changes({entry.id: entry}, {} if body is None else {entry.id: body}))
        return entry

    def finish(self, entry_ids: Iterable[int]) -> None:
        """Done, one way or another; the identity stays for a while to recognise repeats."""
        changes = Changes(dict.fromkeys(entry_ids))
        self._finished += len(changes.entries)
        if self._finished >= SWEEP_EVERY:
            self._finished = 0
            changes.forget_before = time.time() - self._keep_s
        self._commit(changes)

    def body(self, entry_id: int) -> bytes | None:
        return self._behind.bodies.get(entry_id) or self.file.body(entry_id)

    def retry(self) -> None:
        """Write what the file lacks, if it can be written by now."""
        if self._trouble:
            self._flush()

    def close(self) -> None:
        self.retry()
        self.file.close()

    def _commit(self, changes: Changes) -> None:
        if changes == Changes():
            return
        for entry_id, entry in changes.entries.items():
            if entry is None:
                self._entries.pop(entry_id, None)
            else:
                self._entries[entry_id] = entry
        self._behind.add(changes)
        if self._trouble:
            self._append(changes)
            if time.monotonic() < self._retry_at:
                return
        self._flush()

    def _flush(self) -> None:
        try:
            try:
                self.file.write(self._behind)
            except JournalDamagedError as error:
                self._set_aside(error)
                self._behind.add(self._everything())
                self.file.write(self._behind)
        except JournalError as error:
            self._fall_behind(error)
            return
        self._behind = Changes()
        if self._trouble:
            self._trouble = ""
            # Whatever was just written had been appended before: a kill right here repeats it, no more.
            self._spill.clear()
            LOG.warning("流水账又能写盘了，这段时间记在内存里的都已补上")

    def _fall_behind(self, error: JournalError) -> None:
        if not self._trouble:
            # Beside the file goes all that is open: there may be no file by the next start.
            self._append(Changes({**self._entries, **self._behind.entries}, {}, self._behind.known))
        if not isinstance(error, JournalLockedError):
            # A new file may lie there by the time it works again: it gets everything, not only what is new.
            self._behind.add(self._everything())
        if str(error) != self._trouble:
            LOG.error("流水账写不了盘（%s），先记在内存里，每隔一会儿再试；别的照常", error)
        self._trouble = str(error)
        self._retry_at = time.monotonic() + RETRY_S

    def _append(self, changes: Changes) -> None:
        try:
            self._spill.append(changes)
        except OSError as error:
            LOG.debug("旁边的文件也写不了：%s", error)

    def _everything(self) -> Changes:
        return Changes(dict(self._entries), {}, dict(self._known))

    def _set_aside(self, error: JournalError) -> None:
        aside = self.file.set_aside()
        LOG.error("流水账 %s 坏了（%s），改名为 %s 后重开一本", self.file.path.name, error, aside.name)

"""The journal's entries in memory, and their way to disk: now, or as soon as the disk works again.

Memory is right and the file follows. While the file cannot be written (locked by another program, disk full, folder
gone) changes are appended to a file beside it, so that a kill in the meantime neither loses nor repeats a message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qqvl_client.entries import Changes, Entry, Errand, ErrandKind, Seen, identity_of
from qqvl_client.errors import JournalDamagedError, JournalError, JournalLockedError
from qqvl_client.journal_file import JournalFile
from qqvl_client.message import Chat, MessageEvent
from qqvl_client.spill import Spill

LOG = logging.getLogger("qqvl.journal")
RETRY_S = 2.0
KNOWN = 50_000
SWEEP_EVERY = 500
CLEAN_EVERY_S = 30.0
"""How often a journal that never rests is rid of the words of what is finished."""


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
        self._errands: dict[int, Errand] = {}
        self._known: dict[bytes, float] = {}
        self._seen: dict[str, Seen] = {}
        self._behind = Changes()
        self._trouble = ""
        self._retry_at = 0.0
        self._next_id = 1
        self._next_errand = 1
        self._finished = 0
        self._cleaned_at = time.monotonic()

    @property
    def is_behind(self) -> bool:
        """Whether the file lacks something that memory has."""
        return bool(self._trouble)

    @property
    def open_count(self) -> int:
        return len(self._entries)

    @property
    def errands(self) -> list[Errand]:
        return list(self._errands.values())

    @property
    def seen(self) -> list[Seen]:
        """The chats heard lately, those with the newest line first."""
        return sorted(self._seen.values(), key=lambda seen: -seen.sent_at)

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
        if spilled.entries or spilled.known or spilled.errands:
            self.file.write(spilled)
            found = self.file.load()
        self._spill.clear()
        self._entries = {number: entry for number, entry in found.entries.items() if entry is not None}
        self._errands = {number: errand for number, errand in found.errands.items() if errand is not None}
        self._known = dict(list(found.known.items())[-KNOWN:])
        self._seen = found.seen
        self._next_id = max(self._entries, default=0) + 1
        self._next_errand = max(self._errands, default=0) + 1
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
            self._see(changes, draft.event)
        self._commit(changes)
        self._known |= changes.known
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return taken

    def update(self, entry: Entry, body: bytes | None = None, **changes: Any) -> Entry:
        """Change an entry as it is now, which the caller's copy need not be."""
        newest = replace(self._entries.get(entry.id, entry), **changes)
        self._commit(Changes({entry.id: newest}, {} if body is None else {entry.id: body}))
        return newest

    def delivered(self, entry: Entry, next_part: int, sent_id: str) -> tuple[Entry, Errand | None]:
        """QQ took a part and, if it told, named it: together, so that a kill loses neither."""
        newest = replace(self._entries.get(entry.id, entry), next_part=next_part, part_open=False)
        changes = Changes({entry.id: newest})
        errand = None
        if sent_id and entry.message_id:
            told = {"message_id": entry.message_id, "sent_ids": [sent_id]}
            errand = self._new_errand(changes, "sent", entry.chat, told)
        self._commit(changes)
        return newest, errand

    def recall(self, chat: Chat, message_id: str, operator_id: str) -> Errand:
        """A message was taken back: nothing more is said to it, and the server will be told."""
        changes = Changes()
        same = [e for e in self._entries.values() if e.message_id == message_id and e.chat.key == chat.key]
        for entry in same[-1:]:
            changes.entries[entry.id] = replace(entry, context_only=True)
        told = {"message_id": message_id, "operator_id": operator_id}
        errand = self._new_errand(changes, "recall", chat, told)
        self._commit(changes)
        return errand

    def errand(self, kind: ErrandKind, chat: Chat, told: dict[str, Any]) -> Errand:
        changes = Changes()
        errand = self._new_errand(changes, kind, chat, told)
        self._commit(changes)
        return errand

    def settle(self, errand: Errand, withdraw: Sequence[str]) -> Errand | None:
        """An errand is done; the server may have asked to withdraw messages of ours."""
        changes = Changes(errands={errand.id: None})
        follows = self._new_errand(changes, "withdraw", errand.chat, {"ids": list(withdraw)}) if withdraw else None
        self._commit(changes)
        return follows

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

    def _see(self, changes: Changes, event: MessageEvent) -> None:
        key, before = event.chat.key, self._seen.get(event.chat.key)
        # A stranger's session through a group has no record that could be asked for.
        if not event.chat.via_group and (before is None or event.sent_at > before.sent_at):
            self._seen[key] = changes.seen[key] = Seen(event.chat, event.sent_at)

    def _new_errand(self, changes: Changes, kind: ErrandKind, chat: Chat, told: dict[str, Any]) -> Errand:
        errand = Errand(self._next_errand, kind, chat, told, time.time())
        self._next_errand += 1
        changes.errands[errand.id] = errand
        return errand

    def _commit(self, changes: Changes) -> None:
        if changes == Changes():
            return
        for entry_id, entry in changes.entries.items():
            if entry is None:
                self._entries.pop(entry_id, None)
            else:
                self._entries[entry_id] = entry
        for errand_id, errand in changes.errands.items():
            if errand is None:
                self._errands.pop(errand_id, None)
            else:
                self._errands[errand_id] = errand
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
        rests = not self._entries and not self._errands
        if self.file.holds_finished and (rests or time.monotonic() - self._cleaned_at > CLEAN_EVERY_S):
            self._cleaned_at = time.monotonic()
            self.file.empty_log()

    def _fall_behind(self, error: JournalError) -> None:
        if not self._trouble:
            # Beside the file goes all that is open: there may be no file by the next start.
            open_now = {**self._entries, **self._behind.entries}
            errands = {**self._errands, **self._behind.errands}
            self._append(Changes(open_now, {}, errands, self._behind.known))
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
        return Changes(dict(self._entries), {}, dict(self._errands), dict(self._known), dict(self._seen))

    def _set_aside(self, error: JournalError) -> None:
        aside = self.file.set_aside()
        LOG.error("流水账 %s 坏了（%s），改名为 %s 后重开一本", self.file.path.name, error, aside.name)

"""What was taken and not yet answered, on disk, so that neither a kill nor a restart loses or repeats a message.

The loop's side of it: every call runs in the journal's own thread, however long the disk or another program takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from qqvl_client.entries import Entry, Errand, Seen
from qqvl_client.errors import JournalError, JournalLockedError, SettingsError
from qqvl_client.ledger import RETRY_S, Draft, Ledger
from qqvl_client.message import Chat, Recall
from qqvl_client.outgoing import Outgoing
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.journal")
T = TypeVar("T")


class Journal:
    """Opened before the loop runs; `unfinished` and `errands` are what an earlier run left, oldest first.

    What is given back is the entry as it is now, whoever else has changed it meanwhile.
    """

    def __init__(self, path: Path, keep_s: float = 172_800) -> None:
        self._ledger = Ledger(path, keep_s)
        self.unfinished = self._ledger.open()
        self.errands = self._ledger.errands
        self._thread = ThreadPoolExecutor(1, "journal")
        self._retrying: asyncio.Task[None] | None = None

    @property
    def open_count(self) -> int:
        """How many messages are taken and not done."""
        return self._ledger.open_count

    async def seen(self) -> list[Seen]:
        """The chats heard lately, those with the newest line first."""
        return await self._run(lambda: self._ledger.seen)

    async def take(self, drafts: Sequence[Draft]) -> list[Entry | None]:
        """Write messages down; nothing in the place of one that is here already."""
        return await self._run(lambda: self._ledger.take(drafts))

    async def ready(self, entry: Entry, body: bytes) -> Entry:
        """Its request is made. Bodies are megabytes: they wait on disk for their turn."""
        return await self._run(lambda: self._ledger.update(entry, body, state="ready"))

    async def body(self, entry: Entry) -> bytes | None:
        """The request; nothing when it was lost with the file."""
        return await self._run(lambda: self._ledger.body(entry.id))

    async def only_context(self, entry: Entry) -> Entry:
        return await self._run(lambda: self._ledger.update(entry, context_only=True))

    async def answered(self, entry: Entry, messages: Sequence[Outgoing]) -> Entry:
        """The server has answered: from here on it is never asked about this message again."""
        return await self._run(lambda: self._ledger.update(entry, state="answered", messages=tuple(messages)))

    async def opened(self, entry: Entry, number: int, is_open: bool) -> Entry:
        """A part is about to be handed to the line, or did not get to it."""
        return await self._run(lambda: self._ledger.update(entry, next_part=number, part_open=is_open))

    async def delivered(self, entry: Entry, next_part: int, sent_id: str) -> tuple[Entry, Errand | None]:
        """A part is in the chat; the errand tells the server QQ's name for it."""
        return await self._run(lambda: self._ledger.delivered(entry, next_part, sent_id))

    async def recall(self, recall: Recall) -> Errand:
        """A message was taken back; its entry, if it is still open, gets nothing more."""
        return await self._run(lambda: self._ledger.recall(recall.chat, recall.message_id, recall.operator_id))

    async def application(self, chat: Chat, told: dict[str, Any]) -> Errand:
        """Somebody's application, until it is decided on."""
        return await self._run(lambda: self._ledger.errand("application", chat, told))

    async def settle(self, errand: Errand, withdraw: Sequence[str] = ()) -> Errand | None:
        """Done; what is to be withdrawn because of it is an errand of its own."""
        return await self._run(lambda: self._ledger.settle(errand, withdraw))

    async def done(self, entry_ids: Iterable[int]) -> None:
        """Finished, one way or another."""
        ids = list(entry_ids)
        await self._run(lambda: self._ledger.finish(ids))

    async def aclose(self) -> None:
        if self._retrying:
            self._retrying.cancel()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        found = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        if self._ledger.is_behind and (self._retrying is None or self._retrying.done()):
            self._retrying = asyncio.create_task(self._catch_up(), name="journal")
        return found

    async def _catch_up(self) -> None:
        while self._ledger.is_behind:
            await asyncio.sleep(RETRY_S)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.retry)


def open_journal(settings: Settings, folder: Path) -> Journal:
    """The journal of this pair of NapCat and server: two bots may share a folder."""
    pair = f"{settings.adapter_address}|{settings.server_url}"
    path = folder / f"journal-{hashlib.sha256(pair.encode()).hexdigest()[:12]}.db"
    _claim(path.with_suffix(".lock"), settings.stop_grace_s + 1)
    until = time.monotonic() + settings.stop_grace_s
    while True:
        try:
            return Journal(path, settings.journal_keep_h * 3600)
        except JournalLockedError as error:
            # A backup or a browser of databases; its hold is never a reason to begin another journal.
            if time.monotonic() > until:
                raise SettingsError(f"流水账 {path} {error}，关掉那个程序再启动客户端") from None
        except JournalError as error:
            raise SettingsError(f"流水账 {path} 用不了：{error}。请先解决，再启动客户端") from None


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

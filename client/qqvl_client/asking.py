"""One message's way to an answer: read, judged, posted; and what is said in place of an answer that failed."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from qqvl_client.bodies import as_context, as_stream, body_of
from qqvl_client.entries import Entry
from qqvl_client.errors import ServerError
from qqvl_client.figures import Figures
from qqvl_client.journal import Journal
from qqvl_client.onebot import OneBot
from qqvl_client.outgoing import Outgoing
from qqvl_client.pieces import Pieces
from qqvl_client.reading import Reader, bare_message
from qqvl_client.server_api import ServerApi, notice_for
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.asking")


@dataclass(eq=False, slots=True)
class Turn:
    """A message in its chat's lane, and its reading, which gives nothing when there is nothing to answer."""

    entry: Entry
    reading: asyncio.Task[Entry | None] | None = None
    pieces: Pieces = field(default_factory=Pieces)


class Asker:
    """Knows the reader, the journal and the server; neither lanes nor sending."""

    def __init__(
        self,
        settings: Settings,
        onebot: OneBot,
        reader: Reader,
        server: ServerApi,
        journal: Journal,
        figures: Figures,
    ) -> None:
        self._settings = settings
        self._onebot = onebot
        self._reader = reader
        self._server = server
        self._journal = journal
        self._figures = figures
        self._noticed: dict[str, float] = {}

    async def read(self, entry: Entry, resumed: bool) -> Entry | None:
        """Look everything up and make the request; nothing when the message holds nothing."""
        if resumed:
            # Right after a start there is no line yet, and every lookup would come back empty-handed.
            await self._onebot.wait_up(entry.chat.self_id)
        try:
            message = await self._reader.read(entry.event)
        # The reader's edge: whatever odd shape broke it, the words must still get through.
        except Exception:
            LOG.exception("消息 %s 没能读全，只取文字", entry.message_id)
            message = bare_message(entry.event)
        if message.is_empty:
            LOG.info("消息 %s 里没有能处理的内容，略过", entry.message_id, extra={"facts": entry.facts})
            await self._journal.done([entry.id])
            return None
        body = await asyncio.to_thread(body_of, message) if message.pictures else body_of(message)
        entry = await self._journal.ready(entry, body)
        self._figures.pictures.inc(len(message.pictures))
        LOG.debug("消息 %s 已读好，图片 %d 张", entry.message_id, len(message.pictures))
        return entry

    async def begin(self, turn: Turn, behind: int) -> asyncio.Future[Entry] | None:
        """Post a message whose turn has come; returns once the server has it. The result is the answered entry."""
        entry: Entry | None = turn.entry
        if turn.reading:
            await asyncio.wait([turn.reading])
            entry = None if turn.reading.cancelled() else turn.reading.result()
        if entry is None:
            return None
        if entry.state == "answered":
            known: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
            known.set_result(entry)
            return known
        accepted = asyncio.Event()
        ask = self._ask(await self._judged(entry, behind), accepted, turn.pieces)
        asking = asyncio.create_task(ask, name=f"ask {entry.id}")
        there = asyncio.create_task(accepted.wait())
        try:
            await asyncio.wait([asking, there], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            asking.cancel()
            raise
        finally:
            there.cancel()
        return asking

    async def _judged(self, entry: Entry, behind: int) -> Entry:
        """Its turn has come: is it still worth an answer? Who waited behind a crowd, or too long, is history."""
        crowded = behind > self._settings.answers_waiting and not entry.event.is_addressed
        if entry.context_only or not (crowded or time.time() - entry.said_at > self._settings.max_age_s):
            return entry
        LOG.info(
            "轮到消息 %s（%s）时%s，只作历史", entry.message_id, entry.chat.key,
            "后面排得太长" if crowded else "已太旧", extra={"facts": entry.facts},
        )  # fmt: skip
        return await self._journal.only_context(entry)

    async def _ask(self, entry: Entry, accepted: asyncio.Event, pieces: Pieces) -> Entry:
        body = await self._journal.body(entry)
        if body is None:
            body = body_of(await self._reader.read(entry.event))
        if entry.context_only:
            body = as_context(body)
        elif self._settings.stream:
            body = as_stream(body)
        try:
            reply = await self._server.ask(entry.chat, body, bool(entry.message_id), accepted, pieces, entry.request_id)
        except ServerError as error:
            facts = entry.facts | {"error": type(error).__name__}
            LOG.error("消息 %s（%s）没有答成：%s", entry.message_id, entry.chat.key, error, extra={"facts": facts})
            self._figures.answered("failed", entry.taken_at)
            messages = self._notice(entry, error)
        else:
            messages = reply.messages
            how = (
                f"并入消息 {reply.merged_into} 的答复" if reply.merged_into else "已有答复" if messages else "不用回复"
            )
            outcome = "merged" if reply.merged_into else "answered" if messages else "silent"
            self._figures.answered(outcome, entry.taken_at)
            said = "\n".join(message.text for message in messages)
            facts = entry.facts | {"outcome": outcome, "merged_into": reply.merged_into, "reply": said}
            LOG.info("消息 %s（%s）%s", entry.message_id, entry.chat.key, how, extra={"facts": facts})
        return await self._journal.answered(entry, messages)

    def _notice(self, entry: Entry, error: ServerError) -> tuple[Outgoing, ...]:
        """One short word to somebody who addressed the bot, and not again for a while."""
        now = time.monotonic()
        quiet_until = self._noticed.get(entry.chat.key, 0.0)
        means_us = entry.event.is_addressed and not entry.context_only
        if not self._settings.notices or not means_us or now < quiet_until:
            return ()
        self._noticed = {key: until for key, until in self._noticed.items() if until > now}
        self._noticed[entry.chat.key] = now + self._settings.notice_gap_s
        return (Outgoing(notice_for(error)),)

"""The relay: takes events, asks the chat server, sends what it answers. Knows no framework and no raw frame."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qqvl_client.clock import Clock
from qqvl_client.entries import Entry
from qqvl_client.errors import ServerError
from qqvl_client.images import PictureFetcher
from qqvl_client.intake import Intake, crowd
from qqvl_client.journal import Journal
from qqvl_client.lanes import Lanes
from qqvl_client.ledger import Draft
from qqvl_client.message import AccountOffline, Event, Heartbeat, MessageEvent
from qqvl_client.onebot import Link, OneBot
from qqvl_client.outbox import Outbox
from qqvl_client.reading import Reader, bare_message
from qqvl_client.server_api import ServerApi, as_context, body_of, notice_for
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.relay")
MANY = 50
"""A batch larger than this is one line in the log."""


@dataclass(eq=False, slots=True)
class Turn:
    """A message in its chat's lane, and its reading, which gives nothing when there is nothing to answer."""

    entry: Entry
    reading: asyncio.Task[Entry | None] | None = None


class Relay:
    """Everything between the line to QQ and the chat server. Build it inside the running loop."""

    def __init__(self, settings: Settings, link: Link, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._onebot = OneBot(link, settings)
        self._pictures = PictureFetcher(settings)
        self._reader = Reader(settings, self._onebot, self._pictures)
        self._server = ServerApi(settings)
        self._outbox = Outbox(settings, self._onebot, journal)
        self._intake = Intake(self._admit)
        self._lanes: Lanes[Turn] = Lanes(self._answer)
        self._readings: set[asyncio.Task[Entry | None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._noticed: dict[str, float] = {}
        self._clock = Clock()
        self._online = True
        self._closed = False

    def resume(self) -> None:
        """Go on with what an earlier run left unfinished; look at the server meanwhile."""
        self._looking = asyncio.create_task(self._server.look(), name="look at the server")
        entries = self._journal.unfinished
        if entries:
            LOG.info("上次还有 %d 条消息没处理完，现在接着处理", len(entries))
        for entry in entries:
            self._enqueue(entry, resumed=True)

    def take(self, event: Event | None) -> None:
        """Accept one event of any kind. Never blocks and never raises for what is in the event."""
        match event:
            case MessageEvent():
                self._intake.put(event)
            case Heartbeat():
                self._heard(event)
            case AccountOffline():
                LOG.error("QQ 账号已掉线：%s，请到 NapCat 重新登录", event.reason)

    async def aclose(self) -> None:
        """Finish what is in flight within the grace period; the rest stays in the journal."""
        self._closed = True
        await self._lanes.close(self._settings.stop_grace_s)
        ending = [*self._readings, *([self._looking] if self._looking else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._intake.aclose()
        await self._server.aclose()
        await self._pictures.aclose()
        if left := self._journal.open_count:
            LOG.warning("停止时还有 %d 条消息没答完，已记下，下次启动接着处理", left)
        await self._journal.aclose()

    async def _admit(self, events: Sequence[MessageEvent]) -> None:
        """Write a batch down and give every message of it its turn."""
        drafts = await self._thinned([self._draft(e) for e in events if e.sender.id != e.chat.self_id])
        entries = await self._journal.take(drafts)
        if len(events) > MANY:
            LOG.info("一下子收到 %d 条消息", len(events))
        level = logging.DEBUG if len(events) > MANY else logging.INFO
        for draft, entry in zip(drafts, entries, strict=True):
            where, name = draft.event.chat.key, draft.event.id
            if entry is None:
                LOG.log(level, "重复的消息 %s（%s），不再处理", name, where)
                continue
            LOG.log(level, "收到 %s 的消息 %s%s", where, name, "（太旧，只作历史）" if entry.context_only else "")
            self._enqueue(entry)

    def _draft(self, event: MessageEvent) -> Draft:
        age = self._clock.age(event.sent_at)
        return Draft(event, time.time() - max(age, 0.0), age > self._settings.max_age_s)

    async def _thinned(self, drafts: list[Draft]) -> list[Draft]:
        """The drafts there is room for in their chats' lanes; older ones that wait there make room for newer."""
        fresh = Counter(draft.event.chat.key for draft in drafts)
        shed: set[int] = set()
        for key, count in fresh.items():
            turns = self._lanes.waiting(key)
            if len(turns) + count <= self._settings.waiting_per_chat:
                continue
            queue: list[Turn | Draft] = [*turns, *(draft for draft in drafts if draft.event.chat.key == key)]
            out = crowd(queue, self._settings.waiting_per_chat, lambda one: _event_of(one).is_addressed)
            shed |= {id(one) for one in out}
            LOG.warning("%s 排队的消息太多，最早的 %d 条略过不看", key, len(out))
            await self._drop(key, [one for one in out if isinstance(one, Turn)])
        return [draft for draft in drafts if id(draft) not in shed]

    async def _drop(self, key: str, turns: list[Turn]) -> None:
        self._lanes.drop(key, turns)
        for turn in turns:
            if turn.reading:
                turn.reading.cancel()
        await self._journal.done(turn.entry.id for turn in turns)

    def _heard(self, heartbeat: Heartbeat) -> None:
        if heartbeat.stamp is not None:
            self._clock.note(heartbeat.stamp)
        if heartbeat.online is not None and heartbeat.online != self._online:
            self._online = heartbeat.online
            if heartbeat.online:
                LOG.info("QQ 账号已上线")
            else:
                LOG.error("QQ 账号已掉线，请看 NapCat")

    def _enqueue(self, entry: Entry, resumed: bool = False) -> None:
        """Read the message at once (picture links expire), answer it when its turn comes."""
        if self._closed:
            return
        turn = Turn(entry)
        if entry.state == "taken":
            turn.reading = asyncio.create_task(self._read(entry, resumed), name=f"read {entry.id}")
            self._readings.add(turn.reading)
            turn.reading.add_done_callback(self._readings.discard)
        self._lanes.put(entry.chat.key, turn)

    async def _read(self, entry: Entry, resumed: bool) -> Entry | None:
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
            LOG.info("消息 %s 里没有能处理的内容，略过", entry.message_id)
            await self._journal.done([entry.id])
            return None
        body = await asyncio.to_thread(body_of, message) if message.pictures else body_of(message)
        LOG.debug("消息 %s 已读好，图片 %d 张", entry.message_id, len(message.pictures))
        return await self._journal.ready(entry, body)

    async def _answer(self, turn: Turn, behind: int) -> None:
        entry: Entry | None = turn.entry
        if turn.reading:
            entry = await asyncio.shield(turn.reading)
        if entry is None:
            return
        if entry.state != "answered":
            entry = await self._judged(entry, behind)
            entry = await self._journal.answered(entry, await self._ask(entry))
        if not entry.context_only:
            await self._outbox.deliver(entry)
        await self._journal.done([entry.id])

    async def _judged(self, entry: Entry, behind: int) -> Entry:
        """Its turn has come: is it still worth an answer? Who waited behind a crowd, or too long, is history."""
        crowded = behind > self._settings.answers_waiting and not entry.event.is_addressed
        if entry.context_only or not (crowded or time.time() - entry.said_at > self._settings.max_age_s):
            return entry
        LOG.info(
            "轮到消息 %s（%s）时%s，只作历史", entry.message_id, entry.chat.key, "后面排得太长" if crowded else "已太旧"
        )
        return await self._journal.only_context(entry)

    async def _ask(self, entry: Entry) -> tuple[str, ...]:
        body = await self._journal.body(entry)
        if body is None:
            body = body_of(await self._reader.read(entry.event))
        if entry.context_only:
            body = as_context(body)
        try:
            reply = await self._server.ask(entry.chat.kind, body, repeatable=bool(entry.message_id))
        except ServerError as error:
            LOG.error("消息 %s（%s）没有答成：%s", entry.message_id, entry.chat.key, error)
            return self._notice(entry, error)
        LOG.info("消息 %s（%s）%s", entry.message_id, entry.chat.key, "已有答复" if reply.texts else "不用回复")
        return reply.texts

    def _notice(self, entry: Entry, error: ServerError) -> tuple[str, ...]:
        """One short word to somebody who addressed the bot, and not again for a while."""
        now = time.monotonic()
        quiet_until = self._noticed.get(entry.chat.key, 0.0)
        means_us = entry.event.is_addressed and not entry.context_only
        if not self._settings.notices or not means_us or now < quiet_until:
            return ()
        self._noticed = {key: until for key, until in self._noticed.items() if until > now}
        self._noticed[entry.chat.key] = now + self._settings.notice_gap_s
        return (notice_for(error),)


def _event_of(one: Turn | Draft) -> MessageEvent:
    return one.entry.event if isinstance(one, Turn) else one.event

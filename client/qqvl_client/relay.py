"""The relay: takes OneBot events, asks the chat server, sends what it answers. Knows no framework."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from qqvl_client.errors import ServerError
from qqvl_client.images import PictureFetcher
from qqvl_client.journal import Entry, Journal
from qqvl_client.lanes import Lanes
from qqvl_client.message import Chat, IncomingMessage
from qqvl_client.onebot import Link, OneBot
from qqvl_client.outbox import Outbox
from qqvl_client.reading import Reader, chat_of, sent_at, user_of
from qqvl_client.segments import segments_of, text_of
from qqvl_client.server_api import ServerApi, body_of, notice_for
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.relay")
REMEMBERED = 20_000


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
        self._lanes = Lanes()
        self._readings: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._noticed: dict[str, float] = {}
        self._clock = Clock()
        self._online = True
        self._closed = False

    def resume(self) -> None:
        """Go on with what an earlier run left unfinished; look at the server meanwhile."""
        self._looking = asyncio.create_task(self._server.look(), name="look at the server")
        entries = self._journal.unfinished()
        if entries:
            LOG.info("上次还有 %d 条消息没处理完，现在接着处理", len(entries))
        for entry in entries:
            if time.time() - entry.taken_at > self._settings.journal_keep_h * 3600:
                self._journal.done(entry.id)
                continue
            late = time.time() - entry.sent_at > self._settings.max_age_s
            if entry.state in ("taken", "ready") and late and not entry.context_only:
                self._journal.only_context(entry.id)
            self._remember(entry.chat, entry.message_id)
            self._enqueue(self._journal.entry(entry.id), resumed=True)

    def take(self, event: Mapping[str, Any]) -> None:
        """Accept one event of any kind. Never blocks and never raises for what is in the event."""
        if self._journal.is_closed:
            return
        try:
            self._take(event)
        # The line's edge: an event nobody foresaw must not end the loop that receives all others.
        except Exception:
            LOG.exception("收到一个没法处理的事件，略过")

    async def close(self) -> None:
        """Finish what is in flight within the grace period; the rest stays in the journal."""
        self._closed = True
        await self._lanes.close(self._settings.stop_grace_s)
        ending = [*self._readings, *([self._looking] if self._looking else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._server.aclose()
        await self._pictures.aclose()
        left = len(self._journal.unfinished())
        if left:
            LOG.warning("停止时还有 %d 条消息没答完，已记下，下次启动接着处理", left)
        self._journal.close()

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event.get("post_type")
        if kind == "message":
            self._take_message(event)
        elif kind == "meta_event":
            self._take_meta(event)
        elif kind == "notice" and event.get("notice_type") == "bot_offline":
            LOG.error("QQ 账号已掉线：%s，请到 NapCat 重新登录", text_of(event.get("message"))[:200])

    def _take_message(self, event: Mapping[str, Any]) -> None:
        chat = chat_of(event)
        if chat is None:
            LOG.warning("收到一条看不出来自哪里的消息，略过")
            return
        message_id = text_of(event.get("message_id"))
        if user_of(event) == chat.self_id:
            return
        if not self._remember(chat, message_id):
            LOG.info("重复的消息 %s（%s），不再处理", message_id, chat.key)
            return
        stale = self._clock.age(sent_at(event)) > self._settings.max_age_s
        entry_id = self._journal.take(chat, message_id, sent_at(event), stale, event)
        if entry_id is None:
            LOG.info("重复的消息 %s（%s），上次运行时已收下", message_id, chat.key)
            return
        LOG.info("收到 %s 的消息 %s%s", chat.key, message_id, "（太旧，只作历史）" if stale else "")
        self._enqueue(self._journal.entry(entry_id))

    def _remember(self, chat: Chat, message_id: str) -> bool:
        """Note a message down; false when it was noted before."""
        key = (chat.key, message_id)
        if message_id and key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _take_meta(self, event: Mapping[str, Any]) -> None:
        self._clock.note(event.get("time"))
        status = event.get("status")
        online = status.get("online") if isinstance(status, Mapping) else None
        if isinstance(online, bool) and online != self._online:
            self._online = online
            if online:
                LOG.info("QQ 账号已上线")
            else:
                LOG.error("QQ 账号已掉线，请看 NapCat")

    def _enqueue(self, entry: Entry, resumed: bool = False) -> None:
        """Read the message at once (picture links expire), answer it when its turn comes."""
        if self._closed:
            return
        reading: asyncio.Task[None] | None = None
        if entry.state == "taken":
            reading = asyncio.create_task(self._read(entry, resumed), name=f"read {entry.id}")
            self._readings.add(reading)
            reading.add_done_callback(self._readings.discard)
        self._lanes.put(entry.chat.key, lambda: self._answer(entry, reading))

    async def _read(self, entry: Entry, resumed: bool) -> None:
        if resumed:
            # Right after a start there is no line yet, and every lookup would come back empty-handed.
            await self._onebot.wait_up(entry.chat.self_id)
        try:
            message = await self._reader.read(entry.chat, entry.event, entry.context_only)
        # The reader's edge: whatever odd shape broke it, the words must still get through.
        except Exception:
            LOG.exception("消息 %s 没能读全，只取文字", entry.message_id)
            message = bare_message(entry)
        if message.is_empty:
            LOG.info("消息 %s 里没有能处理的内容，略过", entry.message_id)
            self._journal.done(entry.id)
            return
        # Picture bodies are megabytes: written from a thread, kept on disk until their turn.
        await asyncio.to_thread(lambda: self._journal.ready(entry.id, body_of(message)))
        LOG.debug("消息 %s 已读好，图片 %d 张", entry.message_id, len(message.pictures))

    async def _answer(self, entry: Entry, reading: asyncio.Task[None] | None) -> None:
        if reading:
            await asyncio.shield(reading)
            if self._journal.entry(entry.id).state == "done":
                return
        if entry.state != "answered":
            texts = await self._ask(entry)
            self._journal.answered(entry.id, texts)
        if not entry.context_only:
            await self._outbox.deliver(self._journal.entry(entry.id))
        self._journal.done(entry.id)

    async def _ask(self, entry: Entry) -> tuple[str, ...]:
        body = await asyncio.to_thread(self._journal.body, entry.id)
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
        if not self._settings.notices or not addressed(entry) or now < quiet_until:
            return ()
        self._noticed = {key: until for key, until in self._noticed.items() if until > now}
        self._noticed[entry.chat.key] = now + self._settings.notice_gap_s
        return (notice_for(error),)


class Clock:
    """How far the OneBot side's clock is from ours; heartbeats tell, and the freshest of them is right."""

    def __init__(self) -> None:
        self._behind: float | None = None

    def note(self, stamp: Any) -> None:
        if isinstance(stamp, int | float) and stamp > 0:
            behind = time.time() - sent_at({"time": stamp})
            self._behind = behind if self._behind is None else min(self._behind, behind)

    def age(self, stamp: float) -> float:
        return time.time() - stamp - (self._behind or 0.0)


def addressed(entry: Entry) -> bool:
    """Whether the sender meant the bot, and so deserves to hear that it failed."""
    if entry.context_only or entry.chat.kind == "private":
        return not entry.context_only
    ats = (s.data.get("qq") for s in segments_of(entry.event) if s.type == "at")
    return any(text_of(qq) == entry.chat.self_id for qq in ats)


def bare_message(entry: Entry) -> IncomingMessage:
    """The least a message can be read as."""
    event = entry.event
    raw = event.get("raw_message")
    return IncomingMessage(
        chat=entry.chat,
        message_id=entry.message_id,
        user_id=user_of(event),
        nickname="",
        card="",
        group_name=text_of(event.get("group_name")),
        content=raw if isinstance(raw, str) else "[读不出的消息]",
        pictures=(),
        segments=(),
        at_me=False,
        quote=None,
        sent_at=entry.sent_at,
        sub_type=text_of(event.get("sub_type")),
        context_only=entry.context_only,
    )

"""Sends written replies: paced, in order, each part once, waiting for the line when it is down."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from qqvl_client.entries import Entry
from qqvl_client.errands import Errands
from qqvl_client.errors import ActionRefusedError, ActionUnsureError, LineDownError, LineError
from qqvl_client.journal import Journal
from qqvl_client.message import ChatMessage
from qqvl_client.onebot import OneBot
from qqvl_client.reply import as_segments, parts_of
from qqvl_client.segments import text_of
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.outbox")
RECORD_TRIES = 5


class Pace:
    """Keeps the account's sends apart: bursts are what gets accounts frozen."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._next = 0.0

    async def turn(self) -> None:
        now = time.monotonic()
        mine = max(now, self._next)
        self._next = mine + self._gap_s * random.uniform(1, 1.5)
        await asyncio.sleep(mine - now)


class Outbox:
    """Delivers the texts of an answered entry."""

    def __init__(self, settings: Settings, onebot: OneBot, journal: Journal, errands: Errands) -> None:
        self._settings = settings
        self._onebot = onebot
        self._journal = journal
        self._errands = errands
        self._pace = Pace(settings.send_gap_s)

    async def deliver(self, entry: Entry) -> None:
        """Send what is left of an entry's reply; gives up with a log line, never with an exception."""
        parts, left_out = parts_of(entry.texts, self._settings.max_text_chars, self._settings.parts_per_reply)
        if left_out:
            LOG.warning("给 %s 的回复太长，后面 %d 个字没有发", entry.chat.key, left_out)
        try:
            async with asyncio.timeout(self._settings.send_within_s):
                for number in range(entry.next_part, len(parts)):
                    if entry.context_only:
                        LOG.info("消息 %s（%s）撤回了，不再答它", entry.message_id, entry.chat.key)
                        return
                    entry = await self._part(entry, number, parts[number])
        except TimeoutError:
            LOG.error("线路断开太久，给 %s 的回复没能发出", entry.chat.key)
        except ActionRefusedError as error:
            LOG.error("给 %s 的回复被拒绝：%s", entry.chat.key, error)

    async def _part(self, entry: Entry, number: int, text: str) -> Entry:
        if number:
            await asyncio.sleep(self._settings.part_gap_s * random.uniform(1, 1.5))
        quote_id = entry.message_id if self._quotes(entry, number) else ""
        sent_id: str | None = None
        if not (entry.part_open and number == entry.next_part):
            sent_id = await self._send(entry, number, text, quote_id)
        if sent_id is None:
            sent_id = await self._found(entry, text, bool(quote_id))
        if sent_id is None:
            LOG.warning("聊天记录里没有刚才那条回复，再发一次")
            sent_id = await self._send(entry, number, text, "")
        entry, report = await self._journal.delivered(entry, number + 1, sent_id or "")
        if report:
            self._errands.put(report)
        return entry

    def _quotes(self, entry: Entry, number: int) -> bool:
        return self._settings.quote_in_groups and entry.chat.kind == "group" and number == 0

    async def _send(self, entry: Entry, number: int, text: str, quote_id: str) -> str | None:
        """Hand one part to the line, waiting for it; returns QQ's id, or None when nobody knows whether it arrived."""
        while True:
            await self._onebot.wait_up(entry.chat.self_id)
            await self._pace.turn()
            await self._journal.opened(entry, number, is_open=True)
            try:
                return await self._onebot.send(entry.chat, as_segments(text, quote_id))
            except LineDownError:
                await self._journal.opened(entry, number, is_open=False)
                await asyncio.sleep(self._settings.reconnect_base_s)
            except ActionUnsureError as error:
                LOG.warning("给 %s 的回复发送结果不明：%s", entry.chat.key, error)
                return None
            except ActionRefusedError:
                if not quote_id:
                    raise
                LOG.warning("带引用的回复被拒绝，改为不带引用")
                quote_id = ""

    async def _found(self, entry: Entry, text: str, quoted: bool) -> str | None:
        """The id of our answer in QQ's own record, empty when nobody can look; None only when the record shows the
        question and, after it, not our answer."""
        # A half-open line answers nothing until its pings have told: asking must outlast that, and one line more.
        until = time.monotonic() + 2 * (self._settings.ping_interval_s + self._settings.ping_timeout_s)
        tries = 0
        while tries < RECORD_TRIES or time.monotonic() < until:
            tries += 1
            await asyncio.sleep(self._settings.verify_wait_s)
            await self._onebot.wait_up(entry.chat.self_id)
            try:
                record = await self._onebot.recent(entry.chat)
            except ActionRefusedError as error:
                LOG.info("这个 OneBot 实现查不了聊天记录：%s", error)
                break
            except LineError as error:
                LOG.info("聊天记录没有查到：%s", error)
            else:
                return _answer_in(record, entry, text, quoted)
        LOG.warning("核对不了给 %s 的回复是否已发出，当作已发出，不重发", entry.chat.key)
        return ""


def _answer_in(record: list[ChatMessage], entry: Entry, text: str, quoted: bool) -> str | None:
    """Our answer's id in a chat record, None when it lacks it and can be believed: it has the question."""
    mine = (message for message in record if message.sender.id == entry.chat.self_id)
    if entry.message_id:
        for message in mine:
            if _is_answer(message, entry.message_id, text, quoted):
                return message.id
    believable = entry.message_id and any(message.id == entry.message_id for message in record)
    return None if believable else ""


def _is_answer(message: ChatMessage, asked_id: str, text: str, quoted: bool) -> bool:
    target = next((text_of(s.data.get("id")) for s in message.segments if s.type == "reply"), "")
    if quoted and target:
        return target == asked_id
    said = "".join(text_of(s.data.get("text")) for s in message.segments if s.type == "text")
    return said.strip() == text.strip()

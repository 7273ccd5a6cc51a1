"""Sends written replies: paced, in order, each part once, waiting for the line when it is down."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from qqvl_client.entries import Entry
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

    def __init__(self, settings: Settings, onebot: OneBot, journal: Journal) -> None:
        self._settings = settings
        self._onebot = onebot
        self._journal = journal
        self._pace = Pace(settings.send_gap_s)

    async def deliver(self, entry: Entry) -> None:
        """Send what is left of an entry's reply; gives up with a log line, never with an exception."""
        parts, left_out = parts_of(entry.texts, self._settings.max_text_chars, self._settings.parts_per_reply)
        if left_out:
            LOG.warning("给 %s 的回复太长，后面 %d 个字没有发", entry.chat.key, left_out)
        try:
            async with asyncio.timeout(self._settings.send_within_s):
                for number in range(entry.next_part, len(parts)):
                    entry = await self._part(entry, number, parts[number])
        except TimeoutError:
            LOG.error("线路断开太久，给 %s 的回复没能发出", entry.chat.key)
        except ActionRefusedError as error:
            LOG.error("给 %s 的回复被拒绝：%s", entry.chat.key, error)

    async def _part(self, entry: Entry, number: int, text: str) -> Entry:
        if number:
            await asyncio.sleep(self._settings.part_gap_s * random.uniform(1, 1.5))
        may_be_there = entry.part_open and number == entry.next_part
        quote_id = entry.message_id if self._quotes(entry, number) else ""
        if not may_be_there:
            may_be_there = await self._send(entry, number, text, quote_id)
        if may_be_there and not await self._seems_delivered(entry, text, bool(quote_id)):
            LOG.warning("聊天记录里没有刚才那条回复，再发一次")
            await self._send(entry, number, text, "")
        return await self._journal.part(entry, number + 1, is_open=False)

    def _quotes(self, entry: Entry, number: int) -> bool:
        return self._settings.quote_in_groups and entry.chat.kind == "group" and number == 0

    async def _send(self, entry: Entry, number: int, text: str, quote_id: str) -> bool:
        """Hand one part to the line, waiting for it; true when nobody knows whether it arrived."""
        while True:
            await self._onebot.wait_up(entry.chat.self_id)
            await self._pace.turn()
            await self._journal.part(entry, number, is_open=True)
            try:
                await self._onebot.send(entry.chat, as_segments(text, quote_id))
                return False
            except LineDownError:
                await self._journal.part(entry, number, is_open=False)
                await asyncio.sleep(self._settings.reconnect_base_s)
            except ActionUnsureError as error:
                LOG.warning("给 %s 的回复发送结果不明：%s", entry.chat.key, error)
                return True
            except ActionRefusedError:
                if not quote_id:
                    raise
                LOG.warning("带引用的回复被拒绝，改为不带引用")
                quote_id = ""

    async def _seems_delivered(self, entry: Entry, text: str, quoted: bool) -> bool:
        """False only when QQ's own record shows the question and, after it, not our answer."""
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
                return not _missing(record, entry, text, quoted)
        LOG.warning("核对不了给 %s 的回复是否已发出，当作已发出，不重发", entry.chat.key)
        return True


def _missing(record: list[ChatMessage], entry: Entry, text: str, quoted: bool) -> bool:
    """Whether a chat record that can be believed (it has the question) lacks our answer to it."""
    if not entry.message_id or not any(message.id == entry.message_id for message in record):
        return False
    mine = (message for message in record if message.sender.id == entry.chat.self_id)
    return not any(_is_answer(message, entry.message_id, text, quoted) for message in mine)


def _is_answer(message: ChatMessage, asked_id: str, text: str, quoted: bool) -> bool:
    target = next((text_of(s.data.get("id")) for s in message.segments if s.type == "reply"), "")
    if quoted and target:
        return target == asked_id
    said = "".join(text_of(s.data.get("text")) for s in message.segments if s.type == "text")
    return said.strip() == text.strip()

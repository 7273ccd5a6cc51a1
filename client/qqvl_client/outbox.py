"""Sends written replies: paced, in order, each part once, waiting for the line when it is down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from qqvl_client.entries import Entry
from qqvl_client.errands import Errands
from qqvl_client.errors import ActionRefusedError, ActionUnsureError, LineDownError, LineError
from qqvl_client.figures import Figures
from qqvl_client.journal import Journal
from qqvl_client.message import Chat, ChatMessage
from qqvl_client.onebot import OneBot
from qqvl_client.outgoing import Outgoing, to_segments
from qqvl_client.pacing import Pace
from qqvl_client.pieces import Pieces
from qqvl_client.reply import parts_of, split
from qqvl_client.segments import FORWARDS, text_of
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.outbox")
RECORD_TRIES = 5


class Outbox:
    """Delivers an entry's answer, as it is written or when it is whole."""

    def __init__(
        self, settings: Settings, onebot: OneBot, journal: Journal, errands: Errands, figures: Figures
    ) -> None:
        self._settings = settings
        self._onebot = onebot
        self._journal = journal
        self._errands = errands
        self._figures = figures
        self._pace = Pace(settings)

    async def deliver(self, entry: Entry, pieces: Pieces, answer: asyncio.Future[Entry]) -> None:
        """Send what is left of an entry's answer; gives up with a log line, never with an exception.

        Args:
            pieces: what the server has finished of it so far.
            answer: done when it is whole, or called off.
        """
        try:
            while not answer.done():
                await pieces.more(answer)
                parts, _ = self._parts(pieces.messages)
                # The last one allowed says what is left out, which is not known yet.
                entry = await self._send_all(entry, parts[: self._settings.parts_per_reply - 1])
            if answer.cancelled() or answer.result().context_only:
                return
            parts, left_out = self._parts(answer.result().messages)
            if left_out:
                LOG.warning("给 %s 的回复太长，后面 %d 个字没有发", entry.chat.key, left_out)
            await self._send_all(entry, parts)
        except TimeoutError:
            self._figures.sends.labels("late").inc()
            LOG.error("线路断开太久，给 %s 的回复没能发出", entry.chat.key, extra={"facts": entry.facts})
        except ActionRefusedError as error:
            self._figures.sends.labels("refused").inc()
            LOG.error("给 %s 的回复被拒绝：%s", entry.chat.key, error, extra={"facts": entry.facts})

    async def say(self, chat: Chat, text: str) -> None:
        """Something of the client's own, once; a failure is a log line."""
        try:
            async with asyncio.timeout(self._settings.send_within_s):
                await self._onebot.wait_up(chat.self_id)
                await self._pace.turn(chat.key)
                await self._onebot.send(chat, to_segments(Outgoing(text), "", ""))
        except (LineError, TimeoutError) as error:
            LOG.warning("没能告诉 %s：%s", chat.key, error or "线路断开太久")

    def _parts(self, messages: Sequence[Outgoing]) -> tuple[list[Outgoing], int]:
        return parts_of(messages, self._settings.max_text_chars, self._settings.parts_per_reply)

    async def _send_all(self, entry: Entry, parts: Sequence[Outgoing]) -> Entry:
        async with asyncio.timeout(self._settings.send_within_s):
            for number in range(entry.next_part, len(parts)):
                if entry.context_only:
                    LOG.info("消息 %s（%s）撤回了，不再答它", entry.message_id, entry.chat.key)
                    break
                entry = await self._part(entry, number, parts[number])
        return entry

    async def _part(self, entry: Entry, number: int, part: Outgoing) -> Entry:
        await self._pace.type(part.text, time.time() - entry.taken_at, is_first=number == 0)
        quote_id = entry.message_id if self._quotes(entry, number, part) else ""
        sent_id: str | None = None
        if not (entry.part_open and number == entry.next_part):
            sent_id = await self._send(entry, number, part, quote_id)
        if sent_id is None:
            sent_id = await self._found(entry, part, bool(quote_id))
        if sent_id is None:
            LOG.warning("聊天记录里没有刚才那条回复，再发一次")
            sent_id = await self._send(entry, number, part, "")
        entry, report = await self._journal.delivered(entry, number + 1, sent_id or "")
        self._figures.sent(entry.taken_at, is_first=number == 0)
        facts = entry.facts | {"part": number + 1, "sent_id": sent_id or "", "reply": part.text}
        LOG.info(
            "消息 %s（%s）的回复已发出，第 %d 条", entry.message_id, entry.chat.key, number + 1, extra={"facts": facts}
        )
        if report:
            self._errands.put(report)
        return entry

    def _quotes(self, entry: Entry, number: int, part: Outgoing) -> bool:
        wanted = self._settings.quote_in_groups and entry.chat.kind == "group" and number == 0
        return wanted and not part.nodes and not part.has("reply")

    def _at(self, entry: Entry, number: int, part: Outgoing) -> str:
        wanted = self._settings.at_asker and entry.chat.kind == "group" and number == 0
        return entry.event.sender.id if wanted and not part.has("at") else ""

    async def _send(self, entry: Entry, number: int, part: Outgoing, quote_id: str) -> str | None:
        """Hand one part to the line, waiting for it; returns QQ's id, or None when nobody knows whether it arrived."""
        while True:
            await self._onebot.wait_up(entry.chat.self_id)
            await self._pace.turn(entry.chat.key)
            await self._journal.opened(entry, number, is_open=True)
            try:
                if part.nodes:
                    return await self._onebot.send_record(entry.chat, part.nodes)
                return await self._onebot.send(entry.chat, to_segments(part, quote_id, self._at(entry, number, part)))
            except LineDownError:
                await self._journal.opened(entry, number, is_open=False)
                await asyncio.sleep(self._settings.reconnect_base_s)
            except ActionUnsureError as error:
                self._figures.sends.labels("unsure").inc()
                LOG.warning("给 %s 的回复发送结果不明：%s", entry.chat.key, error, extra={"facts": entry.facts})
                return None
            except ActionRefusedError:
                if part.nodes:
                    LOG.warning("这个 OneBot 实现发不了合并转发，改为文字")
                    part = Outgoing(next(split(part.text, self._settings.max_text_chars)))
                elif quote_id or part.has("reply"):
                    LOG.warning("带引用的回复被拒绝，改为不带引用")
                    quote_id, part = "", part.without("reply")
                else:
                    raise

    async def _found(self, entry: Entry, part: Outgoing, quoted: bool) -> str | None:
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
                return _answer_in(record, entry, part, quoted)
        LOG.warning("核对不了给 %s 的回复是否已发出，当作已发出，不重发", entry.chat.key)
        return ""


def _answer_in(record: list[ChatMessage], entry: Entry, part: Outgoing, quoted: bool) -> str | None:
    """Our answer's id in a chat record, None when it lacks it and can be believed: it has the question."""
    mine = (message for message in record if message.sender.id == entry.chat.self_id)
    if entry.message_id:
        for message in mine:
            if _is_answer(message, entry.message_id, part, quoted):
                return message.id
    believable = entry.message_id and any(message.id == entry.message_id for message in record)
    return None if believable else ""


def _is_answer(message: ChatMessage, asked_id: str, part: Outgoing, quoted: bool) -> bool:
    if part.nodes:
        return any(segment.type in FORWARDS for segment in message.segments)
    if quoted and message.quoted_id:
        return message.quoted_id == asked_id
    said = "".join(text_of(s.data.get("text")) for s in message.segments if s.type == "text")
    return said.strip() == part.text.strip()

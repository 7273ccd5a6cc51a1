"""What was said while the line was down: pulled from QQ's own record once it stands again."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass

from qqvl_client.entries import Seen
from qqvl_client.errors import LineError
from qqvl_client.journal import Journal
from qqvl_client.message import Chat, ChatMessage, LineUp, MessageEvent
from qqvl_client.onebot import OneBot
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.catching_up")
CHATS = 50
PARALLEL = 8


@dataclass(frozen=True, slots=True)
class MissedLine:
    """A line nobody reported; `asks` when it means the bot and the record shows no answer to it."""

    event: MessageEvent
    asks: bool


class CatchingUp:
    """Asks for the record of every chat heard lately. A line that was taken after all is the journal's to know."""

    def __init__(self, settings: Settings, onebot: OneBot, journal: Journal) -> None:
        self._settings = settings
        self._onebot = onebot
        self._journal = journal
        self._slots = asyncio.Semaphore(PARALLEL)

    async def missed(self, line: LineUp) -> list[MissedLine]:
        """Each chat's lines between its newest known one and the line's return, in order.

        Events wait meanwhile: it never takes long.
        """
        seen = [one for one in await self._journal.seen() if one.chat.self_id == line.self_id][:CHATS]
        if not seen or not self._settings.catch_up:
            return []
        # Some stamps are whole seconds, others are not.
        until = line.stamp + 1 if line.stamp else math.inf
        asking = [asyncio.create_task(self._of(one, until), name=f"catch up {one.chat.key}") for one in seen]
        try:
            await asyncio.wait(asking, timeout=self._settings.lookup_timeout_s)
        finally:
            for task in asking:
                task.cancel()
        done = [task for task in asking if task.done() and not task.cancelled()]
        if len(done) < len(seen):
            LOG.info("断线期间的消息没有问全：%d 个聊天里有 %d 个没有应答", len(seen), len(seen) - len(done))
        return [line for task in done for line in task.result()]

    async def _of(self, seen: Seen, until: float) -> list[MissedLine]:
        try:
            async with self._slots:
                record = await self._onebot.recent(seen.chat)
        except LineError as error:
            LOG.debug("%s 的聊天记录没有查到：%s", seen.chat.key, error)
            return []
        mine = [message for message in record if message.sender.id == seen.chat.self_id]
        own_ids, answered = {message.id for message in mine}, {message.quoted_id for message in mine}
        found = []
        for message in record:
            event = _event_of(seen.chat, message)
            if event and seen.sent_at <= event.sent_at <= until and event.sender.id != seen.chat.self_id:
                asks = event.is_addressed or message.quoted_id in own_ids - {""}
                found.append(MissedLine(event, asks and message.id not in answered))
        return found


def _event_of(chat: Chat, message: ChatMessage) -> MessageEvent | None:
    """The event as it would have been reported; nothing without an id and a time, by which it is known again."""
    if not (message.id and message.sent_at):
        return None
    return MessageEvent(chat, message.id, message.sender, message.sent_at, message.segments)

"""The relay: takes events, asks the chat server, sends what it answers. Knows no framework and no raw frame."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

from qqvl_client.admissions import Admissions
from qqvl_client.asking import Asker, Turn
from qqvl_client.catching_up import CatchingUp
from qqvl_client.clock import Clock
from qqvl_client.entries import Entry, identity_of
from qqvl_client.errands import Errands
from qqvl_client.figures import Figures
from qqvl_client.images import PictureFetcher
from qqvl_client.intake import Arrival, Intake, crowd
from qqvl_client.journal import Journal
from qqvl_client.lanes import Lanes
from qqvl_client.ledger import Draft
from qqvl_client.message import AccountOffline, Application, Event, Heartbeat, LineUp, MessageEvent, Recall
from qqvl_client.notes import describe
from qqvl_client.onebot import Link, OneBot
from qqvl_client.outbox import Outbox
from qqvl_client.reading import Reader
from qqvl_client.segments import is_unfinished
from qqvl_client.server_api import ServerApi
from qqvl_client.settings import Settings
from qqvl_client.watching import Watch

LOG = logging.getLogger("qqvl.relay")
ERRANDS_GRACE_S = 1
MANY = 50
"""A batch larger than this is one line in the log."""


class Relay:
    """Everything between the line to QQ and the chat server. Build it inside the running loop."""

    def __init__(self, settings: Settings, link: Link, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._onebot = OneBot(link, settings)
        figures = self._figures = Figures()
        figures.watch(lambda: journal.open_count, lambda: link.is_up(""))
        self._pictures = PictureFetcher(settings)
        self._server = ServerApi(settings)
        reader = Reader(settings, self._onebot, self._pictures)
        self._asker = Asker(settings, self._onebot, reader, self._server, journal, figures)
        self._errands = Errands(settings, self._onebot, self._server, journal)
        self._outbox = Outbox(settings, self._onebot, journal, self._errands, figures)
        self._admissions = Admissions(settings, self._onebot, journal, self._outbox)
        self._watch = Watch(settings, link, self._onebot, self._server, self._outbox, figures)
        self._catching_up = CatchingUp(settings, self._onebot, journal)
        self._intake = Intake(self._admit)
        most = settings.posts_per_chat
        self._lanes: Lanes[Turn, Entry] = Lanes(self._asker.begin, self._end, most, _begun, _is_passed)
        self._readings: set[asyncio.Task[Entry | None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._recalling: set[asyncio.Task[None]] = set()
        self._clock = Clock()
        self._online = True
        self._closed = False
        self._sealed = False
        """Nothing more is written down."""

    def resume(self) -> None:
        """Go on with what an earlier run left unfinished; look at the server meanwhile."""
        self._looking = asyncio.create_task(self._server.look(), name="look at the server")
        self._watch.start()
        self._figures.listen(self._settings)
        errands = self._journal.errands
        self._admissions.resume([errand for errand in errands if errand.kind == "application"])
        for errand in errands:
            if errand.kind != "application":
                self._errands.put(errand)
        entries = self._journal.unfinished
        if entries:
            LOG.info("上次还有 %d 条消息没处理完，现在接着处理", len(entries))
        for entry in entries:
            self._enqueue(entry, resumed=True)

    def take(self, event: Event | None) -> None:
        """Accept one event of any kind. Never blocks and never raises for what is in the event."""
        self._watch.heard(event)
        match event:
            case MessageEvent():
                self._intake.put(event)
            case LineUp():
                self._heard(Heartbeat(event.stamp, None))
                self._intake.put(event)
            case Recall() if not self._sealed:
                recalling = asyncio.create_task(self._errands.recalled(event), name="recall")
                self._recalling.add(recalling)
                recalling.add_done_callback(self._recalling.discard)
            case Application() if not self._closed:
                self._admissions.take(event)
            case Heartbeat():
                self._heard(event)
            case AccountOffline():
                LOG.error("QQ 账号已掉线：%s，请到 NapCat 重新登录", event.reason)

    async def aclose(self) -> None:
        """Finish what is in flight within the grace period; the rest stays in the journal."""
        self._closed = True
        await self._watch.aclose()
        await self._lanes.close(self._settings.stop_grace_s)
        ending = [*self._readings, *([self._looking] if self._looking else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._intake.aclose()
        self._sealed = True
        await asyncio.gather(*self._recalling, return_exceptions=True)
        await self._admissions.aclose()
        await self._errands.aclose(ERRANDS_GRACE_S)
        await self._server.aclose()
        await self._pictures.aclose()
        await asyncio.to_thread(self._figures.close)
        if left := self._journal.open_count:
            LOG.warning("停止时还有 %d 条消息没答完，已记下，下次启动接着处理", left)
        await self._journal.aclose()

    async def _admit(self, arrivals: Sequence[Arrival]) -> None:
        """Write a batch down and give every message of it its turn; what was missed before it comes first."""
        events = [event for event in arrivals if isinstance(event, MessageEvent)]
        drafts = [self._draft(event) for event in events if self._is_heard(event)]
        for line_up in (event for event in arrivals if isinstance(event, LineUp)):
            missed = await self._catching_up.missed(line_up)
            # What was said after the line stood is in the record too, and is reported besides.
            reported = {identity_of(event) for event in self._intake.waiting() if isinstance(event, MessageEvent)}
            reported |= {identity_of(event) for event in events}
            fresh = [line for line in missed if identity_of(line.event) not in reported and self._is_heard(line.event)]
            drafts = [*(self._draft(line.event, only_context=not line.asks) for line in fresh), *drafts]
        await self._take_down(await self._thinned(drafts))

    async def _take_down(self, drafts: list[Draft]) -> None:
        entries = await self._journal.take(drafts)
        if len(drafts) > MANY:
            LOG.info("一下子收到 %d 条消息", len(drafts))
        level = logging.DEBUG if len(drafts) > MANY else logging.INFO
        for draft, entry in zip(drafts, entries, strict=True):
            where, name = draft.event.chat.key, draft.event.id
            if entry is None:
                self._figures.messages.labels("repeat").inc()
                LOG.log(level, "重复的消息 %s（%s），不再处理", name, where)
                continue
            self._figures.messages.labels("context" if entry.context_only else "ask").inc()
            facts = entry.facts | {"text": "".join(map(describe, entry.event.segments))}
            note = "（只作历史）" if entry.context_only else ""
            LOG.log(level, "收到 %s 的消息 %s%s", where, name, note, extra={"facts": facts})
            if self._admissions.is_word(entry.event):
                await self._journal.done([entry.id])
                self._admissions.obey(entry.event)
            else:
                self._enqueue(entry)

    def _is_heard(self, event: MessageEvent) -> bool:
        """Not ourselves; and strangers who write through a group as the owner wants."""
        if event.sender.id == event.chat.self_id:
            return False
        is_stranger = event.is_temporary and event.sender.id not in self._settings.owners
        if is_stranger and not self._settings.answer_temporary:
            LOG.info("不理会 %s 的群临时会话", event.chat.key)
            return False
        return True

    def _draft(self, event: MessageEvent, only_context: bool = False) -> Draft:
        age = self._clock.age(event.sent_at)
        calls = self._settings.poke_calls and event.poked_id == event.chat.self_id
        only_context = only_context or (bool(event.poked_id) and not calls)
        return Draft(event, time.time() - max(age, 0.0), only_context or age > self._settings.max_age_s)

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
            turn.reading = asyncio.create_task(self._asker.read(entry, resumed), name=f"read {entry.id}")
            self._readings.add(turn.reading)
            turn.reading.add_done_callback(self._readings.discard)
        self._lanes.put(entry.chat.key, turn)

    async def _end(self, turn: Turn, answer: asyncio.Future[Entry]) -> None:
        await self._outbox.deliver(turn.entry, turn.pieces, answer)
        await asyncio.wait([answer])
        if not answer.cancelled():
            await self._journal.done([turn.entry.id])


async def _begun(turn: Turn, answer: asyncio.Future[Entry]) -> None:
    await turn.pieces.begun(answer)


def _is_passed(turn: Turn) -> bool:
    """The server waits for what else its speaker will say, and answers others meanwhile: they are not to wait here."""
    return is_unfinished(turn.entry.event.segments)


def _event_of(one: Turn | Draft) -> MessageEvent:
    return one.entry.event if isinstance(one, Turn) else one.event

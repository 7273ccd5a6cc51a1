"""Messages come in, answers go out: each message takes its place in its chat's lane, and lanes make turns of them.

Knows lanes, turns and the store; no HTTP, no SQL, no torch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Final

from qqvl_server.chat import arrivals, commanding, policy, stopping
from qqvl_server.chat.arrivals import Interruption, Line
from qqvl_server.chat.commanding import Commander
from qqvl_server.chat.decision import Decision, Reason
from qqvl_server.chat.gate.weights import Gate
from qqvl_server.chat.ledger import Ledger
from qqvl_server.chat.loops import Exchanges
from qqvl_server.chat.message import Answer, ChatKey, Incoming, StoredMessage
from qqvl_server.chat.outgoing.messages import Outgoing
from qqvl_server.chat.outgoing.telling import Telling
from qqvl_server.chat.personas import Personas
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.receiving import PictureBook, Receiver
from qqvl_server.chat.session import Arrival, Lane, Lanes, Turn
from qqvl_server.chat.speaking import Sent, cut_short, outgoing
from qqvl_server.chat.stopping import Endings, Stops
from qqvl_server.chat.store import ChatSummary, Store
from qqvl_server.chat.turn import SILENT, Turns
from qqvl_server.chat.unanswered import Unanswered
from qqvl_server.chat.window import Window
from qqvl_server.chat.words.blocking import Blocking
from qqvl_server.errors import DeadlineExceeded, Draining
from qqvl_server.generation.port import Voice
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings, GenerationSettings

# The voice ends by the same deadline; so much more is for its own, more exact error.
_GRACE_S: Final = 1
# Letters that are cut into messages without leaving the event loop.
_QUICKLY_CUT: Final = 4000
_LATE: Final = "这条消息等了太久，已放弃，请稍后再试"
_STOPPED: Final = "服务正在停止，这条消息没能答完，请稍后再试"


class ChatService:
    def __init__(
        self,
        store: Store,
        voice: Callable[[], Voice],
        pictures: PictureBook,
        settings: ChatSettings,
        generation: GenerationSettings,
        max_images: int,
        metrics: Metrics | None = None,
        personas: Personas | None = None,
        model: str = "",
        gate: Gate | None = None,
        words: Path | None = None,
    ) -> None:
        """``model``: the name told of what answers. ``gate``: calibrated for it. ``words``: where its lists are."""
        self._store, self._voice, self.books = store, voice, store.books
        known = personas or Personas()
        preferences = self.preferences = Preferences(store.books, known, settings, has_gate=gate is not None)
        self._timeout_s = generation.request_timeout_s
        meters = self._metrics = metrics or Metrics()
        receiver = self._receiver = Receiver(pictures, max_images)
        exchanges = self._exchanges = Exchanges()
        window = Window(store, pictures, preferences, generation)
        ledger = Ledger(store.books, voice)
        commander = Commander(store, voice, preferences, ledger, model)
        blocking = self._blocking = Blocking(settings, self._metrics, words)
        self._turns = Turns(
            store, voice, receiver, window, preferences, ledger, commander, blocking, exchanges, meters, gate
        )
        self.make_way = self._turns.idle.make_way
        self._lanes = Lanes(generation.max_pending)
        self.running_turns = self._lanes.turns
        self._unanswered = Unanswered()
        self._stops = Stops(commander.refusals, exchanges)
        self._endings = Endings(preferences, self._metrics)
        self._draining = False

    def heed(self, settings: ChatSettings) -> None:
        """Other settings than before, from now on. Raises ConfigError: a word list cannot be read; all stay."""
        self._blocking.heed(settings)
        self.preferences.heed(settings)

    async def handle(self, incoming: Incoming, chat_name: str) -> Answer:
        """Answer one message. The turn goes on when the caller hangs up, so that a retry finds its answer.

        Raises:
            InvalidRequest, CapacityError, GenerationFailed, EngineDead, StorageFailed
        """
        arrival = self._arrived(incoming, chat_name)
        return await (asyncio.shield(arrival.answer) if arrival is not None else self._stop(incoming, chat_name))

    async def stream(self, incoming: Incoming, chat_name: str) -> AsyncGenerator[Outgoing | Sent, None]:
        """As ``handle``: every element of what is to be sent as soon as it is finished, then the whole."""
        arrival = self._arrived(incoming, chat_name)
        told: list[Outgoing] = []
        if arrival is None:
            answer = await self._stop(incoming, chat_name)
        else:
            telling = arrival.telling = arrival.telling or Telling()
            async for element in telling.follow(arrival.answer):
                told.append(element)
                yield element
            answer = arrival.answer.result()
        whole = await self.outgoing(incoming, answer)
        if told and answer.reply == cut_short(told).reply:
            whole = tuple(told)
        # Of what ended otherwise than it began all is sent: the beginning was no answer.
        for element in whole[len(told) :] if tuple(told) == whole[: len(told)] else whole:
            yield element
        yield Sent(answer, whole)

    async def outgoing(self, incoming: Incoming, answer: Answer) -> tuple[Outgoing, ...]:
        """What to send for an answer, in order."""
        settings = self.preferences.of(incoming.chat)
        if len(answer.reply) <= _QUICKLY_CUT:
            return outgoing(incoming, answer, settings)
        return await asyncio.to_thread(outgoing, incoming, answer, settings)

    def _arrived(self, incoming: Incoming, chat_name: str) -> Arrival | None:
        """The message in its lane, where it may be already; None for a word that stops an answer."""
        if (running := self._unanswered.find(incoming)) is not None:
            return running
        if self._draining:
            raise Draining("服务正在停止，请稍后再试", retry_after=5)
        self._voice()  # refuses while the weights are still loading
        if self._is_stop(incoming):
            return None
        arrival = Arrival(incoming, chat_name, self._line(incoming), time.monotonic() + self._timeout_s)
        lane = self._lanes.enter(arrival)
        self._enter(arrival)
        if lane.worker is None:
            lane.worker = asyncio.create_task(self._work(incoming.chat, lane))
        elif lane.turn is not None:
            self._endings.said_more(lane, lane.turn)
        return arrival

    async def recall(self, chat: ChatKey, message_id: str) -> tuple[str, ...]:
        """A message left QQ: it leaves the history as well, and so does what answered it; an answer that is being
        made ends. Gives our own messages that are to be withdrawn.

        Raises:
            StorageFailed
        """
        lane = self._lanes.of(chat)
        meant = [a for a in lane or () if a.incoming.message_id == message_id and not a.is_settled]
        arrival = meant[-1] if meant else None
        if arrival is not None:
            arrival.is_recalled = True
            self._lanes.leave(arrival)
            if lane is not None and lane.turn is not None and arrival in lane.turn.members:
                self._endings.end(lane.turn, Interruption.RECALL)
        self._turns.idle.make_way(chat)
        try:
            coming = await self._receiver.identified(arrival.incoming) if arrival is not None else None
            recalled = await self._store.recall(chat, message_id, coming)
        finally:
            if arrival is not None:
                arrival.settle(SILENT)
        return recalled.withdraw if self.preferences.of(chat).withdraw_replies == "on" else ()

    async def sent(self, chat: ChatKey, message_id: str, ids: Sequence[str]) -> tuple[str, ...]:
        """QQ took our answer to a message and named it; gives what is to be withdrawn at once: the message has left.

        Raises:
            StorageFailed
        """
        self._exchanges.delivered(chat, time.time())
        self._metrics.sent.inc(len(ids))
        withdraw = await self._store.sent(chat, message_id, ids)
        return withdraw if self.preferences.of(chat).withdraw_replies == "on" else ()

    def _line(self, incoming: Incoming) -> Line:
        case = self.preferences.case(incoming)
        return Line(
            incoming.speaker.id,
            time.monotonic(),
            joins=not (incoming.is_bare or policy.command(case) is not None),
            asks=policy.decide(case).speak,
            unfinished=policy.is_unfinished(incoming, case.settings),
            to_other=incoming.to_other and not incoming.at_me,
        )

    def _enter(self, arrival: Arrival) -> None:
        """Note a message until it is answered, or too late."""
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self._timeout_s + _GRACE_S, self._too_late, arrival)
        arrival.answer.add_done_callback(lambda _: alarm.cancel())
        self._unanswered.add(arrival)

    def _too_late(self, arrival: Arrival) -> None:
        lane = self._lanes.of(arrival.incoming.chat)
        if lane is None or lane.turn is None or arrival not in lane.turn.members:
            self._lanes.leave(arrival)
        elif time.monotonic() >= lane.turn.deadline:
            # Its members are told once the voice is free.
            lane.turn.give_up()
            return
        arrival.fail(DeadlineExceeded(_LATE, retry_after=5))

    async def _work(self, chat: ChatKey, lane: Lane) -> None:
        """Make turns of what waits in a lane until nothing does."""
        try:
            while lane.waiting:
                lines = [arrival.line for arrival in lane.waiting]
                places = arrivals.next_turn(lines, time.monotonic(), self.preferences.of(chat).merge_wait_s)
                if isinstance(places, tuple):
                    await self._run(lane.begin(chat, places))
                    lane.end()
                else:
                    await lane.news(places)
        except asyncio.CancelledError:
            for arrival in lane:
                arrival.fail(Draining(_STOPPED, retry_after=5))
        finally:
            self._lanes.close(chat)

    async def _run(self, turn: Turn) -> None:
        turn.task = asyncio.create_task(self._store.alone(turn.chat, lambda: self._turns.run(turn)))
        try:
            await turn.task
        except asyncio.CancelledError:
            if not turn.is_given_up:
                raise
            for arrival in turn.members:
                arrival.fail(DeadlineExceeded(_LATE, retry_after=5))
        except Exception as error:
            # A turn's edge: what broke it is its callers' to hear; the chat goes on.
            for arrival in turn.members:
                arrival.fail(error)

    def _is_stop(self, incoming: Incoming) -> bool:
        given = None if incoming.is_bare else policy.command(self.preferences.case(incoming))
        return given is not None and given.name == "stop"

    async def _stop(self, incoming: Incoming, chat_name: str) -> Answer:
        """End the answer that is being made: at once, and not behind it."""
        earlier = self._stops.find(incoming)
        if earlier is not None:
            return earlier
        told = await self._stops.told(self.preferences.case(incoming), self._stopped(incoming))
        answer = Answer(told, should_reply=bool(told), reason=Reason.COMMAND)
        self._stops.keep(incoming, answer)
        if not incoming.chat.is_trial:
            self._metrics.decisions.labels(Reason.COMMAND).inc()
        await self._store.add_command(incoming.chat, chat_name, await self._receiver.identified(incoming), answer)
        await self._store.books.note(incoming.chat, incoming.message_id, Decision(True, Reason.COMMAND))
        return answer

    def _stopped(self, incoming: Incoming) -> str:
        """What is told to whoever said stop, once it is done."""
        lane = self._lanes.of(incoming.chat)
        turn = lane.turn if lane is not None else None
        refused = stopping.refusal(incoming, self.preferences.of(incoming.chat), turn)
        if refused is not None or turn is None:
            return refused or commanding.NOTHING_TO_STOP
        return commanding.STOPPED if self._endings.end(turn, Interruption.STOP) else commanding.NOTHING_TO_STOP

    @property
    def is_draining(self) -> bool:
        return self._draining

    async def chats(self) -> tuple[ChatSummary, ...]:
        return await self._store.chats()

    async def messages(self, chat: ChatKey, *, before: int | None, limit: int) -> tuple[StoredMessage, ...] | None:
        return await self._store.messages(chat, before=before, limit=limit)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, give running turns ``grace_s`` seconds, then end them with an error."""
        self._draining = True
        await self._turns.idle.aclose()
        workers = [lane.worker for lane in self._lanes if lane.worker is not None]
        for lane in self._lanes:
            # Nobody's next can come any more.
            lane.hurry()
        if workers:
            _, late = await asyncio.wait(workers, timeout=grace_s)
            for worker in late:
                worker.cancel()
            if late:
                await asyncio.wait(late, timeout=5)
        self._receiver.close()

"""One lane per chat: its messages are handled in the order they arrived; other chats go on beside it.

Places are bounded and shared fairly: when all are taken, a message of a chat that has fewer than another pushes out
the newest waiting one of the chat that has most (longest queue drop, as fair routers do; Suter et al., INFOCOM 1998).
So the share of a chat is what the others leave, down to places ÷ chats, and no setting has to guess it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from dataclasses import replace

from qqvl_server.chat.arrivals import Interruption, Line
from qqvl_server.chat.decision import Decision, Effort
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, ChatKey, Incoming, StoredMessage
from qqvl_server.chat.outgoing.messages import Outgoing
from qqvl_server.chat.outgoing.telling import Telling
from qqvl_server.errors import Busy, QqvlError

_RETRY_S = 2


class Arrival:
    """A message from its arrival to its answer: what is known of it so far, and who waits for what comes of it.

    ``came_at`` is in seconds since the epoch, ``deadline`` a ``time.monotonic`` instant. ``begun`` counts the turns
    it was part of; ``stored``, ``warnings`` and ``decision`` are what the first of them found.
    """

    def __init__(self, incoming: Incoming, chat_name: str, line: Line, deadline: float) -> None:
        self.incoming = incoming
        self.chat_name = chat_name
        self.line = line
        self.deadline = deadline
        self.came_at = time.time()
        self.begun = 0
        self.is_recalled = False
        self.identity: Identity | None = None
        self.stored: StoredMessage | None = None
        self.warnings: tuple[str, ...] = ()
        self.decision: Decision | None = None
        # Nobody called us, but the model may be asked whether to join in.
        self.may_join = False
        # Whom its answer is told as it grows; None while all wait for the whole.
        self.telling: Telling | None = None
        # What is told at most once in a while to who is not answered.
        self.notice: str | None = None
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        # A caller that hung up awaits no more; without this an error would be reported as never retrieved.
        self.answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    @property
    def is_settled(self) -> bool:
        return self.answer.done()

    @property
    def told(self) -> list[Outgoing]:
        """What of its answer is out already."""
        return self.telling.told if self.telling is not None else []

    def settle(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def share(self, same: Arrival) -> None:
        """It is the same message as another that came before, and is told the same."""

        def told(done: asyncio.Future[Answer]) -> None:
            error = done.exception()
            if error is not None:
                self.fail(error)
            else:
                self.settle(done.result())

        same.answer.add_done_callback(told)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Turn:
    """The messages that are answered together, and the model's speaking, which may be ended before it is whole."""

    def __init__(self, chat: ChatKey, members: list[Arrival]) -> None:
        self.chat = chat
        self.members = members
        self.ended_by: Interruption | None = None
        self.effort: Effort | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_given_up = False
        # The message whose answer the model is saying.
        self.speaks_for: Arrival | None = None
        # Somebody said more since it began; and whether that ends it, because nobody had asked for it.
        self.is_overtaken = False
        self.yields = False
        self._changed = asyncio.Event()
        self._speaking: asyncio.Task[Answer] | None = None
        self._is_over = False

    @property
    def deadline(self) -> float:
        return max(member.deadline for member in self.members)

    @property
    def is_out(self) -> bool:
        """Whether a part of its answer was told."""
        return self.speaks_for is not None and bool(self.speaks_for.told)

    def interrupt(self, reason: Interruption) -> bool:
        """End the turn at the next token; False when its answer is whole, or it was ended before.

        Nor does what others say end what is half said.
        """
        is_half_said = self.is_out and reason in (Interruption.FOLLOW_UP, Interruption.NEWER_TALK)
        if self._is_over or self.ended_by is not None or is_half_said:
            return False
        self.ended_by = reason
        self._changed.set()
        if self._speaking is not None:
            self._speaking.cancel()
        return True

    def overtake(self) -> bool:
        """Somebody said more; whether that ends what the model is doing."""
        self.is_overtaken = True
        self._changed.set()
        return self.yields and self.interrupt(Interruption.NEWER_TALK)

    async def is_quiet_until(self, instant: float) -> bool:
        """Whether nobody says more, and nothing ends the turn, before a ``time.monotonic`` instant."""
        if not (self.is_overtaken or self.ended_by is not None):
            try:
                async with asyncio.timeout(max(instant - time.monotonic(), 0)):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return not (self.is_overtaken or self.ended_by is not None)

    def give_up(self) -> None:
        """All of its messages are too late to be answered."""
        self.is_given_up = True
        if self.task is not None:
            self.task.cancel()

    async def spoken(self, speaking: asyncio.Task[Answer]) -> Answer | None:
        """What ``speaking`` gives; None when the turn was ended before."""
        self._speaking = speaking
        if self.ended_by is not None:
            speaking.cancel()
        try:
            answer = await speaking
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.ended_by is None or (current is not None and current.cancelling()):
                raise
            return None
        except QqvlError:
            if self.ended_by is None:
                raise
            return None
        if self.ended_by is not None:
            return None
        self._is_over = True
        return answer


class Lane:
    """``waiting`` is in the order of arrival; ``turn`` is what runs. ``changed`` is set when there is news."""

    def __init__(self) -> None:
        self.waiting: list[Arrival] = []
        self.turn: Turn | None = None
        self.changed = asyncio.Event()
        self.worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self.waiting) + (len(self.turn.members) if self.turn else 0)

    def __iter__(self) -> Iterator[Arrival]:
        yield from self.turn.members if self.turn else ()
        yield from self.waiting

    def begin(self, chat: ChatKey, places: tuple[int, ...]) -> Turn:
        members = [self.waiting[place] for place in places]
        for member in members:
            member.begun += 1
        self.waiting = [arrival for place, arrival in enumerate(self.waiting) if place not in set(places)]
        self.turn = Turn(chat, members)
        return self.turn

    def end(self) -> None:
        """The turn is over; what it left unanswered waits again, before all others."""
        turn, self.turn = self.turn, None
        if turn is not None:
            self.waiting[:0] = [m for m in turn.members if not m.is_settled and not m.is_recalled]

    def hurry(self) -> None:
        """Nothing waits for company any more."""
        for arrival in self.waiting:
            arrival.line = replace(arrival.line, came_at=-math.inf)
        self.changed.set()

    async def news(self, until: float) -> None:
        """Wait for a change, or the ``time.monotonic`` instant."""
        self.changed.clear()
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                await self.changed.wait()
        except TimeoutError:
            return


class Lanes:
    """``most`` places for all chats together. A lane exists only while it has a message, so memory does not grow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lanes: dict[ChatKey, Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        yield from tuple(self._lanes.values())

    def of(self, chat: ChatKey) -> Lane | None:
        return self._lanes.get(chat)

    def turns(self) -> tuple[Turn, ...]:
        """Those that run now."""
        return tuple(lane.turn for lane in self._lanes.values() if lane.turn is not None)

    def enter(self, arrival: Arrival) -> Lane:
        """Take the next place of a chat's lane; blocks nothing.

        Raises:
            Busy: all places are taken, and no chat has more than one more than this.
        """
        chat = arrival.incoming.chat
        if sum(map(len, self._lanes.values())) >= self._most:
            self._make_room(chat)
        lane = self._lanes.setdefault(chat, Lane())
        lane.waiting.append(arrival)
        lane.changed.set()
        return lane

    def leave(self, arrival: Arrival) -> None:
        """Give up a place that waits; one whose turn runs is given back with it."""
        lane = self._lanes.get(arrival.incoming.chat)
        if lane is not None and arrival in lane.waiting:
            lane.waiting.remove(arrival)
            lane.changed.set()

    def close(self, chat: ChatKey) -> None:
        self._lanes.pop(chat, None)

    def _make_room(self, newcomer: ChatKey) -> None:
        longest = max(self._lanes.values(), key=len)
        own = self._lanes.get(newcomer)
        waiting = [arrival for arrival in longest.waiting if not arrival.begun]
        # With one more it would only trade places; a turn that has begun is never ended.
        if len(longest) < max((len(own) if own else 0) + 2, 2) or not waiting:
            raise Busy("排队的消息太多了，请稍后再试", retry_after=_RETRY_S)
        self.leave(waiting[-1])
        waiting[-1].fail(Busy("这个会话排队的消息太多了，请稍后再试", retry_after=_RETRY_S))

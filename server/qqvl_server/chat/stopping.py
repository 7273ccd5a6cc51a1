"""What ends the answer that is being made, who may, and what was told to those who did."""

from __future__ import annotations

from typing import Final

from qqvl_server.chat import arrivals, commanding, commands, policy
from qqvl_server.chat.arrivals import Interruption
from qqvl_server.chat.loops import Exchanges, Heard
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming
from qqvl_server.chat.notices import Notices
from qqvl_server.chat.policy import Case
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.session import Lane, Turn
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings

# So many are known again when they are sent again.
_MOST: Final = 1000
_REFUSALS: Final = frozenset({commanding.STOP_REFUSED, *commanding.REFUSED.values()})


class Stops:
    """Known by id and time alone: a look into the database takes the model some tokens."""

    def __init__(self, refusals: Notices, exchanges: Exchanges) -> None:
        self._refusals = refusals
        self._exchanges = exchanges
        self._told: dict[tuple[ChatKey, str | None, float | None], Answer] = {}

    def find(self, incoming: Incoming) -> Answer | None:
        return None if incoming.message_id is None else self._told.get(_key(incoming))

    def keep(self, incoming: Incoming, answer: Answer) -> None:
        self._told[_key(incoming)] = answer
        if len(self._told) > _MOST:
            self._told.pop(next(iter(self._told)))

    async def told(self, case: Case, words: str) -> str:
        """What is said of it: refusals seldom, and nothing to a program that would stop us for ever.

        Raises:
            StorageFailed
        """
        incoming, sent_at = case.incoming, policy.sent_at(case)
        if incoming.chat.kind is ChatKind.GROUP:
            line = None if sent_at is None else Heard(incoming.speaker.id, case.now, sent_at)
            if self._exchanges.heard(incoming.chat, line, is_command=True):
                return ""
            self._exchanges.spoke(incoming.chat, case.now, on_command=True)
        if words in _REFUSALS and not await self._refusals.is_due(incoming.chat, incoming.speaker.id):
            return ""
        return words


class Endings:
    """Ends turns before they are over, and counts why."""

    def __init__(self, preferences: Preferences, metrics: Metrics) -> None:
        self._preferences = preferences
        self._metrics = metrics

    def said_more(self, lane: Lane, turn: Turn) -> None:
        """A newer message waits than those whose turn runs."""
        if turn.overtake():
            self._count(turn, Interruption.NEWER_TALK)
        elif self._is_followed_up(lane, turn):
            self.end(turn, Interruption.FOLLOW_UP)

    def end(self, turn: Turn, reason: Interruption) -> bool:
        """Whether it ended; ``Turn.interrupt`` says when not."""
        ended = turn.interrupt(reason)
        if ended:
            self._count(turn, reason)
        return ended

    def _is_followed_up(self, lane: Lane, turn: Turn) -> bool:
        running = [arrival for arrival in turn.members if not arrival.is_settled]
        restarts = max((arrival.begun for arrival in running), default=1) - 1
        lines = [arrival.line for arrival in lane.waiting]
        wait_s = self._preferences.of(turn.chat).merge_wait_s
        return arrivals.interrupts([a.line for a in running], restarts, lines, wait_s)

    def _count(self, turn: Turn, reason: Interruption) -> None:
        self._metrics.interruptions.labels(reason).inc()
        logger().debug("回答停下", chat=str(turn.chat), reason=reason.value)


def refusal(incoming: Incoming, settings: ChatSettings, turn: Turn | None) -> str | None:
    """Why a word that stops ends nothing; None where it may end ``turn``, which is there then."""
    role, least = commands.role_of(incoming, settings), commands.needed(commands.BY_WORD["stop"], settings)
    if role < least:
        return commanding.REFUSED[least]
    if turn is not None and turn.yields:
        # Nobody had asked for it.
        return None
    asked = {a.line.speaker for a in turn.members if not a.is_settled and a.line.asks} if turn is not None else set()
    if not asked:
        return commanding.NOTHING_TO_STOP
    if role < commands.Role.ADMIN and incoming.speaker.id not in asked:
        return commanding.STOP_REFUSED
    return None


def _key(incoming: Incoming) -> tuple[ChatKey, str | None, float | None]:
    return incoming.chat, incoming.message_id, incoming.sent_at

"""Whether the bot joins a talk that nobody called it into, and what it then says. Knows gate, window and voice; no SQL.

The model is asked once a burst of talk is over, by one forward over the new lines and the question: nothing is
generated. Whoever is addressed goes first, and anybody's next line ends it, asking or speaking.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qqvl_server.chat import policy
from qqvl_server.chat.decision import Decision, Reason
from qqvl_server.chat.gate import features
from qqvl_server.chat.gate.question import CANDIDATES, asked, log_odds
from qqvl_server.chat.gate.weights import Gate
from qqvl_server.chat.message import Answer, ChatKey, StoredMessage
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.session import Arrival, Turn
from qqvl_server.chat.speaking import Speaking
from qqvl_server.chat.store import Store
from qqvl_server.chat.window import Window
from qqvl_server.generation.port import GenerationRequest, Sampling, Thinking, Urgency, Voice
from qqvl_server.observe.metrics import Metrics

PAUSE_S: Final = 1.5
"""A burst is over when nobody has said more for so long."""
# So long before its end the question is made ready: most of a burst's lines are followed by another sooner.
_READY_S: Final = 0.4
# What is decided later comes too late in a talk.
_LATE_S: Final = 20
_NOTHING: Final = Answer("", should_reply=False, reason=Reason.SILENT)


@dataclass(frozen=True, slots=True)
class Question:
    """Ready to be asked: what costs the machine nothing but reading. ``took_s`` is what that took."""

    request: GenerationRequest
    activity: dict[str, float]
    took_s: float


class Asker:
    """The gate's own question, asked of the voice."""

    def __init__(self, gate: Gate, voice: Callable[[], Voice], window: Window, store: Store) -> None:
        self._gate = gate
        self._voice = voice
        self._window = window
        self._store = store

    async def question(self, chat: ChatKey, last: StoredMessage, names: tuple[str, ...], deadline: float) -> Question:
        """On what was said up to ``last``; ``names`` are the bot's. Raises as the voice and the store."""
        began = time.perf_counter()
        shown = await self._window.messages(self._voice(), chat, last)
        lines = await self._store.messages(chat, before=last.seq + 1, limit=features.LOOK_BACK) or (last,)
        request = GenerationRequest(
            f"gate-{uuid.uuid4().hex}",
            asked(shown),
            Sampling(1),
            min(deadline, time.monotonic() + _LATE_S),
            owner=str(chat),
            urgency=Urgency.ACTIVE_SPEECH,
            thinking=Thinking(enabled=False),
        )
        activity = features.activity(lines, names)
        return Question(request, activity, time.perf_counter() - began)

    async def verdict(self, question: Question) -> Decision:
        """Raises as the voice."""
        began = time.perf_counter()
        told = log_odds(await self._voice().score(question.request, CANDIDATES))
        odds = self._gate.odds({features.LOG_ODDS: told, **question.activity})
        speaks = odds >= self._gate.threshold
        cost_ms = (time.perf_counter() - began + question.took_s) * 1000
        return Decision(speaks, Reason.SMART if speaks else Reason.SILENT, odds, cost_ms)


class Joining:
    """``asker`` is None where no gate was calibrated for the loaded model; nothing is ever joined then."""

    def __init__(self, asker: Asker | None, speaking: Speaking, preferences: Preferences, metrics: Metrics) -> None:
        self._asker = asker
        self._speaking = speaking
        self._preferences = preferences
        self._metrics = metrics

    async def question(self, turn: Turn, arrival: Arrival, last: StoredMessage) -> Question | None:
        """Wait for the end of the burst; None when it goes on, or there is nothing to decide any more.

        Raises: as the voice and the store.
        """
        assert self._asker is not None
        ends = arrival.line.came_at + PAUSE_S
        if not await turn.is_quiet_until(ends - _READY_S):
            return None
        names = policy.names(arrival.incoming, self._preferences.of(turn.chat))
        question = await self._asker.question(turn.chat, last, names, turn.deadline)
        return question if await turn.is_quiet_until(ends) else None

    async def said(self, turn: Turn, arrival: Arrival, last: StoredMessage, question: Question) -> Answer:
        """What the bot says of itself after ``last``, mostly nothing; the arrival has the decision then.

        Raises: as the voice and the store.
        """
        assert self._asker is not None
        arrival.decision = await self._asker.verdict(question)
        if arrival.decision.score is not None:
            self._metrics.gate_score.observe(arrival.decision.score)
        if not arrival.decision.speak:
            return _NOTHING
        return await self._speaking.ask(turn, arrival, last, Urgency.ACTIVE_SPEECH)

"""What becomes of the paged engine's items: a reply's go into its channel, candidates' scores are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from qqvl_server.engine.steps.batch import Chosen
from qqvl_server.engine.steps.jobs import Ended
from qqvl_server.engine.steps.jobs import Item as EngineItem
from qqvl_server.engine.steps.request import FinishReason as EngineFinish
from qqvl_server.engine.steps.request import Request
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import FinishReason
from qqvl_server.generation.replies.channel import End, Item, LikelyToken, Scores, TokenChannel

_REASONS: Final = {
    EngineFinish.STOP: FinishReason.STOP,
    EngineFinish.LENGTH: FinishReason.LENGTH,
    EngineFinish.ABORTED: FinishReason.STOP,
}

Delivery = tuple[TokenChannel, Item]


class EngineSink(Protocol):
    def is_abandoned(self) -> bool: ...

    def take(self, item: EngineItem) -> Delivery | None:
        """On the engine's thread: what to hand up, if anything."""
        ...


class ReplySink:
    def __init__(self, channel: TokenChannel, request: Request) -> None:
        self._channel = channel
        self._request = request
        self.priority = request.priority

    def is_abandoned(self) -> bool:
        return self._channel.is_abandoned()

    def take(self, item: EngineItem) -> Delivery:
        self._channel.cached_tokens = self._request.cached or 0
        if isinstance(item, Chosen):
            told = item.token if item.logprob is None else LikelyToken(item.token, item.logprob, item.top)
            return self._channel, told
        if isinstance(item, Ended):
            return self._channel, End(_REASONS[item.reason], item.cached, item.stop_token)
        return self._channel, item


class Scoring:
    """Puts the candidates' scores together; the first error ends all of them."""

    def __init__(self, channel: TokenChannel, candidates: int) -> None:
        self._channel = channel
        self._missing = candidates
        self._scores = [0.0] * candidates
        self._over = False

    def is_abandoned(self) -> bool:
        return self._over or self._channel.is_abandoned()

    def take(self, places: Sequence[int], item: EngineItem) -> Delivery | None:
        if self._over:
            return None
        if isinstance(item, QqvlError):
            self._over = True
            return self._channel, item
        if isinstance(item, Ended):
            known = len(item.scores) - len(places)
            beginning = sum(item.scores[:known])
            for place, last in zip(places, item.scores[known:], strict=True):
                self._scores[place] = beginning + last
            self._missing -= len(places)
            if not self._missing:
                return self._channel, Scores(tuple(self._scores))
        return None


class CandidateSink:
    """Of the candidates at ``places``, which differ in their last token alone."""

    def __init__(self, scoring: Scoring, places: Sequence[int]) -> None:
        self._scoring = scoring
        self._places = places

    def is_abandoned(self) -> bool:
        return self._scoring.is_abandoned()

    def take(self, item: EngineItem) -> Delivery | None:
        return self._scoring.take(self._places, item)


class IdleSink:
    """Nobody waits for idle prefill; what goes wrong with it goes unheard."""

    def __init__(self) -> None:
        self.over = False

    def is_abandoned(self) -> bool:
        return self.over

    def take(self, item: EngineItem) -> None:
        self.over = True

"""An answer's choices, from the engine's items to text events. Knows ids and text; no threads, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from qqvl_server.errors import GenerationFailed, QqvlError
from qqvl_server.generation.events import SpeechEvent
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    Reasoning,
    Sampling,
    TextDelta,
    TextEvent,
    TokenLogprob,
    ToolCallArguments,
    Usage,
)
from qqvl_server.generation.replies.channel import End, Item, LikelyToken, Scores, TokenChannel
from qqvl_server.generation.replies.detokenize import TokenDecoder
from qqvl_server.generation.replies.speech import Speech
from qqvl_server.generation.replies.stops import StopTexts


class Reply:
    """``spell`` gives a token's bytes; ``finished`` is set once the reply has ended.

    ``speech`` reads what the text means; None tells it as it is.
    """

    def __init__(
        self,
        choice: int,
        decoder: TokenDecoder,
        spell: Callable[[int], bytes],
        sampling: Sampling,
        prompt_tokens: int,
        speech: Speech | None = None,
    ) -> None:
        self._choice = choice
        self._decoder = decoder
        self._spell = spell
        self._stops = StopTexts(sampling.stop)
        self._at_least = sampling.min_new_tokens
        self._prompt_tokens = prompt_tokens
        self._speech = speech
        self._made = self._reasoned = 0
        self._spelt = self._told = 0
        # Tokens whose text is not out yet, each with where its text starts and ends in the reply; those in the
        # middle of a character wait apart until it is whole.
        self._pending: deque[tuple[int, int, TokenLogprob]] = deque()
        self._halves: list[TokenLogprob] = []
        self.cached_tokens = 0
        self.finished = False

    def take(self, item: int | LikelyToken | End) -> Iterator[TextEvent]:
        if isinstance(item, End):
            self.cached_tokens = item.cached_tokens
            yield from self._delta(self._stops.flush(), whole=True)
            yield self._finish(item.reason, item.stop_token)
            return
        self._made += 1
        text = self._decoder.push(item if isinstance(item, int) else item.token)
        if isinstance(item, LikelyToken):
            self._halves.append(self._logprob(item))
        self._place(text)
        free, stop = self._stops.push(text, may_end=self._made > self._at_least)
        thinking = self._speech is not None and self._speech.thinking
        yield from self._delta(free, ended=stop is not None)
        # The tokens of its marks are no thought.
        if thinking and self._speech is not None and self._speech.thinking:
            self._reasoned += 1
        if stop is not None:
            yield self._finish(FinishReason.STOP, stop)

    def _place(self, text: str) -> None:
        if text:
            start, self._spelt = self._spelt, self._spelt + len(text)
            self._pending.extend((start, self._spelt, token) for token in self._halves)
            self._halves.clear()

    def _delta(self, text: str, *, ended: bool = False, whole: bool = False) -> Iterator[SpeechEvent]:
        """``ended`` when a stop cut the text here; ``whole`` when the reply is over without one."""
        self._told += len(text)
        tokens: list[TokenLogprob] = []
        while self._pending:
            start, end, token = self._pending[0]
            if end > self._told and not (ended and start < self._told) and not whole:
                break
            tokens.append(token)
            self._pending.popleft()
        if whole:
            tokens += self._halves
        speech = self._speech
        if speech is None:
            if text or tokens:
                yield TextDelta(text, self._choice, tuple(tokens))
            return
        if text or tokens:
            yield from speech.push(text, tokens)
        if ended or whole:
            yield from speech.finish()
        if not speech.has_thought and not speech.thinking:
            self._reasoned = 0
        if speech.plain:
            self._speech = None

    def _finish(self, reason: FinishReason, stopped_by: str | int | None) -> Finished:
        self.finished = True
        usage = Usage(self._prompt_tokens, self._made, self.cached_tokens, self._reasoned)
        return Finished(reason, usage, self._choice, stopped_by)

    def _logprob(self, item: LikelyToken) -> TokenLogprob:
        top = tuple(TokenLogprob(token, self._spell(token), logprob) for token, logprob in item.top)
        return TokenLogprob(item.token, self._spell(item.token), item.logprob, top)


class Choices:
    """All choices of one answer, each fed by its own channel, which is given up once its reply has ended."""

    def __init__(self, replies: Sequence[Reply], channels: Sequence[TokenChannel]) -> None:
        self._replies = replies
        self._channels = channels

    @property
    def finished(self) -> bool:
        return all(reply.finished for reply in self._replies)

    def take(self, items: Iterable[tuple[int, Item]]) -> Iterator[TextEvent]:
        """What came at once, told at once: pieces of one text that are next to each other are told as one.

        Raises:
            QqvlError: the engine's, in place of an item.
        """
        held: TextEvent | None = None
        for choice, item in items:
            # A stop text may have ended a reply while the engine was a token further.
            for event in () if self._replies[choice].finished else self._told(choice, item):
                joined = held and _joined(held, event)
                if held is not None and joined is None:
                    yield held
                held = joined or event
        if held is not None:
            yield held

    def _told(self, choice: int, item: Item) -> Iterator[TextEvent]:
        reply, channel = self._replies[choice], self._channels[choice]
        if isinstance(item, QqvlError):
            raise item
        if isinstance(item, Scores):
            raise GenerationFailed("模型出错，这条消息没能回答，请重试")
        reply.cached_tokens = channel.cached_tokens
        yield from reply.take(item)
        if reply.finished:
            channel.abandon()


def _joined(held: TextEvent, event: TextEvent) -> TextEvent | None:
    """Both as one; None where they are not of one text."""
    if held.choice != event.choice:
        return None
    if isinstance(held, TextDelta) and isinstance(event, TextDelta):
        return replace(held, text=held.text + event.text, tokens=held.tokens + event.tokens)
    if isinstance(held, Reasoning) and isinstance(event, Reasoning) and not event.retracts:
        return replace(held, text=held.text + event.text, tokens=held.tokens + event.tokens)
    if isinstance(held, ToolCallArguments) and isinstance(event, ToolCallArguments) and held.index == event.index:
        return replace(held, text=held.text + event.text, tokens=held.tokens + event.tokens)
    return None

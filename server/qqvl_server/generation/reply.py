"""One choice of an answer, from the engine's items to text events. Knows ids and text; no threads, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from qqvl_server.generation.channel import End, LikelyToken
from qqvl_server.generation.detokenize import TokenDecoder
from qqvl_server.generation.port import Finished, FinishReason, Sampling, TextDelta, TextEvent, TokenLogprob, Usage
from qqvl_server.generation.stops import StopTexts


class Reply:
    """``spell`` gives a token's bytes; ``finished`` is set once the reply has ended."""

    def __init__(
        self, choice: int, decoder: TokenDecoder, spell: Callable[[int], bytes], sampling: Sampling, prompt_tokens: int
    ) -> None:
        self._choice = choice
        self._decoder = decoder
        self._spell = spell
        self._stops = StopTexts(sampling.stop)
        self._at_least = sampling.min_new_tokens
        self._prompt_tokens = prompt_tokens
        self._made = 0
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
        yield from self._delta(free, ended=stop is not None)
        if stop is not None:
            yield self._finish(FinishReason.STOP, stop)

    def _place(self, text: str) -> None:
        if text:
            start, self._spelt = self._spelt, self._spelt + len(text)
            self._pending.extend((start, self._spelt, token) for token in self._halves)
            self._halves.clear()

    def _delta(self, text: str, *, ended: bool = False, whole: bool = False) -> Iterator[TextDelta]:
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
        if text or tokens:
            yield TextDelta(text, self._choice, tuple(tokens))

    def _finish(self, reason: FinishReason, stopped_by: str | int | None) -> Finished:
        self.finished = True
        usage = Usage(self._prompt_tokens, self._made, self.cached_tokens)
        return Finished(reason, usage, self._choice, stopped_by)

    def _logprob(self, item: LikelyToken) -> TokenLogprob:
        top = tuple(TokenLogprob(token, self._spell(token), logprob) for token, logprob in item.top)
        return TokenLogprob(item.token, self._spell(item.token), item.logprob, top)

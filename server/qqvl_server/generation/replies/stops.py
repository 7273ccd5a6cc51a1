"""Stop texts in a stream: they end it and never leak, however the stream is cut. Knows text only."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Holds back what may still become a stop text.

    The stop that is complete first wins; of several complete at once the longest. So the text that gets out does not
    depend on how it was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._matchers = [_Matcher(stop) for stop in sorted(set(stops), key=len, reverse=True) if stop]
        self._held = ""

    def push(self, text: str, *, may_end: bool = True) -> tuple[str, str | None]:
        """The text that is free to go, and the stop that ended it; ``may_end`` false lets complete stops pass."""
        if not self._matchers:
            return text, None
        waiting = self._held + text
        start = len(self._held)
        for position in range(start, len(waiting)):
            done = [m for m in self._matchers if m.feed(waiting[position])]
            if done and may_end:
                self._held = ""
                stop = done[0].text
                return waiting[: position + 1 - len(stop)], stop
        keep = max(matcher.matched for matcher in self._matchers)
        self._held = waiting[len(waiting) - keep :]
        return waiting[: len(waiting) - keep], None

    def flush(self) -> str:
        """What was held back for a stop that never came."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """Knuth, Morris and Pratt's automaton of one text: ``matched`` letters of it end the stream so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0] * len(text)
        for position in range(1, len(text)):
            self._fallback[position] = self._next(self._fallback[position - 1], text[position])

    def feed(self, letter: str) -> bool:
        """Whether ``letter`` completes the text; overlapping matches are found as well."""
        matched = self._next(self.matched, letter)
        complete = matched == len(self.text)
        self.matched = self._fallback[-1] if complete else matched
        return complete

    def _next(self, matched: int, letter: str) -> int:
        while matched and self.text[matched] != letter:
            matched = self._fallback[matched - 1]
        return matched + (self.text[matched] == letter)

"""What one person may be found by in what is kept: the QQ number, names that are nobody else's, and what was said.

Pure; no database, no files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ahocorasick_rs import AhoCorasick, BytesAhoCorasick, MatchKind

SOMEBODY: Final = "某人"
GONE: Final = "[已忘记]"
# Shorter ones are everybody's words: a name of one letter is found only where it is mentioned with an @.
_NAME: Final = 2
_TEXT: Final = 8


@dataclass(frozen=True, slots=True)
class Traces:
    person: str
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class Eraser:
    """Finds the traces of one person and writes something else in their place."""

    def __init__(self, traces: Traces) -> None:
        self.traces = traces
        self._number = re.compile(rf"(?<!\d){re.escape(traces.person)}(?!\d)")
        self._number_bytes = re.compile(rb"(?<!\d)" + re.escape(traces.person.encode()) + rb"(?!\d)")
        names = {name for name in traces.names if len(name) >= _NAME}
        names |= {f"@{name}" for name in traces.names if name}
        texts = {text for text in traces.texts if len(text) >= _TEXT}
        self._patterns = [*sorted(texts), *sorted(names - texts)]
        self._texts = len(texts)
        self._finder = AhoCorasick(self._patterns, matchkind=MatchKind.LeftmostLongest)
        written = {form for pattern in self._patterns for form in _forms(pattern)}
        self._bytes = BytesAhoCorasick(sorted(written)) if written else None

    def text(self, words: str) -> str:
        """``words`` without the person."""
        kept, end = [], 0
        for index, start, stop in self._finder.find_matches_as_indexes(words):
            if index >= self._texts and _is_inside_a_word(words, start, stop):
                continue
            at = "@" if words[start] == "@" else ""
            kept += [words[end:start], GONE if index < self._texts else at + SOMEBODY]
            end = stop
        return self._number.sub(SOMEBODY, "".join(kept) + words[end:])

    def value(self, value: Any) -> Any:
        """As ``text``, for every text in a value of JSON."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(one) for name, one in value.items()}
        if isinstance(value, int) and not isinstance(value, bool) and str(value) == self.traces.person:
            return 0
        return value

    def is_named_in(self, data: bytes) -> bool:
        """Whether these bytes hold a trace, as UTF-8 or as JSON writes it."""
        if self._number_bytes.search(data):
            return True
        return self._bytes is not None and any(
            not _is_inside_a_word(data, start, stop) for _, start, stop in self._bytes.find_matches_as_indexes(data)
        )


def _forms(pattern: str) -> Iterable[bytes]:
    yield pattern.encode("utf-8", "replace")
    yield json.dumps(pattern)[1:-1].encode()
    yield pattern.encode("unicode_escape")


def _is_inside_a_word(words: str | bytes, start: int, stop: int) -> bool:
    """Whether the match is a piece of a longer word of Latin letters or digits."""
    return _joins(words[start - 1 : start + 1]) or _joins(words[stop - 1 : stop + 1])


def _joins(pair: str | bytes) -> bool:
    return len(pair) == 2 and pair.isascii() and pair.isalnum()

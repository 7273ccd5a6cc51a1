"""Forced JSON that is near its token limit is brought to its end: cut in the middle it would be of no use to anybody.

Knows masks and token texts; no schema, no matcher.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qqvl_server.engine.steps.request import TokenMask

# What ends a string, an object, a list: where one of these may come, the value before it may end here. Space and line
# break are spelt as byte-level vocabularies do.
_CLOSING: Final = frozenset('"}]')
_BLANK: Final = "ĠĊ"
_PUNCTUATION: Final = ',"[{' + _BLANK
# Tokens that the rest of an object takes at least: its brackets and, for each required key, its name and quotes.
_MARGIN: Final = 24
_PER_KEY: Final = 16


@dataclass(frozen=True, slots=True)
class Closing:
    """Masks (words of 32, as in ``TokenMask``) of tokens that bring JSON nearer to its end.

    ``every`` end token and token that only closes something, ``quotes`` those of them that begin with one, ``commas``
    those that begin with a comma and hold no value; ``brackets`` are the tokens ``]`` and ``}``.
    """

    every: NDArray[np.int32]
    quotes: NDArray[np.int32]
    commas: NDArray[np.int32]
    brackets: tuple[int, ...]

    def of(self, allowed: NDArray[np.int32]) -> NDArray[np.int32]:
        """Which of ``allowed`` to choose from; empty if none of them helps."""
        closing = allowed & self.every
        # Where either bracket may come they are letters of a text, which only its quote ends.
        if self.brackets and all(allowed[token >> 5] >> (token & 31) & 1 for token in self.brackets):
            quotes = closing & self.quotes
            return quotes if quotes.any() else closing
        # A number before a key that must come ends with the comma alone.
        return closing if closing.any() else allowed & self.commas


def closing_tokens(vocabulary: Mapping[str, int], ends: Iterable[int], width: int) -> Closing:
    """``ends`` are the end tokens, ``width`` how many tokens a mask is over."""
    bits = np.zeros((3, -(-width // 32) * 32), dtype=np.uint8)
    for piece, token in vocabulary.items():
        text = piece.strip(_BLANK)
        bits[0, token] = text == "</tool_call>" or (bool(text) and _CLOSING.issuperset(text))
        bits[1, token] = bits[0, token] and piece.startswith('"')
        bits[2, token] = piece.startswith(",") and not text.strip(_PUNCTUATION)
    bits[0, [token for token in ends if token < width]] = 1
    every, quotes, commas = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    brackets = tuple(vocabulary[bracket] for bracket in "]}" if bracket in vocabulary)
    return Closing(every, quotes, commas, brackets)


def margin(schema: str) -> int:
    """Tokens to keep for the end of what ``schema`` (JSON, or a grammar that holds some) describes."""
    required = schema.count('"required"') and sum(len(names) for names in _required(schema))
    return _MARGIN + _PER_KEY * required


def _required(text: str) -> Iterable[list[Any]]:
    decoder = json.JSONDecoder()
    at = text.find('"required":')
    while at >= 0:
        start = text.find("[", at)
        try:
            names, _ = decoder.raw_decode(text, start)
        except ValueError:
            return
        if isinstance(names, list):
            yield names
        at = text.find('"required":', start)


class WrappingUp:
    """``TokenMask`` that lets only closing tokens through, where any may come, once ``room`` tokens are left."""

    def __init__(self, inner: TokenMask, closing: Closing, budget: int, room: int) -> None:
        self._inner = inner
        self._closing = closing
        self._left = budget
        # A small budget is not all for the end.
        self._room = min(room, budget // 2)

    def allowed(self) -> Sequence[int] | None:
        words = self._inner.allowed()
        if words is None or self._left > self._room:
            return words
        closing = self._closing.of(np.frombuffer(words, dtype=np.int32))  # type: ignore[call-overload]
        return closing.data if closing.any() else words

    def accept(self, token: int) -> None:
        self._left -= 1
        self._inner.accept(token)

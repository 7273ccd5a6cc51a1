"""Tokens of the candidates that prompts are scored with: mostly the same few, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_MOST: Final = 64

Spelled = list[tuple[int, ...]]


class Candidates:
    """``encode``: plain text to token ids, which may take a while."""

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        self._encode = encode
        self._known: dict[str, tuple[int, ...]] = {}

    def known(self, texts: Sequence[str]) -> Spelled | None:
        """None where one of them is new."""
        known = self._known
        return [known[text] for text in texts] if all(text in known for text in texts) else None

    def spelled(self, texts: Sequence[str]) -> Spelled:
        """Blocking."""
        found = [self._encode(text) for text in texts]
        known = {**self._known, **dict(zip(texts, found, strict=True))}
        self._known = known if len(known) <= _MOST else {}
        return found

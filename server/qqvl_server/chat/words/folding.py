"""Text as a word list compares it: letters and digits alone, in one width and one case. Pure."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Folded:
    """``letters`` of a text, ``places`` where each stands in it, ``gaps`` what was left out before each."""

    letters: str
    places: tuple[int, ...]
    gaps: tuple[str, ...]


def fold(text: str) -> Folded:
    letters: list[str] = []
    places: list[int] = []
    gaps: list[str] = []
    gap = ""
    for place, char in enumerate(text):
        folded = _letters(char)
        if not folded:
            gap += char
        for letter in folded:
            letters.append(letter)
            places.append(place)
            gaps.append(gap)
            gap = ""
    return Folded("".join(letters), tuple(places), tuple(gaps))


def literal(text: str) -> str:
    """In one width and one case, with all its signs: for words like ``C++``."""
    return unicodedata.normalize("NFKC", text).casefold()


@functools.lru_cache(maxsize=65536)
def _letters(char: str) -> str:
    """What is left of a character: nothing of white space, punctuation, marks and what nobody sees."""
    wide = unicodedata.normalize("NFKC", char).casefold()
    return "".join(_bare(letter) for letter in wide if unicodedata.category(letter)[0] in "LN")


def _bare(letter: str) -> str:
    """A Latin letter without its accent."""
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if base.isascii() and base.isalnum() else letter

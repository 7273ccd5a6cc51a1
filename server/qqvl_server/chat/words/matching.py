"""Which words of a list stand in a text, however it spaces, dresses or interleaves them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ahocorasick_rs import AhoCorasick

from qqvl_server.chat.words.folding import Folded, fold, literal

# What may stand between two letters of one word: more is two words.
_WIDEST_GAP: Final = 4


@dataclass(frozen=True, slots=True)
class Pattern:
    """``joints``: before which letters white space may stand by itself; ``bounded``: only as whole words."""

    letters: str
    joints: frozenset[int]
    bounded: bool


def patterns(word: str, spelt: Iterable[str] = ()) -> Iterator[Pattern]:
    """Of a word, and of its syllables in Latin letters, where they are given."""
    letters = fold(word).letters
    if letters:
        is_latin = letters.isascii()
        yield Pattern(letters, frozenset() if is_latin else frozenset(range(1, len(letters))), bounded=is_latin)
    syllables = [fold(syllable).letters for syllable in spelt]
    if len(syllables) > 1 and all(syllables):
        ends = [sum(map(len, syllables[:count])) for count in range(1, len(syllables))]
        yield Pattern("".join(syllables), frozenset(ends), bounded=True)


def is_literal(word: str) -> bool:
    """Whether its signs belong to it: without them it would be another word."""
    return not all(char.isalnum() or char.isspace() for char in literal(word))


class Matcher:
    """Args:
    words: each may be spaced out, interleaved with punctuation, in any width and case.
    spelt: syllables of some of the words.
    """

    def __init__(self, words: Iterable[str], spelt: dict[str, list[str]] | None = None) -> None:
        words = [word.strip() for word in words if word.strip()]
        self.words = tuple(dict.fromkeys(words))
        self._literal = tuple(literal(word) for word in self.words if is_literal(word))
        plain = [word for word in self.words if not is_literal(word)]
        found = [pattern for word in plain for pattern in patterns(word, (spelt or {}).get(word, ()))]
        self._patterns = tuple(dict.fromkeys(found))
        self._automaton = AhoCorasick([pattern.letters for pattern in self._patterns])
        self._begun = frozenset(p.letters[:size] for p in self._patterns for size in range(1, len(p.letters)))
        self._longest = max((len(p.letters) for p in self._patterns), default=0)

    def find(self, text: str) -> int | None:
        """Where the first hit begins; None where there is none."""
        hits = []
        if self._literal:
            as_written = literal(text)
            signs = [as_written.find(word) for word in self._literal]
            # In other letters places may differ: then it begins before all.
            hits += [at if len(as_written) == len(text) else 0 for at in signs if at >= 0]
        folded = fold(text)
        for number, start, end in self._automaton.find_matches_as_indexes(folded.letters, overlapping=True):
            if _is_one(folded, start, end, self._patterns[number]):
                hits.append(folded.places[start])
        return min(hits, default=None)

    def begun(self, text: str) -> int | None:
        """Where a word may have begun that goes on after the text."""
        folded = fold(text)
        for size in range(min(self._longest - 1, len(folded.letters)), 0, -1):
            if folded.letters[-size:] in self._begun:
                return folded.places[-size]
        as_written = literal(text)
        for word in self._literal:
            for size in range(min(len(word) - 1, len(as_written)), 0, -1):
                if as_written.endswith(word[:size]):
                    return max(len(text) - size, 0) if len(as_written) == len(text) else 0
        return None


def _is_one(folded: Folded, start: int, end: int, pattern: Pattern) -> bool:
    gaps = folded.gaps[start + 1 : end]
    if any(len(gap) > _WIDEST_GAP for gap in gaps):
        return False
    if not pattern.bounded:
        return True
    return _is_whole(folded, start, end) and (
        all(gaps) or all(place in pattern.joints or not any(map(str.isspace, gap)) for place, gap in enumerate(gaps, 1))
    )


def _is_whole(folded: Folded, start: int, end: int) -> bool:
    """Not a piece of a longer Latin word."""
    begins = start == 0 or bool(folded.gaps[start]) or not folded.letters[start - 1].isascii()
    ends = end == len(folded.letters) or bool(folded.gaps[end]) or not folded.letters[end].isascii()
    return begins and ends

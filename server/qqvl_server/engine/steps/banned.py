"""What a reply may never come to say, as automata over the bytes of its tokens (Aho and Corasick, CACM 1975).

A state is the longest end of the reply that begins a banned text. It knows the tokens that would bring one to its end,
and where each token leads, so that whoever draws needs no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MOST_AUTOMATA: Final = 2


@dataclass(frozen=True, eq=False, slots=True)
class Automaton:
    """``after`` is the state behind each token, wherever it is said; ``goes_on`` has those that depend on the state
    before it, by ``state * len(after) + token``. ``banned`` are the tokens that may not follow, by state."""

    start: int
    after: Sequence[int]
    goes_on: Mapping[int, int]
    banned: Sequence[Sequence[int]]

    def follow(self, state: int, tokens: Iterable[int]) -> int:
        """The state behind ``tokens``; one outside the vocabulary begins nothing."""
        for token in tokens:
            known = 0 <= token < len(self.after)
            state = self.goes_on.get(state * len(self.after) + token, self.after[token]) if known else 0
        return state


@dataclass(frozen=True, eq=False, slots=True)
class BannedTexts:
    """``never`` are tokens that are banned wherever they stand; of ``automata`` there are ``MOST_AUTOMATA`` at most."""

    never: tuple[int, ...]
    automata: tuple[Automaton, ...]

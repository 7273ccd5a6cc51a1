"""Words that a reply may not say become automata over a vocabulary's bytes, exact however a reply is cut into tokens.

Letters A to Z count as small ones. A word of Latin letters and digits is meant as a whole word: not ``ass`` in
``class``. What is said in other letters or with signs in between must be looked for in what is said.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Final

from qqvl_server.engine.steps.banned import Automaton, BannedTexts

_SMALL: Final = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
# All but letters and digits is one border, whatever it is; so is the beginning of a reply.
_BORDER: Final = b"\0"
_WHOLE: Final = bytes(byte if bytes([byte]).isalnum() and byte < 128 else 0 for byte in _SMALL)
# A word that ends in what begins half the vocabulary: whoever looks at what is said finds it all the same.
_MOST_BANNED: Final = 1024


class BadWords:
    """``spellings`` gives what each token spells, nothing for special ones; asked for once."""

    def __init__(self, spellings: Callable[[], Sequence[bytes]]) -> None:
        self._spellings = spellings
        self._spelt: Sequence[bytes] = ()
        self._made: tuple[tuple[str, ...], BannedTexts | None] = ((), None)

    def known(self, words: tuple[str, ...]) -> BannedTexts | None:
        """What bans ``words``, where it was made last."""
        made, banned = self._made
        return banned if words == made else None

    def banned(self, words: tuple[str, ...]) -> BannedTexts:
        """Blocking: looks at the whole vocabulary."""
        known = self.known(words)
        if known is not None:
            return known
        self._spelt = self._spelt or self._spellings()
        as_written = {word.encode().translate(_SMALL) for word in words if not _is_whole(word)}
        whole = {_BORDER + word.encode().translate(_WHOLE) for word in words if _is_whole(word)}
        never: set[int] = set()
        automata = []
        for texts, table, ends in ((as_written, _SMALL, False), (whole, _WHOLE, True)):
            if texts:
                spelt = [spelling.translate(table) for spelling in self._spelt]
                never |= _holding(texts, spelt, ends=ends)
                automata.append(_automaton(texts, spelt, start=_BORDER if ends else b"", ends=ends))
        made = BannedTexts(tuple(sorted(never)), tuple(automata))
        self._made = words, made
        return made


def _is_whole(word: str) -> bool:
    return word.isascii() and word.replace(" ", "").isalnum()


def _holding(texts: Set[bytes], spelt: Sequence[bytes], *, ends: bool) -> set[int]:
    """Tokens that are enough to say one of ``texts``; behind it the word must be over where it ``ends`` only so."""
    sizes = sorted({len(text) for text in texts})
    found = set()
    for token, spelling in enumerate(spelt):
        for size in sizes:
            if size > len(spelling):
                break
            starts = range(len(spelling) - size + 1)
            if any(spelling[at : at + size] in texts and _is_over(spelling, at + size, ends) for at in starts):
                found.add(token)
                break
    return found


def _is_over(spelling: bytes, place: int, ends: bool) -> bool:
    return not ends or spelling[place : place + 1] in (b"", _BORDER)


def _automaton(texts: Iterable[bytes], spelt: Sequence[bytes], *, start: bytes, ends: bool) -> Automaton:
    begun = {text[:size] for text in texts for size in range(len(text))} | {b"", start}
    states = sorted(begun, key=lambda state: (len(state), state))
    number = {state: n for n, state in enumerate(states)}
    chains = [tuple(state[at:] for at in range(len(state)) if state[at:] in begun) for state in states]
    by_spelling: dict[bytes, list[int]] = {}
    for token, spelling in enumerate(spelt):
        if spelling:
            by_spelling.setdefault(spelling, []).append(token)
    ordered = sorted(by_spelling)
    # By the end of what was said before: where each token leads, and which would be the last.
    leads: dict[bytes, dict[int, int]] = {}
    last: dict[bytes, set[int]] = {}
    for state in states:
        for size in range(1, len(state)):
            for token in by_spelling.get(state[size:], ()):
                leads.setdefault(state[:size], {})[token] = number[state]
    for text in texts:
        for size in range(1, len(text)):
            last.setdefault(text[:size], set()).update(_ending(text[size:], ordered, by_spelling, ends=ends))
    goes_on: dict[int, int] = {}
    banned: list[tuple[int, ...]] = []
    for n, chain in enumerate(chains):
        # The longest end, which is the last here, says where it leads.
        for end in reversed(chain):
            goes_on.update((n * len(spelt) + token, state) for token, state in leads.get(end, {}).items())
        tokens = set().union(*(last.get(end, ()) for end in chain))
        banned.append(tuple(sorted(tokens)[:_MOST_BANNED]))
    longest = len(states[-1])
    after = [_after(spelling, number, longest) for spelling in spelt]
    return Automaton(number[start], after, goes_on, banned)


def _ending(rest: bytes, ordered: Sequence[bytes], ids: dict[bytes, list[int]], *, ends: bool) -> Iterable[int]:
    """Tokens that begin with ``rest``; behind it the word must be over where it ``ends`` only so."""
    for place in range(bisect.bisect_left(ordered, rest), len(ordered)):
        spelling = ordered[place]
        if not spelling.startswith(rest):
            break
        if _is_over(spelling, len(rest), ends):
            yield from ids[spelling]


def _after(spelling: bytes, number: dict[bytes, int], longest: int) -> int:
    sizes = range(min(longest, len(spelling)), 0, -1)
    return next((number[end] for size in sizes if (end := spelling[-size:]) in number), 0)

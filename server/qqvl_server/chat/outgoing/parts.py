"""Where a text that is too long for one message is cut: after a sentence, never inside code, an address or an emoji."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import regex

from qqvl_server.chat.outgoing.flatten import Run, Runs, text_of

# Above this QQ refuses a message: what is solid is cut after a line then, if it must be.
HARDEST: Final = 4500
_ENDS: Final = "。！？!?；;…"
_CLOSERS: Final = "”’」』）)】》\"'"
_PAUSES: Final = "，,、：: "


def size(text: str) -> int:
    """As QQ counts: letters beyond the first plane, like most emoji, are two."""
    return len(text) + sum(char > "\uffff" for char in text)


def pieces(runs: Runs, limit: int) -> Iterator[Runs]:
    """``runs`` cut into pieces of at most ``limit``, in order; joined again they are the same text.

    A solid run that is longer, alone, is one longer piece, up to ``HARDEST``.
    """
    piece: list[Run] = []
    room = limit
    for atom in _atoms(runs, limit):
        wide = size(text_of(atom))
        if piece and wide > room:
            yield tuple(piece)
            piece, room = [], limit
        piece += atom
        room -= wide
    if piece:
        yield tuple(piece)


def _atoms(runs: Runs, limit: int) -> Iterator[Runs]:
    """The smallest pieces that may stand alone: sentences, unless one of them is over the limit."""
    for sentence in _cut(runs, _sentence_ends):
        if size(text_of(sentence)) <= limit:
            yield sentence
            continue
        for clause in _cut(sentence, _clause_ends):
            if size(text_of(clause)) <= limit:
                yield clause
                continue
            for run in clause:
                yield from ((one,) for one in _forced(run, limit))


def _cut(runs: Runs, ends: Callable[[str, str], Iterator[int]]) -> Iterator[Runs]:
    """Cut after the places that ``ends`` names in runs that may be cut."""
    piece: list[Run] = []
    for place, run in enumerate(runs):
        if run.solid:
            if run.verbatim and piece:
                yield tuple(piece)
                piece = []
            piece.append(run)
            if run.verbatim:
                yield tuple(piece)
                piece = []
            continue
        following = runs[place + 1].text[:1] if place + 1 < len(runs) else ""
        start = 0
        for end in ends(run.text, following):
            piece.append(Run(run.text[start:end]))
            yield tuple(piece)
            piece, start = [], end
        if start < len(run.text):
            piece.append(Run(run.text[start:]))
    if piece:
        yield tuple(piece)


class _Ends:
    """Places after one of ``marks``, closing quotes and white space that follow included."""

    def __init__(self, marks: str, words: str = "") -> None:
        self._marks = marks
        # Marks that end something only where white space follows: "3.5" goes on.
        self._words = words

    def __call__(self, text: str, following: str) -> Iterator[int]:
        place, address = 0, _address_ends(text)
        while place < len(text):
            if place in address:
                place = address[place]
                continue
            char = text[place]
            place += 1
            if char == "\n" or char in self._marks or (char in self._words and text[place : place + 1].isspace()):
                while place < len(text) and (
                    text[place] in self._marks + _CLOSERS or (text[place].isspace() and char != "\n")
                ):
                    place += 1
                    if text[place - 1] == "\n":
                        break
                if not _joins(text + following, place):
                    yield place


_sentence_ends: Final = _Ends(_ENDS, ".")
_clause_ends: Final = _Ends(_ENDS + _PAUSES, ".")


def _address_ends(text: str) -> dict[int, int]:
    """Where bare addresses begin and end: at white space, or at the first letter that is not ASCII."""
    found = {}
    at = text.find("://")
    while at >= 0:
        begin = at
        while begin > 0 and text[begin - 1].isascii() and text[begin - 1].isalpha():
            begin -= 1
        tail = itertools.takewhile(lambda char: char.isascii() and not char.isspace(), text[at:])
        end = at + sum(1 for _ in tail)
        # A sentence's own mark at its end is none of the address's.
        while end > at and text[end - 1] in ".,;:!?":
            end -= 1
        found[begin] = end
        at = text.find("://", end)
    return found


def _forced(run: Run, limit: int) -> Iterator[Run]:
    """A run without a good place: between letters as they are seen; code between its lines."""
    if run.solid and size(run.text) <= HARDEST:
        yield run
        return
    most = HARDEST if run.solid else limit
    pieces: list[str] = run.text.splitlines(keepends=True) if run.solid else [run.text]
    held = ""
    for piece in itertools.chain.from_iterable(_letters(p) if size(p) > most else (p,) for p in pieces):
        if held and size(held) + size(piece) > most:
            yield Run(held, run.solid, run.verbatim)
            held = ""
        held += piece
    if held:
        yield Run(held, run.solid, run.verbatim)


def _letters(text: str) -> Iterator[str]:
    """What is seen as one letter each: flags, joined emoji, letters with their marks (Unicode UAX 29)."""
    return (found.group() for found in regex.finditer(r"\X", text))


def _joins(text: str, place: int) -> bool:
    """Whether the letter at ``place`` is seen as one with what stands before it."""
    near = text[max(place - 2, 0) : place + 2]
    return 0 < place < len(text) and place - max(place - 2, 0) not in {m.start() for m in regex.finditer(r"\X", near)}

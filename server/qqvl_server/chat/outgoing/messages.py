"""A reply becomes what is sent in QQ: the elements of ``messages[]``, in order, each once it is finished. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qqvl_server.chat.outgoing.blocks import Block, Blocks
from qqvl_server.chat.outgoing.flatten import Run, Runs, text_of
from qqvl_server.chat.outgoing.parts import pieces, size
from qqvl_server.chat.outgoing.sheets import Formula, Sheet


@dataclass(frozen=True, slots=True)
class Words:
    """One QQ message: its plain text, before it whom it is for (QQ's id) and which message it quotes."""

    text: str
    at: str | None = None
    quote: str | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """One QQ message that is a picture of ``sheet``; ``words`` are what is sent where nobody can draw it."""

    words: Words
    sheet: Sheet | Formula

    @property
    def text(self) -> str:
        return self.words.text


@dataclass(frozen=True, slots=True)
class Drawn:
    """The same, once it is drawn: a PNG."""

    words: Words
    png: bytes


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    user_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """A forward record."""

    nodes: tuple[Node, ...]


Outgoing = Words | Drawing | Record


@dataclass(frozen=True, slots=True)
class Manner:
    """How a reply is sent.

    ``part_chars``: the longest a message is, code on lines of its own aside. What goes beyond ``record_chars`` in all
    is one forward record, 0 for none; it is from ``name``, ``self_id``, without which there is none. ``at`` and
    ``quote`` are told with the first message. Code and tables of more than ``draw_chars`` are drawn, and so are
    formulas on lines of their own; 0 for never.
    """

    part_chars: int = 500
    record_chars: int = 0
    name: str = ""
    self_id: str | None = None
    at: str | None = None
    quote: str | None = None
    draw_chars: int = 0


class Sender:
    """One reply as it grows."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._blocks = Blocks()
        # What the next message will say, as far as it is known.
        self._open: list[Run] = []
        self._sent = 0
        self._record: list[str] = []

    def push(self, text: str) -> Iterator[Outgoing]:
        """The elements that ``text``, the reply's next piece, finishes."""
        for block in self._blocks.push(text):
            yield from self._add(block)

    def finish(self) -> Iterator[Outgoing]:
        for block in self._blocks.finish():
            yield from self._add(block)
        yield from self._close()
        if len(self._record) == 1:
            yield self._words(self._record[0])
        elif self._record:
            manner = self._manner
            yield Record(tuple(Node(manner.name, manner.self_id or "", text) for text in self._record))

    def _add(self, block: Block) -> Iterator[Outgoing]:
        if block.sheet is not None and self._is_drawn(block):
            yield from self._close()
            if not self._record:
                yield Drawing(self._words(text_of(block.runs)), block.sheet)
                return
        limit = self._manner.part_chars
        between = (Run("\n\n" if block.apart else "\n"),) if self._open else ()
        if size(text_of((*self._open, *between, *block.runs))) > limit:
            yield from self._close()
            *whole, last = pieces(block.runs, limit)
            for piece in whole:
                self._open += piece
                yield from self._close()
            between, runs = (), last
        else:
            runs = block.runs
        self._open += (*between, *runs)

    def _is_drawn(self, block: Block) -> bool:
        most = self._manner.draw_chars
        return most > 0 and (isinstance(block.sheet, Formula) or size(text_of(block.runs)) > most)

    def _close(self) -> Iterator[Outgoing]:
        text = text_of(self._open).strip("\n").rstrip()
        self._open.clear()
        if not text.strip():
            return
        room = self._manner.record_chars if self._manner.self_id else 0
        if room and self._sent and (self._record or self._sent + size(text) > room):
            self._record.append(text)
        else:
            yield self._words(text)

    def _words(self, text: str) -> Words:
        is_first = not self._sent
        self._sent += size(text)
        return Words(text, self._manner.at if is_first else None, self._manner.quote if is_first else None)


def messages(reply: str, manner: Manner) -> tuple[Outgoing, ...]:
    """What to send for a reply; nothing where nothing is said. One of marks alone is sent as it is."""
    sender = Sender(manner)
    return (*sender.push(reply), *sender.finish()) or plainly(reply.strip(), manner)


def plainly(text: str, manner: Manner) -> tuple[Outgoing, ...]:
    """As ``messages``, for words that are no Markdown."""
    runs: Runs = (Run(text),) if text else ()
    sent = [text_of(piece).strip("\n") for piece in pieces(runs, manner.part_chars)]
    return tuple(
        Words(part, None if place else manner.at, None if place else manner.quote) for place, part in enumerate(sent)
    )

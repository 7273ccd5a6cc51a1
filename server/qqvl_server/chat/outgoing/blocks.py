"""A reply's blocks as it grows, each told once nothing that follows can change it.

What comes depends on the lines alone, never on the pieces in which they came: a reply that is streamed is cut like one
that is there at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from qqvl_server.chat.outgoing.dialect import parser
from qqvl_server.chat.outgoing.flatten import Runs, flatten
from qqvl_server.chat.outgoing.sheets import Formula, Sheet, sheet_of

# Blocks that an empty line ends for good.
_ENDED_BY_EMPTY_LINE: Final = frozenset({"paragraph", "heading", "hr", "table", "blockquote", "math_block"})
# A block of more lines is not read again with each of them, but each time it has grown by so much.
_FEW_LINES: Final = 32
_GROWTH: Final = 1.25


@dataclass(frozen=True, slots=True)
class Block:
    """``apart``: an empty line parts it from the block before it. ``sheet`` is what may be drawn of it."""

    runs: Runs
    apart: bool
    sheet: Sheet | Formula | None = None


class Blocks:
    def __init__(self) -> None:
        self._parser = parser()
        self._lines: list[str] = []
        self._half = ""
        self._next_look = 0
        # Of the block before: whether an empty line, or a rule, stands after it; whether it was a heading.
        self._apart = False
        self._under_heading = False

    def push(self, text: str) -> Iterator[Block]:
        whole, mark, self._half = (self._half + text).rpartition("\n")
        for line in whole.split("\n") if mark else ():
            if not self._lines and not line.strip():
                self._apart = True
                continue
            self._lines.append(line)
            if len(self._lines) <= _FEW_LINES or len(self._lines) >= self._next_look:
                yield from self._ended()
                self._next_look = int(len(self._lines) * _GROWTH)

    def finish(self) -> Iterator[Block]:
        self._lines.append(self._half)
        self._half = ""
        nodes = _parsed(self._parser, self._lines)
        yield from self._told(nodes)
        self._lines.clear()

    def _ended(self) -> Iterator[Block]:
        nodes = _parsed(self._parser, self._lines)
        if not nodes:
            return
        last = nodes[-1]
        is_over = last.type in _ENDED_BY_EMPTY_LINE and _end(last) < len(self._lines)
        ended = nodes if is_over else nodes[:-1]
        if not ended:
            return
        rest = len(self._lines) if is_over else _begin(last)
        yield from self._told(ended)
        self._apart = self._apart or not self._lines[rest - 1].strip()
        del self._lines[:rest]

    def _told(self, nodes: list[SyntaxTreeNode]) -> Iterator[Block]:
        for node in nodes:
            begin = _begin(node)
            self._apart = self._apart or (begin > 0 and not self._lines[begin - 1].strip())
            if node.type == "hr":
                self._apart = True
                continue
            runs = flatten(node)
            if any(run.text.strip() for run in runs):
                yield Block(runs, self._apart and not self._under_heading, sheet_of(node))
                self._apart = False
                self._under_heading = node.type == "heading"


def _parsed(parser: MarkdownIt, lines: list[str]) -> list[SyntaxTreeNode]:
    return SyntaxTreeNode(parser.parse("\n".join(lines))).children


def _begin(node: SyntaxTreeNode) -> int:
    assert node.map is not None
    return node.map[0]


def _end(node: SyntaxTreeNode) -> int:
    assert node.map is not None
    return node.map[1]

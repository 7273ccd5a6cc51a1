"""A reply passes a word list as it grows: line by line, and no line that may hold half a word."""

from __future__ import annotations

from qqvl_server.chat.outgoing.dialect import parser
from qqvl_server.chat.outgoing.flatten import plain
from qqvl_server.chat.words.matching import Matcher


class Gate:
    """What gets out depends on the text alone, never on the pieces in which it came.

    At a hit the line that it begins in and all that follows make way for ``instead``.
    """

    def __init__(self, matcher: Matcher, instead: str) -> None:
        self._matcher = matcher
        self._instead = instead
        self._parser = parser()
        # Whole lines that may hold the beginning of a word, each as written and as read; then the line that grows.
        self._lines: list[tuple[str, str]] = []
        self._half = ""
        self._end = ""
        self.is_hit = False

    def push(self, text: str) -> str:
        """What is free to go."""
        free = ""
        *lines, self._half = (self._half + text).split("\n")
        for line in lines:
            if not self.is_hit:
                free += self._pass(line + "\n")
        return free

    def finish(self) -> str:
        """The rest, when no more text will come."""
        free = "" if self.is_hit else self._pass(self._half)
        if self.is_hit:
            # Also where the hit came with an earlier line.
            return free
        return free + self._released(len(self._lines))

    def _pass(self, line: str) -> str:
        read = plain(self._parser, line) if any(mark in line for mark in "<&[\\") else line
        self._lines.append((line, read))
        written, shown = ("".join(part) for part in zip(*self._lines, strict=True))
        hit = self._matcher.find(written)
        if hit is None and self._matcher.find(shown) is not None:
            hit = 0
        if hit is not None:
            self.is_hit = True
            free = self._released(self._line_at(hit))
            return free + ("\n" if self._end.strip("\n") else "") + self._instead
        begun = self._matcher.begun(written)
        if self._matcher.begun(shown) is not None and begun is None:
            begun = 0
        return self._released(len(self._lines) if begun is None else self._line_at(begun))

    def _line_at(self, place: int) -> int:
        number = 0
        while place >= len(self._lines[number][0]) and number + 1 < len(self._lines):
            place -= len(self._lines[number][0])
            number += 1
        return number

    def _released(self, count: int) -> str:
        free = "".join(line for line, _ in self._lines[:count])
        del self._lines[:count]
        self._end = (self._end + free)[-2:]
        return free

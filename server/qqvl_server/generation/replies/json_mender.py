"""JSON as models nearly write it becomes JSON, letter by letter; what is right already passes unchanged."""

from __future__ import annotations

import json
import re
from typing import Final

_CLOSERS: Final = {"{": "}", "[": "]"}
_ESCAPES: Final = frozenset('"\\/bfnrtu')
_LITERAL: Final = re.compile(r"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}


class JsonMender:
    """One object or list. Mends single quotes, bare words, trailing commas, bare line breaks, wrong closers."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._quote = ""
        self._escaped = False
        self._word = ""
        # A comma and the white space after it, until it is known whether something follows.
        self._comma = ""
        self.done = False

    @classmethod
    def mended(cls, text: str) -> str:
        """The first object or list of ``text``, closed if it was left open."""
        mender = cls()
        pieces: list[str] = []
        for letter in text.lstrip():
            if mender.done:
                break
            pieces.append(mender.feed(letter))
        return "".join(pieces) + ("" if mender.done else mender.close())

    @property
    def in_string(self) -> bool:
        return bool(self._quote)

    def feed(self, letter: str) -> str:
        """What ``letter`` adds to the output, often nothing yet. ``done`` once the first bracket is closed."""
        if self._quote:
            return self._in_string(letter)
        if letter.isalnum() or letter in "+-._":
            lead, self._comma = self._comma, ""
            self._word += letter
            return lead
        return self._flush_word() + self._outside(letter)

    def close(self) -> str:
        """What is lacking."""
        end = '"' if self._quote else self._flush_word()
        self._quote = self._comma = ""
        self.done = True
        return end + "".join(reversed(self._open))

    def rest(self) -> str:
        """What was held back, of a text that was cut off."""
        return self._word

    def _in_string(self, letter: str) -> str:
        if self._escaped:
            self._escaped = False
            if letter in _ESCAPES:
                return "\\" + letter
            return letter if letter == "'" else "\\\\" + _in_text(letter)
        if letter == "\\":
            self._escaped = True
            return ""
        if letter == self._quote:
            self._quote = ""
            return '"'
        return _in_text(letter)

    def _outside(self, letter: str) -> str:
        if letter == ",":
            self._comma = ","
            return ""
        if letter.isspace() and self._comma:
            self._comma += letter
            return ""
        if letter in "}]":
            space, self._comma = self._comma[1:], ""
            return space + self._closed(letter)
        lead, self._comma = self._comma, ""
        if letter in "\"'":
            self._quote = letter
            return lead + '"'
        if letter in _CLOSERS:
            self._open.append(_CLOSERS[letter])
        return lead + letter

    def _closed(self, letter: str) -> str:
        if letter not in self._open:
            return ""
        lacking = ""
        while self._open[-1] != letter:
            lacking += self._open.pop()
        self._open.pop()
        self.done = not self._open
        return lacking + letter

    def _flush_word(self) -> str:
        word, self._word = self._word, ""
        if not word or _LITERAL.fullmatch(word):
            return word
        return _PYTHON.get(word) or json.dumps(word, ensure_ascii=False)


def _in_text(letter: str) -> str:
    if letter == '"':
        return '\\"'
    return letter if letter >= " " else json.dumps(letter)[1:-1]

"""Regular expressions of JSON schemas that the compiler cannot read, put into such as say the same.

The compiler's automata have no look-around. At the beginning of a pattern it is but a second pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_LOOKS: Final = ("(?=", "(?!", "(?<=", "(?<!")
# Longer ones are nobody's handwriting.
_LONGEST: Final = 4000
# A set that is never closed goes on to the end: looked for again from each bracket, it would take for ever.
_MARK: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+(?:\]|\\?\Z)|[()|]", re.DOTALL)
# ``(?!^[-+.]*$)``: not of these characters alone, so that some other must be there.
_ALONE: Final = re.compile(r"\^?\[(?!\^)((?:\\.|[^\]\\])*)\]\*\$")
# What pydantic (until 2.13) writes for a Decimal's digits: at most so many, trailing zeros not counted.
_MOST_DIGITS: Final = re.compile(r"\(\?:\\d\{0,(\d{1,2})\}\|\(\?=\[\\d\.\]\{1,(\d{1,2})\}0\*\$\)(.{1,40}?)0\*\$\)")
_PLACES: Final = re.compile(r"\\d\{0,(\d{1,2})\}\\\.\\d\{0,(\d{1,2})\}")


def restated(pattern: str) -> tuple[str, ...] | None:
    """Patterns that all hold where ``pattern`` does, and nowhere else; None: it cannot be put in other words."""
    pattern = re.sub(r"(?<!\\)((?:\\\\)*)\\Z", r"\1$", pattern)
    if not any(look in pattern for look in _LOOKS):
        return (pattern,)
    if len(pattern) > _LONGEST:
        return None
    anchored = pattern.startswith("^")
    rest = pattern[1:]
    others: list[str] = []
    while anchored and rest.startswith(("(?=", "(?!")):
        end = _closing(rest)
        if end is None:
            return None
        other = _required(rest[3:end]) if rest[2] == "=" else _excluded(rest[3:end])
        if other is None:
            return None
        others.append(other)
        rest = rest[end + 1 :]
    if others and _has_alternatives(rest):
        # What was looked for belongs to the first of them alone.
        return None
    rest = _MOST_DIGITS.sub(_digits, rest)
    alternatives = (*others, f"^{rest}")
    return None if not anchored or any(look in one for one in alternatives for look in _LOOKS) else alternatives


def _required(inside: str) -> str:
    return f"^(?:{inside})"


def _excluded(inside: str) -> str | None:
    if inside in ("$", "^$"):
        return r"(?s:.)"
    alone = _ALONE.fullmatch(inside)
    return f"[^{alone[1]}]" if alone is not None else None


def _digits(found: re.Match[str]) -> str:
    whole, most, parts = int(found[1]), int(found[2]) - 1, found[3]
    if (places := _PLACES.fullmatch(parts)) is not None:
        limits = [(int(places[1]), int(places[2]))]
    elif parts == r"\d*\.\d*":
        limits = [(before, most - before) for before in range(most + 1)]
    else:
        return found[0]
    return f"(?:\\d{{0,{whole}}}|" + "|".join(rf"\d{{0,{a}}}\.\d{{0,{b}}}0*" for a, b in limits) + ")$"


def _closing(text: str) -> int | None:
    """Where the group that ``text`` begins with ends."""
    depth = 0
    for at, mark in _marks(text):
        depth += {"(": 1, ")": -1, "|": 0}[mark]
        if depth == 0:
            return at
    return None


def _has_alternatives(text: str) -> bool:
    depth = 0
    for _, mark in _marks(text):
        if mark == "|" and depth == 0:
            return True
        depth += {"(": 1, ")": -1, "|": 0}[mark]
    return False


def _marks(text: str) -> Iterator[tuple[int, str]]:
    """Round brackets and bars with their places: neither escaped nor inside a set of characters."""
    for found in _MARK.finditer(text):
        if found[0] in "()|":
            yield found.start(), found[0]

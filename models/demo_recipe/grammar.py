"""A one-function grammar: "(a|b|)c" expands to "ac", "bc" or "c", so one line stands for hundreds of wordings."""

from __future__ import annotations

import re
from random import Random

INNERMOST = re.compile(r"\(([^()]*)\)")


def expand(pattern: str, rng: Random, **slots: str) -> str:
    """Choose one alternative in every bracket, innermost first, then fill the <slot> marks as they are."""
    while (found := INNERMOST.search(pattern)) is not None:
        pattern = pattern[: found.start()] + rng.choice(found.group(1).split("|")) + pattern[found.end() :]
    for name, value in slots.items():
        pattern = pattern.replace(f"<{name}>", value)
    return pattern


def chinese_mark(text: str, rng: Random, question: bool = True) -> str:
    """End a Chinese sentence the way people do in chats: full-width mark, half-width mark, or nothing."""
    full, half = ("？", "?") if question else ("。", "!")
    return text + rng.choices((full, half, "", "！", "～", "??"), (50, 20, 22, 2, 3, 3))[0]


def english_case(text: str, rng: Random, question: bool = True) -> str:
    """Vary capitals and the final mark of an English sentence that holds no names."""
    if rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    mark = "?" if question else "."
    return text + rng.choices((mark, "", "!", "？"), (70, 24, 3, 3))[0]

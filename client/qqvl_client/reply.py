"""A reply → the QQ messages it is sent as."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence

from qqvl_client.outgoing import Outgoing

JOINERS = "\u200d\ufe0e\ufe0f\u20e3"


def parts_of(messages: Sequence[Outgoing], limit: int, most: int) -> tuple[list[Outgoing], int]:
    """The messages a reply is sent as, `most` of them, and how many letters were left out; the last part says so.

    All but the last are the same whatever follows them, so that they may be sent before it is known.
    """
    pieces = (part for message in messages for part in _pieces(message, limit))
    parts = list(itertools.islice(pieces, most))
    # A picture without a word is one letter less to read.
    left_out = sum(len(message.text) or 1 for message in pieces)
    if left_out:
        last = parts[-1]
        # Room for the words that tell it, counted before and after.
        end = _fit(last.text, 0, limit - 40) if last.is_plain else 0
        left_out += len(last.text) - end
        parts[-1] = Outgoing(f"{last.text[:end]}……（太长，后面还有 {left_out} 个字没有发）")
    return parts, left_out


def _pieces(message: Outgoing, limit: int) -> Iterator[Outgoing]:
    if message.is_plain:
        yield from map(Outgoing, split(message.text, limit))
    else:
        yield message


def split(text: str, limit: int) -> Iterator[str]:
    """Cut `text` into parts QQ takes, in order; joined again they are `text`, letter for letter."""
    start = 0
    while start < len(text):
        end = _fit(text, start, limit)
        if end < len(text):
            end = _good_place(text, start, end)
        yield text[start:end]
        start = end


def _fit(text: str, start: int, limit: int) -> int:
    """How far `limit` reaches from `start`; QQ counts an emoji as two."""
    end = min(len(text), start + limit)
    wide = sum(char > "\uffff" for char in text[start:end])
    while wide and end - start + wide > limit:
        end -= 1
        wide -= text[end] > "\uffff"
    return end


def _good_place(text: str, start: int, end: int) -> int:
    """Break after a line or a sentence in the last fifth, never inside a joined character."""
    earliest = start + (end - start) * 4 // 5
    for marks in ("\n", "。！？!?；;", "，,、 "):
        found = max(text.rfind(mark, earliest, end) for mark in marks)
        if found > earliest:
            return found + 1
    while end - 1 > earliest and (_joins(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return end


def _joins(char: str) -> bool:
    return char in JOINERS or unicodedata.combining(char) > 0 or "\U0001f3fb" <= char <= "\U0001f3ff"

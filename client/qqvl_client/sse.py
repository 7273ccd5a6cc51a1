"""Server-sent events as the chat server writes them (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from qqvl_client.errors import AnswerLostError


@dataclass(frozen=True, slots=True)
class ServerEvent:
    name: str
    data: str


async def events(chunks: AsyncIterator[str], most_chars: int) -> AsyncIterator[ServerEvent]:
    """The events of a stream of text, each when its blank line has come; an unfinished last one is none.

    Raises:
        AnswerLostError: the whole is longer than `most_chars`.
    """
    name, data, size = "", list[str](), 0
    async for line in lines(chunks, most_chars):
        size += len(line)
        if size > most_chars:
            raise AnswerLostError("服务器的答复太长")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line and data:
            yield ServerEvent(name or "message", "\n".join(data))
        if not line:
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


async def lines(chunks: AsyncIterator[str], most_chars: int) -> AsyncIterator[str]:
    """Whole lines; they end in LF or CRLF, and nowhere else: JSON may hold what `splitlines` takes for an end."""
    rest = ""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        if len(rest) > most_chars:
            raise AnswerLostError("服务器的答复太长")
        for line in whole:
            yield line.removesuffix("\r")

"""What a request holds that cannot be run, read or kept to here: the request goes on without it, and is told.

Agents offer tools that only their first server runs and keep the traces of them in the history, and there will be
kinds that nobody knows yet: refused, one of them would lock a conversation for ever.
"""

from __future__ import annotations

import urllib.parse
from typing import Final

from qqvl_server.generation.port import GenerationRequest, Role, TextPart, Voice

HEADER: Final = "X-Qqvl-Warning"
_LOST: Final = TextPart("[附件无法打开]")
# Some clients take no more than 8 kB of headers, and a long conversation holds a trace in every turn.
_MOST: Final = 20
_LONGEST: Final = 200


class LeftOut:
    """Gathers the places (``tools[1]``, ``input[4].content[0]``) as one request is read; ``count`` of them so far."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}
        self.count = 0

    def add(self, where: str, why: str = "left out") -> None:
        """``why``: ``left out``, ``cut short`` for a picture of which only the upper part came,
        ``ignored`` for a field without effect, ``not enforced`` for a part of a schema."""
        self._places.setdefault(why, []).append(where)
        self.count += 1

    def part(self, where: str, role: Role) -> tuple[TextPart, ...]:
        """What the model reads in place of a part of a message.

        It is told of what a user or a tool has shown, so as not to answer as if nothing had been there.
        """
        self.add(where)
        return (_LOST,) if role in ("user", "tool") else ()

    def not_enforced(self, voice: Voice, request: GenerationRequest) -> None:
        """Adds what of its schemas an answer to this, which has begun, need not keep to."""
        for where in voice.given_up(request):
            self.add(where, "not enforced")

    def headers(self) -> dict[str, str]:
        """``left out: tools[1], input[3]; ignored: store``; nothing where nothing was left out."""
        told = "; ".join(f"{why}: {_listed(places)}" for why, places in self._places.items())
        return {HEADER: told} if told else {}


def _listed(places: list[str]) -> str:
    more = [f"{len(places) - _MOST} more"] if len(places) > _MOST else []
    # Headers are Latin-1; paths into a schema hold the caller's own names.
    return ", ".join([urllib.parse.quote(place[:_LONGEST], safe="[].$*/_-") for place in places[:_MOST]] + more)

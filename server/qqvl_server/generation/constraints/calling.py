"""A reply that may call tools but need not: free text, and calls that keep to the tools on offer once one has begun.

Whether it calls stays the model's choice, and so does what: a name made up from its first letters on is not bent into
one on offer, which nobody asked to run. But a name that begins as one on offer goes on as one on offer, and the
arguments as their schema wants them. Knows tokens and masks; no schema, no matcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import InvalidRequest

# Bytes of a name that are the model's own: fewer say too little of which tool it means.
_OWN: Final = 4


class WhileCalling:
    """``TokenMask`` that is silent but inside calls, and costs a comparison a token until one begins.

    A call of no tool on offer, or one whose schema turns out too complex on the way, goes on without a mask.

    Args:
        fresh: makes the mask of one call, from its opening token to its closing one.
        spell: the bytes of tokens.
        opening: the token a call begins with; ``closing`` the one that ends it.
        head: what a call spells between its opening and the name; None lets no name be made up at all.
    """

    def __init__(
        self,
        fresh: Callable[[], TokenMask],
        spell: Callable[[list[int]], bytes],
        opening: int,
        closing: int,
        head: bytes | None,
    ) -> None:
        self._fresh = fresh
        self._spell = spell
        self._opening = opening
        self._closing = closing
        self._own = range(0) if head is None else range(len(head), len(head) + _OWN)
        self._call: TokenMask | None = None
        self._spelt = 0

    def allowed(self) -> Sequence[int] | None:
        if self._call is None or self._spelt in self._own:
            return None
        try:
            return self._call.allowed()
        except (InvalidRequest, ValueError):
            self._call = None
            return None

    def accept(self, token: int) -> None:
        if token == self._opening:
            self._call, self._spelt = self._fresh(), 0
        elif self._call is None:
            return
        else:
            self._spelt += len(self._spell([token]))
        try:
            self._call.accept(token)
        except (InvalidRequest, ValueError):
            self._call = None
            return
        if token == self._closing:
            self._call = None

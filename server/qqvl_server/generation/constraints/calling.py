"""A reply that may call tools but need not: free text, and calls that keep to the tools on offer once one has begun.

Whether it calls stays the model's choice; a name half of one tool and half of another cannot come about, nor arguments
that their schema has no room for. Knows tokens and masks; no schema, no matcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import InvalidRequest


class WhileCalling:
    """``TokenMask`` that is silent but inside calls, and costs a comparison a token until one begins.

    A call whose schema turns out too complex on the way goes on without a mask.

    Args:
        fresh: makes the mask of one call, from its opening token to its closing one.
        opening: the token a call begins with; ``closing`` the one that ends it.
    """

    def __init__(self, fresh: Callable[[], TokenMask], opening: int, closing: int) -> None:
        self._fresh = fresh
        self._opening = opening
        self._closing = closing
        self._call: TokenMask | None = None

    def allowed(self) -> Sequence[int] | None:
        if self._call is None:
            return None
        try:
            return self._call.allowed()
        except (InvalidRequest, ValueError):
            self._call = None
            return None

    def accept(self, token: int) -> None:
        if self._call is None and token == self._opening:
            self._call = self._fresh()
        if self._call is None:
            return
        try:
            self._call.accept(token)
        except (InvalidRequest, ValueError):
            self._call = None
            return
        if token == self._closing:
            self._call = None

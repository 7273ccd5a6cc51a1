"""A reply that may call tools but need not: free text, and inside a call only what the offered tools allow.

Knows tokens and masks; no schema, no matcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qqvl_server.engine.request import TokenMask
from qqvl_server.errors import InvalidRequest


class WhileCalling:
    """``TokenMask`` that is silent outside of calls.

    A call whose schema turns out too complex on the way goes on without a mask: nobody asked for one.

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
        if self._call is None:
            if token != self._opening:
                return
            self._call = self._fresh()
        try:
            self._call.accept(token)
        except (InvalidRequest, ValueError):
            self._call = None
        if token == self._closing:
            self._call = None

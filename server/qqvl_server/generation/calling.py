"""A reply that may call tools but need not: free text, and the arguments of a call as its tool's schema wants them.

Which tool is called stays the model's choice: a name made up is not bent into one on offer, which nobody asked to run.
Knows tokens and masks; no schema, no matcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import InvalidRequest

# What follows a call's name.
_ARGUMENTS: Final = b'"arguments"'


class WhileCalling:
    """``TokenMask`` that is silent but in the arguments of calls.

    A call of no tool on offer, one in another frame, or one whose schema turns out too complex on the way goes on
    without a mask.

    Args:
        fresh: makes the mask of one call, from its opening token to its closing one.
        spell: the bytes of tokens.
        opening: the token a call begins with; ``closing`` the one that ends it.
    """

    def __init__(
        self, fresh: Callable[[], TokenMask], spell: Callable[[list[int]], bytes], opening: int, closing: int
    ) -> None:
        self._fresh = fresh
        self._spell = spell
        self._opening = opening
        self._closing = closing
        self._call: TokenMask | None = None
        self._said: list[int] = []
        self._named = False

    def allowed(self) -> Sequence[int] | None:
        if self._call is None or not self._named:
            return None
        try:
            return self._call.allowed()
        except (InvalidRequest, ValueError):
            self._call = None
            return None

    def accept(self, token: int) -> None:
        if token == self._opening:
            self._call, self._said, self._named = self._fresh(), [], False
        if self._call is None:
            return
        try:
            self._call.accept(token)
        except (InvalidRequest, ValueError):
            self._call = None
            return
        if not self._named:
            self._said.append(token)
            self._named = _ARGUMENTS in self._spell(self._said)
        if token == self._closing:
            self._call = None

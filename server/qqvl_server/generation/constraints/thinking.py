"""A reply that thinks before it speaks: what constrains its speech lets its thought alone, and a thought that has had
its tokens is closed. Knows tokens, their bytes and masks; no schema, no matcher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.generation.constraints.masks import single
from qqvl_server.generation.port import Grammar, GrammarKind, Thinking
from qqvl_server.generation.replies.thoughts import CLOSING, OPENING

_OPENING: Final = OPENING.encode()
_CLOSING: Final = CLOSING.encode()
# Tokens that a thought may have for an effort that is asked for in words; more effort than these has no bound.
_EFFORTS: Final = {"minimal": 512, "low": 2048, "medium": 8192}


def budget_of(thinking: Thinking, *, opened: bool, thinks: bool) -> int | None:
    """Tokens that a thought may have; None for as many as the reply.

    Args:
        opened: the prompt opened a thought, whatever its template's switch was told.
        thinks: the template knows of thoughts, so that an effort means something.
    """
    if thinking.enabled is False:
        return 0 if opened else None
    if thinking.budget is None and thinks:
        return _EFFORTS.get(thinking.effort or "")
    return thinking.budget


def tells_of_thought(grammar: Grammar | None) -> bool:
    """Whether a grammar is written for the thought as well: it names its end. A schema's texts are texts."""
    if grammar is None or grammar.kind is GrammarKind.JSON_SCHEMA:
        return False
    return CLOSING in grammar.text.replace("\\", "")


class WhileThinking:
    """``TokenMask`` that is silent inside a thought, but for its end, and ``speaking`` outside.

    Args:
        speaking: makes the mask of what is said, given how many tokens are left for it; None where that is free.
        spell: the bytes of a token.
        closing: tokens that end a thought, one after the other.
        most: how many tokens the reply may have; ``budget`` how many of them a thought, None for all.
        inside: the prompt has opened a thought.
        unended: what may come in a thought where something must be said after it: anything but the reply's end.
    """

    def __init__(
        self,
        speaking: Callable[[int], TokenMask] | None,
        spell: Callable[[int], bytes],
        closing: Sequence[int],
        most: int,
        budget: int | None,
        *,
        inside: bool,
        unended: Sequence[int] | None = None,
    ) -> None:
        self._speaking = speaking
        self._spell = spell
        self._closing = closing
        self._left = most
        # A thought that takes all tokens would leave none for what must be said.
        longest = most if unended is None else most // 2
        self._budget = longest if budget is None else min(budget, longest)
        self._inside = inside
        self._unended = unended
        self._forced: deque[int] = deque()
        # The bytes that may be the beginning of a mark; outside, None once something else was said.
        self._tail: bytes | None = b""
        self._said = None if inside else self._fresh()

    def allowed(self) -> Sequence[int] | None:
        if self._inside and not self._forced and self._budget <= 0:
            self._forced.extend(self._closing)
        if self._forced:
            return single(self._forced[0])
        if self._inside:
            return self._unended
        return self._said.allowed() if self._said is not None else None

    def accept(self, token: int) -> None:
        self._left -= 1
        if self._inside:
            self._think(token)
        elif self._forced:
            self._forced.popleft()
        else:
            self._say(token)
        if not self._inside and not self._forced and self._said is None:
            self._said = self._fresh()

    def _think(self, token: int) -> None:
        self._budget -= 1
        if self._forced:
            self._forced.popleft()
        self._tail = (self._tail or b"") + self._spell(token)
        if _CLOSING in self._tail:
            self._inside = False
            self._tail = b""
        else:
            self._tail = self._tail[1 - len(_CLOSING) :]

    def _say(self, token: int) -> None:
        if self._said is not None:
            self._said.accept(token)
        if self._tail is None:
            return
        # A thought may stand where nothing was said yet.
        self._tail = (self._tail + self._spell(token)).lstrip()
        if self._tail.startswith(_OPENING):
            self._inside = True
            self._tail = b""
        elif not _OPENING.startswith(self._tail):
            self._tail = None

    def _fresh(self) -> TokenMask | None:
        return None if self._speaking is None else self._speaking(max(self._left, 0))

"""What a model thinks before it speaks, told apart from what it says. Knows text only.

Thinking checkpoints (Qwen3, Qwen3.5, GLM, DeepSeek) write ``<think>…</think>``; the template of some opens the thought
in the prompt, so that only its end is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qqvl_server.generation.port import Reasoning, TextDelta

OPENING: Final = "<think>"
CLOSING: Final = "</think>"
# What closes a thought that has grown too long, and one that shall not be at all, as Qwen's templates write it.
FORCED_CLOSING: Final = f"{CLOSING}\n\n"
NO_THOUGHT: Final = f"\n{FORCED_CLOSING}"

Piece = TextDelta | Reasoning


def opens_thought(prompt_end: str) -> bool:
    """Whether a prompt ends inside a thought: nothing but white space stands after its mark."""
    return prompt_end.rstrip().endswith(OPENING)


class Thoughts:
    """Parts a reply's thoughts from its speech as it grows, however it is cut into pieces; a thought without an end is
    all thought. White space around a thought is the model's way to part it from what it says, and is dropped.

    Args:
        inside: the prompt opened a thought.
        anywhere: thoughts may begin, and end without a beginning, in the middle of the reply as well.
    """

    def __init__(self, *, inside: bool = False, anywhere: bool = False) -> None:
        self._anywhere = anywhere
        self._read: Callable[[], bool] = self._begin_thought if inside else self._before
        self._held = ""
        self._parting = False
        self._pieces: list[Piece] = []
        # Whether anything was thought but white space.
        self.any = False

    @property
    def inside(self) -> bool:
        return self._read in (self._begin_thought, self._lead, self._think)

    @property
    def parting(self) -> bool:
        """A thought is over and nothing was said since."""
        return self._parting

    @property
    def settled(self) -> bool:
        """No thought can come any more: what follows may go its way unread."""
        return self._read == self._say and not self._anywhere and not self._held

    def push(self, text: str) -> list[Piece]:
        self._held += text
        while self._read():
            pass
        return self._told()

    def skip(self, text: str) -> None:
        """Goes on from ``text``, which was said before."""
        self.push(text)
        self._held = ""

    def finish(self) -> list[Piece]:
        """The rest, when no more text will come."""
        rest, self._held = self._held, ""
        if self.inside:
            self._thought(rest.rstrip())
        else:
            self._said(rest)
        return self._told()

    def _told(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _before(self) -> bool:
        """At the reply's beginning, or after a thought: nothing but white space so far."""
        text = self._held.lstrip()
        for mark, reader in ((OPENING, self._begin_thought), (CLOSING, self._before)):
            if text.startswith(mark):
                self._held = text[len(mark) :]
                self._parting = True
                self._read = reader
                return True
        if not text or OPENING.startswith(text) or CLOSING.startswith(text):
            return False
        self._read = self._say
        return True

    def _begin_thought(self) -> bool:
        """Some write the mark that their template has written already."""
        text = self._held.lstrip()
        if not text or (OPENING.startswith(text) and text != OPENING):
            return False
        self._held = text.removeprefix(OPENING)
        self._read = self._lead
        return True

    def _lead(self) -> bool:
        self._held = self._held.lstrip()
        if self._held:
            self._read = self._think
        return bool(self._held)

    def _think(self) -> bool:
        thought, found, after = self._held.partition(CLOSING)
        if found:
            self._thought(thought.rstrip())
            self._held = after
            self._parting = True
            self._read = self._before
            return True
        kept = _begun(thought, CLOSING)
        # White space before the mark goes with it.
        free = thought[: len(thought) - kept].rstrip()
        self._thought(free)
        self._held = thought[len(free) :]
        return False

    def _say(self) -> bool:
        text = self._held
        if not self._anywhere:
            self._held = ""
            self._said(text)
            return False
        opening, closing = text.find(OPENING), text.find(CLOSING)
        if opening < 0 and closing < 0:
            kept = max(_begun(text, OPENING), _begun(text, CLOSING))
            self._held = text[len(text) - kept :]
            self._said(text[: len(text) - kept])
            return False
        if closing < 0 or 0 <= opening < closing:
            self._said(text[:opening])
            self._held = text[opening + len(OPENING) :]
            self._read = self._begin_thought
        else:
            self._pieces.append(Reasoning(text[:closing].rstrip(), retracts=True))
            self._held = text[closing + len(CLOSING) :]
            self._read = self._before
        self._parting = True
        return True

    def _said(self, text: str) -> None:
        if self._parting:
            text = text.lstrip()
        if text:
            self._parting = False
            self._pieces.append(TextDelta(text))

    def _thought(self, text: str) -> None:
        if text:
            self.any = True
            self._pieces.append(Reasoning(text))


def _begun(text: str, mark: str) -> int:
    """How many letters at the end of ``text`` may be the beginning of ``mark``."""
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if mark.startswith(text[len(text) - size :])), 0)

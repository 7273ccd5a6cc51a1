"""What a model thinks before it speaks, told apart from what it says. Knows text only.

Thinking checkpoints (Qwen3, Qwen3.5, GLM, DeepSeek) write ``<think>…</think>``; the template of some opens the thought
in the prompt, so that only its end is written.
"""

from __future__ import annotations

from typing import Final

OPENING: Final = "<think>"
CLOSING: Final = "</think>"


def opens_thought(prompt_end: str) -> bool:
    """Whether a prompt ends inside a thought: nothing but white space stands after its mark."""
    return prompt_end.rstrip().endswith(OPENING)


class Thoughts:
    """Takes the thoughts out of a reply as it grows, however it is cut into pieces; one without an end is all thought.

    White space after a thought is the model's way to part it from what it says, and goes with it. ``inside``: the
    prompt opened a thought.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._inside = inside
        self._held = ""
        self._parting = False

    def said(self, text: str, *, last: bool = False) -> str:
        """What of ``text``, and of what was held back before, is said aloud; ``last`` if nothing follows."""
        said: list[str] = []
        rest = self._held + text
        while True:
            mark = CLOSING if self._inside else OPENING
            before, found, after = rest.partition(mark)
            if not found:
                break
            if not self._inside:
                said.append(self._parted(before))
            self._parting = self._inside
            self._inside = not self._inside
            rest = after
        kept = 0 if last else _begun(rest, mark)
        self._held = rest[len(rest) - kept :]
        if not self._inside:
            said.append(self._parted(rest[: len(rest) - kept]))
        return "".join(said)

    def _parted(self, text: str) -> str:
        if self._parting:
            text = text.lstrip()
            self._parting = not text
        return text


def spoken(reply: str) -> str:
    """A whole reply without its thoughts, those whose beginning nobody wrote included."""
    return Thoughts().said(reply, last=True).rpartition(CLOSING)[2].strip()


def _begun(text: str, mark: str) -> int:
    """How many letters at the end of ``text`` may be the beginning of ``mark``."""
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if mark.startswith(text[len(text) - size :])), 0)

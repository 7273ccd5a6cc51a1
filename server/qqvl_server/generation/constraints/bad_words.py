"""Words that a reply may not say, as biases against the tokens that are one of them. Knows an encoder; no vocabulary.

A word of several tokens is not kept away here: whoever asks must look at what is said as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Biases = tuple[tuple[int, float], ...]
# What OpenAI's door takes for "never", too.
_NEVER: Final = -100.0


class BadWords:
    """``encode``: plain text to token ids."""

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        self._encode = encode
        self._made: tuple[tuple[str, ...], Biases] = ((), ())

    def known(self, words: tuple[str, ...]) -> Biases | None:
        """The biases against ``words``, where they were made last."""
        made, biases = self._made
        return biases if words == made else None

    def biases(self, words: tuple[str, ...]) -> Biases:
        """Against each as it is, in other cases, and behind a space."""
        cases = {case for word in words for case in (word, word.lower(), word.upper(), word.capitalize())}
        ids = [self._encode(lead + case) for case in sorted(cases) for lead in ("", " ")]
        made = tuple((token, _NEVER) for token in sorted({one[0] for one in ids if len(one) == 1}))
        self._made = words, made
        return made

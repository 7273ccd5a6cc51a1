"""llguidance's masks as engines take them: as wide as the model's logits, and never of a token that may not come.

Knows matchers and token ids; no schema, no tokenizer.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from llguidance import LLMatcher

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.sources import TOO_COMPLEX, is_too_complex


class MatcherMask:
    """One reply's way through a grammar; see ``TokenMask``. Masks are over the model's ``width`` logits.

    ``spelt`` gives, of each added token, the token that its name spelt in letters begins with.

    Raises:
        InvalidRequest: the grammar was found too complex only on the way.
        ValueError: a token was accepted that may not come.
    """

    def __init__(self, matcher: LLMatcher, width: int, spelt: Mapping[int, int]) -> None:
        self._matcher = matcher
        self._width = width
        self._spelt = spelt

    def allowed(self) -> Sequence[int]:
        self._check()
        # Of a bytearray, because tensors refuse to be views of memory that cannot be written.
        words = memoryview(bytearray(self._matcher.compute_bitmask())).cast("i")
        if self._matcher.is_error():
            raise InvalidRequest(TOO_COMPLEX)
        words = cut(words, self._width)
        self._letters_for_control(words)
        return words

    def _letters_for_control(self, words: memoryview[int]) -> None:
        """Where a text is forced llguidance offers its first token alone; of a text like ``</think>`` that is the
        control token of the name, which it then refuses: letters are meant."""
        places = np.flatnonzero(np.frombuffer(words, dtype=np.uint32))
        if len(places) != 1 or (word := words[place := int(places[0])] & 0xFFFF_FFFF) & (word - 1):
            return
        letters = self._spelt.get(token := 32 * place + word.bit_length() - 1)
        # The end of a finished text is a control token too, and no letters are meant.
        if letters is None or self._matcher.is_accepting() or self._matcher.validate_tokens([token]):
            return
        words[place] = 0
        words[letters >> 5] = np.uint32(1 << (letters & 31)).astype(np.int32).item()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            if is_too_complex(self._matcher.get_error()):
                raise InvalidRequest(TOO_COMPLEX)
            raise ValueError("the grammar cannot go on")


def cut(words: memoryview[int], width: int) -> memoryview[int]:
    """``words`` (int32) over the tokens below ``width`` alone: llguidance writes a word more than they take, and tokens
    that the model has no logit for."""
    kept = words[: -(-width // 32)]
    if rest := width % 32:
        kept[-1] &= (1 << rest) - 1
    return kept


def unended(ends: Collection[int], width: int) -> Sequence[int]:
    """Words (int32) that let every token below ``width`` come but ``ends``."""
    words = array("i", [-1]) * -(-width // 32)
    for token in ends:
        if token < width:
            words[token // 32] &= ~single(token)[-1]
    return cut(memoryview(words), width)


def single(token: int) -> Sequence[int]:
    """Words (int32) that let ``token`` alone come."""
    words = array("i", bytes(4 * (token // 32 + 1)))
    bit = 1 << (token % 32)
    words[-1] = bit - (1 << 32) if bit >= 1 << 31 else bit
    return memoryview(words)

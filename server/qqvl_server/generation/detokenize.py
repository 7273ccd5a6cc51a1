"""Token ids, one at a time, become text that never ends in half a character. Knows ids and text only."""

from __future__ import annotations

from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TokenDecoder(Protocol):
    def push(self, token: int) -> str:
        """The text that ``token`` completes, often empty in the middle of a character."""
        ...


class StreamDecoder:
    """Special tokens are left out; bytes of an unfinished character wait for the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        return self._stream.step(self._tokenizer, token) or ""

"""Token ids become bytes, and bytes become text that never ends in half a character. Knows ids and text only."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from qqvl_server.errors import InvalidRequest


class TokenDecoder(Protocol):
    def push(self, token: int) -> str:
        """The text that ``token`` completes, often empty in the middle of a character."""
        ...


class Vocabulary:
    """What each token of a tokenizer spells. Thread-safe: it only reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        self._byte_level = tokenizer.decoder is not None and b"ByteLevel" in tokenizer.decoder.__getstate__()

    def __contains__(self, token: int) -> bool:
        return 0 <= token < 2**32 and self._tokenizer.id_to_token(token) is not None

    def is_special(self, token: int) -> bool:
        return token in self._added and bool(self._added[token].special)

    def data(self, token: int) -> bytes:
        """The token's own bytes, which need not be whole characters; special tokens spell their name."""
        if token in self._added:
            return str(self._added[token].content).encode()
        name = self._tokenizer.id_to_token(token) if token in self else None
        if name is None:
            return b""
        if self._byte_level:
            return b"".join(_letter_bytes().get(letter) or letter.encode() for letter in name)
        if len(name) == 6 and name.startswith("<0x"):
            return bytes.fromhex(name[3:5])
        return name.replace("▁", " ").encode()

    def spellings(self) -> list[bytes]:
        """What each token spells, in order; nothing for special ones."""
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return [b"" if self.is_special(token) else self.data(token) for token in range(size)]

    def text(self, ids: Sequence[int]) -> str:
        """Special tokens included; bytes that are no characters become U+FFFD.

        Raises:
            InvalidRequest: an id outside the vocabulary.
        """
        for token in ids:
            if token not in self:
                raise InvalidRequest("token 编号超出词表")
        if self._byte_level:
            return b"".join(map(self.data, ids)).decode(errors="replace")
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def decoder(self) -> TokenDecoder:
        return ByteDecoder(self) if self._byte_level else StreamDecoder(self._tokenizer)


class ByteDecoder:
    """For byte-level vocabularies (Qwen's): exact for every sequence of tokens. Special tokens are left out."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return "" if self._vocabulary.is_special(token) else self._characters.decode(self._vocabulary.data(token))


class StreamDecoder:
    """For every other vocabulary, whose tokens' text depends on their neighbours. Special tokens are left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        return self._stream.step(self._tokenizer, token) or ""


@cache
def _letter_bytes() -> dict[str, bytes]:
    """Byte-level BPE writes each byte as one printable letter (GPT-2's table): printable bytes as themselves, the
    others as the letters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(0x100 + n): bytes([byte]) for n, byte in enumerate(others)}

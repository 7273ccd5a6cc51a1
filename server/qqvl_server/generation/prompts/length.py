"""Texts many times too long for the context are told by their beginning, before they hold up the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qqvl_server.errors import PromptTooLong
from qqvl_server.generation.port import ChatMessage, GenerationRequest, TextPart
from qqvl_server.generation.prompts.conversation import mended

_PIECE: Final = 8192


class LengthGuard:
    """``backend`` is a tokenizers.Tokenizer; ``context_tokens`` 0 lets everything pass."""

    def __init__(self, backend: Any, context_tokens: int) -> None:
        self._backend = backend
        self._context_tokens = context_tokens

    def check(self, request: GenerationRequest) -> None:
        """Raises PromptTooLong: the request's texts have more than twice the tokens that fit."""
        texts = [text for message in request.messages for text in texts_of(message)]
        texts += [text for tool in request.shown_tools for text in (tool.description or "", tool.parameters)]
        texts.append(request.raw if isinstance(request.raw, str) else request.opening)
        found = self.far_too_many(texts)
        if found is not None:
            limit = self._context_tokens
            raise PromptTooLong(f"内容太长：不止 {found} token，上限 {limit}", limit=limit)

    def far_too_many(self, texts: Sequence[str]) -> int | None:
        """About how many tokens the beginning of the texts has, if that is more than twice the context already."""
        limit = 2 * self._context_tokens
        if not limit or sum(map(len, texts)) <= limit:
            return None
        found = 0
        for text in texts:
            for start in range(0, len(text), _PIECE):
                piece = mended(text[start : start + _PIECE])
                found += len(self._backend.encode(piece, add_special_tokens=False).ids)
                if found > limit:
                    return found
        return None


def texts_of(message: ChatMessage) -> list[str]:
    texts = [part.text for part in message.parts if isinstance(part, TextPart)]
    return texts + [text for call in message.tool_calls for text in (call.name, call.arguments)]

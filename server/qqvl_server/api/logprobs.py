"""Log-probabilities of tokens as OpenAI's doors tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qqvl_server.generation.port import TokenLogprob

# JSON has no infinity, which is what a token that the model rules out has.
_LOWEST: Final = -9999.0


def finite(logprob: float) -> float:
    return max(logprob, _LOWEST)


def entries(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [_entry(token) | {"top_logprobs": [_entry(top) for top in token.top]} for token in tokens]


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.data.decode("utf-8", "replace"),
        "logprob": finite(token.logprob),
        "bytes": list(token.data),
    }

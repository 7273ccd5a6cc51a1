"""How likely an upstream holds a reply's beginning to be: one token is asked for, with the likeliest in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qqvl_server.generation.port import TokenLogprob

TOP: Final = 20
"""As many as OpenAI's protocol allows."""
# What is not among them is less likely than the last of them; by how much nobody says.
_BELOW: Final = 1.0


def scored(tokens: Sequence[TokenLogprob], candidates: Sequence[str]) -> tuple[float, ...] | None:
    """Of each candidate, by the likeliest token that begins it, or that it begins; None where nothing tells.

    A candidate of several tokens is taken for its first one.
    """
    if not tokens or not tokens[0].top:
        return None
    top = [(one.data.decode("utf-8", "ignore").strip(), one.logprob) for one in (*tokens[0].top, tokens[0])]
    least = min(logprob for _, logprob in top) - _BELOW
    found = [[value for word, value in top if word and _agrees(word, candidate)] for candidate in candidates]
    return tuple(max(values, default=least) for values in found) if any(found) else None


def _agrees(word: str, candidate: str) -> bool:
    return candidate.startswith(word) or word.startswith(candidate)

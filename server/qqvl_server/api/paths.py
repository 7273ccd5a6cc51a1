"""Addresses that are almost right: a base URL with too little, too much or a doubled part of it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

# What else stands before a path where a base URL was meant for another server.
_PREFIXES: Final = frozenset(("v1", "api", "openai", "anthropic"))
_LONGEST: Final = 16


def meant(path: str, known: Collection[str]) -> str | None:
    """Which of the paths ``known`` (``/v1/models/{name}``) is meant by one that is nobody's, if it is plain to see.

    ``/v1`` is missing or doubled, a path stands there twice, slashes are doubled or come last.
    """
    parts = [part for part in path.split("/") if part]
    if not 0 < len(parts) <= _LONGEST:
        return None
    words = _PREFIXES | {word for one in known for word in one.split("/") if word and "{" not in word}
    patterns = [(re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(one))), one) for one in known]
    for start in range(len(parts)):
        if parts[start] != "v1" and not words.issuperset(parts[:start]):
            continue
        tail = "/" + "/".join(parts[start:])
        for tried in (tail, f"/v1{tail}"):
            found = next((one for pattern, one in patterns if pattern.fullmatch(tried)), None)
            if found is not None:
                return found
    return None

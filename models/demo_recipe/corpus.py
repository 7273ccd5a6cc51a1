"""Text for the tokenizer: what is said in training conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from .dialogues import converse
from .episode import Album, Episode
from .gate_turns import QUESTION, SILENT, SPEAK, gather


def spoken(episode: Episode) -> str:
    """All text of a conversation, tools included."""
    pieces = []
    for message in episode.messages:
        content = message["content"]
        pieces.append(content if isinstance(content, str) else " ".join(part.get("text", "") for part in content))
    if episode.tools:
        pieces.append(json.dumps(episode.tools, ensure_ascii=False))
    return "\n".join(pieces)


def corpus(album: Album, how_many: int, seed: int) -> Iterator[str]:
    """Texts of `how_many` new conversations, and of a quarter as many talks that call nobody."""
    rng = Random(seed)
    for _ in range(how_many):
        yield spoken(converse(rng, album))
    for _ in range(how_many // 4):
        talk = gather(rng)
        yield "\n".join([*(message["content"] for message in talk.messages), QUESTION, SPEAK, SILENT])

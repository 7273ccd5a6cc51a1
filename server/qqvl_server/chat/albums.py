"""How a chat's pictures are shown: the newest as they are, older ones small, the oldest as words. Pure.

What was shown in one way stays so until a chat's pictures are over their budget: then all are looked at again, and
what is left fills half of it, so that the next time is many turns away and prompts keep long common prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from qqvl_server.chat.prompt import CAPTIONED, LEFT_OUT
from qqvl_server.media.image import ImageRef

SMALL: Final = 64


@dataclass(frozen=True, slots=True)
class Levels:
    """Numbers of lines: from ``full`` on pictures are shown as they are, from ``small`` on small.

    ``captions`` are those that were written by then, by their pictures' SHA-256: a later one must not change a prompt.
    """

    full: int = 0
    small: int = 0
    captions: Mapping[str, str] = field(default_factory=dict)

    def shown(self, seq: int, image: ImageRef) -> ImageRef | str:
        if seq >= self.full:
            return image
        if seq >= self.small:
            return replace(image, most_tokens=SMALL)
        caption = self.captions.get(image.sha256)
        return CAPTIONED.format(caption) if caption else LEFT_OUT


def levelled(costs: Sequence[tuple[int, int, int]], budget: int) -> Levels:
    """Levels that bring the pictures below their budget; the newest line's are always shown as they are.

    Args:
        costs: of each line with pictures, oldest first: its number, how many pictures, their tokens as they are.
    """
    newest_first = costs[::-1]
    spent, whole = 0, 0
    for place, (_, _, tokens) in enumerate(newest_first):
        if place and spent + tokens > budget * 3 // 8:
            break
        spent += tokens
        whole = place + 1
    kept = whole
    for _, pictures, tokens in newest_first[whole:]:
        spent += min(tokens, SMALL * pictures)
        if spent > budget // 2:
            break
        kept += 1
    return Levels(newest_first[whole - 1][0], newest_first[kept - 1][0]) if costs else Levels()

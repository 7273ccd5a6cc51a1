"""Is somebody in a group a program that answers whatever we say? Two bots would talk for ever.

Told by the pace: three times within three seconds of our line, with nobody between. A person who was that quick is
heard again as soon as he takes his time, or anybody else speaks.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from qqvl_server.chat.message import ChatKey

QUICK_S: Final = 3.0
QUICK_LINES: Final = 3
_CHATS: Final = 4096


@dataclass(frozen=True, slots=True)
class Heard:
    """Somebody's line: when it came here, and when its sender's QQ says that it was sent."""

    speaker: str
    came_at: float
    sent_at: float


@dataclass(frozen=True, slots=True)
class _Exchange:
    """``ours`` is when we spoke last; ``quick`` counts the quick answers in a row of who spoke last."""

    ours: float
    last: Heard | None = None
    quick: int = 0
    is_answered: bool = False


class Exchanges:
    """The last exchange of each chat, of so many chats; times are in seconds since the epoch."""

    def __init__(self) -> None:
        self._chats: OrderedDict[ChatKey, _Exchange] = OrderedDict()

    def spoke(self, chat: ChatKey, now: float) -> None:
        """We said something."""
        known = self._chats.pop(chat, _Exchange(now))
        self._chats[chat] = replace(known, ours=now, is_answered=False)
        if len(self._chats) > _CHATS:
            self._chats.popitem(last=False)

    def delivered(self, chat: ChatKey, now: float) -> None:
        """QQ has what we said: only now can it be answered."""
        known = self._chats.get(chat)
        if known is not None and not known.is_answered:
            self._chats[chat] = replace(known, ours=now)

    def heard(self, chat: ChatKey, line: Heard | None) -> bool:
        """Note a line, None for one of which nobody can say when it was sent; whether a program speaks."""
        known = self._chats.get(chat)
        if known is None:
            return False
        if line is None:
            del self._chats[chat]
            return False
        before = known.last if known.last is not None and known.last.speaker == line.speaker else None
        count = 0
        if _is_quick(known.ours, before, line):
            count = (known.quick if before else 0) + (not known.is_answered)
        self._chats[chat] = _Exchange(known.ours, line, count, is_answered=True)
        return count >= QUICK_LINES


def _is_quick(ours: float, before: Heard | None, line: Heard) -> bool:
    # What came before we spoke answers something else.
    if not 0 <= line.came_at - ours <= QUICK_S:
        return False
    # Lines that were held up on their way come together; the sender's clock knows better.
    return before is None or line.sent_at - before.sent_at <= line.came_at - before.came_at + QUICK_S

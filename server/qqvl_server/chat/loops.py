"""Is somebody in a group a program that answers whatever we say? Two bots would talk for ever.

Told by the pace: three times within three seconds of our line, with nobody between. Who steers us by commands is seldom
one: it takes eight of those, and what is said right after them counts for nothing. A person who was that quick is heard
again as soon as he takes his time, or anybody else speaks.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from qqvl_server.chat.message import ChatKey

QUICK_S: Final = 3.0
QUICK_LINES: Final = 3
QUICK_COMMANDS: Final = 8
_CHATS: Final = 4096


@dataclass(frozen=True, slots=True)
class Heard:
    """Somebody's line: when it came here, and when its sender's QQ says that it was sent."""

    speaker: str
    came_at: float
    sent_at: float


@dataclass(frozen=True, slots=True)
class _Exchange:
    """``ours`` is when we last answered talk, ``told`` a command. ``quick`` counts the quick answers in a row of who
    spoke last, ``commands`` his quick commands. ``is_answered``: somebody has spoken since ``ours``, or ``told``.
    """

    ours: float = -math.inf
    told: float = -math.inf
    last: Heard | None = None
    quick: int = 0
    commands: int = 0
    is_answered: bool = False
    is_told_answered: bool = True


class Exchanges:
    """The last exchange of each chat, of so many chats; times are in seconds since the epoch."""

    def __init__(self) -> None:
        self._chats: OrderedDict[ChatKey, _Exchange] = OrderedDict()

    def spoke(self, chat: ChatKey, now: float, *, on_command: bool = False) -> None:
        """We said something."""
        known = self._chats.pop(chat, _Exchange(is_answered=on_command))
        if on_command:
            self._chats[chat] = replace(known, told=now, is_told_answered=False)
        else:
            self._chats[chat] = replace(known, ours=now, is_answered=False)
        if len(self._chats) > _CHATS:
            self._chats.popitem(last=False)

    def delivered(self, chat: ChatKey, now: float) -> None:
        """QQ has what we said: only now can it be answered."""
        known = self._chats.get(chat)
        if known is not None:
            ours = known.ours if known.is_answered else now
            told = known.told if known.is_told_answered else now
            self._chats[chat] = replace(known, ours=ours, told=told)

    def heard(self, chat: ChatKey, line: Heard | None, *, is_command: bool = False) -> bool:
        """Note a line, None for one of which nobody can say when it was sent; whether a program speaks."""
        known = self._chats.get(chat)
        if known is None:
            return False
        if line is None:
            del self._chats[chat]
            return False
        before = known.last if known.last is not None and known.last.speaker == line.speaker else None
        quick, commands = (known.quick, known.commands) if before is not None else (0, 0)
        if not is_command:
            quick = quick + (not known.is_answered) if _is_quick(known.ours, before, line) else 0
        if _is_quick(max(known.ours, known.told), before, line):
            commands += is_command
        else:
            commands = 0
        self._chats[chat] = _Exchange(known.ours, known.told, line, quick, commands, is_answered=True)
        return quick >= QUICK_LINES or commands >= QUICK_COMMANDS


def _is_quick(ours: float, before: Heard | None, line: Heard) -> bool:
    # What came before we spoke answers something else.
    if not 0 <= line.came_at - ours <= QUICK_S:
        return False
    # Lines that were held up on their way come together; the sender's clock knows better.
    return before is None or line.sent_at - before.sent_at <= line.came_at - before.came_at + QUICK_S

"""Do a line's words wake the bot: one of its names, a wake word, a pattern? Pure, and bounded in time."""

from __future__ import annotations

import functools
import time
from typing import Any, Final

import regex

from qqvl_server.chat import addressing
from qqvl_server.observe.logs import Seldom, logger
from qqvl_server.settings import ChatSettings

# A pattern can take for ever, and the event loop waits for it: for all of a line's together no longer than this.
_PATTERNS_S: Final = 0.02
_MAX_TEXT: Final = 2000
_telling = Seldom(60)


def wakes(text: str, names: tuple[str, ...], settings: ChatSettings) -> bool:
    """``names`` are what the bot is called in this chat."""
    return (
        addressing.is_called(text, names)
        or addressing.says_one_of(text, settings.wake_words)
        or _matches(text[:_MAX_TEXT], settings.wake_patterns)
    )


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    ends = time.monotonic() + _PATTERNS_S
    for number, pattern in enumerate(patterns, 1):
        left = ends - time.monotonic()
        try:
            if left > 0 and _compiled(pattern).search(text, timeout=left):
                return True
        except TimeoutError:
            left = 0
        if left <= 0:
            if _telling.due():
                logger().warning("唤醒的正则表达式太慢，这条消息没有找完", number=number)
            return False
    return False


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern)

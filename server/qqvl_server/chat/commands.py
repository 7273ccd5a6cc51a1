"""Words that act on the chat instead of going to the model."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from qqvl_server.chat import addressing
from qqvl_server.chat.message import ChatKey, EncodedPicture, Incoming

RESET: Final = frozenset({"/reset", "/重置", "重置"})
RESET_REPLY: Final = "已清空本会话的记忆，我们重新开始吧。"
RESET_REFUSED: Final = "只有群主、管理员或我的主人才能清空本群的记忆。"
STOP: Final = frozenset({"/stop", "/停止", "停止"})
STOPPED: Final = "好的，不说了。"
NOTHING_TO_STOP: Final = "现在没有正在写的回答。"
STOP_REFUSED: Final = "只有提问的人、群主、管理员或我的主人才能叫停。"
# A client may leave the mention of the bot in the text: "@小Q /reset".
_MENTION = re.compile(r"^(?:@\S{1,64}\s+)?(.*)$", re.DOTALL)
_REFUSAL_GAP_S: Final = 600


def is_reset(incoming: Incoming, names: Sequence[str]) -> bool:
    """Whether the words are the command, a mention or one of the bot's names left out; not who may give it."""
    return _is_one_of(RESET, incoming, names)


def is_stop(incoming: Incoming, names: Sequence[str]) -> bool:
    """As ``is_reset``, for the command that ends an answer."""
    return _is_one_of(STOP, incoming, names)


def _is_one_of(commands: frozenset[str], incoming: Incoming, names: Sequence[str]) -> bool:
    if any(isinstance(part, EncodedPicture) for part in incoming.parts):
        return False
    match = _MENTION.match(incoming.text)
    assert match is not None
    return match[1].strip().lower() in commands or addressing.without_call(incoming.text[:200], names) in commands


class Refusals:
    """Who may not is told so, but seldom: a prankster shall not make the bot speak."""

    def __init__(self) -> None:
        self._told: dict[ChatKey, float] = {}

    def is_due(self, chat: ChatKey) -> bool:
        """True at most once in ten minutes per chat."""
        now = time.monotonic()
        self._told = {known: at for known, at in self._told.items() if now - at < _REFUSAL_GAP_S}
        if chat in self._told:
            return False
        self._told[chat] = now
        return True

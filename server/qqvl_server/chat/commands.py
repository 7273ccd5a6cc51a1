"""Words that act on the chat instead of going to the model."""

from __future__ import annotations

import re
from typing import Final

from qqvl_server.chat.message import EncodedPicture, Incoming

RESET: Final = frozenset({"/reset", "/重置", "重置"})
RESET_REPLY: Final = "已清空本会话的记忆，我们重新开始吧。"
# A client may leave the mention of the bot in the text: "@小Q /reset".
_MENTION = re.compile(r"^(?:@\S{1,64}\s+)?(.*)$", re.DOTALL)


def is_reset(incoming: Incoming) -> bool:
    if any(isinstance(part, EncodedPicture) for part in incoming.parts):
        return False
    match = _MENTION.match(incoming.text)
    return match is not None and match[1].strip().lower() in RESET

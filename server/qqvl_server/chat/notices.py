"""What is told in a chat, or to somebody in it, at most once an hour: a prankster shall not make the bot speak."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from qqvl_server.chat.books import Books
from qqvl_server.chat.decision import Reason
from qqvl_server.chat.message import ChatKey

_GAP_S: Final = 3600
_MOST_KNOWN: Final = 4096


class Notices:
    """Those whose answer has the word ``reason``. A restart forgets none: the answers are kept."""

    def __init__(self, books: Books, reason: Reason) -> None:
        self._books = books
        self._reason = reason
        self._told: OrderedDict[tuple[ChatKey, str], float] = OrderedDict()

    async def is_due(self, chat: ChatKey, whom: str = "") -> bool:
        """True at most once an hour for each chat and person.

        Raises:
            StorageFailed
        """
        key, now = (chat, whom), self._books.now()
        last = self._told.get(key)
        # Two who ask at once are told once: the books say nothing of the first yet.
        self._note(key, now)
        if last is None:
            last = await self._books.last_notice(chat, self._reason, whom)
        if last is None or now - last >= _GAP_S:
            return True
        self._note(key, last)
        return False

    def _note(self, key: tuple[ChatKey, str], at: float) -> None:
        self._told[key] = at
        self._told.move_to_end(key)
        if len(self._told) > _MOST_KNOWN:
            self._told.popitem(last=False)

"""What an owner does to a chat from outside of it: forgets a line or all of it, silences it, throws a played one away.

Knows the store and preferences; no HTTP, no SQL.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from qqvl_server.chat.message import Answer, ChatKey, ChatKind
from qqvl_server.chat.preferences import FOREVER, Preferences
from qqvl_server.chat.steering import Steering
from qqvl_server.chat.store import Store
from qqvl_server.errors import InvalidRequest, NotFound

_NOTHING = Answer("", should_reply=False)
_MOST_MINUTES = 525_600


class Care:
    """``unread`` drops what is being read ahead of a chat. Every method raises ``StorageFailed``."""

    def __init__(
        self, store: Store, preferences: Preferences, steering: Steering, unread: Callable[[ChatKey], None]
    ) -> None:
        self._store = store
        self._preferences = preferences
        self._steering = steering
        self._unread = unread

    async def forget_line(self, chat: ChatKey, seq: int) -> tuple[int, ...]:
        """A line leaves the history, and what answered it; their numbers. Raises NotFound."""
        self._unread(chat)
        gone = await self._store.books.forget_line(chat, seq)
        if not gone:
            raise NotFound("这个会话里没有这一条")
        return gone

    async def reset(self, chat: ChatKey) -> None:
        self._unread(chat)
        await self._store.reset(chat, "", None, _NOTHING)

    async def throw_away(self, chat: ChatKey) -> None:
        """All that is kept of it, its settings as well."""
        self._unread(chat)
        await self._preferences.forget(chat)

    def muted_until(self, chat: ChatKey) -> float | None:
        until = self._preferences.muted_until(chat)
        return None if until == -math.inf or until < time.time() else until

    async def mute(self, chat: ChatKey, minutes: float | None) -> float:
        """Until when, in seconds since the epoch; None is until somebody says otherwise. Raises InvalidRequest."""
        if minutes is not None and not 0 < minutes <= _MOST_MINUTES:
            raise InvalidRequest(f"minutes 应在 0 到 {_MOST_MINUTES} 之间，null 为一直", param="minutes")
        until = FOREVER if minutes is None else time.time() + minutes * 60
        await self._preferences.mute(chat, until)
        return until

    async def unmute(self, chat: ChatKey) -> None:
        await self._preferences.mute(chat, None)

    def is_blocked(self, chat: ChatKey) -> bool:
        return chat.id in getattr(self._steering.now.settings.chat, _list_of(chat))

    async def block(self, chat: ChatKey, *, blocked: bool) -> dict[str, tuple[Any, Any]]:
        """The group, or the person of a private chat everywhere. Gives what was changed. Raises InvalidRequest."""
        name = _list_of(chat)
        listed = [one for one in getattr(self._steering.now.settings.chat, name) if one != chat.id]
        return await self._steering.change({f"chat.{name}": [*listed, chat.id] if blocked else listed})


def _list_of(chat: ChatKey) -> str:
    return "deny_groups" if chat.kind is ChatKind.GROUP else "deny_users"

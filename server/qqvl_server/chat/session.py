"""One lane per chat: its messages are handled in the order they arrived; other chats go on beside it.

Places are bounded and shared fairly: when all are taken, a message of a chat that has fewer than another pushes out
the newest waiting one of the chat that has most (longest queue drop, as fair routers do; Suter et al., INFOCOM 1998).
So the share of a chat is what the others leave, down to places ÷ chats, and no setting has to guess it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from qqvl_server.chat.message import ChatKey
from qqvl_server.errors import Busy

_RETRY_S = 2


class Place:
    """A message's place in its chat's lane, from its arrival to the end of its turn."""

    def __init__(self) -> None:
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def turn(self) -> None:
        """Wait until all earlier messages of the chat are done.

        Raises:
            Busy: the place was given to a chat that had fewer.
        """
        await self._granted

    def grant(self) -> None:
        # A caller that gave up has cancelled it.
        if not self._granted.done():
            self._granted.set_result(None)

    def withdraw(self) -> None:
        if not self._granted.done():
            self._granted.set_exception(Busy("这个会话排队的消息太多了，请稍后再试", retry_after=_RETRY_S))
            # Its turn may have been cancelled before it looked.
            self._granted.exception()


class Lanes:
    """``most`` places for all chats together. A lane exists only while it has a message, so memory does not grow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lanes: dict[ChatKey, deque[Place]] = {}
        self._taken = 0

    def take(self, chat: ChatKey) -> Place:
        """The next place of a chat's lane, to be given back with ``leave``; blocks nothing.

        Raises:
            Busy: all places are taken, and no chat has more than one more than this.
        """
        if self._taken >= self._most:
            self._make_room(chat)
        place = Place()
        lane = self._lanes.setdefault(chat, deque())
        lane.append(place)
        self._taken += 1
        if lane[0] is place:
            place.grant()
        return place

    def leave(self, chat: ChatKey, place: Place) -> None:
        """Give a place back, whether its turn came or not; once more does nothing."""
        lane = self._lanes.get(chat)
        if lane is None or place not in lane:
            return
        lane.remove(place)
        self._taken -= 1
        if lane:
            lane[0].grant()
        else:
            del self._lanes[chat]

    def _make_room(self, newcomer: ChatKey) -> None:
        longest = max(self._lanes, key=lambda chat: len(self._lanes[chat]))
        # With one more it would only trade places; a turn that has begun is never ended.
        if len(self._lanes[longest]) < max(len(self._lanes.get(newcomer, ())) + 2, 2):
            raise Busy("排队的消息太多了，请稍后再试", retry_after=_RETRY_S)
        last = self._lanes[longest][-1]
        last.withdraw()
        self.leave(longest, last)

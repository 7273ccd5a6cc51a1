"""Who may post now: a chat's messages reach the server in their order, and no chat takes another's slot.

Several messages of a chat are under way at once, each on a connection of its own, so that the server can merge what
waits. HTTP says nothing until the answer comes; a message counts as there once its bytes are written and the server
has had a moment to read them. What has to be asked again goes before those that come after it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

Trace = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""httpcore's trace extension: https://www.encode.io/httpcore/extensions/#trace"""
WRITTEN = ".send_request_body.complete"
HOLD_S = 60.0
SETTLE_S = 0.025
READ_BYTES_PER_S = 20_000_000
"""Megabytes of pictures are read and parsed at about this rate; a short text posted right behind would overtake."""


class Posts:
    """The messages that are on their way to the server. `most_chats` chats have any at once."""

    def __init__(self, most_chats: int, hold_s: float = HOLD_S) -> None:
        self._most_chats = most_chats
        self._hold_s = hold_s
        self._since: dict[str, float] = {}
        self._places: dict[str, list[Place]] = {}
        self._under_way: Counter[str] = Counter()
        self._asking: deque[str] = deque()
        self._watchers: set[asyncio.Event] = set()

    @contextmanager
    def enter(self, key: str) -> Iterator[Place]:
        """A place behind the chat's messages that are on their way."""
        place = Place(self, key)
        self._places.setdefault(key, []).append(place)
        try:
            yield place
        finally:
            self._places[key].remove(place)
            if not self._places[key]:
                del self._places[key]
            self.changed()

    def first(self, place: Place) -> bool:
        """Whether every earlier message of the chat is there."""
        places = self._places[place.key]
        return all(earlier.is_there for earlier in places[: places.index(place)])

    async def until(self, condition: Callable[[], bool]) -> None:
        """Look again after every change."""
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            while not condition():
                await news.wait()
                news.clear()
        finally:
            self._watchers.discard(news)

    def changed(self) -> None:
        for news in self._watchers:
            news.set()

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """One of the chats' slots. A chat shares its own among its posts at once, or a word to stop would wait for what
        it stops; held without a break for long, it goes to those who wait."""
        if not self._shares(key):
            self._asking.append(key)
            try:
                await self.until(lambda: self._may_go(key))
            finally:
                self._asking.remove(key)
                self.changed()
        self._under_way[key] += 1
        self._since.setdefault(key, time.monotonic())
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key], self._since[key]
            self.changed()

    def _shares(self, key: str) -> bool:
        if not self._under_way[key]:
            return False
        return not self._asking or time.monotonic() - self._since[key] < self._hold_s

    def _may_go(self, key: str) -> bool:
        if self._asking[0] != key:
            return False
        return key in self._under_way or len(self._under_way) < self._most_chats


class Place:
    """One message's place in its chat's order."""

    def __init__(self, posts: Posts, key: str) -> None:
        self.key = key
        self.is_there = False
        self._posts = posts
        self._settled: Callable[[], None] = lambda: None
        self._settle_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self) -> None:
        """Until this message may be posted."""
        await self._posts.until(lambda: self._posts.first(self))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One attempt, when it is its turn."""
        await self.turn()
        async with self._posts.slot(self.key):
            try:
                yield
            finally:
                self._stop()
                self.is_there = False

    def on_settled(self, size: int, then: Callable[[], None]) -> None:
        """What to do once a body of so many bytes is there."""
        self._settled, self._settle_s = then, SETTLE_S + size / READ_BYTES_PER_S

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        if event.endswith(WRITTEN):
            self._stop()
            self._timer = asyncio.get_running_loop().call_later(self._settle_s, self._arrive)

    def _arrive(self) -> None:
        self.is_there = True
        self._settled()
        self._posts.changed()

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

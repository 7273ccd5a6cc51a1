"""From engine threads up to the event loop: the one crossing, one call per step."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import FinishReason


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token with its natural log-probability, and the likeliest at its place (best first), where asked for."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The engine's end of one reply. ``stop_token`` is the requested stop token that ended it, if one did."""

    reason: FinishReason
    cached_tokens: int = 0
    stop_token: int | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Natural log-probability of each candidate, in order: the whole answer to a scoring request."""

    values: tuple[float, ...]


Item = int | LikelyToken | End | Scores | QqvlError


class Inbox:
    """What has come for one answer, each item with its choice. Used on the event loop only.

    ``due`` is set when a reply has ended or failed, for readers who let tokens gather.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[int, Item]] = deque()
        self._filled = asyncio.Event()
        self.due = asyncio.Event()

    def put(self, choice: int, item: Item) -> None:
        self._items.append((choice, item))
        self._filled.set()
        if not isinstance(item, int | LikelyToken):
            self.due.set()

    async def get(self) -> tuple[int, Item]:
        """The oldest, once there is one."""
        await self._filled.wait()
        oldest = self._items.popleft()
        if not self._items:
            self._filled.clear()
        return oldest

    async def all(self) -> list[tuple[int, Item]]:
        """All that is there, at least one."""
        await self._filled.wait()
        found = list(self._items)
        self._items.clear()
        self._filled.clear()
        self.due.clear()
        return found


class TokenChannel:
    """One reply's tokens, then one end or error. Made on the event loop, fed from any thread.

    Channels made with one ``inbox`` are read there together, each item with its channel's ``choice``.
    ``cached_tokens`` is written by the engine as soon as it knows, for replies that end before their ``End``.
    """

    def __init__(self, choice: int = 0, inbox: Inbox | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._choice = choice
        self._inbox = Inbox() if inbox is None else inbox
        self._abandoned = threading.Event()
        self.cached_tokens = 0

    async def receive(self) -> Item:
        _, item = await self._inbox.get()
        return item

    def abandon(self) -> None:
        """Nobody listens any more; engines look at this between tokens."""
        self._abandoned.set()

    def is_abandoned(self) -> bool:
        return self._abandoned.is_set()

    def send(self, item: Item) -> None:
        scatter([(self, item)])

    def _put(self, item: Item) -> None:
        self._inbox.put(self._choice, item)

    def _wake(self, items: Sequence[tuple[TokenChannel, Item]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_put_all, items)


def scatter(items: Sequence[tuple[TokenChannel, Item]]) -> None:
    """Deliver a step's items to their channels, which share one loop."""
    if items:
        items[0][0]._wake(items)


def _put_all(items: Sequence[tuple[TokenChannel, Item]]) -> None:
    for channel, item in items:
        channel._put(item)

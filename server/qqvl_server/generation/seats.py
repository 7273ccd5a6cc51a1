"""Who may wait for the model, however many ask: the places are shared among owners (chats, keys) as lanes share theirs.

When all are taken, whoever's owner has fewer pushes out the newest of the owner that has most (longest queue drop;
Suter et al., INFOCOM 1998). Where neither has more the more urgent stays, so that no number of API calls, of however
many keys, keeps a chat's message out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qqvl_server.errors import Busy
from qqvl_server.generation.port import GenerationRequest

_RETRY_AFTER_S = 5


class Seat:
    """The places of one call, one for each reply that has not begun. What has begun is not pushed out."""

    def __init__(self, request: GenerationRequest, most: int) -> None:
        self.owner = request.owner
        self.urgency = request.urgency
        self.replies = min(request.choices, most)
        self.waiting = set(range(self.replies))
        self.patience = asyncio.timeout(None)

    @property
    def has_begun(self) -> bool:
        return len(self.waiting) < self.replies


class Seats:
    """``most`` places. Used on the event loop only."""

    def __init__(self, most: int) -> None:
        self._most = most
        # In the order in which they came.
        self._taken: dict[Seat, None] = {}

    def take(self, request: GenerationRequest) -> Seat:
        """Places for all replies of a call, for ``leave``.

        Raises:
            Busy: all are taken, by owners that have no more than this.
        """
        seat = Seat(request, self._most)
        free = self._most - sum(len(taken.waiting) for taken in self._taken)
        for one in self._in_the_way(seat, free):
            self.leave(one)
            one.patience.reschedule(0)
        self._taken[seat] = None
        return seat

    @asynccontextmanager
    async def waiting(self, seat: Seat) -> AsyncIterator[None]:
        """For the time until the first reply has begun.

        Raises:
            Busy: pushed out.
        """
        try:
            async with seat.patience:
                yield
        except TimeoutError:
            raise _busy() from None
        finally:
            # Nobody is pushed out of what is over: its patience can be cut short no more.
            if not seat.has_begun:
                self.leave(seat)

    def began(self, seat: Seat, reply: int) -> None:
        seat.waiting.discard(reply)
        if not seat.waiting:
            self.leave(seat)

    def leave(self, seat: Seat) -> None:
        """Once more does nothing."""
        self._taken.pop(seat, None)

    def _in_the_way(self, newcomer: Seat, free: int) -> list[Seat]:
        """Whom to push out; none before it is sure that it is enough."""
        found: list[Seat] = []
        used: Counter[str] = Counter()
        for seat in self._taken:
            used[seat.owner] += len(seat.waiting)
        wanted = used[newcomer.owner] + newcomer.replies
        while free < newcomer.replies:
            # Of equals the last that came.
            others = (s for s in reversed(self._taken) if not s.has_begun and s not in found)
            last = max(others, key=lambda seat: (used[seat.owner], seat.urgency), default=None)
            if last is None or used[last.owner] < wanted + (last.urgency <= newcomer.urgency):
                raise _busy()
            found.append(last)
            used[last.owner] -= last.replies
            free += last.replies
        return found


def _busy() -> Busy:
    return Busy("现在太忙了，请稍后再试", retry_after=_RETRY_AFTER_S)

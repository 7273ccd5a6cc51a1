"""Whether QQ can be reached, as the clients tell it: a value to look at, and nothing that is decided by it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["up", "down", "unknown"]
# A client tells once a minute: of one that has not for this long nothing is known.
STALE_S: Final = 180
_MOST_ACCOUNTS: Final = 64
_MOST_CHANGES: Final = 200


@dataclass(frozen=True, slots=True)
class Link:
    """``since`` in seconds of the epoch, None where nobody has ever told; ``reason`` is the client's word for it."""

    state: State
    since: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """An account's link came or went at ``at``."""

    account: str
    state: State
    at: float
    reason: str


@dataclass(slots=True)
class _Account:
    state: State
    since: float
    heard: float
    reason: str


class Links:
    """One per server, spoken to from its loop alone."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._accounts: dict[str, _Account] = {}
        self._changes: deque[Change] = deque(maxlen=_MOST_CHANGES)

    def told(self, account: str, *, is_up: bool, reason: str) -> None:
        """A client's word about one of its accounts; "" is one that has not said yet who it is."""
        now, state = self._now(), "up" if is_up else "down"
        if account:
            self._accounts.pop("", None)
        known = self._accounts.pop(account, None)
        since = known.since if known is not None and known.state == state else now
        told = _Account("up" if is_up else "down", since, now, reason)
        if since == now:
            self._changes.append(Change(account, told.state, now, reason))
        # The one that was heard last comes last.
        self._accounts[account] = told
        while len(self._accounts) > _MOST_ACCOUNTS:
            del self._accounts[next(iter(self._accounts))]

    def link(self) -> Link:
        """Of all accounts: down where one is, up where all are of whom anything is known."""
        now = self._now()
        fresh = [one for one in self._accounts.values() if now - one.heard <= STALE_S]
        if not fresh:
            return Link("unknown", max((one.heard for one in self._accounts.values()), default=None))
        down = [one for one in fresh if one.state == "down"]
        if down:
            first = min(down, key=lambda one: one.since)
            return Link("down", first.since, first.reason)
        return Link("up", max(one.since for one in fresh))

    def changes(self) -> Sequence[Change]:
        """The latest ones, oldest first."""
        return tuple(self._changes)

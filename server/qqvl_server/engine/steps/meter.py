"""Whose work the model's time went to: the ledger's one source. Plain Python, from any thread."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from qqvl_server.observe.metrics import OWNER_KINDS

# Owners nobody ever asks about (API keys) stay; there are few, but whoever invents new ones is forgotten.
_MOST_OWNERS: Final = 8192


class Meter:
    """``exact``: a step's time is shared by its tokens; else each request has all the time from its first work to its
    last token, whoever else waits. Times are in seconds."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.busy_s = 0.0
        self._owed: dict[str, float] = {}
        self._of_kind: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def spent(self, elapsed_s: float, shares: Iterable[tuple[str, float]]) -> None:
        """``elapsed_s`` went by, of which each owner has his part, a fraction of 1; nobody's is only counted."""
        with self._lock:
            self.busy_s += elapsed_s
            for owner, part in shares:
                seconds = elapsed_s * part
                self._owed[owner] = self._owed.get(owner, 0.0) + seconds
                self._of_kind[_kind(owner)] += seconds
            while len(self._owed) > _MOST_OWNERS:
                del self._owed[next(iter(self._owed))]

    def take(self, owner: str) -> float:
        """What was spent for an owner since this was last asked."""
        with self._lock:
            return self._owed.pop(owner, 0.0)

    def of_kind(self, kind: str) -> float:
        """All that was spent for groups, private chats, or API callers."""
        return self._of_kind.get(kind, 0.0)


def _kind(owner: str) -> str:
    kind = owner.partition(":")[0]
    return kind if kind in OWNER_KINDS else "api"

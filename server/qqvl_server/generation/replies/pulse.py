"""When many streams look for their tokens: together, and less often than tokens come."""

from __future__ import annotations

import asyncio


class Pulse:
    """Wakes all who wait for it together: each alone would take the interpreter from the engine once more."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Event] = []

    async def beat(self, pause_s: float, due: asyncio.Event) -> None:
        """Until ``due`` is set: by the beat, ``pause_s`` after the first began to wait, if by nobody before."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(pause_s, self._wake)
        self._waiting.append(due)
        await due.wait()

    def _wake(self) -> None:
        for due in self._waiting:
            due.set()
        self._waiting.clear()

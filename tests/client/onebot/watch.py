"""Waiting for something to become true without sleeping for a guessed time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watched:
    """Call `changed()` after every change; `until()` then re-reads its condition."""

    def __init__(self) -> None:
        self._changes: set[asyncio.Event] = set()

    def changed(self) -> None:
        for event in self._changes:
            event.set()

    async def until(self, condition: Callable[[], object], what: str, within: float = 30) -> None:
        """Return once `condition()` is true; fail with `what` when it is not in time."""
        event = asyncio.Event()
        self._changes.add(event)
        try:
            async with asyncio.timeout(within):
                while not condition():
                    await event.wait()
                    event.clear()
        except TimeoutError:
            raise AssertionError(f"not within {within:g} s: {what}") from None
        finally:
            self._changes.discard(event)

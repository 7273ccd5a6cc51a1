"""How fast the account may speak: like a person who types, and never in bursts, which get accounts frozen."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, deque

from qqvl_client.settings import Settings

MINUTE_S = 60.0
CHATS = 1000
"""So many chats' last minutes are remembered."""


class Pace:
    """Keeps the account's sends apart, and each chat's below its cap a minute. Who is too early waits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next = 0.0
        self._sent: OrderedDict[str, deque[float]] = OrderedDict()

    async def turn(self, key: str) -> None:
        """Until the chat may get one more message; it counts as sent."""
        sent = self._sent.setdefault(key, deque(maxlen=self._settings.sends_per_minute))
        self._sent.move_to_end(key)
        while len(self._sent) > CHATS:
            self._sent.popitem(last=False)
        if len(sent) == sent.maxlen:
            # Other chats go on meanwhile: the account's turn is taken when this one may go.
            await asyncio.sleep(max(sent[0] + MINUTE_S - time.monotonic(), 0))
        now = time.monotonic()
        mine = max(now, self._next)
        self._next = mine + self._settings.send_gap_s * random.uniform(1, 1.5)
        sent.append(mine)
        await asyncio.sleep(mine - now)

    async def type(self, text: str, waited_s: float, is_first: bool) -> None:
        """As long as somebody would take to type it; who asked has waited for `waited_s` of that already."""
        speed = self._settings.typing_chars_per_s
        typing = min(len(text) / speed, self._settings.typing_max_s) * random.uniform(0.7, 1.3) if speed else 0.0
        if is_first:
            typing -= waited_s
        else:
            typing = max(typing, self._settings.part_gap_s * random.uniform(1, 1.5))
        await asyncio.sleep(max(typing, 0.0))

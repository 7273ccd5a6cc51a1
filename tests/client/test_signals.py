"""A stop signal that comes before anybody listens for one is obeyed once somebody does."""

from __future__ import annotations

import asyncio
import signal

from qqvl_client.signals import on_stop


def test_a_signal_heard_before_the_relay_listens_is_not_lost() -> None:
    async def first(*heard: int) -> int | None:
        stopping = on_stop(heard)
        try:
            return await asyncio.wait_for(stopping, 0.05)
        except TimeoutError:
            return None

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert asyncio.run(first()) is None
        assert asyncio.run(first(signal.SIGINT, signal.SIGTERM)) == signal.SIGINT
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

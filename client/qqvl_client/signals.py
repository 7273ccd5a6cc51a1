"""SIGTERM and Ctrl-C as something a coroutine can wait for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence


def on_stop(heard: Sequence[int] = ()) -> asyncio.Future[int]:
    """A future done at the first stop signal; the second one ends the process at once.

    Args:
        heard: stop signals that came before anybody waited for one.
    """
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopping.done():
            stopping.set_result(number)
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(each, stop, each)
        except NotImplementedError:  # Windows has no signals in its event loop
            signal.signal(each, lambda number, _: loop.call_soon_threadsafe(stop, number))
    for number in heard:
        stop(number)
    return stopping

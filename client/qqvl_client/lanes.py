"""One lane per chat: its jobs run one at a time, in order, while other lanes go on."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

LOG = logging.getLogger("qqvl.lanes")
Job = Callable[[], Awaitable[None]]


class Lanes:
    """Lanes appear with their first job and vanish with their last."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    def put(self, key: str, job: Job) -> None:
        if key in self._waiting:
            self._waiting[key].append(job)
            return
        self._waiting[key] = deque([job])
        worker = asyncio.create_task(self._work(key), name=f"lane {key}")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def close(self, grace_s: float) -> None:
        """Start nothing more, give running jobs `grace_s` to finish, then cancel them."""
        self._closed = True
        if not self._workers:
            return
        _, late = await asyncio.wait(self._workers, timeout=grace_s)
        for worker in late:
            worker.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, key: str) -> None:
        jobs = self._waiting[key]
        try:
            while jobs and not self._closed:
                await self._run(jobs.popleft(), key)
        finally:
            del self._waiting[key]

    async def _run(self, job: Job, key: str) -> None:
        try:
            await job()
        # The lane's edge: one message nobody foresaw must not stop the chat's next ones.
        except Exception:
            LOG.exception("处理 %s 的一条消息时出了没料到的错", key)

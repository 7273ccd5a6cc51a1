"""The server's state once a second, for those who look on: figures of the metrics as rates, memory, processors, cards.

Knows the metrics and this machine; no chats and no HTTP.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from qqvl_server.observe.cards import Cards
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics

EVERY_S: Final = 1.0
# Five minutes.
_KEPT: Final = 300
_MINUTE: Final = 60
# Told by class; here they are added up.
_OF_ALL_CLASSES: Final = ("qqvl_time_to_first_token_seconds_sum", "qqvl_time_to_first_token_seconds_count")


@dataclass(frozen=True, slots=True)
class _Reading:
    """Totals since the start, and the processors' times; ``at`` is a ``time.monotonic`` instant."""

    at: float
    values: dict[str, float]
    reasons: dict[str, float]
    qq_requests: float
    own_cpu_s: float
    busy_cpu_s: float


class Pulse:
    """``now`` tells what changes by itself: the state's word, who is being answered."""

    def __init__(self, metrics: Metrics, now: Callable[[], dict[str, Any]]) -> None:
        self._metrics = metrics
        self._now = now
        self._cards = Cards()
        self._process = psutil.Process()
        self._cores = os.cpu_count() or 1
        self._began = time.monotonic()
        self._readings: deque[_Reading] = deque([self._read()], maxlen=_MINUTE + 1)
        self._states: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._last_contact: float | None = None
        self._news = asyncio.Event()
        self._count = 0

    @property
    def states(self) -> list[dict[str, Any]]:
        """The last five minutes, oldest first."""
        return list(self._states)

    async def beat(self) -> None:
        """For as long as the server runs."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                # Drivers answer at their own pace.
                self._take(await asyncio.to_thread(self._cards.read))
            except (OSError, psutil.Error) as error:
                # Without descriptors left nothing of ``/proc`` can be read; there will be some again.
                logger().debug("读不到这一秒的状态", kind=type(error).__name__)

    async def follow(self) -> AsyncGenerator[dict[str, Any], None]:
        """Each state that comes; one who reads slowly is told the newest."""
        while True:
            await self._news.wait()
            yield self._states[-1]

    def _take(self, cards: list[dict[str, Any]]) -> None:
        before, reading = self._readings[-1], self._read()
        if reading.qq_requests > before.qq_requests:
            self._last_contact = time.time()
        self._readings.append(reading)
        self._states.append(self._state(before, reading) | {"cards": cards} | self._now())
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _read(self) -> _Reading:
        values: dict[str, float] = {}
        reasons: dict[str, float] = {}
        qq_requests = 0.0
        for family in self._metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "qqvl_chat_decisions_total":
                    reasons[sample.labels["reason"]] = sample.value
                elif sample.name == "qqvl_http_requests_total":
                    qq_requests += sample.value if sample.labels["door"] == "qq" else 0
                elif not sample.labels or sample.name.startswith(_OF_ALL_CLASSES):
                    values[sample.name] = values.get(sample.name, 0.0) + sample.value
        own, whole = self._process.cpu_times(), psutil.cpu_times()
        idle = whole.idle + getattr(whole, "iowait", 0.0)
        busy = sum(whole) - idle - getattr(whole, "guest", 0.0) - getattr(whole, "guest_nice", 0.0)
        return _Reading(time.monotonic(), values, reasons, qq_requests, own.user + own.system, busy)

    def _state(self, before: _Reading, now: _Reading) -> dict[str, Any]:
        took = max(now.at - before.at, 1e-3)
        minute = self._readings[0]

        def gained(name: str, since: _Reading) -> float:
            return now.values.get(name, 0.0) - since.values.get(name, 0.0)

        prompts = gained("qqvl_prompt_tokens_total", minute)
        firsts = gained("qqvl_time_to_first_token_seconds_count", minute)
        own = (now.own_cpu_s - before.own_cpu_s) / took / self._cores
        everyone = (now.busy_cpu_s - before.busy_cpu_s) / took / self._cores
        memory = psutil.virtual_memory()
        return {
            "at": time.time(),
            "uptime_s": now.at - self._began,
            "running": int(now.values.get("qqvl_requests_running", 0)),
            "waiting": int(now.values.get("qqvl_requests_waiting", 0)),
            "generation_tokens_s": gained("qqvl_generation_tokens_total", before) / took,
            "prompt_tokens_s": gained("qqvl_prompt_tokens_total", before) / took,
            "first_token_s": gained("qqvl_time_to_first_token_seconds_sum", minute) / firsts if firsts else None,
            "cache_hit": min(1.0, gained("qqvl_prefix_cached_tokens_total", minute) / prompts) if prompts else None,
            "busy": min(1.0, gained("qqvl_model_busy_seconds", before) / took),
            "memory": {
                "rss_mb": self._process.memory_info().rss // 2**20,
                "total_mb": memory.total // 2**20,
                "available_mb": memory.available // 2**20,
            },
            "cpu": {"own": min(1.0, own), "others": max(0.0, min(1.0, everyone - own)), "cores": self._cores},
            "last_client_contact": self._last_contact,
            "decisions": {reason: int(count) for reason, count in now.reasons.items()},
        }

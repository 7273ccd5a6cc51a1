"""Whether upstreams are there: each is asked again and again beside the calls, and looked at anew once it is back."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from qqvl_server.generation.engines.upstream.fleet import Fleet, Profile, Upstream
from qqvl_server.generation.engines.upstream.probing import PATIENCE_S, Prober
from qqvl_server.generation.engines.upstream.wire import is_our_delay
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics

# Two questions unanswered, each after its patience: an upstream is missed within sixteen seconds.
EVERY_S: Final = 3.0


class Watching:
    def __init__(self, fleet: Fleet, prober: Prober, metrics: Metrics, every_s: float = EVERY_S) -> None:
        self._fleet = fleet
        self._prober = prober
        self._every_s = every_s
        for upstream in fleet.upstreams:
            metrics.upstream_up.labels(upstream.name).set_function(lambda one=upstream: one.is_usable)  # type: ignore[misc]

    async def look(self) -> None:
        """Once at all of them, before anybody is answered."""
        await asyncio.gather(*(self._seek(upstream) for upstream in self._fleet.upstreams))
        for upstream in self._fleet.upstreams:
            if upstream.profile is None:
                logger().warning("上游没有应答，会一直再试", upstream=upstream.name)

    async def watch(self) -> None:
        await asyncio.gather(*(self._watch(upstream) for upstream in self._fleet.upstreams))

    async def _watch(self, upstream: Upstream) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            was = upstream.is_reachable
            since = time.monotonic()
            if not was:
                await self._seek(upstream)
            elif await self._prober.is_there(upstream):
                upstream.heard()
            elif not is_our_delay(since, PATIENCE_S):
                upstream.missed(since)
            if was and not upstream.is_reachable:
                logger().error("上游没有应答了", upstream=upstream.name)

    async def _seek(self, upstream: Upstream) -> None:
        profile = await self._prober.look(upstream)
        if profile is None:
            return
        upstream.profile = profile
        upstream.heard()
        _tell(upstream, profile)


def _tell(upstream: Upstream, profile: Profile) -> None:
    logger().info(
        "上游可用",
        upstream=upstream.name,
        kind=profile.kind.title,
        model=profile.model,
        context_tokens=profile.context_tokens or "没说",
        pictures="看图" if profile.sees else "不看图",
        logprobs="给对数概率" if profile.logprobs else "不给对数概率，group_reply: smart 不起作用",
        counting="由上游数 token" if profile.counts else "上游数不了 token",
    )

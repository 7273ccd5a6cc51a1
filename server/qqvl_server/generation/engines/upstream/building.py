"""The upstream voice, put together from the settings. No torch, no weights."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qqvl_server.errors import ConfigError
from qqvl_server.generation.engines.upstream.asking import Asking
from qqvl_server.generation.engines.upstream.counting import Bytes, Counting, Ruler
from qqvl_server.generation.engines.upstream.fleet import Fleet, Upstream
from qqvl_server.generation.engines.upstream.pictures import Gallery
from qqvl_server.generation.engines.upstream.probing import Prober
from qqvl_server.generation.engines.upstream.rulers import Beside, Served
from qqvl_server.generation.engines.upstream.tokens import Marks
from qqvl_server.generation.engines.upstream.voice import UpstreamVoice
from qqvl_server.generation.engines.upstream.watching import EVERY_S, Watching
from qqvl_server.generation.engines.upstream.wire import UpstreamHttp
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import Settings
from qqvl_server.upstreams import UpstreamSettings

# A server that is slow to say what it is may say it later.
_FIRST_LOOK_S: Final = 40


def check(settings: UpstreamSettings) -> None:
    """Raises ConfigError: what the settings say of the upstreams does not fit together."""
    if not settings.upstream_url:
        raise ConfigError("engine: upstream 要写 upstream_url：上游的网址，如 --upstream-url http://10.0.0.5:8000/v1")
    if settings.upstream_weights and len(settings.upstream_weights) != len(settings.upstream_url):
        raise ConfigError(
            f"upstream_weights 有 {len(settings.upstream_weights)} 个，upstream_url 有 "
            f"{len(settings.upstream_url)} 个：要一样多，或不写 upstream_weights"
        )


def build(
    settings: Settings,
    library: ImageLibrary,
    metrics: Metrics,
    secret: str,
    tokenizer: Path | None,
    *,
    look_every_s: float = EVERY_S,
) -> UpstreamVoice:
    """Blocking, until every upstream was asked what it is. It has no loop of its own afterwards.

    Args:
        secret: what marks of chats are made with.
        tokenizer: the folder that ``model_path`` names, if it does.

    Raises:
        ConfigError
    """
    ours = settings.upstream
    check(ours)
    weights = ours.upstream_weights or (1.0,) * len(ours.upstream_url)
    fleet = Fleet([Upstream(url, weight) for url, weight in zip(ours.upstream_url, weights, strict=True)])
    beside = Beside(tokenizer) if tokenizer is not None else None
    gallery = Gallery(library, settings.media.max_image_tokens)
    asyncio.run(_first_look(fleet, ours, metrics))
    http = UpstreamHttp(ours.upstream_key, ours.upstream_proxy)
    prober = Prober(http, ours.upstream_preset, ours.upstream_model)
    rule = _rule(fleet, prober, beside)
    logger().info("怎么数 token", by=_told(rule()))
    return UpstreamVoice(
        fleet,
        Asking(http, Marks(secret, ours.upstream_salt), ours.upstream_session_header, metrics),
        Watching(fleet, prober, metrics, look_every_s),
        Counting(rule, gallery.size),
        gallery,
        exact=lambda: rule().exact,
        context_tokens=settings.generation.context_tokens,
        metrics=metrics,
        max_pending=settings.generation.max_pending,
        close=http.aclose,
    )


async def _first_look(fleet: Fleet, settings: UpstreamSettings, metrics: Metrics) -> None:
    """With connections of its own: those of a loop that has ended are of no use to the next one."""
    http = UpstreamHttp(settings.upstream_key, settings.upstream_proxy)
    try:
        prober = Prober(http, settings.upstream_preset, settings.upstream_model)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await Watching(fleet, prober, metrics).look()
    finally:
        await http.aclose()


def _rule(fleet: Fleet, prober: Prober, beside: Beside | None) -> Callable[[], Ruler]:
    """The best measure there is now: an upstream that counts may come only later."""
    served = {upstream: Served(prober, upstream) for upstream in fleet.upstreams}
    bound = Bytes()

    def rule() -> Ruler:
        counts = (one for one in fleet.upstreams if one.is_reachable and one.profile and one.profile.counts)
        first = next(counts, None)
        return served[first] if first is not None else beside or bound

    return rule


def _told(ruler: Ruler) -> str:
    if isinstance(ruler, Served):
        return "上游的 /tokenize"
    if isinstance(ruler, Beside):
        return "model_path 的分词器"
    return "上限估计，按上游每次报的用量校正；写 --model-path 分词器的文件夹会更准"

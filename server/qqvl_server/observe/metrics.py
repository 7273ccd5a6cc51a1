"""Counters for Prometheus. Label values come from fixed sets: no user word or id ever becomes one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """One registry per server, so that two in one process (tests) do not share numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests_running = Gauge("qqvl_requests_running", "正在由模型回答的请求", registry=self.registry)
        self.requests_waiting = Gauge("qqvl_requests_waiting", "排队等模型的请求", registry=self.registry)
        self.prompt_tokens = Counter("qqvl_prompt_tokens", "读入的 token 总数", registry=self.registry)
        self.generation_tokens = Counter("qqvl_generation_tokens", "生成的 token 总数", registry=self.registry)
        self.prefix_cached_tokens = Counter(
            "qqvl_prefix_cached_tokens", "在缓存里、不用重读的提示 token 总数", registry=self.registry
        )
        self.vision_cache_hits = Counter("qqvl_vision_cache_hits", "看过的图，不用再看", registry=self.registry)
        self.vision_cache_misses = Counter("qqvl_vision_cache_misses", "第一次看的图", registry=self.registry)
        self.http_requests = Counter(
            "qqvl_http_requests", "HTTP 请求数", labelnames=("door", "status"), registry=self.registry
        )

    def render(self) -> bytes:
        """Text exposition format, version 0.0.4."""
        return generate_latest(self.registry)

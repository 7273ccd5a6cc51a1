"""Counters for Prometheus. Label values come from fixed sets: no user word or id ever becomes one."""

from __future__ import annotations

from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From what nobody notices to a queue that is given up.
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

# A local gate takes microseconds, a question to a large model on a busy machine seconds.
_DECISION_SECONDS: Final = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_LOG_ODDS: Final = (-8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8)


# Whose the model's time was: what stands before the colon of an owner's name, anything else is a caller of the API.
OWNER_KINDS: Final = ("group", "private", "api")


class ModelTime(Protocol):
    @property
    def busy_s(self) -> float: ...
    def of_kind(self, kind: str) -> float: ...


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
        self.queue_seconds = Histogram(
            "qqvl_queue_seconds", "一条回答从到达到开始算等了多久", registry=self.registry, buckets=_SECONDS
        )
        self.first_token_seconds = Histogram(
            "qqvl_time_to_first_token_seconds",
            "一条回答从到达到第一个 token 多久；答完时记下",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.http_requests = Counter(
            "qqvl_http_requests", "HTTP 请求数", labelnames=("door", "status"), registry=self.registry
        )
        self.model_busy_seconds = Gauge(
            "qqvl_model_busy_seconds", "模型一共算了多少秒，从启动起", registry=self.registry
        )
        self.model_seconds = Gauge(
            "qqvl_model_seconds",
            "模型的时间用在谁身上，从启动起：一步的时间按各自的 token 分",
            labelnames=("kind",),
            registry=self.registry,
        )
        self.decisions = Counter(
            "qqvl_chat_decisions", "QQ 消息回或不回，按原因", labelnames=("reason",), registry=self.registry
        )
        self.decision_seconds = Histogram(
            "qqvl_chat_decision_seconds",
            "决定一条 QQ 消息回不回用了多久，按原因；等人说完的停顿不算",
            labelnames=("reason",),
            registry=self.registry,
            buckets=_DECISION_SECONDS,
        )
        self.gate_score = Histogram(
            "qqvl_chat_gate_score",
            "问过模型要不要插话的消息，插话合适的对数几率",
            registry=self.registry,
            buckets=_LOG_ODDS,
        )
        self.interruptions = Counter(
            "qqvl_chat_interruptions",
            "没答完就停下的回答，按原因：追问、叫停、撤回、插话前别人又说了",
            labelnames=("reason",),
            registry=self.registry,
        )
        self.blocked = Counter(
            "qqvl_chat_blocked", "碰到屏蔽词的消息（in）和回答（out）", labelnames=("side",), registry=self.registry
        )
        self.captions = Counter("qqvl_chat_captions", "空闲时给旧图写的说明", registry=self.registry)

    def count_model_time(self, clock: ModelTime) -> None:
        """Show what a clock tells that goes on for as long as the process lives."""
        self.model_busy_seconds.set_function(lambda: clock.busy_s)
        for kind in OWNER_KINDS:
            self.model_seconds.labels(kind).set_function(lambda kind=kind: clock.of_kind(kind))  # type: ignore[misc]

    def waited(self, queued_s: float | None, first_token_s: float | None) -> None:
        """One reply has ended; None is what it never came to."""
        if queued_s is not None:
            self.queue_seconds.observe(queued_s)
        if first_token_s is not None:
            self.first_token_seconds.observe(first_token_s)

    def render(self) -> bytes:
        """Text exposition format, version 0.0.4."""
        return generate_latest(self.registry)

"""Counters for Prometheus. Label values come from fixed sets: no user word or id ever becomes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qqvl_server.observe.card_figures import CardFigures
from qqvl_server.observe.cards import Cards
from qqvl_server.observe.links import Links
from qqvl_server.observe.tallies import Tallies

# From what nobody notices to a queue that is given up.
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

# A local gate takes microseconds, a question to a large model on a busy machine seconds.
_DECISION_SECONDS: Final = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_LOG_ODDS: Final = (-8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8)
# A decode of a small model on a card takes milliseconds; a chunk of a prompt on a CPU seconds.
_STEP_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)

# Whose the model's time was: what stands before the colon of an owner's name, anything else is a caller of the API.
OWNER_KINDS: Final = ("group", "private", "api")
# Whose turn comes when, as the engine's queue tells them apart.
CLASSES: Final = ("addressed", "private", "api", "active_speech", "idle")
STEP_KINDS: Final = ("decode", "prefill", "mixed")


class ModelTime(Protocol):
    @property
    def busy_s(self) -> float: ...
    def of_kind(self, kind: str) -> float: ...


class EngineReading(Protocol):
    """Blocks of the cache: all, those in use, those whose content may be found again; who was put back, by why."""

    @property
    def blocks(self) -> int: ...
    @property
    def blocks_used(self) -> int: ...
    @property
    def blocks_named(self) -> int: ...
    @property
    def preemptions(self) -> Mapping[str, int]: ...


class Metrics:
    """One registry per server, so that two in one process (tests) do not share numbers.

    ``machine`` holds what takes the system time to tell; only ``render`` asks it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.machine = CollectorRegistry()
        ProcessCollector(registry=self.machine)
        self.machine.register(CardFigures(Cards()))
        self.http_requests = Counter(
            "qqvl_http_requests", "HTTP 请求数", labelnames=("door", "status"), registry=self.registry
        )
        self.errors = Counter(
            "qqvl_errors", "以出错结束的请求，按错误的 code，流式回答中途的也算", ("code",), registry=self.registry
        )
        self.link_up = Gauge("qqvl_link_up", "QQ 线路：1 通，0 断，NaN 不知道", registry=self.registry)
        self.link_up.set(math.nan)
        self._of_engine()
        self._of_waits()
        self._of_chats()

    def _of_engine(self) -> None:
        self.requests_running = Gauge("qqvl_requests_running", "正在由模型回答的请求", registry=self.registry)
        self.requests_waiting = Gauge("qqvl_requests_waiting", "排队等模型的请求", registry=self.registry)
        self.prompt_tokens = Counter("qqvl_prompt_tokens", "读入的 token 总数", registry=self.registry)
        self.generation_tokens = Counter("qqvl_generation_tokens", "生成的 token 总数", registry=self.registry)
        self.prefix_cached_tokens = Counter(
            "qqvl_prefix_cached_tokens", "在缓存里、不用重读的提示 token 总数", registry=self.registry
        )
        self.vision_cache_hits = Counter("qqvl_vision_cache_hits", "看过的图，不用再看", registry=self.registry)
        self.vision_cache_misses = Counter("qqvl_vision_cache_misses", "第一次看的图", registry=self.registry)
        self.model_busy_seconds = Gauge(
            "qqvl_model_busy_seconds", "模型一共算了多少秒，从启动起", registry=self.registry
        )
        self.model_seconds = Gauge(
            "qqvl_model_seconds",
            "模型的时间用在谁身上，从启动起：一步的时间按各自的 token 分",
            labelnames=("kind",),
            registry=self.registry,
        )
        self.engine = Info("qqvl_engine", "推理引擎：在哪算、用的哪个算子", registry=self.registry)

    def _of_waits(self) -> None:
        self.queue_seconds = Histogram(
            "qqvl_queue_seconds", "一条回答从到达到开始算等了多久，按急缓", ("class",),
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "qqvl_time_to_first_token_seconds", "一条回答从到达到第一个 token 多久，按急缓；答完时记下", ("class",),
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        for name in CLASSES:
            # There from the start: a rate of what appears with its first value misses that value.
            self.queue_seconds.labels(name)
            self.first_token_seconds.labels(name)
        self.inter_token_seconds = Tallies(
            "qqvl_inter_token_seconds", "一条回答里一个 token 到下一个多久，按急缓", "class", CLASSES, _STEP_SECONDS
        )
        self.step_seconds = Tallies(
            "qqvl_step_seconds", "引擎的一步多久：decode 只续写，prefill 只读提示，mixed 都有", "kind", STEP_KINDS,
            _STEP_SECONDS,
        )  # fmt: skip
        self.registry.register(self.inter_token_seconds)
        self.registry.register(self.step_seconds)

    def _of_chats(self) -> None:
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
        self.upstream_requests = Counter(
            "qqvl_upstream_requests",
            "问过上游多少次，按上游和结果：ok、unreachable、torn、busy、error、denied、rejected、late、aborted",
            labelnames=("upstream", "outcome"),
            registry=self.registry,
        )
        self.upstream_up = Gauge(
            "qqvl_upstream_up", "上游现在能不能用", labelnames=("upstream",), registry=self.registry
        )
        self.captions = Counter("qqvl_chat_captions", "空闲时给旧图写的说明", registry=self.registry)
        self.sent = Counter("qqvl_chat_sent", "客户端报告已发到 QQ 的消息", registry=self.registry)

    def count_model_time(self, clock: ModelTime) -> None:
        """Show what a clock tells that goes on for as long as the process lives."""
        self.model_busy_seconds.set_function(lambda: clock.busy_s)
        for kind in OWNER_KINDS:
            self.model_seconds.labels(kind).set_function(lambda kind=kind: clock.of_kind(kind))  # type: ignore[misc]

    def show_engine(self, facts: Mapping[str, object], read: Callable[[], EngineReading] | None = None) -> None:
        """What computes here and how; ``read`` tells how it stands, from any thread, for as long as it lives."""
        self.engine.info({name: str(value) for name, value in facts.items()})
        if read is not None:
            self.registry.register(_Engine(read))

    def show_link(self, links: Links) -> None:
        """As ``/ready`` tells it."""
        values = {"up": 1.0, "down": 0.0}
        self.link_up.set_function(lambda: values.get(links.link().state, math.nan))

    def waited(self, queued_s: float | None, first_token_s: float | None, urgency: str) -> None:
        """One reply has ended, of a class of ``CLASSES``; None is what it never came to."""
        if queued_s is not None:
            self.queue_seconds.labels(urgency).observe(queued_s)
        if first_token_s is not None:
            self.first_token_seconds.labels(urgency).observe(first_token_s)

    def render(self) -> bytes:
        """Text exposition format, version 0.0.4. Waits for drivers: not on an event loop."""
        return generate_latest(self.registry) + generate_latest(self.machine)


class _Engine(Collector):
    def __init__(self, read: Callable[[], EngineReading]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        now = self._read()
        for name, text, value in (
            ("qqvl_kv_blocks", "KV 缓存一共多少块", now.blocks),
            ("qqvl_kv_blocks_used", "正在回答的请求占着的块", now.blocks_used),
            ("qqvl_kv_blocks_named", "内容还认得、可以直接拿来用的块，占着的和空着的都算", now.blocks_named),
        ):
            yield GaugeMetricFamily(name, text, value)
        put_back = CounterMetricFamily("qqvl_preemptions", "放回去重排的请求，按原因", labels=["reason"])
        for reason, count in now.preemptions.items():
            put_back.add_metric([reason], count)
        yield put_back

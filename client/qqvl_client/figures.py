"""Figures of the relay for Prometheus. Label values come from fixed sets: no id and no word ever becomes one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from qqvl_client.settings import Settings, is_loopback

LOG = logging.getLogger("qqvl.figures")
# From a command's answer to what somebody waits for at most.
_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Figures:
    """One registry per relay, shown under `/metrics` at `metrics_address` while it is set."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.messages = Counter(
            "qqvl_client_messages", "从 QQ 收到的消息：ask 交给服务器，context 只作历史，repeat 重复", ("kind",),
            registry=registry,
        )  # fmt: skip
        self.answers = Counter(
            "qqvl_client_answers", "服务器的答复：answered 有话，silent 不用回复，merged 并入别的，failed 没有答成",
            ("outcome",), registry=registry,
        )  # fmt: skip
        self.answer_seconds = Histogram(
            "qqvl_client_answer_seconds", "一条消息从收下到服务器答完多久", registry=registry, buckets=_SECONDS
        )
        self.sends = Counter(
            "qqvl_client_sends", "发到 QQ 的消息：sent 发出，unsure 结果不明，refused 被拒绝，late 线路断太久没发",
            ("outcome",), registry=registry,
        )  # fmt: skip
        self.send_seconds = Histogram(
            "qqvl_client_send_seconds", "一条消息从收下到第一条回复发出多久", registry=registry, buckets=_SECONDS
        )
        self.pictures = Counter("qqvl_client_pictures", "交给服务器的图片", registry=registry)
        self.open_messages = Gauge("qqvl_client_open_messages", "收下了还没答完的消息", registry=registry)
        self.line_up = Gauge("qqvl_client_line_up", "QQ 一侧的线路：1 通，0 断", registry=registry)
        self.server_up = Gauge("qqvl_client_server_up", "服务器：1 接消息，0 不接，NaN 还没问过", registry=registry)
        self.server_up.set(math.nan)
        for family, values in (
            (self.messages, ("ask", "context", "repeat")),
            (self.answers, ("answered", "silent", "merged", "failed")),
            (self.sends, ("sent", "unsure", "refused", "late")),
        ):
            for value in values:
                # There from the start: a rate of what appears with its first value misses that value.
                family.labels(value)
        self.address: str | None = None
        """Where they are shown."""
        self._listening: tuple[Any, Any] | None = None

    def watch(self, open_messages: Callable[[], int], line_is_up: Callable[[], bool]) -> None:
        self.open_messages.set_function(open_messages)
        self.line_up.set_function(lambda: float(line_is_up()))

    def answered(self, outcome: str, taken_at: float) -> None:
        self.answers.labels(outcome).inc()
        self.answer_seconds.observe(max(time.time() - taken_at, 0.0))

    def sent(self, taken_at: float, *, is_first: bool) -> None:
        self.sends.labels("sent").inc()
        if is_first:
            self.send_seconds.observe(max(time.time() - taken_at, 0.0))

    def listen(self, settings: Settings) -> None:
        """Show them, where an address is set. One that cannot be had costs a line in the log, and no answer."""
        if not settings.metrics_address:
            return
        place = urlsplit(f"//{settings.metrics_address}")
        host = place.hostname or "127.0.0.1"
        try:
            self._listening = start_http_server(place.port or 0, host, self.registry)
        except OSError as error:
            LOG.error(
                "metrics_address 用不了（%s：%s），换一个端口；别的照常", settings.metrics_address, error.strerror
            )
            return
        port = self._listening[0].server_port
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        LOG.info("指标在 %s", self.address)
        if not is_loopback(host):
            LOG.warning("metrics_address 不是本机地址：能连到这台机器的人都能看指标，里面没有消息和 QQ 号")

    def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            server, thread = listening
            server.shutdown()
            server.server_close()
            thread.join(1)

"""One request at a time on one thread, first come first served: how the reference engine is run. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from qqvl_server.engine.steps.figures import CLASSES
from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.request import Priority, TokenMask
from qqvl_server.errors import EngineDead, GenerationFailed, QqvlError
from qqvl_server.generation.port import GenerationRequest, Sampling
from qqvl_server.generation.replies.channel import End, LikelyToken, Scores, TokenChannel
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics

PIn = TypeVar("PIn", contravariant=True)
P = TypeVar("P")


class BlockingEngine(Protocol[PIn]):
    def run(
        self,
        prompt: PIn,
        sampling: Sampling,
        on_token: Callable[[int | LikelyToken], None],
        stop: Callable[[], bool],
        mask: TokenMask | None = None,
    ) -> End:
        """Blocking: ``on_token`` for each token but the end; returns early once ``stop()`` is true."""
        ...

    def score(self, prompt: PIn, candidates: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """Blocking: natural log-probability of each continuation."""
        ...


class SerialEngine(Generic[P]):
    def __init__(self, engine: BlockingEngine[P], metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self.meter = Meter(exact=False)
        metrics.count_model_time(self.meter)
        metrics.show_engine({"engine": "generate"})
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="qqvl-model")
        self.alive = True

    def submit(
        self, prompt: P, request: GenerationRequest, channel: TokenChannel, mask: TokenMask | None = None
    ) -> None:
        def stop() -> bool:
            return _is_over(request, channel)

        arrived, urgency = time.monotonic(), CLASSES[Priority(request.urgency)]
        first: float | None = None
        last = arrived

        def on_token(token: int | LikelyToken) -> None:
            nonlocal first, last
            now = time.monotonic()
            if first is None:
                first = now - arrived
            else:
                self._metrics.inter_token_seconds.add(urgency, now - last)
            last = now
            self._metrics.generation_tokens.inc()
            channel.send(token)

        def run() -> End:
            queued = time.monotonic() - arrived
            end = self._engine.run(prompt, request.sampling, on_token, stop, mask)
            self._metrics.waited(queued, first, urgency)
            return end

        self._queue(request, channel, run)

    def score(
        self, prompt: P, candidates: Sequence[Sequence[int]], request: GenerationRequest, channel: TokenChannel
    ) -> None:
        self._queue(request, channel, lambda: Scores(self._engine.score(prompt, candidates)))

    def warm(self, prompt: P, request: GenerationRequest) -> None:
        """Nothing: this engine keeps no cache between requests."""

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _queue(self, request: GenerationRequest, channel: TokenChannel, work: Callable[[], End | Scores]) -> None:
        self._metrics.requests_waiting.inc()
        self._thread.submit(self._run, request, channel, work)

    def _run(self, request: GenerationRequest, channel: TokenChannel, work: Callable[[], End | Scores]) -> None:
        """On the model thread. Whatever happens, the channel gets an end or an error."""
        self._metrics.requests_waiting.dec()
        if _is_over(request, channel) or not self.alive:
            channel.send(GenerationFailed("请求已取消"))
            return
        started = time.monotonic()
        with self._metrics.requests_running.track_inprogress():
            try:
                channel.send(work())
            except EngineDead as error:
                self.alive = False
                channel.send(error)
            except QqvlError as error:
                channel.send(error)
            except Exception as error:
                # The edge of a library that raises anything: one request fails, the thread goes on.
                logger().exception("模型调用失败", kind=type(error).__name__)
                channel.send(GenerationFailed("模型出错，这条消息没能回答，请重试"))
            finally:
                self.meter.spent(time.monotonic() - started, [(request.owner, 1.0)])


def _is_over(request: GenerationRequest, channel: TokenChannel) -> bool:
    return channel.is_abandoned() or time.monotonic() > request.deadline

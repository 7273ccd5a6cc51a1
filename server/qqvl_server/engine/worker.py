"""The engine's thread: takes requests, steps the core, hands tokens on once per step. Imports no torch.

Three sizes of failure: a request that cannot run is told so; a step that fails ends its requests and the engine goes
on; ``MAX_FAILED_STEPS`` in a row, or a lost device, end the engine and everybody who waits is told.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from qqvl_server.engine.core import EngineCore
from qqvl_server.engine.request import FinishReason, Request
from qqvl_server.errors import DeadlineExceeded, EngineDead, GenerationFailed, PromptTooLong, QqvlError
from qqvl_server.observe.logs import logger

MAX_FAILED_STEPS: Final = 3

Item = int | FinishReason | QqvlError


class Sink(Protocol):
    """Where one request's tokens go."""

    def is_abandoned(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Job:
    """``deadline`` is a ``time.monotonic`` instant."""

    request: Request
    patches: Mapping[bytes, Any]
    sink: Sink
    deadline: float


class Worker:
    """``submit`` may be called from any thread; everything else happens on the worker's own."""

    def __init__(self, core: EngineCore, deliver: Callable[[Sequence[tuple[Sink, Item]]], None]) -> None:
        self._core = core
        self._deliver = deliver
        self._arriving: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}
        self._failed_steps = 0
        self.alive = True
        self._thread = threading.Thread(target=self._loop, name="qqvl-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Raises EngineDead when nothing runs any more."""
        if not self.alive:
            raise EngineDead("模型引擎已停止工作，服务正在退出")
        self._arriving.put(job)

    def close(self) -> None:
        """End the thread after the step it is in."""
        self._arriving.put(None)

    def _loop(self) -> None:
        try:
            while self._take_arrivals():
                self._drop_abandoned()
                self._step()
        except EngineDead as error:
            self._die(error)
        except Exception as error:
            # The thread's edge: whatever broke the books, everybody who waits must hear of it.
            logger().error("模型引擎崩溃", exc_info=error)
            self._die(EngineDead("模型引擎出错停止了，服务将退出以便重启"))

    def _take_arrivals(self) -> bool:
        """Add what has come; waits when there is nothing to do. False when asked to end."""
        while True:
            try:
                job = self._arriving.get(block=not self._core.has_work)
            except queue.Empty:
                return True
            if job is None:
                return False
            try:
                self._core.add(job.request, job.patches)
            except ValueError:
                self._deliver([(job.sink, PromptTooLong("内容太长，超出了模型缓存的容量"))])
            else:
                self._jobs[job.request.id] = job

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.sink.is_abandoned() or now > job.deadline:
                self._core.abort(job.request)
                del self._jobs[job.request.id]
                self._deliver([(job.sink, DeadlineExceeded("这条消息处理太久，已放弃，请稍后再试", retry_after=5))])

    def _step(self) -> None:
        try:
            outputs = self._core.step()
        except EngineDead:
            raise
        except Exception as error:
            # One step's edge: the model's libraries raise anything.
            self._fail_step(error)
            return
        self._failed_steps = 0
        items: list[tuple[Sink, Item]] = []
        for output in outputs:
            job = self._jobs[output.request.id]
            if output.token not in output.request.sampling.stop_token_ids:
                items.append((job.sink, output.token))
            if output.finished and output.request.finish_reason is not None:
                items.append((job.sink, output.request.finish_reason))
                del self._jobs[output.request.id]
        if items:
            self._deliver(items)

    def _fail_step(self, error: Exception) -> None:
        logger().error("一步推理失败", kind=type(error).__name__, exc_info=error)
        self._failed_steps += 1
        told = [(job.sink, GenerationFailed("模型出错，这条消息没能回答，请重试")) for job in self._jobs.values()]
        for job in self._jobs.values():
            self._core.abort(job.request)
        self._jobs.clear()
        self._deliver(told)
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise EngineDead("模型连续出错，服务将退出以便重启") from error

    def _die(self, error: EngineDead) -> None:
        self.alive = False
        waiting = [job.sink for job in self._jobs.values()]
        while not self._arriving.empty():
            job = self._arriving.get()
            if job is not None:
                waiting.append(job.sink)
        self._jobs.clear()
        self._deliver([(sink, error) for sink in waiting])

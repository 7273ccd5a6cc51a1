"""The engine's thread: takes requests, steps the core, hands tokens on once per step. Imports no torch.

Three sizes of failure: a request that cannot run is told so; a step that fails ends its requests and the engine goes
on; ``MAX_FAILED_STEPS`` in a row, a lost device, or books that do not balance when the engine falls idle, end the
engine and everybody who waits is told.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from qqvl_server.engine.steps.batch import StepOutput
from qqvl_server.engine.steps.core import EngineCore, StepFailed
from qqvl_server.engine.steps.figures import EngineReading, StepFigures
from qqvl_server.engine.steps.jobs import Ended, Item, Job, Sink
from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.pace import Pace
from qqvl_server.engine.steps.request import Priority, Request
from qqvl_server.engine.steps.stopwatch import Stopwatch
from qqvl_server.errors import (
    Busy,
    DeadlineExceeded,
    Draining,
    EngineDead,
    GenerationFailed,
    PromptTooLong,
    QqvlError,
)
from qqvl_server.observe.logs import logger

MAX_FAILED_STEPS: Final = 3
# After so long without work the books are checked: whoever asks again at once is not made to wait for that.
_QUIET_S: Final = 0.2


class Worker:
    """``submit`` may be called from any thread; everything else happens on the worker's own.

    ``deliver`` is called on that thread, once per step: when the next begins to compute, so that whom it wakes does not
    compete with the engine for the interpreter, or at once where there is no next.
    """

    def __init__(
        self,
        core: EngineCore,
        deliver: Callable[[Sequence[tuple[Sink, Item]]], None],
        *,
        max_waiting: int,
        figures: StepFigures | None = None,
    ) -> None:
        self._core = core
        self._deliver = deliver
        self._max_waiting = max_waiting
        self._figures = figures
        self._arriving: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}
        self._untold: list[tuple[Sink, Item]] = []
        self._failed_steps = 0
        self._pace = Pace()
        self._checked = True
        self._ended = False
        self._gate = threading.Lock()
        self._stopwatch = Stopwatch()
        self.meter = Meter(exact=True)
        # Up to when the time has been shared out; of steps nothing came of, what the next one's requests have to bear.
        self._shared_until = 0.0
        self._unshared_s = 0.0
        self._thread = threading.Thread(target=self._loop, name="qqvl-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ended

    @property
    def busy_for_s(self) -> float:
        """Seconds that the step has taken that runs now; 0 when there is none. A stuck engine's goes on growing.

        At most one second for each time it is asked: see ``stopwatch.py``.
        """
        return self._stopwatch.seconds()

    @property
    def running(self) -> int:
        """Requests being computed, idle prefill left out."""
        return sum(request.priority is not Priority.IDLE_PREFILL for request in list(self._core.scheduler.running))

    @property
    def waiting(self) -> int:
        """Requests not admitted yet or put back, idle prefill left out once it is queued."""
        return self._arriving.qsize() + self._core.scheduler.waiting.urgent

    def reading(self) -> EngineReading:
        scheduler = self._core.scheduler
        return EngineReading(*scheduler.blocks, dict(scheduler.preemptions))

    def submit(self, job: Job) -> None:
        """Raises:
        EngineDead: nothing runs any more.
        Busy: as many wait as may.
        """
        with self._gate:
            if not self.alive:
                raise EngineDead("模型引擎已停止工作，服务正在退出")
            if self.waiting >= self._max_waiting:
                retry_after = self._pace.seconds_for(self._core.scheduler.waiting.urgent_tokens)
                raise Busy("现在太忙了，请稍后再试", retry_after)
            self._arriving.put(job)

    def close(self, patience_s: float) -> None:
        """End the thread after the step it is in: torn apart by the interpreter's end, it would abort the process."""
        self._arriving.put(None)
        self._thread.join(patience_s)

    def _loop(self) -> None:
        error: QqvlError = EngineDead("模型引擎出错停止了，服务将退出以便重启")
        try:
            while self._take_arrivals():
                self._drop_abandoned()
                self._step()
            error = Draining("服务正在停止，请稍后再试")
        except EngineDead as dead:
            error = dead
        except Exception as broken:
            # The thread's edge: whatever broke the books, everybody who waits must hear of it.
            logger().error("模型引擎崩溃", exc_info=broken)
        finally:
            self._end(error)

    def _take_arrivals(self) -> bool:
        """Add what has come; waits when there is nothing to do. False when asked to end."""
        while True:
            has_work = self._core.has_work
            if has_work:
                self._stopwatch.start()
            else:
                self._stopwatch.stop()
            self._checked = self._checked and not has_work
            try:
                job = self._arriving.get(not has_work, None if self._checked else _QUIET_S)
            except queue.Empty:
                if has_work:
                    return True
                self._check_integrity()
                continue
            if job is None:
                return False
            if not has_work:
                self._shared_until = time.monotonic()
            if job.patches:
                # Pictures take long to place.
                self._tell()
            self._add(job)

    def _check_integrity(self) -> None:
        """Raise AssertionError, which ends the engine: with wrong books answers may go to the wrong chat."""
        assert not self._jobs, "nothing is computed, but somebody waits"
        self._core.check_integrity()
        self._checked = True

    def _add(self, job: Job) -> None:
        try:
            self._core.add(job.request, job.patches)
        except EngineDead:
            raise
        except ValueError:
            self._tell([(job.sink, PromptTooLong("内容太长，超出了模型缓存的容量"))])
            return
        except Exception as error:
            # One request's edge: the model's libraries may refuse a prompt in any way.
            logger().error("请求无法开始", kind=type(error).__name__, exc_info=error)
            self._tell([(job.sink, GenerationFailed("模型出错，这条消息没能回答，请重试"))])
            return
        self._jobs[job.request.id] = job
        if job.followers and self._core.scheduler.is_cached(job.request):
            self._start_followers(job)

    def _start_followers(self, job: Job) -> None:
        for follower in job.followers:
            if follower.request.id not in self._jobs:
                self._add(follower)

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.sink.is_abandoned() or now > job.deadline:
                self._core.abort(job.request)
                del self._jobs[job.request.id]
                self._tell([(job.sink, DeadlineExceeded("这条消息处理太久，已放弃，请稍后再试", retry_after=5))])

    def _step(self) -> None:
        started = self._stopwatch.start()
        before = self._core.computed
        self._core.begin()
        self._tell()
        try:
            outputs = self._core.finish()
        except StepFailed as failed:
            self._fail_step(failed)
            return
        self._failed_steps = 0
        self._share_out()
        self._pace.stepped(self._core.computed - before, time.monotonic() - started)
        if self._figures is not None:
            self._figures.told(outputs, time.monotonic())
        self._untold = [item for output in outputs for item in self._items(output)]
        if not self._core.has_work:
            self._tell()

    def _share_out(self, failed: Sequence[Request] = ()) -> None:
        """The time since the last step ended is spent by whose tokens were computed, each as it had of them."""
        now = time.monotonic()
        elapsed = now - self._shared_until + self._unshared_s
        self._shared_until, self._unshared_s = now, 0.0
        batch = self._core.booked
        if batch is not None:
            tokens = batch.tokens
            self.meter.spent(elapsed, [(chunk.request.chat, chunk.count / tokens) for chunk in batch.chunks])
            if self._figures is not None:
                self._figures.stepped(batch, elapsed)
        elif failed:
            self.meter.spent(elapsed, [(request.chat, 1 / len(failed)) for request in failed])
        else:
            self._unshared_s = elapsed

    def _tell(self, more: Sequence[tuple[Sink, Item]] = ()) -> None:
        """Deliver what the last step gave, then ``more``."""
        told, self._untold = [*self._untold, *more], []
        if told:
            self._deliver(told)

    def _items(self, output: StepOutput) -> list[tuple[Sink, Item]]:
        request, chosen = output.request, output.chosen
        job = self._jobs[request.id]
        if output.finished:
            del self._jobs[request.id]
        if output.error is not None:
            return [(job.sink, output.error)]
        wanted = request.sampling
        found: list[tuple[Sink, Item]] = []
        ends = chosen is not None and chosen.token in wanted.end_token_ids | wanted.stop_token_ids
        if chosen is not None and not ends:
            found.append((job.sink, chosen))
        if request.finish_reason is not None:
            stop = chosen.token if chosen is not None and ends and chosen.token not in wanted.end_token_ids else None
            scores = tuple(request.scores[n] for n in range(len(request.targets) + len(request.rivals)))
            ended = Ended(
                request.finish_reason,
                request.cached or 0,
                stop,
                scores,
                queued_s=_between(request.arrived, request.started),
                answer_s=_between(request.arrived, request.answered),
            )
            found.append((job.sink, ended))
            self._start_followers(job)
        return found

    def _fail_step(self, failed: StepFailed) -> None:
        error = failed.__cause__
        logger().error("一步推理失败", kind=type(error).__name__, exc_info=error)
        self._failed_steps += 1
        self._share_out(failed.requests)
        told: list[tuple[Sink, Item]] = []
        for request in failed.requests:
            self._core.abort(request)
            job = self._jobs.pop(request.id)
            told.append((job.sink, GenerationFailed("模型出错，这条消息没能回答，请重试")))
        self._tell(told)
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise EngineDead("模型连续出错，服务将退出以便重启") from error

    def _end(self, error: QqvlError) -> None:
        with self._gate:
            self._ended = True
        waiting = [job.sink for job in self._jobs.values()]
        while not self._arriving.empty():
            job = self._arriving.get()
            if job is not None:
                waiting.append(job.sink)
        self._jobs.clear()
        self._tell([(sink, error) for sink in waiting])


def _between(start: float, end: float | None) -> float | None:
    return None if end is None else end - start

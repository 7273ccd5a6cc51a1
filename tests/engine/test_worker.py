"""The engine's thread and its three sizes of failure, with a runner the test controls."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from qqvl_server.engine.batch import ScheduledBatch
from qqvl_server.engine.block_pool import BlockPool
from qqvl_server.engine.core import EngineCore
from qqvl_server.engine.request import FinishReason, Request, SamplingParams
from qqvl_server.engine.scheduler import Scheduler
from qqvl_server.engine.worker import Item, Job, Sink, Worker
from qqvl_server.errors import DeadlineExceeded, EngineDead, GenerationFailed, PromptTooLong


class Inbox:
    def __init__(self) -> None:
        self.items: queue.Queue[Item] = queue.Queue()
        self.gone = threading.Event()

    def is_abandoned(self) -> bool:
        return self.gone.is_set()

    def all(self) -> list[Item]:
        found: list[Item] = []
        while not found or isinstance(found[-1], int):
            found.append(self.items.get(timeout=5))
        return found


class CountingRunner:
    """ "Logits" are the next number; fails when told to, and can be held at a step."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.steps = 0
        self.go = threading.Semaphore(10_000)

    def add(self, request: Request, patches: Mapping[bytes, Any]) -> None: ...

    def forget(self, request: Request) -> None: ...

    def run(self, batch: ScheduledBatch) -> list[int]:
        self.go.acquire(timeout=5)
        self.steps += 1
        if self.error is not None:
            raise self.error
        return [len(chunk.request.tokens) for chunk in batch.chunks if chunk.samples]


class PassThrough:
    def sample(self, logits: list[int], requests: Sequence[Request]) -> list[int]:
        return logits

    def forget(self, request: Request) -> None: ...


def deliver(items: Sequence[tuple[Sink, Item]]) -> None:
    for sink, item in items:
        assert isinstance(sink, Inbox)
        sink.items.put(item)


class Bench:
    def __init__(self) -> None:
        self.runner = CountingRunner()
        self.core = EngineCore(Scheduler(BlockPool(16, 4), max_tokens=16, max_requests=4), self.runner, PassThrough())
        self.worker = Worker(self.core, deliver)

    def ask(self, name: str = "r", *, new: int = 3, prompt: int = 2, seconds: float = 60) -> Inbox:
        inbox = Inbox()
        request = Request(name, name, list(range(prompt)), SamplingParams(new, stop_token_ids=frozenset({50})))
        self.worker.submit(Job(request, {}, inbox, time.monotonic() + seconds))
        return inbox


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_tokens_come_in_order_and_end_with_a_reason(bench: Bench) -> None:
    inboxes = [bench.ask(str(n)) for n in range(6)]
    assert [inbox.all() for inbox in inboxes] == [[2, 3, 4, FinishReason.LENGTH]] * 6
    stopped = bench.ask("stop", prompt=48, new=10)
    assert stopped.all() == [48, 49, FinishReason.STOP]
    bench.core.check_integrity()


def test_a_reader_that_goes_away_frees_its_place_within_a_step(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(2)
    gone = bench.ask("gone", new=40)
    assert gone.items.get(timeout=5) == 2
    gone.gone.set()
    bench.runner.go.release(100)
    assert bench.ask("next").all()[-1] is FinishReason.LENGTH
    assert bench.runner.steps < 10


def test_a_deadline_ends_one_request_only(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    late, other = bench.ask("late", seconds=0.01), bench.ask("other")
    time.sleep(0.02)
    bench.runner.go.release(100)
    assert isinstance(late.all()[-1], DeadlineExceeded)
    assert other.all()[-1] is FinishReason.LENGTH


def test_a_request_that_can_never_fit_is_told_so(bench: Bench) -> None:
    assert isinstance(bench.ask(prompt=10, new=100).all()[-1], PromptTooLong)
    assert bench.ask("small").all()[-1] is FinishReason.LENGTH


def test_a_failed_step_ends_its_requests_and_nothing_else(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    bench.runner.error = RuntimeError("out of memory at 0x7f")
    failed = bench.ask("failed")
    bench.runner.go.release(1)
    error = failed.all()[-1]
    assert isinstance(error, GenerationFailed)
    assert "0x" not in error.message
    bench.runner.error = None
    bench.runner.go.release(100)
    assert bench.ask("after").all()[-1] is FinishReason.LENGTH
    bench.core.check_integrity()


def test_a_device_that_is_lost_is_told_to_everybody_now_and_later(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    bench.runner.error = EngineDead("显卡出错")
    waiting = [bench.ask(str(n)) for n in range(6)]
    bench.runner.go.release(1)
    assert all(isinstance(inbox.all()[-1], EngineDead) for inbox in waiting)
    assert not bench.worker.alive
    with pytest.raises(EngineDead):
        bench.ask("later")


def test_steps_that_keep_failing_end_the_engine(bench: Bench) -> None:
    bench.runner.error = RuntimeError("again")
    seen = [bench.ask(str(n)).all()[-1] for n in range(3)]
    assert all(isinstance(error, GenerationFailed) for error in seen)
    with pytest.raises(EngineDead):
        ask_until_refused(bench)


def ask_until_refused(bench: Bench) -> None:
    for n in range(100):
        bench.ask(f"x{n}").all()

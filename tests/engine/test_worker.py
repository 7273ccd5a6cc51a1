"""The engine's thread and its three sizes of failure, with a runner the test controls."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pytest

from qqvl_server.engine.steps.batch import Chosen, PendingTokens, Sampled, ScheduledBatch
from qqvl_server.engine.steps.block_pool import BlockPool
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.figures import StepFigures
from qqvl_server.engine.steps.jobs import Ended, Item, Job, Sink
from qqvl_server.engine.steps.planted import plant
from qqvl_server.engine.steps.request import FinishReason, Priority, Request, SamplingParams
from qqvl_server.engine.steps.scheduler import Scheduler
from qqvl_server.engine.steps.worker import Worker
from qqvl_server.errors import (
    Busy,
    ConfigError,
    DeadlineExceeded,
    Draining,
    EngineDead,
    GenerationFailed,
    PromptTooLong,
)
from qqvl_server.observe.metrics import Metrics

END = 50
STOP = 40


class Inbox:
    def __init__(self) -> None:
        self.items: queue.Queue[Item] = queue.Queue()
        self.gone = threading.Event()

    def is_abandoned(self) -> bool:
        return self.gone.is_set()

    def all(self) -> list[Item]:
        found: list[Item] = []
        while not found or isinstance(found[-1], Chosen):
            found.append(self.items.get(timeout=30))
        return found

    def tokens(self) -> list[int | FinishReason]:
        return [item.token if isinstance(item, Chosen) else _reason(item) for item in self.all()]

    def error(self) -> Item:
        return self.all()[-1]


def _reason(item: Item) -> FinishReason:
    assert isinstance(item, Ended), item
    return item.reason


class CountingRunner:
    """ "Logits" are the next number; fails when told to, and can be held at a step."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.unprepared: Exception | None = None
        self.refused: Exception | None = None
        self.known: set[str] = set()
        self.never_forgets = False
        # A request with pictures is being taken in, and may be.
        self.placing, self.placed = threading.Event(), threading.Event()
        self.step_s = 0.0
        self.batches: list[ScheduledBatch] = []
        self.go = threading.Semaphore(10_000)
        self.released = 0

    @property
    def steps(self) -> int:
        return len(self.batches)

    def add(self, request: Request, patches: dict[bytes, Any]) -> None:
        if self.refused is not None:
            raise self.refused
        if patches:
            self.placing.set()
            self.placed.wait(30)
        self.known.add(request.id)

    def forget(self, request: Request) -> None:
        if not self.never_forgets:
            self.known.discard(request.id)

    def release_memory(self) -> None:
        self.released += 1

    def check_integrity(self, live: Set[str]) -> None:
        assert self.known == live

    def prepare(self, batch: ScheduledBatch) -> Counted:
        if self.unprepared is not None:
            raise self.unprepared
        return Counted(self, batch, [len(chunk.request.tokens) for chunk in batch.chunks for _ in chunk.kept])


@dataclass
class Counted:
    runner: CountingRunner
    batch: ScheduledBatch
    logits: list[int]

    def compute(self) -> list[int]:
        self.runner.go.acquire(timeout=30)
        time.sleep(self.runner.step_s)
        self.runner.batches.append(self.batch)
        if self.runner.error is not None:
            raise self.runner.error
        return self.logits


@dataclass
class Told:
    sampled: Sampled
    tokens: list[int]

    def wait(self) -> Sampled:
        return self.sampled


class PassThrough:
    def sample(self, logits: list[int], rows: Sequence[int], requests: Sequence[Request]) -> Sampled:
        return [
            GenerationFailed("语法") if request.sampling.seed == 13 else Chosen(logits[row])
            for row, request in zip(rows, requests, strict=True)
        ]

    def draw(self, logits: list[int], rows: Sequence[int], requests: Sequence[Request]) -> PendingTokens:
        return Told(self.sample(logits, rows, requests), [logits[row] for row in rows])

    def score(self, logits: list[int], rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        return [-float(target) for target in targets]


def deliver(items: Sequence[tuple[Sink, Item]]) -> None:
    for sink, item in items:
        assert isinstance(sink, Inbox)
        sink.items.put(item)


class Bench:
    def __init__(
        self, fault: str = "", *, tokens: int = 64, max_waiting: int = 1000, ahead: bool = False,
        deliver: Callable[[Sequence[tuple[Sink, Item]]], None] = deliver,
    ) -> None:  # fmt: skip
        self.runner = CountingRunner()
        scheduler = Scheduler(BlockPool(32, 4), max_tokens=tokens, max_requests=4)
        self.core = EngineCore(scheduler, plant(self.runner, fault), PassThrough(), ahead=ahead)
        self.metrics = Metrics()
        self.worker = Worker(self.core, deliver, max_waiting=max_waiting, figures=StepFigures(self.metrics))

    def job(
        self, name: str = "r", *, new: int = 3, prompt: int = 2, seconds: float = 60, seed: int | None = None,
        priority: Priority = Priority.PRIVATE,
    ) -> tuple[Job, Inbox]:  # fmt: skip
        inbox = Inbox()
        wanted = SamplingParams(new, seed=seed, stop_token_ids=frozenset({STOP}), end_token_ids=frozenset({END}))
        request = Request(name, name, list(range(prompt)), wanted, priority=priority)
        return Job(request, {}, inbox, time.monotonic() + seconds), inbox

    def ask(self, name: str = "r", **wishes: Any) -> Inbox:
        job, inbox = self.job(name, **wishes)
        self.worker.submit(job)
        return inbox


@pytest.fixture(params=[False, True], ids=["in turn", "ahead"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(ahead=request.param)


def test_tokens_come_in_order_and_end_with_a_reason(bench: Bench) -> None:
    inboxes = [bench.ask(str(n)) for n in range(6)]
    assert [inbox.tokens() for inbox in inboxes] == [[2, 3, 4, FinishReason.LENGTH]] * 6
    assert bench.ask("stop", prompt=48, new=10).tokens() == [48, 49, FinishReason.STOP]
    bench.core.check_integrity()


def test_an_engine_that_cannot_hand_on_its_tokens_ends() -> None:
    """It is no fault of the model, and nobody may be left waiting."""
    calls = []

    def failing(items: Sequence[tuple[Sink, Item]]) -> None:
        calls.append(items)
        if len(calls) == 2:
            raise RuntimeError("nobody there")
        deliver(items)

    bench = Bench(deliver=failing)
    inbox = bench.ask(new=20)
    found = inbox.all()
    assert isinstance(found[-1], EngineDead)
    assert not bench.worker.alive


def test_a_long_step_does_not_keep_back_what_the_one_before_it_gave() -> None:
    bench = Bench()
    bench.runner.go = threading.Semaphore(1)
    inbox = bench.ask()
    # Sooner than the runner goes on by itself.
    first = inbox.items.get(timeout=15)
    assert isinstance(first, Chosen)
    assert first.token == 2
    bench.runner.go.release(10)
    assert inbox.tokens() == [3, 4, FinishReason.LENGTH]


def test_pictures_that_take_long_to_place_keep_nothing_back(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    inbox = bench.ask()
    while not bench.worker.running:
        time.sleep(0.001)
    job, other = bench.job("pictured")
    bench.worker.submit(Job(job.request, {b"digest": "patches"}, job.sink, job.deadline))
    bench.runner.go.release(2)
    assert bench.runner.placing.wait(30)
    first = inbox.items.get(timeout=15)
    assert isinstance(first, Chosen)
    bench.runner.placed.set()
    bench.runner.go.release(100)
    assert inbox.tokens() == [3, 4, FinishReason.LENGTH]
    assert other.tokens() == [2, 3, 4, FinishReason.LENGTH]


def test_a_stop_token_is_named_only_when_the_caller_asked_for_it(bench: Bench) -> None:
    own, asked = bench.ask("own", prompt=49), bench.ask("asked", prompt=39)
    last = own.all()[-1], asked.all()[-1]
    assert [item.stop_token for item in last if isinstance(item, Ended)] == [None, STOP]


def test_a_reader_that_goes_away_frees_its_place_within_a_step(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(2)
    gone = bench.ask("gone", new=40)
    assert isinstance(gone.items.get(timeout=30), Chosen)
    gone.gone.set()
    bench.runner.go.release(100)
    assert bench.ask("next").tokens()[-1] is FinishReason.LENGTH
    assert bench.runner.steps < 10


def test_one_that_goes_away_while_it_waits_is_never_computed(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    busy = [bench.ask(f"busy{n}", new=2) for n in range(4)]
    gone = bench.ask("gone")
    gone.gone.set()
    bench.runner.go.release(100)
    assert all(inbox.tokens()[-1] is FinishReason.LENGTH for inbox in busy)
    assert isinstance(gone.error(), DeadlineExceeded)
    assert "gone" not in {request.id for batch in bench.runner.batches for request in batch.requests}
    assert settled(bench)


def settled(bench: Bench) -> bool:
    deadline = time.monotonic() + 30
    while (bench.worker.running, bench.worker.waiting) != (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    bench.core.check_integrity()
    return True


def test_books_that_do_not_balance_end_the_engine_once_it_is_idle(bench: Bench) -> None:
    bench.runner.never_forgets = True
    assert bench.ask("told").tokens() == [2, 3, 4, FinishReason.LENGTH]
    with pytest.raises(EngineDead):
        ask_until_refused(bench, pause_s=0.1)


def test_an_idle_engine_whose_books_balance_goes_on(bench: Bench) -> None:
    for n in range(3):
        assert bench.ask(str(n)).tokens()[-1] is FinishReason.LENGTH
        # Longer than it takes to fall idle.
        time.sleep(0.25)
    assert bench.worker.alive


def test_a_deadline_ends_one_request_only(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    late, other = bench.ask("late", seconds=0.01), bench.ask("other")
    time.sleep(0.02)
    bench.runner.go.release(100)
    assert isinstance(late.error(), DeadlineExceeded)
    assert other.tokens()[-1] is FinishReason.LENGTH


def test_a_request_that_can_never_fit_is_told_so(bench: Bench) -> None:
    assert isinstance(bench.ask(prompt=10, new=200).error(), PromptTooLong)
    assert bench.ask("small").tokens()[-1] is FinishReason.LENGTH


def test_a_prompt_the_model_refuses_fails_alone(bench: Bench) -> None:
    bench.runner.refused = KeyError("strange prompt")
    assert isinstance(bench.ask("strange").error(), GenerationFailed)
    bench.runner.refused = None
    assert bench.ask("fine").tokens()[-1] is FinishReason.LENGTH
    assert settled(bench)


def test_a_request_whose_sampling_fails_fails_alone(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    broken, fine = bench.ask("broken", seed=13), bench.ask("fine")
    bench.runner.go.release(100)
    assert isinstance(broken.error(), GenerationFailed)
    assert fine.tokens()[-1] is FinishReason.LENGTH
    assert settled(bench)


def test_a_failed_step_ends_its_requests_and_nothing_else(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    bench.runner.error = RuntimeError("broken at 0x7f")
    failed = bench.ask("failed")
    while not bench.worker.running:
        time.sleep(0.001)
    others = [bench.ask(str(n)) for n in range(5)]
    bench.runner.go.release(1)
    error = failed.error()
    assert isinstance(error, GenerationFailed)
    assert "0x" not in error.message
    bench.runner.error = None
    bench.runner.go.release(100)
    assert all(inbox.tokens()[-1] is FinishReason.LENGTH for inbox in others)
    assert settled(bench)


def test_a_step_that_cannot_be_made_ready_ends_its_requests_and_nothing_else(bench: Bench) -> None:
    bench.runner.unprepared = RuntimeError("strange shapes")
    assert isinstance(bench.ask("failed").error(), GenerationFailed)
    bench.runner.unprepared = None
    assert bench.ask("after").tokens()[-1] is FinishReason.LENGTH
    assert settled(bench)


def test_a_device_that_is_lost_is_told_to_everybody_now_and_later(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    bench.runner.error = EngineDead("显卡出错")
    waiting = [bench.ask(str(n)) for n in range(6)]
    bench.runner.go.release(1)
    assert all(isinstance(inbox.error(), EngineDead) for inbox in waiting)
    assert not bench.worker.alive
    with pytest.raises(EngineDead):
        bench.ask("later")


def test_who_has_not_been_taken_in_yet_is_told_too_when_the_engine_ends(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    bench.runner.error = EngineDead("显卡出错")
    running = bench.ask("running")
    while not bench.worker.running:
        time.sleep(0.001)
    # Its thread is in a step: whoever asks now lies in the inbox.
    late = [bench.ask(str(n)) for n in range(5)]
    bench.runner.go.release(100)
    assert all(isinstance(inbox.error(), EngineDead) for inbox in (running, *late))


def test_steps_that_keep_failing_end_the_engine(bench: Bench) -> None:
    bench.runner.error = RuntimeError("again")
    seen = [bench.ask(str(n)).error() for n in range(3)]
    assert all(isinstance(error, GenerationFailed) for error in seen)
    with pytest.raises(EngineDead):
        ask_until_refused(bench)


def ask_until_refused(bench: Bench, pause_s: float = 0) -> None:
    """The pauses grow."""
    for n in range(100):
        bench.ask(f"x{n}").all()
        time.sleep(n * pause_s)


def test_stopping_tells_those_who_still_wait(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    inboxes = [bench.ask("running", new=50)]
    while not bench.worker.running:
        time.sleep(0.001)
    inboxes += [bench.ask(str(n), new=50) for n in range(5)]
    closing = threading.Thread(target=bench.worker.close, args=(5,))
    closing.start()
    while bench.worker.waiting != 6:
        time.sleep(0.001)
    bench.runner.go.release(1000)
    assert {type(inbox.all()[-1]) for inbox in inboxes} == {Draining}
    closing.join(30)
    assert not bench.worker.alive


def test_too_many_waiting_are_refused_with_a_time_to_come_back() -> None:
    bench = Bench(max_waiting=3)
    bench.runner.go = threading.Semaphore(0)
    first = bench.ask("first", new=50)
    while not bench.worker.running:
        time.sleep(0.001)
    inboxes = [bench.ask(str(n)) for n in range(3)]
    with pytest.raises(Busy) as refused:
        bench.ask("one too many")
    assert refused.value.retry_after >= 1
    assert (bench.worker.running, bench.worker.waiting) == (1, 3)
    bench.runner.go.release(1000)
    assert [inbox.tokens()[-1] for inbox in [first, *inboxes]] == [FinishReason.STOP] + [FinishReason.LENGTH] * 3
    assert settled(bench)


def test_a_stuck_step_shows_and_an_idle_engine_does_not(bench: Bench) -> None:
    assert bench.worker.busy_for_s == 0
    bench.runner.go = threading.Semaphore(0)
    stuck = bench.ask("stuck")
    while bench.worker.busy_for_s < 0.02:
        time.sleep(0.001)
    assert bench.worker.alive
    bench.runner.go.release(100)
    stuck.all()
    assert settled(bench)
    while bench.worker.busy_for_s:
        time.sleep(0.001)


def test_running_out_of_memory_shrinks_the_step_and_loses_nothing() -> None:
    bench = Bench("oom:2-3")
    inboxes = [bench.ask(str(n), prompt=8 + n, new=4) for n in range(4)]
    assert [inbox.tokens() for inbox in inboxes] == [[*range(8 + n, 12 + n), FinishReason.LENGTH] for n in range(4)]
    assert bench.runner.released == 2
    sizes = [batch.tokens for batch in bench.runner.batches]
    assert max(sizes[1:]) <= 16 + 8, "steps after the fault are smaller"
    assert settled(bench)


def test_memory_that_never_suffices_fails_the_requests_and_at_last_the_engine() -> None:
    bench = Bench("oom:1-1000")
    seen = [bench.ask(str(n)).error() for n in range(3)]
    assert all(isinstance(error, GenerationFailed) for error in seen)
    with pytest.raises(EngineDead):
        ask_until_refused(bench)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_vanishes_is_not_alive_and_nobody_waits_for_ever() -> None:
    before = set(threading.enumerate())
    bench = Bench("thread:2")
    (thread,) = set(threading.enumerate()) - before
    assert isinstance(bench.ask().error(), EngineDead)
    thread.join(30)
    assert not bench.worker.alive


def test_what_steps_take_is_told_by_their_kind_and_by_who_waits(bench: Bench) -> None:
    bench.ask("one", new=5).all()
    bench.ask("two", new=3, priority=Priority.ADDRESSED).all()

    def count(name: str, **labels: str) -> float | None:
        return bench.metrics.registry.get_sample_value(f"qqvl_{name}_seconds_count", labels)

    assert [count("step", kind=kind) for kind in ("prefill", "decode", "mixed")] == [2, 6, 0]
    assert [count("inter_token", **{"class": name}) for name in ("private", "addressed", "api")] == [4, 2, 0]
    told = bench.metrics.registry.get_sample_value(
        "qqvl_inter_token_seconds_bucket", {"class": "private", "le": "+Inf"}
    )
    assert told == 4


def test_an_end_tells_how_long_was_waited(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(0)
    bench.ask("first")
    while not bench.worker.running:
        time.sleep(0.001)
    waits, reads = bench.ask("waits", new=3), bench.ask("reads", new=0)
    # The first one's step takes so long, and both wait for it.
    time.sleep(0.05)
    bench.runner.go.release(100)
    told, nothing = waits.all()[-1], reads.all()[-1]
    assert isinstance(told, Ended)
    assert isinstance(nothing, Ended)
    assert told.queued_s is not None
    assert told.answer_s is not None
    assert 0.05 <= told.queued_s <= told.answer_s
    assert nothing.queued_s is not None
    assert nothing.answer_s is None


def test_the_wait_for_an_answer_ends_with_its_first_token(bench: Bench) -> None:
    bench.runner.go = threading.Semaphore(3)
    asked = time.monotonic()
    inbox = bench.ask(new=8)
    assert isinstance(inbox.items.get(timeout=30), Chosen)
    waited = time.monotonic() - asked
    time.sleep(0.01)
    bench.runner.go.release(100)
    end = inbox.all()[-1]
    assert isinstance(end, Ended)
    assert end.answer_s is not None
    assert end.answer_s <= waited


def test_the_more_waits_and_the_slower_the_engine_the_later_is_one_told_to_come_back() -> None:
    bench = Bench(max_waiting=6)
    bench.runner.step_s = 0.05
    inboxes = [bench.ask(f"runs{n}", new=30) for n in range(4)]
    while bench.worker.running < 4:
        time.sleep(0.001)
    inboxes += [bench.ask(f"waits{n}", prompt=40, new=40) for n in range(6)]
    while bench.core.scheduler.waiting.urgent < 6:
        time.sleep(0.001)
    with pytest.raises(Busy) as refused:
        bench.ask("one too many")
    # 360 tokens, of which a step of 50 ms does four.
    assert refused.value.retry_after >= 3
    for inbox in inboxes:
        inbox.gone.set()
    assert settled(bench)


@pytest.mark.parametrize("fault", ["", "oom:2-3", "step:3"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_steps_time_is_shared_among_those_it_computed_for(fault: str, ahead: bool) -> None:
    bench = Bench(fault, ahead=ahead)
    bench.runner.step_s = 0.01
    names = ("group:1", "private:2", "group:3")
    inboxes = [bench.ask(name, prompt=4 * (1 + n), new=5) for n, name in enumerate(names)]
    late = bench.ask("somebody's key")
    for inbox in (*inboxes, late):
        inbox.all()
    assert settled(bench)
    meter = bench.worker.meter
    spent = {name: meter.take(name) for name in (*names, "somebody's key")}
    assert all(seconds > 0 for seconds in spent.values())
    assert meter.busy_s >= 0.01 * bench.runner.steps
    assert sum(spent.values()) == pytest.approx(meter.busy_s, rel=0.02)
    assert meter.of_kind("group") == pytest.approx(spent["group:1"] + spent["group:3"])
    assert meter.of_kind("api") == pytest.approx(spent["somebody's key"])
    assert not any(meter.take(name) for name in names)


def test_time_that_nobody_needed_is_nobodys(bench: Bench) -> None:
    began = time.monotonic()
    for _ in range(2):
        bench.ask("group:1").tokens()
        assert settled(bench)
        time.sleep(0.3)
    assert bench.worker.meter.busy_s <= time.monotonic() - began - 0.5


def test_a_planted_step_fails_once() -> None:
    bench = Bench("step")
    assert isinstance(bench.ask().error(), GenerationFailed)
    assert bench.ask("after").tokens()[-1] is FinishReason.LENGTH


def test_a_fault_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError):
        plant(CountingRunner(), "everything")


def test_followers_start_once_the_prompt_is_cached_and_share_its_blocks(bench: Bench) -> None:
    for round_ in range(2):
        jobs = [bench.job(f"{round_}{n}", prompt=30, new=2) for n in range(4)]
        for job, _ in jobs:
            job.request.chat = "same"
        (lead, _), *rest = jobs
        before = bench.runner.steps
        bench.worker.submit(Job(lead.request, {}, lead.sink, lead.deadline, followers=tuple(job for job, _ in rest)))
        ends = [inbox.all()[-1] for _, inbox in jobs]
        cached = [end.cached for end in ends if isinstance(end, Ended)]
        assert cached == ([0, 28, 28, 28] if round_ == 0 else [28] * 4)
        first = bench.runner.batches[before]
        assert len(first.chunks) == (1 if round_ == 0 else 4), "a cached prompt makes nobody wait"


def test_idle_prefill_steps_aside_at_once_and_goes_on_later() -> None:
    bench = Bench(tokens=8)
    bench.runner.go = threading.Semaphore(0)
    warm = bench.ask("warm", prompt=38, new=0, priority=Priority.IDLE_PREFILL)
    bench.runner.go.release(1)
    while bench.runner.steps < 1:
        time.sleep(0.001)
    urgent = bench.ask("urgent", prompt=6, new=2)
    bench.runner.go.release(1000)
    assert urgent.tokens() == [6, 7, FinishReason.LENGTH]
    assert warm.tokens() == [FinishReason.LENGTH]
    order = [batch.requests[0].id for batch in bench.runner.batches]
    assert order.index("urgent") <= 2, "no more than the step it came in the middle of, and one that had begun"
    assert all(len({request.priority for request in batch.requests}) == 1 for batch in bench.runner.batches)
    computed = sum(chunk.count for b in bench.runner.batches for chunk in b.chunks if chunk.request.id == "warm")
    assert computed == 38, "what was read before the interruption is not read again"
    assert settled(bench)

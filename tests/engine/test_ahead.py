"""Steps begun before the tokens of the ones before are known, on a device that computes only when waited for."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qqvl_server.engine.steps.batch import Chosen, PendingTokens, Sampled, ScheduledBatch
from qqvl_server.engine.steps.block_pool import BlockPool
from qqvl_server.engine.steps.core import EngineCore, OutOfMemory, StepFailed
from qqvl_server.engine.steps.request import PENDING, FinishReason, Priority, Request, SamplingParams, Status
from qqvl_server.engine.steps.scheduler import Scheduler
from tests.engine.test_graphs import Recorder, recorded
from tests.engine.twins import NEW, Twins

SIZE = 4
END = 5
WHEN = ("prepared", "computed", "waited for")


def following(tokens: Sequence[int]) -> int:
    """The fake model: the next token hangs on all that stand before it."""
    return (sum(tokens) * 31 + len(tokens) * 7) % 23 + 3


def reply(prompt: Sequence[int], new: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + new and not (len(tokens) > len(prompt) and tokens[-1] == END):
        tokens.append(following(tokens))
    return tokens[len(prompt) :]


@dataclass
class Kept:
    """One row's logits: what the model read out of the cache."""

    read: list[int]


class Device:
    """A queue of work, done in order when something of it is waited for. Its memory is a cache of plain tokens."""

    def __init__(self) -> None:
        self.cache: dict[int, int] = {}
        self.known: set[str] = set()
        self.queue: list[Callable[[], None]] = []
        # What the next step raises, by when it does: once it is "prepared", "computed" or "waited for".
        self.broken: dict[str, Exception] = {}
        self.begun_ahead = 0
        self.waits = 0

    def add(self, request: Request, patches: dict[bytes, Any]) -> None:
        self.known.add(request.id)

    def forget(self, request: Request) -> None:
        self.known.discard(request.id)

    def check_integrity(self, live: Set[str]) -> None:
        assert self.known == live

    def release_memory(self) -> None: ...

    def break_if_asked(self, when: str) -> None:
        error = self.broken.pop(when, None)
        if error is not None:
            raise error

    def prepare(self, batch: ScheduledBatch) -> Ready:
        self.break_if_asked("prepared")
        if batch.carried is not None:
            self.begun_ahead += 1
            assert not any(request.needs_host for request in batch.requests)
        logits: list[Kept] = []
        work: list[Callable[[], None]] = []
        for chunk in batch.chunks:
            kept = [Kept([]) for _ in chunk.kept]
            logits += kept
            # Copies, for the host goes on: nothing that it does later may be seen by the device.
            blocks, known = list(chunk.request.blocks), list(chunk.request.tokens[chunk.start : chunk.end])
            carried = batch.carried and (batch.carried.tokens, batch.carried.places[chunk.request.id])
            work.append(partial(self._compute, chunk.start, known, blocks, carried, kept))
        return Ready(self, work, logits)

    def _compute(self, start: int, tokens: list[int], blocks: list[int], carried: Any, kept: list[Kept]) -> None:
        tokens = tokens if carried is None else [carried[0][carried[1]]]
        assert PENDING not in tokens
        slots = [blocks[n // SIZE] * SIZE + n % SIZE for n in range(start + len(tokens))]
        for slot, token in zip(slots[start:], tokens, strict=True):
            self.cache[slot] = token
        for one in kept:
            one.read += [self.cache[slot] for slot in slots]

    def work(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def sample(self, logits: list[Kept], rows: Sequence[int], requests: Sequence[Request]) -> Sampled:
        assert any(request.needs_host for request in requests)
        return self.draw(logits, rows, requests).wait()

    def draw(self, logits: list[Kept], rows: Sequence[int], requests: Sequence[Request]) -> PendingTokens:
        tokens = [PENDING] * len(rows)

        def choose() -> None:
            tokens[:] = [following(logits[row].read) for row in rows]

        self.queue.append(choose)
        return Arriving(self, tokens)

    def score(self, logits: list[Kept], rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        self.work()
        return [0.0 for _ in targets]


@dataclass
class Ready:
    device: Device
    work: list[Callable[[], None]]
    logits: list[Kept]

    def compute(self) -> list[Kept]:
        self.device.break_if_asked("computed")
        self.device.queue += self.work
        return self.logits


@dataclass
class Arriving:
    device: Device
    tokens: list[int]

    def wait(self) -> Sampled:
        self.device.waits += 1
        # No more than what it waits for: what was begun after it stays undone.
        while PENDING in self.tokens:
            self.device.queue.pop(0)()
        self.device.break_if_asked("waited for")
        return [Chosen(token) for token in self.tokens]


def core(blocks: int = 64, tokens: int = 64, requests: int = 5) -> tuple[EngineCore, Device]:
    device = Device()
    scheduler = Scheduler(BlockPool(blocks, SIZE), max_tokens=tokens, max_requests=requests, quantum=16)
    return EngineCore(scheduler, device, device, ahead=True), device


def asked(
    name: str, prompt: list[int], new: int, chat: str = "", priority: Priority = Priority.PRIVATE, **wishes: Any
) -> Request:
    ends = frozenset({END})
    return Request(
        name, chat or name, prompt, SamplingParams(new, end_token_ids=ends, **wishes), salt=name[:1].encode(),
        priority=priority,
    )  # fmt: skip


@pytest.mark.parametrize("new", [4, 30])
def test_what_a_step_gave_is_not_kept_until_the_next_has_been_waited_for(new: int) -> None:
    """A reply that ends by its length, and one that ends before anybody expects it."""
    engine, device = core()
    engine.add(asked("a", list(range(5)), new), {})
    steps = 0
    while engine.has_work:
        waits = device.waits
        engine.begin()
        # Here others are told: nothing has been waited for since the last tokens came.
        assert device.waits == waits
        engine.finish()
        steps += device.waits > waits
    assert steps > 3


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine, self.device = core(blocks=12, tokens=32)
        self.live: list[Request] = []
        self.count = 0

    @rule(
        length=st.integers(1, 24), new=st.integers(0, 24), chat=st.sampled_from("abc"), same=st.booleans(),
        priority=st.sampled_from(Priority), host=st.sampled_from([False, False, False, True]),
    )  # fmt: skip
    def arrive(self, length: int, new: int, chat: str, same: bool, priority: Priority, host: bool) -> None:
        self.count += 1
        prompt = list(range(length)) if same else [self.count * 100 + n for n in range(length)]
        made = asked(f"{chat}{self.count}", prompt, new, chat, priority, logprobs=0 if host else None)
        self.engine.add(made, {})
        self.live.append(made)

    @rule(steps=st.integers(1, 6))
    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @rule(error=st.sampled_from([OutOfMemory, RuntimeError]), when=st.sampled_from(WHEN))
    def fail(self, error: type[Exception], when: str) -> None:
        """Whichever comes next, at its time or ahead of it."""
        self.device.broken = {when: error()}
        self.step()
        self.step()
        self.device.broken = {}

    def step(self) -> None:
        try:
            outputs = self.engine.step()
        except StepFailed as failed:
            for request in failed.requests:
                self.engine.abort(request)
                self.live.remove(request)
            outputs = []
        for output in outputs:
            if output.finished:
                self.live.remove(output.request)
                wanted = reply(output.request.prompt, output.request.sampling.max_new_tokens)
                assert output.request.output == wanted
                ended = bool(wanted) and wanted[-1] == END
                assert output.request.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
        self.engine.check_integrity()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.live))
        self.engine.abort(gone)
        self.live.remove(gone)

    @invariant()
    def books_balance(self) -> None:
        self.engine.check_integrity()
        assert all(request.status is not Status.FINISHED for request in self.live)
        assert len(self.live) == len(self.engine.scheduler.running) + len(self.engine.scheduler.waiting)

    def teardown(self) -> None:
        for _ in range(2000):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.live


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def run(engine: EngineCore) -> None:
    while engine.has_work:
        engine.step()
        engine.check_integrity()


def test_a_step_is_begun_before_the_one_before_it_is_known() -> None:
    engine, device = core()
    made = [asked(str(n), [n, n + 1], 9 + n) for n in range(3)]
    for request in made:
        engine.add(request, {})
    engine.step()
    assert device.queue, "the second step waits to be computed when the first one's tokens are told"
    run(engine)
    assert [request.output for request in made] == [reply(request.prompt, 9 + n) for n, request in enumerate(made)]
    assert device.begun_ahead >= 8


def test_what_ended_unforeseen_is_computed_once_too_often_and_nobody_notices() -> None:
    engine, device = core(blocks=4)
    ending = next(n for n in range(1000) if END in reply([n, 1, 1], 9)[2:8])
    early, late = asked("early", [ending, 1, 1], 9), asked("late", [9] * 6, 9, "early")
    engine.add(early, {})
    while early.status is not Status.FINISHED:
        engine.step()
    assert device.queue
    # It gets the block that the step in flight still writes to.
    engine.add(late, {})
    run(engine)
    assert (early.output, late.output) == (reply(early.prompt, 9), reply(late.prompt, 9))


def test_one_that_leaves_while_its_token_is_computed_leaves_no_trace() -> None:
    engine, _ = core()
    stays, goes = asked("stays", [1, 2], 9), asked("goes", [3, 4], 9)
    for request in (stays, goes):
        engine.add(request, {})
    engine.step()
    engine.abort(goes)
    run(engine)
    assert stays.output == reply([1, 2], 9)


def test_newcomers_wait_for_no_more_than_the_step_that_was_begun() -> None:
    engine, _ = core()
    engine.add(asked("first", [1, 2], 50), {})
    engine.step()
    late = asked("late", [3, 4], 2)
    engine.add(late, {})
    engine.step()
    engine.step()
    assert late.made == 1


def test_a_full_house_runs_ahead_but_not_past_one_who_may_get_a_place() -> None:
    engine, device = core(requests=2)
    for n in range(2):
        engine.add(asked(f"a{n}", [n, 7], 60, f"chat{n}"), {})
    engine.add(asked("a2", [2, 7], 60, "chat1"), {})
    for _ in range(6):
        engine.step()
    assert device.begun_ahead >= 5
    urgent = asked("b", [1, 1], 3, "other", Priority.ADDRESSED)
    engine.add(urgent, {})
    for _ in range(3):
        engine.step()
    assert urgent.made >= 1


def test_who_needs_the_host_is_not_run_ahead_of_but_penalties_do_not_need_it() -> None:
    wishes: dict[str, Any]
    for wishes, ahead in (
        ({"logprobs": 1}, False), ({"repetition_penalty": 1.2}, True), ({"frequency_penalty": 0.5}, True)
    ):  # fmt: skip
        engine, device = core()
        engine.add(asked("needs", [1, 1], 9, **wishes), {})
        run(engine)
        assert (device.begun_ahead > 0) == ahead, wishes


@pytest.mark.parametrize(
    ("shape", "replayed"),
    [({"tokens": 2048}, False), ({"size": 4}, True), ({"size": 8, "blocks": 40}, True), ({"requests": 2}, False)],
    ids=str,
)
def test_the_models_replies_are_the_same(twins: Twins, shape: dict[str, Any], replayed: bool) -> None:
    backend = recorded(Recorder(), size=shape.get("size", 16)) if replayed else None
    engine = twins.engine(**shape, backend=backend, ahead=True)
    made = twins.add_all(engine, "a")
    assert twins.run(engine, made) == twins.expected
    stop = twins.expected[2][4]
    one, patches = twins.request("late", twins.inputs[2], end_token_ids=frozenset({stop}))
    made = twins.add_all(engine, "b")
    for _ in range(3):
        engine.step()
    engine.add(one, patches)
    until = twins.expected[2].index(stop) + 1
    assert twins.run(engine, [*made, one]) == [*twins.expected, twins.expected[2][:until]]


@pytest.mark.parametrize(
    "more",
    [
        {"logit_bias": ((7, 1.0),)},
        {"frequency_penalty": 0.9, "presence_penalty": 0.4},
        {"repetition_penalty": 1.3, "temperature": 0.0},
    ],
    ids=str,
)
def test_what_is_drawn_is_the_same(twins: Twins, more: dict[str, Any]) -> None:
    """Also of requests that are put back and computed again, for which 40 blocks are few enough."""
    wishes: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "top_k": 30, "seed": 5, "min_new_tokens": NEW, **more}
    outputs = []
    ways: list[tuple[bool, dict[str, Any]]]
    ways = [(False, {}), (True, {}), (True, {"size": 8, "blocks": 40}), (False, {"requests": 1})]
    for ahead, shape in ways:
        engine = twins.engine(ahead=ahead, **shape)
        made = [twins.request(str(n), inputs, **wishes) for n, inputs in enumerate(twins.inputs)]
        for request, patches in made:
            engine.add(request, patches)
        outputs.append(twins.run(engine, [request for request, _ in made]))
    assert outputs == outputs[:1] * 4


def endless(name: str, prompt: list[int], new: int) -> Request:
    return Request(name, name, prompt, SamplingParams(new), salt=name.encode())


def test_nothing_is_computed_beyond_a_length_that_is_known() -> None:
    engine, device = core()
    made = [endless(str(n), [n, 1], 5 + n) for n in range(3)]
    for request in made:
        engine.add(request, {})
    run(engine)
    assert engine.computed == sum(len(request.prompt) + request.made - 1 for request in made)
    assert (device.begun_ahead, device.queue) == (6, [])


def test_where_blocks_run_out_it_waits_and_gives_way_as_ever() -> None:
    engine, _ = core(blocks=6)
    made = [endless(str(n), [n, 1, 1], 17) for n in range(3)]
    for request in made:
        engine.add(request, {})
    run(engine)
    for request in made:
        tokens = list(request.prompt)
        while len(tokens) < 20:
            tokens.append(following(tokens))
        assert request.tokens == tokens


def test_only_what_is_wholly_in_the_step_is_run_ahead_of() -> None:
    engine, _ = core()
    for n in range(2):
        engine.scheduler.add(endless(str(n), [n, 1], 9))
    batch = engine.scheduler.schedule()
    assert engine.scheduler.continued(ScheduledBatch(batch.chunks[:1])) is None
    following_step = engine.scheduler.continued(batch)
    assert following_step is not None
    assert [(chunk.start, chunk.count, chunk.samples) for chunk in following_step.chunks] == [(2, 1, True)] * 2


@pytest.mark.parametrize("when", WHEN)
def test_memory_that_runs_out_ahead_costs_no_token(when: str) -> None:
    engine, device = core()
    request = endless("r", [1, 1], 9)
    engine.add(request, {})
    engine.step()
    engine.step()
    device.broken = {when: OutOfMemory()}
    run(engine)
    tokens = [1, 1]
    while len(tokens) < 11:
        tokens.append(following(tokens))
    assert request.tokens == tokens


@pytest.mark.parametrize("when", ["prepared", "computed"])
def test_a_step_that_fails_ahead_fails_after_the_one_before_it_was_told_and_only_those_that_go_on(when: str) -> None:
    ending = next(n for n in range(1000) if END in reply([n, 1, 1], 9)[2:8])
    engine, device = core()
    early, late = asked("early", [ending, 1, 1], 9), endless("late", [9] * 6, 20)
    for request in (early, late):
        engine.add(request, {})
    while early.made < len(reply(early.prompt, 9)) - 1:
        engine.step()
    device.broken = {when: RuntimeError()}
    assert {output.request.id for output in engine.step()} == {"early", "late"}
    assert early.status is Status.FINISHED
    with pytest.raises(StepFailed) as failed:
        engine.step()
    assert failed.value.requests == [late]


def test_a_step_in_flight_is_work_even_when_nobody_is_left() -> None:
    engine, device = core()
    request = endless("r", [1, 1], 9)
    engine.add(request, {})
    engine.step()
    engine.abort(request)
    assert engine.has_work
    assert engine.step() == []
    assert (engine.has_work, device.queue) == (False, [])

"""Random traffic through scheduler and pool: the books balance after every move, and everybody is served."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qqvl_server.engine.steps.batch import Chosen, ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.block_pool import BlockPool, block_hash
from qqvl_server.engine.steps.request import FinishReason, ImageSpan, Priority, Request, SamplingParams, Status
from qqvl_server.engine.steps.scheduler import Scheduler
from tests.running import ROOT


def request(
    name: str,
    prompt: list[int],
    *,
    chat: str = "",
    new: int = 4,
    priority: Priority = Priority.PRIVATE,
    salt: bytes = b"",
) -> Request:
    return Request(name, chat or name, prompt, SamplingParams(new), priority=priority, salt=salt)


def scheduler(blocks: int = 32, size: int = 4, tokens: int = 16, requests: int = 8) -> Scheduler:
    return Scheduler(BlockPool(blocks, size), max_tokens=tokens, max_requests=requests, quantum=16)


def step(machine: Scheduler, tokens: int = 16) -> list[Request]:
    """One step in which every request samples token 7; returns those that finished."""
    batch = machine.schedule()
    assert batch.tokens <= tokens
    outputs = machine.update(batch, [Chosen(7)] * sum(chunk.samples for chunk in batch.chunks))
    machine.check_integrity()
    return [output.request for output in outputs if output.finished]


def run(machine: Scheduler, limit: int = 2000, tokens: int = 16) -> list[Request]:
    done: list[Request] = []
    for _ in range(limit):
        if not machine.running and not len(machine.waiting):
            return done
        done += step(machine, tokens)
    raise AssertionError("traffic did not end")


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = scheduler(blocks=12, size=4, tokens=32, requests=5)
        self.live: list[Request] = []
        self.count = 0

    @rule(
        length=st.integers(1, 30), new=st.integers(0, 12), chat=st.sampled_from("abc"), same=st.booleans(),
        priority=st.sampled_from(Priority),
    )  # fmt: skip
    def arrive(self, length: int, new: int, chat: str, same: bool, priority: Priority) -> None:
        self.count += 1
        prompt = list(range(length)) if same else [self.count * 100 + n for n in range(length)]
        made = request(str(self.count), prompt, chat=chat, new=new, priority=priority)
        self.machine.add(made)
        self.live.append(made)

    @rule()
    def advance(self) -> None:
        for done in step(self.machine, tokens=32):
            self.live.remove(done)
            assert len(done.output) == done.sampling.max_new_tokens

    @rule()
    def run_out_of_memory(self) -> None:
        batch = self.machine.schedule()
        if self.machine.shrink(batch):
            assert not [request for request in batch.requests if request.status is Status.RUNNING]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.live))
        self.machine.abort(gone)
        self.live.remove(gone)
        assert gone.finish_reason is FinishReason.ABORTED

    @invariant()
    def books_balance(self) -> None:
        self.machine.check_integrity()
        assert len(self.live) == len(self.machine.running) + len(self.machine.waiting)

    def teardown(self) -> None:
        assert len(run(self.machine, tokens=32)) == len(self.live)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_shared_prefix_is_computed_once_and_a_different_salt_shares_nothing() -> None:
    machine = scheduler()
    prompt = list(range(13))
    for salt, cached in ((b"a", 0), (b"a", 12), (b"b", 0)):
        made = request("r", prompt, salt=salt)
        machine.add(made)
        run(machine)
        assert made.cached == cached


def test_the_next_turn_finds_its_whole_past() -> None:
    machine = scheduler(blocks=64)
    history: list[int] = list(range(20))
    for turn in range(4):
        made = request(str(turn), history, chat="c")
        machine.add(made)
        run(machine)
        if turn:
            # Everything but the last partial block; the last sampled token was never fed back.
            assert (made.cached or 0) >= len(history) - 8 - 5
        history = [*made.tokens, 100 + turn, 101, 102, 103]


def test_what_is_computed_again_after_preemption_is_not_called_cached() -> None:
    machine = scheduler(blocks=64, tokens=32)
    made = request("r", list(range(13)), new=6)
    machine.add(made)
    step(machine)
    assert machine.shrink(ScheduledBatch((ScheduledChunk(made, 0, 1),)))
    assert run(machine) == [made]
    assert (made.cached, made.output) == (0, [7] * 6)
    assert machine.preemptions["memory"] == 1


def test_idle_reading_waits_for_everybody_and_takes_small_steps() -> None:
    machine = Scheduler(BlockPool(256, 16), max_tokens=1024, max_requests=8)
    idle = request("idle", list(range(2000)), new=0, priority=Priority.IDLE_PREFILL)
    machine.add(idle)
    assert [chunk.count for chunk in machine.schedule().chunks] == [256]
    machine.update(ScheduledBatch((ScheduledChunk(idle, 0, 256),)), [])
    machine.add(request("urgent", [1] * 40, new=2))
    for expected in ("urgent", "urgent", "idle"):
        batch = machine.schedule()
        assert [one.id for one in batch.requests] == [expected]
        machine.update(batch, [Chosen(7)] * (expected == "urgent"))
    assert (idle.computed, idle.cached) == (512, 0)
    assert {why: count for why, count in machine.preemptions.items() if count} == {"idle": 1}
    assert run(machine, tokens=256) == [idle]


def test_pictures_with_other_pixels_are_other_prefixes() -> None:
    machine = scheduler()
    for digest, cached in ((b"red-red", 0), (b"blue-blue", 0), (b"red-red", 12)):
        made = Request("r", "c", [1, *[5] * 10, 2, 3], SamplingParams(1), images=(ImageSpan(1, 10, digest),))
        machine.add(made)
        run(machine)
        assert made.cached == cached


def test_memory_comes_back_slowly_after_a_step_that_ran_out() -> None:
    machine = Scheduler(BlockPool(64, 16), max_tokens=256, max_requests=8)
    for n in range(4):
        machine.add(request(str(n), [n] * 300, new=200))
    assert machine.schedule().tokens == 256
    sizes = []
    while machine.shrink(batch := machine.schedule()):
        sizes.append(batch.tokens)
    assert sizes == [256, 128, 64, 32], "and 16 is the smallest"
    assert machine.update(batch, [Chosen(7)] * sum(c.samples for c in batch.chunks)) == []
    assert machine.schedule().tokens == 16 + 4
    assert len(run(machine, tokens=256)) == 4


def test_running_out_of_blocks_delays_but_fails_nobody() -> None:
    machine = scheduler(blocks=8, size=4)
    made = [request(str(n), [n] * 6, new=14) for n in range(6)]
    for one in made:
        machine.add(one)
    assert Counter(r.id for r in run(machine)) == Counter(r.id for r in made)
    assert all(len(r.output) == 14 for r in made)


def test_the_less_urgent_gives_way() -> None:
    machine = scheduler(blocks=8, size=4)
    slow = request("slow", [1] * 8, new=20, priority=Priority.IDLE_PREFILL)
    machine.add(slow)
    step(machine)
    urgent = request("urgent", [2] * 16, new=12, priority=Priority.ADDRESSED)
    machine.add(urgent)
    assert [r.id for r in run(machine)] == ["urgent", "slow"]


@pytest.mark.parametrize("urgent", [Priority.ADDRESSED, Priority.PRIVATE, Priority.API])
def test_a_talk_that_nobody_called_us_into_waits_for_whoever_asks(urgent: Priority) -> None:
    """Whether it is read to ask if we join it, or to be answered."""
    machine = scheduler(blocks=64, tokens=16)
    gate = Request("gate", "1", list(range(60)), SamplingParams(0), priority=Priority.ACTIVE_SPEECH, targets=(7,))
    machine.add(gate)
    step(machine)
    call = request("call", [9] * 12, new=2, priority=urgent)
    machine.add(call)
    step(machine)
    assert len(call.output) == 1, "its first token comes with the next step"
    computed = [chunk.count for _ in range(9) for chunk in _chunks_of(machine, gate)]
    assert call.status is gate.status is Status.FINISHED
    assert sum(computed) <= 60 - 16, "what was read before is not read again"


def _chunks_of(machine: Scheduler, wanted: Request) -> list[ScheduledChunk]:
    """Those of one step, which is done."""
    batch = machine.schedule()
    wanted.scores[0] = -1.0
    machine.update(batch, [Chosen(7)] * sum(chunk.samples for chunk in batch.chunks))
    machine.check_integrity()
    return [chunk for chunk in batch.chunks if chunk.request is wanted]


def test_a_flood_delays_a_quiet_chat_by_a_bounded_amount() -> None:
    machine = scheduler(blocks=64, requests=2)
    for n in range(40):
        machine.add(request(f"flood{n}", [n] * 12, chat="flood"))
    quiet = request("quiet", [9] * 12, chat="quiet")
    machine.add(quiet)
    order = [r.id for r in run(machine)]
    assert order.index("quiet") <= 4


def test_a_chat_without_a_place_gets_one_of_a_crowded_chats_at_once() -> None:
    machine = scheduler(blocks=200, requests=4, tokens=64)
    flood = [request(f"flood{n}", [n] * 8, chat="flood", new=40) for n in range(8)]
    for one in flood:
        machine.add(one)
    step(machine, 64)
    quiet = [request(f"quiet{n}", [90 + n] * 8, new=2) for n in range(2)]
    for one in quiet:
        machine.add(one)
    step(machine, 64)
    assert all(len(one.output) == 1 for one in quiet), "their first token comes with the next step"
    assert sum(one.status is Status.RUNNING for one in flood) == 2
    # What gave way is not computed anew, and everybody is served.
    assert len(run(machine, tokens=64)) == 10
    assert all(len(one.output) == 40 for one in flood)


def test_chats_with_one_place_each_keep_it() -> None:
    machine = scheduler(blocks=200, requests=4, tokens=64)
    first = [request(f"a{n}", [n] * 8, new=10) for n in range(4)]
    for one in first:
        machine.add(one)
    step(machine, 64)
    machine.add(request("late", [9] * 8, new=2))
    step(machine, 64)
    assert {one.id for one in machine.running} == {one.id for one in first}
    assert len(run(machine, tokens=64)) == 5


def test_the_less_urgent_gives_its_place_up_to_a_chat_that_has_none() -> None:
    machine = scheduler(blocks=200, requests=2, tokens=64)
    for n in range(2):
        machine.add(request(f"api{n}", [n] * 8, new=30, priority=Priority.API))
    step(machine, 64)
    machine.add(request("group", [9] * 8, new=2, priority=Priority.ADDRESSED))
    assert run(machine, tokens=64)[0].id == "group"


def test_what_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="larger"):
        scheduler(blocks=2, size=4).add(request("r", [1] * 6, new=3))


def test_long_prompts_are_cut_into_chunks_beside_decodes() -> None:
    machine = scheduler(blocks=64)
    short = request("short", [1, 2, 3], new=30)
    machine.add(short)
    step(machine)
    machine.add(request("long", list(range(60)), new=1))
    before = len(short.output)
    for _ in range(4):
        step(machine)
    assert len(short.output) == before + 4, "decoding goes on while the long prompt is read"


def test_hashes_depend_on_everything_before() -> None:
    assert block_hash(b"a", [1, 2]) != block_hash(b"b", [1, 2]) != block_hash(b"b", [2, 1])
    assert block_hash(b"", [1], b"salt") != block_hash(b"", [1])


def test_scheduling_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import qqvl_server.engine.steps.scheduler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "server", check=True)


def test_an_aborted_request_frees_its_blocks_even_in_the_middle_of_a_step() -> None:
    machine = scheduler()
    gone, stays = request("gone", [1] * 6), request("stays", [2] * 6)
    machine.add(gone)
    machine.add(stays)
    batch = machine.schedule()
    machine.abort(gone)
    outputs = machine.update(batch, [Chosen(7), Chosen(7)])
    machine.check_integrity()
    assert [output.request for output in outputs] == [stays]
    assert gone.status is Status.FINISHED


@pytest.mark.parametrize("way", [[Status.WAITING], [Status.RUNNING, Status.RUNNING], [Status.FINISHED, Status.RUNNING]])
def test_a_request_moves_only_as_requests_do(way: list[Status]) -> None:
    request = Request("r", "c", [1], SamplingParams(1))
    *allowed, forbidden = way
    for status in allowed:
        request.become(status)
    with pytest.raises(RuntimeError, match=f"r cannot become {forbidden.name}"):
        request.become(forbidden)


def test_the_time_in_the_queue_ends_when_it_first_runs() -> None:
    request = Request("r", "c", [1], SamplingParams(1))
    request.become(Status.RUNNING)
    started = request.started
    assert started is not None
    assert request.arrived <= started
    request.become(Status.WAITING)
    request.become(Status.RUNNING)
    assert request.started == started

"""A device that goes on alone: what running ahead of it gains, and what it reads long after the host went on."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.cuda.decode_inputs import Decode, Inputs
from qqvl_server.engine.steps.batch import Chosen, Sampled, ScheduledBatch
from qqvl_server.engine.steps.block_pool import BlockPool
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.request import Request, SamplingParams
from qqvl_server.engine.steps.scheduler import Scheduler
from tests.engine.test_graphs import kernel

# Milliseconds that the device computes a step, and that the host needs to lay one out and to tell its tokens.
STEP, HOST = 8, 2


@dataclass
class Clocks:
    """``host`` is the time there; ``free`` is when the device is through with what it was given."""

    waiting_draw: bool = False
    host: int = 0
    free: int = 0
    told: list[int] = field(default_factory=list)

    def add(self, request: Request, patches: dict[bytes, Any]) -> None: ...

    def forget(self, request: Request) -> None: ...

    def release_memory(self) -> None: ...

    def check_integrity(self, live: Set[str]) -> None: ...

    def prepare(self, batch: ScheduledBatch) -> Launch:
        self.host += HOST
        return Launch(self, len(batch.chunks))

    def sample(self, logits: Any, rows: Sequence[int], requests: Sequence[Request]) -> Sampled:
        return self.draw(logits, rows, requests).wait()

    def draw(self, logits: Any, rows: Sequence[int], requests: Sequence[Request]) -> Drawn:
        if self.waiting_draw:
            self.host = max(self.host, self.free)
        return Drawn(self, self.free, len(rows))

    def score(self, logits: Any, rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        raise AssertionError


@dataclass
class Launch:
    clocks: Clocks
    count: int

    def compute(self) -> Any:
        self.clocks.free = max(self.clocks.free, self.clocks.host) + STEP
        return None


@dataclass
class Drawn:
    clocks: Clocks
    done: int
    count: int
    tokens: object = field(default_factory=object)

    def wait(self) -> Sampled:
        self.clocks.host = max(self.clocks.host, self.done)
        self.clocks.told.append(self.clocks.host)
        return [Chosen(7)] * self.count


def per_step(*, ahead: bool, waiting_draw: bool = False) -> float:
    clocks = Clocks(waiting_draw)
    scheduler = Scheduler(BlockPool(400, 16), max_tokens=64, max_requests=8)
    engine = EngineCore(scheduler, clocks, clocks, ahead=ahead)
    for n in range(4):
        engine.add(Request(str(n), str(n), [1, 2], SamplingParams(60)), {})
    while engine.has_work:
        engine.step()
        # What telling takes.
        clocks.host += HOST
    return clocks.told[-1] / len(clocks.told)


def test_running_ahead_hides_what_the_host_does_unless_sampling_waits_for_the_device() -> None:
    in_turn, ahead, waiting = per_step(ahead=False), per_step(ahead=True), per_step(ahead=True, waiting_draw=True)
    assert round(in_turn) == STEP + 2 * HOST
    assert round(ahead) == STEP
    assert waiting > ahead + HOST / 2


class Deferred(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies for which nobody waits are done when ``catch_up`` is called, as a busy device does them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._due: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = {**(kwargs or {}), **dict(zip(("self", "src", "non_blocking"), args, strict=False))}
        if func.overloadpacket.__name__ == "copy_" and asked.get("non_blocking"):
            self._due.append(partial(func, *args, **(kwargs or {})))
            return args[0]
        return func(*args, **(kwargs or {}))

    def catch_up(self) -> None:
        self._due.pop(0)()


def test_what_is_on_its_way_is_not_written_over_while_the_next_step_is_laid_out() -> None:
    cache = KVCache(KVShape(1, 1, 4), 20, 4, dtype=torch.float32, device="cpu")
    inputs = Inputs(4, 5, cache, kernel)
    device = Deferred()
    with device:
        inputs.fill([Decode(7, 9, [3, 5], 6)], 2)
        inputs.fill([Decode(8, 2, [2], 3), Decode(9, 3, [4], 2)], 2)
    for expected in ([[7, 0]], [[8, 9]]):
        device.catch_up()
        assert inputs.first(2)[0].tolist() == expected

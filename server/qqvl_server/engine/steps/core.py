"""The engine's heart: schedule → run → sample → update, on one thread. Imports no torch itself.

One step at a time; or, on a device that computes while the host goes on, the next step is begun before the tokens of
the one before are known, wherever it can be told without them (``Scheduler.continued``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from qqvl_server.engine.steps.batch import Carried, Drawn, Known, Sampled, ScheduledBatch, StepOutput
from qqvl_server.engine.steps.request import Request, Status
from qqvl_server.engine.steps.scheduler import Scheduler
from qqvl_server.errors import EngineDead
from qqvl_server.observe.logs import logger


class Runner(Protocol):
    def add(self, request: Request, patches: dict[bytes, Any]) -> None:
        """Takes ``patches`` over: what is no longer needed is taken out of it."""
        ...

    def forget(self, request: Request) -> None: ...

    def run(self, batch: ScheduledBatch, meanwhile: Callable[[], None]) -> Any:
        """Logits of each chunk's ``kept`` positions, in order; calls ``meanwhile`` before the long part of it."""
        ...

    def release_memory(self) -> None:
        """Give back what can be had again, after a step that ran out of memory."""
        ...


class TokenSampler(Protocol):
    def sample(self, logits: Any, rows: Sequence[int], requests: Sequence[Request]) -> Sampled:
        """The next token of each request; its logits stand in the row of the same place in ``rows``."""
        ...

    def score(self, logits: Any, rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        """Natural log-probability of each target in its row."""
        ...

    def draw(self, logits: Any, rows: Sequence[int], requests: Sequence[Request]) -> Drawn:
        """As ``sample``, of requests that do not need the host, without waiting for the device."""
        ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step that was begun ahead of its time. ``drawn`` is what it gave, or what it raised."""

    batch: ScheduledBatch
    drawn: Drawn | Exception


class StepFailed(Exception):
    """``requests`` took part in a step that raised."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__("step failed")
        self.requests = requests


class EngineCore:
    """``ahead``: begin steps before the tokens of the ones before are known."""

    def __init__(self, scheduler: Scheduler, runner: Runner, sampler: TokenSampler, *, ahead: bool = False) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._sampler = sampler
        self._ahead = ahead
        self._begun: _Begun | None = None
        # Tokens computed so far, prompts and replies.
        self.computed = 0

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running) or len(self.scheduler.waiting) > 0 or self._begun is not None

    def add(self, request: Request, patches: dict[bytes, Any]) -> None:
        """Raises ValueError when the request can never fit the cache."""
        self.scheduler.add(request)
        try:
            self.runner.add(request, patches)
        except BaseException:
            # Raised again: the scheduler must not run what the runner does not know.
            self.abort(request)
            raise

    def abort(self, request: Request) -> None:
        self.scheduler.abort(request)
        self.runner.forget(request)

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[StepOutput]:
        """One forward over everything that is due; returns the tokens it gave.

        ``meanwhile`` is called when the computing is about to begin, once or more often, or not at all where there is
        none. Computing needs little of the interpreter: whoever is woken then does not compete with the engine for it.

        Nothing comes of a step that runs out of memory: its requests are put back and the next steps are smaller.

        Raises:
            StepFailed: the model raised, or the smallest step does not fit the memory.
            EngineDead: no step can succeed any more.
        """
        begun, self._begun = self._begun, None
        batch = self.scheduler.schedule() if begun is None else begun.batch
        if not batch.chunks:
            return []
        sampled = self._sampled(batch, None if begun is None else begun.drawn, meanwhile)
        if sampled is None:
            # Outside the handler: its traceback would keep every tensor of the failed step alive.
            del begun
            self.runner.release_memory()
            return []
        self.computed += batch.tokens
        outputs = self.scheduler.update(batch, sampled)
        for output in outputs:
            if output.request.status is Status.FINISHED:
                self.runner.forget(output.request)
        return outputs

    def _sampled(
        self, batch: ScheduledBatch, drawn: Drawn | Exception | None, meanwhile: Callable[[], None]
    ) -> Sampled | None:
        """None when memory ran out."""
        try:
            if isinstance(drawn, Exception):
                raise drawn
            begun_before = drawn is not None
            if drawn is None:
                drawn = self._run(batch, meanwhile)
            self._begun = self._begin_after(batch, drawn.tokens, meanwhile)
            if begun_before and self._begun is None:
                # Nothing begins to compute now; what is left is to wait.
                meanwhile()
            return drawn.wait()
        except EngineDead:
            raise
        except Exception as error:
            # One step's edge: the model's libraries raise anything.
            if not _is_out_of_memory(error) or not self.scheduler.shrink(batch):
                raise StepFailed([r for r in batch.requests if r.status is Status.RUNNING]) from error
            logger().warning("内存不够，缩小步长重算", tokens=batch.tokens, requests=len(batch.chunks))
            return None

    def _begin_after(self, batch: ScheduledBatch, tokens: Any, meanwhile: Callable[[], None]) -> _Begun | None:
        following = self.scheduler.continued(batch) if self._ahead and tokens is not None else None
        if following is None:
            return None
        places = {chunk.request.id: place for place, chunk in enumerate(batch.chunks)}
        following = replace(following, carried=Carried(tokens, places))
        try:
            return _Begun(following, self._run(following, meanwhile))
        except Exception as error:
            # A step's edge as in _sampled, but its turn comes after the step that still runs has been booked.
            return _Begun(following, error)

    def _run(self, batch: ScheduledBatch, meanwhile: Callable[[], None]) -> Drawn:
        logits = self.runner.run(batch, meanwhile)
        row, sampling = 0, []
        scored: list[tuple[int, Request, int]] = []
        for chunk in batch.chunks:
            rows = range(row, row + len(chunk.kept))
            row = rows.stop
            if chunk.samples:
                sampling.append(rows[0])
            else:
                scored += zip(rows, [chunk.request] * len(rows), chunk.scored, strict=True)
        if scored:
            targets = [request.targets[target] for _, request, target in scored]
            values = self._sampler.score(logits, [row for row, _, _ in scored], targets)
            for (_, request, target), value in zip(scored, values, strict=True):
                request.scores[target] = value
        requests = [chunk.request for chunk in batch.chunks if chunk.samples]
        if not requests:
            return Known([])
        if self._ahead and not any(request.needs_host for request in requests):
            return self._sampler.draw(logits, sampling, requests)
        return Known(self._sampler.sample(logits, sampling, requests))

    def check_integrity(self) -> None:
        self.scheduler.check_integrity()


def _is_out_of_memory(error: Exception) -> bool:
    """torch's own error says so in its text, on every device."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    )

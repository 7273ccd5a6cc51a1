"""The engine's heart: schedule → prepare → compute → sample → update, on one thread. Imports no torch itself.

One step at a time; or, on a device that computes while the host goes on, the next step is launched before the tokens
of the one before are known, wherever it can be told without them (``Scheduler.continued``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

from qqvl_server.engine.steps.batch import (
    CarriedTokens,
    KnownTokens,
    NoNumbers,
    PendingTokens,
    Prepared,
    Sampled,
    ScheduledBatch,
    StepOutput,
)
from qqvl_server.engine.steps.request import Request, Status
from qqvl_server.engine.steps.scheduler import Scheduler
from qqvl_server.errors import EngineDead
from qqvl_server.observe.logs import logger


class OutOfMemory(Exception):
    """What runner and sampler raise where a smaller step may fit. Whoever computes knows what it looks like there."""


class Runner(Protocol):
    def add(self, request: Request, patches: dict[bytes, Any]) -> None:
        """Takes ``patches`` over: what is no longer needed is taken out of it."""
        ...

    def forget(self, request: Request) -> None: ...

    def prepare(self, batch: ScheduledBatch) -> Prepared:
        """What needs the interpreter; computing what comes of it is the long part, and needs little of it."""
        ...

    def release_memory(self) -> None:
        """Give back what can be had again, after a step that ran out of memory."""
        ...

    def check_integrity(self, live: Set[str]) -> None:
        """Raise AssertionError unless requests of these ids are remembered, and no others."""
        ...


class TokenSampler(Protocol):
    def sample(self, logits: Any, rows: Sequence[int], requests: Sequence[Request]) -> Sampled:
        """The next token of each request; its logits stand in the row of the same place in ``rows``."""
        ...

    def score(self, logits: Any, rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        """Natural log-probability of each target in its row; NaN where there is none."""
        ...

    def draw(self, logits: Any, rows: Sequence[int], requests: Sequence[Request]) -> PendingTokens:
        """As ``sample``, of requests that do not need the host, without waiting for the device."""
        ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step whose inputs are made: ``prepared`` is what to compute, or what making it raised."""

    batch: ScheduledBatch
    prepared: Prepared | Exception


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step that was computed, or is on a device that goes on alone: ``drawn`` is what it gave, or what it raised."""

    batch: ScheduledBatch
    drawn: PendingTokens | Exception


class StepFailed(Exception):
    """``requests`` took part in a step that raised."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__("step failed")
        self.requests = requests


class EngineCore:
    """``ahead``: launch steps before the tokens of the ones before are known."""

    def __init__(self, scheduler: Scheduler, runner: Runner, sampler: TokenSampler, *, ahead: bool = False) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._sampler = sampler
        self._ahead = ahead
        self._begun: _Begun | None = None
        self._launched: _Launched | None = None
        # Tokens computed so far, prompts and replies.
        self.computed = 0
        # How it computes, for those who look on; whoever has put it together says it.
        self.facts: Mapping[str, object] = {}
        # What ``finish`` has booked last; None where nothing came of the step.
        self.booked: ScheduledBatch | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running) or len(self.scheduler.waiting) > 0 or self._launched is not None

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

    def step(self) -> list[StepOutput]:
        """``begin`` and ``finish`` in one."""
        self.begin()
        return self.finish()

    def begin(self) -> None:
        """Make the next step ready, unless there is none, or what it is hangs on tokens that are still computed.

        What there is to tell others is told between this and ``finish``: computing needs little of the interpreter, so
        that whoever is woken then does not compete with the engine for it.
        """
        batch = self.scheduler.schedule() if self._launched is None else self._following(self._launched)
        if batch is None or not batch.chunks:
            return
        try:
            self._begun = _Begun(batch, self.runner.prepare(batch))
        except Exception as error:
            # A step's edge: the model's libraries raise anything. Its turn comes once the step before it is booked.
            self._begun = _Begun(batch, error)

    def finish(self) -> list[StepOutput]:
        """Compute what was begun; returns the tokens of the step whose turn it is: that one, or the one before it.

        Nothing comes of a step that runs out of memory: its requests are put back and the next steps are smaller.

        Raises:
            StepFailed: the model raised, or the smallest step does not fit the memory.
            EngineDead: no step can succeed any more.
        """
        self.booked = None
        launched, self._launched = self._launched, self._launch()
        if launched is None:
            launched = self._launched
            if launched is None:
                return []
            # Of a device that goes on alone the step after it may be told already.
            self.begin()
            self._launched = self._launch()
        batch = launched.batch
        sampled = self._sampled(launched)
        if sampled is None:
            # Outside the handler, and let go: its traceback keeps every tensor of the failed step alive.
            del launched
            self.runner.release_memory()
            return []
        self.computed += batch.tokens
        self.booked = batch
        outputs = self.scheduler.update(batch, sampled)
        if any(isinstance(output.error, NoNumbers) for output in outputs):
            logger().warning("模型算出了无效的数（NaN 或无穷大），这些请求以出错结束；总是这样就换一种 --dtype")
            # Features of pictures may be what they come from.
            self.runner.release_memory()
        for output in outputs:
            if output.request.status is Status.FINISHED:
                self.runner.forget(output.request)
        return outputs

    def _following(self, launched: _Launched) -> ScheduledBatch | None:
        """The step after ``launched``, where it can be told before its tokens are known."""
        drawn = launched.drawn
        if isinstance(drawn, Exception) or drawn.tokens is None:
            return None
        following = self.scheduler.continued(launched.batch)
        if following is None:
            return None
        places = {chunk.request.id: place for place, chunk in enumerate(launched.batch.chunks)}
        return replace(following, carried=CarriedTokens(drawn.tokens, places))

    def _launch(self) -> _Launched | None:
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        if isinstance(begun.prepared, Exception):
            return _Launched(begun.batch, begun.prepared)
        try:
            return _Launched(begun.batch, self._draw(begun.batch, begun.prepared.compute()))
        except Exception as error:
            # A step's edge, as in ``begin``.
            return _Launched(begun.batch, error)

    def _sampled(self, launched: _Launched) -> Sampled | None:
        """None when memory ran out."""
        batch = launched.batch
        try:
            if isinstance(launched.drawn, Exception):
                raise launched.drawn
            return launched.drawn.wait()
        except EngineDead:
            raise
        except Exception as error:
            # A step's edge, as in ``begin``.
            if not isinstance(error, OutOfMemory) or not self.scheduler.shrink(batch):
                raise StepFailed([r for r in batch.requests if r.status is Status.RUNNING]) from error
            logger().warning("内存不够，缩小步长重算", tokens=batch.tokens, requests=len(batch.chunks))
            return None

    def _draw(self, batch: ScheduledBatch, logits: Any) -> PendingTokens:
        row, sampling = 0, []
        # Row, request, place among what it wants scored, token.
        scored: list[tuple[int, Request, int, int]] = []
        for chunk in batch.chunks:
            rows = range(row, row + len(chunk.kept))
            row = rows.stop
            if chunk.samples:
                sampling.append(rows[0])
            else:
                request = chunk.request
                scored += [(row, request, n, request.targets[n]) for row, n in zip(rows, chunk.scored, strict=True)]
                if chunk.scored and chunk.scored.stop == len(request.targets):
                    scored += [
                        (rows[-1], request, chunk.scored.stop + n, rival) for n, rival in enumerate(request.rivals)
                    ]
        if scored:
            values = self._sampler.score(logits, [row for row, *_ in scored], [token for *_, token in scored])
            for (_, request, place, _), value in zip(scored, values, strict=True):
                request.scores[place] = value
        requests = [chunk.request for chunk in batch.chunks if chunk.samples]
        if not requests:
            return KnownTokens([])
        if self._ahead and not any(request.needs_host for request in requests):
            return self._sampler.draw(logits, sampling, requests)
        return KnownTokens(self._sampler.sample(logits, sampling, requests))

    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not balance. Between ``finish`` and ``begin``."""
        self.scheduler.check_integrity()
        self.runner.check_integrity({r.id for r in (*self.scheduler.running, *self.scheduler.waiting)})

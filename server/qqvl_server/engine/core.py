"""The engine's heart: schedule → run → sample → update, one step at a time, on one thread. Imports no torch itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from qqvl_server.engine.batch import ScheduledBatch, StepOutput
from qqvl_server.engine.request import Request, Status
from qqvl_server.engine.scheduler import Scheduler


class Runner(Protocol):
    def add(self, request: Request, patches: Mapping[bytes, Any]) -> None: ...
    def forget(self, request: Request) -> None: ...
    def run(self, batch: ScheduledBatch) -> Any: ...


class TokenSampler(Protocol):
    def sample(self, logits: Any, requests: Sequence[Request]) -> list[int]: ...
    def forget(self, request: Request) -> None: ...


class EngineCore:
    def __init__(self, scheduler: Scheduler, runner: Runner, sampler: TokenSampler) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._sampler = sampler

    @property
    def has_work(self) -> bool:
        return bool(self._scheduler.running) or len(self._scheduler.waiting) > 0

    def add(self, request: Request, patches: Mapping[bytes, Any]) -> None:
        """Raises ValueError when the request can never fit the cache."""
        self._scheduler.add(request)
        self._runner.add(request, patches)

    def abort(self, request: Request) -> None:
        self._scheduler.abort(request)
        self._forget(request)

    def step(self) -> list[StepOutput]:
        """One forward over everything that is due; returns the tokens it gave."""
        batch = self._scheduler.schedule()
        if not batch.chunks:
            return []
        logits = self._runner.run(batch)
        tokens = self._sampler.sample(logits, [chunk.request for chunk in batch.chunks if chunk.samples])
        outputs = self._scheduler.update(batch, tokens)
        for output in outputs:
            if output.request.status is Status.FINISHED:
                self._forget(output.request)
        return outputs

    def _forget(self, request: Request) -> None:
        self._runner.forget(request)
        self._sampler.forget(request)

    def check_integrity(self) -> None:
        self._scheduler.check_integrity()

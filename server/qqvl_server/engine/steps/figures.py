"""What the steps take, for the metrics: one addition a step and class, however many tokens. Plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from qqvl_server.engine.steps.batch import ScheduledBatch, StepOutput
from qqvl_server.engine.steps.request import Priority
from qqvl_server.observe.metrics import Metrics

CLASSES: Final[Mapping[Priority, str]] = {
    Priority.ADDRESSED: "addressed",
    Priority.PRIVATE: "private",
    Priority.API: "api",
    Priority.ACTIVE_SPEECH: "active_speech",
    Priority.IDLE_PREFILL: "idle",
}


@dataclass(frozen=True, slots=True)
class EngineReading:
    """Blocks of the cache: all, those that running requests hold, and those whose content may be found again.

    ``preemptions`` are requests that were put back, by the reason.
    """

    blocks: int
    blocks_used: int
    blocks_named: int
    preemptions: Mapping[str, int]


class StepFigures:
    """Used by the engine's thread alone."""

    def __init__(self, metrics: Metrics) -> None:
        self._steps = metrics.step_seconds
        self._gaps = metrics.inter_token_seconds

    def stepped(self, batch: ScheduledBatch, seconds: float) -> None:
        """A step was computed, ``seconds`` after the one before it, or after the engine had nothing to do."""
        decodes = sum(chunk.count == 1 for chunk in batch.chunks)
        kind = "decode" if decodes == len(batch.chunks) else "mixed" if decodes else "prefill"
        self._steps.add(kind, seconds)

    def told(self, outputs: Iterable[StepOutput], now: float) -> None:
        """``outputs`` are there, at a ``time.monotonic`` instant."""
        alike: dict[tuple[Priority, float], int] = {}
        for output in outputs:
            request = output.request
            if output.chosen is None:
                continue
            if request.told_at is not None:
                # Nearly all had their last token in the step before.
                key = (request.priority, request.told_at)
                alike[key] = alike.get(key, 0) + 1
            request.told_at = now
        for (priority, before), times in alike.items():
            self._gaps.add(CLASSES[priority], now - before, times)

"""What crosses between scheduler, runner and sampler in one step: frozen values over ints."""

from __future__ import annotations

from dataclasses import dataclass

from qqvl_server.engine.request import Request


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Positions ``start`` to ``start + count`` of one request are computed in this step."""

    request: Request
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the last token, so that its logits give the next one."""
        return self.end == len(self.request.tokens)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    chunks: tuple[ScheduledChunk, ...]

    @property
    def tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One new token of one request; ``finished`` when it was its last."""

    request: Request
    token: int
    finished: bool

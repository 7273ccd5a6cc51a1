"""What crosses between scheduler, runner, sampler and worker in one step: frozen values over ints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qqvl_server.engine.request import Request
from qqvl_server.errors import QqvlError


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
        return self.request.sampling.max_new_tokens > 0 and self.end == len(self.request.tokens)

    @property
    def scored(self) -> range:
        """Which of the request's targets follow a position of this chunk."""
        first = len(self.request.prompt) - len(self.request.targets)
        wanted = len(self.request.targets)
        return range(min(max(self.start - first, 0), wanted), min(max(self.end - first, 0), wanted))

    @property
    def kept(self) -> range:
        """Positions whose logits are needed."""
        first = len(self.request.prompt) - len(self.request.targets)
        if self.samples:
            return range(self.end - 1, self.end)
        return range(first + self.scored.start, first + self.scored.stop)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    chunks: tuple[ScheduledChunk, ...]

    @property
    def tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @property
    def requests(self) -> list[Request]:
        return [chunk.request for chunk in self.chunks]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A sampled token. ``logprob`` and ``top`` (best first) only where asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


# One entry per chunk that samples; an error is that request's alone.
Sampled = Sequence[Chosen | QqvlError]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One new token of one request, or none of one that was only read; ``finished`` when it was its last."""

    request: Request
    chosen: Chosen | None
    finished: bool
    error: QqvlError | None = None

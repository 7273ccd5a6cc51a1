"""What crosses between scheduler, runner, sampler and worker in one step: frozen values over ints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qqvl_server.engine.steps.request import Request
from qqvl_server.errors import GenerationFailed, QqvlError


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Positions ``start`` to ``start + count`` of one request are computed in this step.

    ``samples``: the chunk reaches what is the last token when it is scheduled, so that its logits give the next one.
    """

    request: Request
    start: int
    count: int
    samples: bool = field(init=False)

    def __post_init__(self) -> None:
        last = self.end == len(self.request.tokens)
        object.__setattr__(self, "samples", last and self.request.sampling.max_new_tokens > 0)

    @property
    def end(self) -> int:
        return self.start + self.count

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
class CarriedTokens:
    """What the step before has sampled, still on the device: ``places`` says where in ``tokens`` each request's is."""

    tokens: Any
    places: dict[str, int]


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """Where ``carried`` is given, every chunk is one token, and the host does not know which."""

    chunks: tuple[ScheduledChunk, ...]
    carried: CarriedTokens | None = None

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


class NoNumbers(GenerationFailed):
    """A row's logits hold NaN or infinity: nothing that its request has in the cache is to be trusted."""

    def __init__(self) -> None:
        super().__init__("模型算出了无效的数，这条消息没能回答，请重试")


class Prepared(Protocol):
    """A step whose inputs are made."""

    def compute(self) -> Any:
        """Logits of each chunk's ``kept`` positions, in order. Called once."""
        ...


# One entry per chunk that samples; an error is that request's alone.
Sampled = Sequence[Chosen | QqvlError]


class PendingTokens(Protocol):
    """What a step sampled. ``tokens`` is on the device, one for each chunk that samples; None where the host chose."""

    @property
    def tokens(self) -> Any: ...

    def wait(self) -> Sampled: ...


@dataclass(frozen=True, slots=True)
class KnownTokens:
    """What needs no waiting for."""

    sampled: Sampled
    tokens: None = None

    def wait(self) -> Sampled:
        return self.sampled


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One new token of one request, or none of one that was only read; ``finished`` when it was its last."""

    request: Request
    chosen: Chosen | None
    finished: bool
    error: QqvlError | None = None

"""What the engine's thread is given to do, and what it tells of it, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from qqvl_server.engine.steps.batch import Chosen
from qqvl_server.engine.steps.request import FinishReason, Request
from qqvl_server.errors import QqvlError


@dataclass(frozen=True, slots=True)
class Ended:
    """The last item of a request that did not fail.

    ``stop_token`` is the caller's stop token that ended it; ``cached`` the prompt tokens found in the cache;
    ``scores`` the log-probabilities of the request's targets and rivals. ``queued_s`` is how long it waited to be run
    and ``answer_s`` how long for its first token, both from its arrival; None where it never came so far.
    """

    reason: FinishReason
    cached: int
    stop_token: int | None = None
    scores: tuple[float, ...] = ()
    queued_s: float | None = None
    answer_s: float | None = None


Item = Chosen | Ended | QqvlError


class Sink(Protocol):
    """Where one request's tokens go."""

    def is_abandoned(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Job:
    """``deadline`` is a ``time.monotonic`` instant. ``patches`` is taken over and emptied as pictures are looked at.

    ``followers`` begin with the same prompt: they start when its blocks are in the cache, at once if they are.
    """

    request: Request
    patches: dict[bytes, Any]
    sink: Sink
    deadline: float
    followers: tuple[Job, ...] = field(default=())

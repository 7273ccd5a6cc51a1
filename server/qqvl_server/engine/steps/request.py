"""A request as the engine knows it: token ids, image spans, how to sample. No text, no chats, no torch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final, Protocol

from qqvl_server.engine.steps.banned import BannedTexts


class Priority(IntEnum):
    """Who goes first; lower is sooner."""

    ADDRESSED = 0
    PRIVATE = 1
    API = 2
    ACTIVE_SPEECH = 3
    IDLE_PREFILL = 4


class Status(IntEnum):
    WAITING = 0
    RUNNING = 1
    FINISHED = 2


# Only forward, but for preemption.
_MOVES: Final = {
    Status.WAITING: (Status.RUNNING, Status.FINISHED),
    Status.RUNNING: (Status.WAITING, Status.FINISHED),
    Status.FINISHED: (),
}


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where one picture's tokens stand in the prompt; ``digest`` names its pixels and size."""

    start: int
    length: int
    digest: bytes

    @property
    def end(self) -> int:
        return self.start + self.length


class TokenMask(Protocol):
    """What constrained decoding asks of a request's next token. Called on the engine's thread only."""

    def allowed(self) -> Sequence[int] | None:
        """Bit i of word i // 32 (int32, as llguidance and xgrammar write them) says whether token i may come next.

        None lets every token come.
        """
        ...

    def accept(self, token: int) -> None:
        """``token`` was chosen."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep every token; ``seed`` None draws a fresh one.

    ``logprobs`` None asks for none, n for the chosen token's and the n likeliest. ``end_token_ids`` are the model's
    own end, ``stop_token_ids`` the caller's; neither can come before ``min_new_tokens``. With ``max_new_tokens`` 0
    the prompt is only read.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned: BannedTexts | None = None
    seed: int | None = None
    min_new_tokens: int = 0
    logprobs: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    end_token_ids: frozenset[int] = frozenset()

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


# Holds the place of a token that the device has sampled and the host has not read yet.
PENDING: Final = -1

# Above every vocabulary: an image token's place in the prefix hash is its picture's content, not its id.
_PSEUDO_TOKEN: Final = 1 << 32


@dataclass(slots=True, eq=False)
class Request:
    """Mutable only in the scheduler's hands. ``tokens`` is the prompt and what was sampled after it.

    ``salt`` goes into the hash of every block after the shared ones, so that chats cannot probe each other's cache.
    ``targets`` are tokens whose log-probability is wanted: the last of them follows the prompt, those before it stand
    at the prompt's end. ``rivals`` of the last are wanted as well, in its place. ``scores`` are keyed by place in
    ``targets`` and, behind them, ``rivals``. ``cached`` counts the tokens that were found in the cache when the request
    first ran.
    ``arrived``, ``started``, ``answered`` and ``told_at`` are ``time.monotonic`` instants: when it was made, when it
    first ran, when its first token came, and when its last one so far.
    """

    id: str
    chat: str
    prompt: Sequence[int]
    sampling: SamplingParams
    images: tuple[ImageSpan, ...] = ()
    salt: bytes = b""
    shared_tokens: int = 0
    priority: Priority = Priority.PRIVATE
    mask: TokenMask | None = None
    targets: tuple[int, ...] = ()
    rivals: tuple[int, ...] = ()
    seed: int = field(init=False)
    tokens: list[int] = field(init=False)
    scores: dict[int, float] = field(default_factory=dict, init=False)
    computed: int = field(default=0, init=False)
    cached: int | None = field(default=None, init=False)
    blocks: list[int] = field(default_factory=list, init=False)
    hashes: list[bytes] = field(default_factory=list, init=False)
    finish_reason: FinishReason | None = field(default=None, init=False)
    arrived: float = field(default_factory=time.monotonic, init=False)
    started: float | None = field(default=None, init=False)
    answered: float | None = field(default=None, init=False)
    told_at: float | None = field(default=None, init=False)
    _status: Status = field(default=Status.WAITING, init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.seed = secrets.randbits(64) if self.sampling.seed is None else self.sampling.seed

    @property
    def status(self) -> Status:
        return self._status

    def become(self, status: Status) -> None:
        """The one way to another status. Raises RuntimeError: no request moves so, the scheduler's books are broken."""
        if status not in _MOVES[self._status]:
            raise RuntimeError(f"{self.id} cannot become {status.name}: it is {self._status.name}")
        self._status = status
        if status is Status.RUNNING and self.started is None:
            self.started = time.monotonic()

    def put(self, place: int, token: int) -> None:
        """``token`` was sampled for ``place``, behind all others, or where ``PENDING`` holds it."""
        self.tokens[place:] = [token]
        if self.answered is None:
            self.answered = time.monotonic()

    @property
    def output(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    @property
    def made(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - len(self.prompt)

    @property
    def reusable(self) -> int:
        """Tokens that may come from the cache; those after them are computed, because their logits are needed."""
        return len(self.prompt) - len(self.targets) if self.targets else len(self.tokens) - 1

    @property
    def needs_host(self) -> bool:
        """Whether its next token cannot be sampled, or told, before the host knows the last."""
        return self.mask is not None or self.sampling.logprobs is not None

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet; the last one's logits give the next token."""
        return len(self.tokens) - self.computed

    def hash_key(self, start: int, end: int) -> list[int]:
        """What enters the prefix hash for positions ``start`` to ``end``."""
        key = list(self.tokens[start:end])
        for image in self.images:
            low, high = max(start, image.start), min(end, image.end)
            content = _PSEUDO_TOKEN | int.from_bytes(image.digest[:7], "big")
            for position in range(low, high):
                key[position - start] = content + position - image.start
        return key

    def images_in(self, start: int, end: int) -> tuple[ImageSpan, ...]:
        return tuple(image for image in self.images if image.start < end and image.end > start)

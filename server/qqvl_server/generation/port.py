"""What the doors and the chat may ask of any voice. Values only: no torch, no HTTP, no chats.

A voice takes chat messages and yields text events. ``local.py`` speaks with a model in this process;
others (the paged engine, an upstream cluster) fit behind the same protocol.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from qqvl_server.errors import InvalidRequest
from qqvl_server.media.image import ImageRef

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One picture; an animation becomes as many pictures as ``image.frames`` names."""

    image: ImageRef


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """Only users show pictures: the chat template would drop those of other roles without a word.

    Raises:
        InvalidRequest: a picture in a system or assistant message.
    """

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role != "user" and any(isinstance(part, ImagePart) for part in self.parts):
            raise InvalidRequest("只有用户消息能带图片")


@dataclass(frozen=True, slots=True)
class Sampling:
    """None means: the model's own generation_config. ``temperature`` 0 is greedy."""

    max_new_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """``deadline`` is a ``time.monotonic`` instant after which the answer is of no use.

    ``owner`` is whose turn it is (a chat, a key): engines share out the machine by it and keep caches apart by it.
    """

    request_id: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    deadline: float
    owner: str = ""


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    usage: Usage


TextEvent = TextDelta | Finished


@dataclass(frozen=True, slots=True)
class VoiceStatus:
    """``device`` as the health page names it, e.g. ``cuda:0``."""

    model_loaded: bool
    processor_loaded: bool
    alive: bool
    device: str


class Voice(Protocol):
    @property
    def context_tokens(self) -> int:
        """Prompt and reply together, in tokens."""
        ...

    def status(self) -> VoiceStatus: ...

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Exact prompt tokens of each message, pictures included."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        """Text deltas, then one ``Finished``. Closing the iterator stops the model at the next token.

        Raises:
            PromptTooLong, Busy, DeadlineExceeded, GenerationFailed, EngineDead
        """
        ...

    async def aclose(self) -> None: ...

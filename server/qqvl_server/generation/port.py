"""What the doors and the chat may ask of any voice. Values only: no torch, no HTTP, no chats.

A voice takes chat messages and yields text events. ``local.py`` speaks with a model in this process;
others (the paged engine, an upstream cluster) fit behind the same protocol.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal, Protocol

from qqvl_server.errors import InvalidRequest
from qqvl_server.media.image import ImageRef

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One picture; an animation becomes as many pictures as ``image.frames`` names.

    ``where`` it stands in its caller's request, for a refusal that comes late.
    """

    image: ImageRef
    where: str | None = field(default=None, compare=False)


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model made. ``arguments`` is JSON text as it was written, valid or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. ``parameters`` is a JSON schema as JSON text, so that the value stays frozen.

    ``where`` is the field of the request that the schema stands in, for those who refuse it.
    """

    name: str
    description: str | None
    parameters: str
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """Only users and tools show pictures: the chat template would drop those of other roles without a word.

    ``tool_calls`` belong to assistants; ``tool_call_id`` is the call a tool message answers.

    Raises:
        InvalidRequest: a picture in a system or assistant message.
    """

    role: Role
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ("user", "tool") and any(isinstance(part, ImagePart) for part in self.parts):
            raise InvalidRequest("只有用户消息能带图片")


class GrammarKind(StrEnum):
    """How ``Grammar.text`` is written: a JSON schema, a regular expression, a JSON list of strings, or Lark/EBNF."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """The only texts a reply may be.

    ``params`` are the fields of the request that its schemas come from, in order; ``given_up`` are places in them that
    a reply need not keep to.
    """

    kind: GrammarKind
    text: str
    params: tuple[str, ...] = field(default=(), compare=False)
    given_up: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """None means: the model's own generation_config. ``temperature`` 0 is greedy.

    ``logit_bias`` pairs a token id with what is added to its logit. ``logprobs`` None asks for no log-probabilities,
    n for those of the chosen token and the n likeliest. ``stop`` texts end the reply and are not part of it.
    """

    max_new_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None


class Urgency(IntEnum):
    """Whose turn comes first when many wait; lower is sooner."""

    ADDRESSED = 0
    PRIVATE = 1
    API = 2
    ACTIVE_SPEECH = 3
    IDLE = 4


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """``deadline`` is a ``time.monotonic`` instant after which the answer is of no use.

    ``owner`` is whose turn it is (a chat, a key): engines share out the machine by it and keep caches apart by it.
    ``raw`` is a prompt that no chat template touches, as text or as token ids; ``messages`` is then empty.
    ``choices`` replies are made of one prompt. ``template`` holds extra arguments for the chat template.
    ``opening`` is the reply's beginning, said already: what is generated goes on from it and does not repeat it.
    ``may_call`` are the names of the tools that may be called; None is all of them.
    ``thoughts`` false leaves out what the model thinks before it speaks.
    """

    request_id: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    deadline: float
    owner: str = ""
    urgency: Urgency = Urgency.PRIVATE
    tools: tuple[Tool, ...] = ()
    may_call: tuple[str, ...] | None = None
    grammar: Grammar | None = None
    choices: int = 1
    raw: str | tuple[int, ...] | None = None
    template: tuple[tuple[str, bool | str], ...] = ()
    opening: str = ""
    thoughts: bool = True


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """``cached_tokens`` are those of the prompt whose keys and values were at hand already."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability before temperature.

    ``top`` are the likeliest tokens at its place, best first. ``data`` is the token's own bytes, which need not be
    whole characters.
    """

    token: int
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """``choice`` counts replies to one prompt from 0. ``tokens`` only when log-probabilities were asked for."""

    text: str
    choice: int = 0
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """One per choice. ``stopped_by`` is the stop text or stop token id that ended it, None for the model's own end.

    ``unseen`` tells why pictures of the prompt were not shown, in words for those who are answered; never for API
    callers, whose request is refused.
    """

    reason: FinishReason
    usage: Usage
    choice: int = 0
    stopped_by: str | int | None = None
    unseen: tuple[str, ...] = ()


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
        """Text deltas, then one ``Finished`` per choice. Closing the iterator stops the model at the next token.

        Raises:
            InvalidRequest: a grammar that cannot be compiled, a token id outside the vocabulary, or something this
                engine cannot do.
            PromptTooLong, Busy, DeadlineExceeded, GenerationFailed, EngineDead
        """
        ...

    def given_up(self, grammar: Grammar) -> tuple[str, ...]:
        """Places in the request that replies in this grammar need not keep to; known once one of them has begun."""
        ...

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        """Natural log-probability of each candidate as the whole beginning of the reply; the prompt stays cached.

        Raises:
            InvalidRequest: no candidate, or an empty one.
            As ``generate``.
        """
        ...

    async def warm(self, request: GenerationRequest) -> None:
        """Read a prompt into the cache when nothing else is to do, so that a later turn starts sooner. May do nothing.

        Never raises: what cannot be warmed now is simply read later.
        """
        ...

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        """Token ids of the rendered prompt (each picture as its run of image tokens).

        Raises:
            InvalidRequest: the chat template refuses these messages.
        """
        ...

    async def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included.

        Raises:
            InvalidRequest: an id outside the vocabulary.
        """
        ...

    async def aclose(self) -> None: ...

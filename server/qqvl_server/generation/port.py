"""What the doors and the chat may ask of any voice. Values only; ``local.py`` has a voice in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal, Protocol

from qqvl_server.engine.steps.banned import BannedTexts
from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.events import Finished as Finished
from qqvl_server.generation.events import FinishReason as FinishReason
from qqvl_server.generation.events import Reasoning as Reasoning
from qqvl_server.generation.events import TextDelta as TextDelta
from qqvl_server.generation.events import TextEvent as TextEvent
from qqvl_server.generation.events import TokenLogprob as TokenLogprob
from qqvl_server.generation.events import ToolCallArguments as ToolCallArguments
from qqvl_server.generation.events import ToolCallStarted as ToolCallStarted
from qqvl_server.generation.events import Usage as Usage
from qqvl_server.generation.grammars import Grammar as Grammar
from qqvl_server.generation.grammars import GrammarKind as GrammarKind
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


class ToolMode(StrEnum):
    """Whether tools may (AUTO), must (REQUIRED) or may not (NONE: the model does not even read of them) be called."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``named`` is the one tool that must be called, once; REQUIRED goes with it.

    ``allowed`` are the names of those that may be called now, of all that the model reads of; None is all of them.
    ``parallel`` false lets one call through at most.
    """

    mode: ToolMode = ToolMode.AUTO
    named: str | None = None
    allowed: tuple[str, ...] | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Thinking:
    """How much a model thinks before it speaks, where it can; None leaves it to the checkpoint and its template.

    ``enabled`` and ``effort`` are switches of the chat template; where it opens a thought nevertheless, ``enabled``
    false closes it at once. After ``budget`` tokens a thought is closed.
    ``anywhere``: one may begin in the middle of a reply too, so that texts about such marks do not come through whole.
    """

    enabled: bool | None = None
    budget: int | None = None
    effort: str | None = None
    anywhere: bool = False


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


@dataclass(frozen=True, slots=True)
class Sampling:
    """None means: the model's own generation_config. ``temperature`` 0 is greedy.

    ``logit_bias`` pairs a token id with what is added to its logit. ``logprobs`` None asks for no log-probabilities,
    n for those of the chosen token and the n likeliest. ``stop`` texts end the reply and are not part of it,
    ``bad_words`` are not said as they are written: engines are given ``banned``.
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
    bad_words: tuple[str, ...] = ()
    banned: BannedTexts | None = None
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
    ``grammar`` is what a reply must be; thoughts come before it, and calls may come in its place.
    """

    request_id: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    deadline: float
    owner: str = ""
    urgency: Urgency = Urgency.PRIVATE
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    grammar: Grammar | None = None
    choices: int = 1
    raw: str | tuple[int, ...] | None = None
    template: tuple[tuple[str, bool | str], ...] = ()
    opening: str = ""
    thinking: Thinking = Thinking()

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """Those that the model reads of."""
        return () if self.tool_choice.mode is ToolMode.NONE else self.tools

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """Those of them that may be called."""
        allowed = self.tool_choice.allowed
        return tuple(tool for tool in self.shown_tools if allowed is None or tool.name in allowed)


@dataclass(frozen=True, slots=True)
class VoiceStatus:
    """``device`` as the health page names it, e.g. ``cuda:0``.

    ``away``: nobody can be answered now, but it may come back; what is not ``alive`` never will.
    """

    model_loaded: bool
    processor_loaded: bool
    alive: bool
    device: str
    away: bool = False


class Voice(Protocol):
    @property
    def context_tokens(self) -> int:
        """Prompt and reply together, in tokens."""

    def status(self) -> VoiceStatus: ...
    async def watch(self) -> None:
        """Runs beside the doors for as long as the voice is alive, and sees to what it stands on."""

    @property
    def shares_steps(self) -> bool:
        """Whether ``take_seconds`` tells apart what is computed together; else it is from first work to last token."""

    def take_seconds(self, owner: str) -> float:
        """Seconds of the model that an owner's requests have taken since this was last asked."""

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Prompt tokens of each message, pictures included: exact, or more where a voice cannot know."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        """What it thinks, says and calls, then one ``Finished`` per choice.

        Closing the iterator stops the model at the next token.

        Raises:
            InvalidRequest: a grammar or a tool's schema that cannot be compiled, a token id outside the vocabulary, or
                something this engine cannot do.
            PromptTooLong, Busy, DeadlineExceeded, GenerationFailed, EngineDead
        """

    def given_up(self, request: GenerationRequest) -> tuple[str, ...]:
        """Places in its schemas that replies need not keep to; known once one of them has begun."""

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        """Natural log-probability of each candidate as the whole beginning of the reply; the prompt stays cached.

        Raises:
            InvalidRequest: no candidate, or an empty one, or this voice cannot tell.
            As ``generate``.
        """

    async def warm(self, request: GenerationRequest) -> None:
        """Read a prompt into the cache when nothing else is to do, so that a later turn starts sooner. Never raises."""

    async def length(self, request: GenerationRequest) -> int:
        """Tokens of the rendered prompt, as ``count``. Raises as ``tokenize``."""

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        """Token ids of the rendered prompt (each picture as its run of image tokens).

        Raises:
            InvalidRequest: the chat template refuses these messages, or this voice cannot tell.
        """

    async def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included.

        Raises:
            InvalidRequest: an id outside the vocabulary, or this voice cannot tell.
        """

    async def aclose(self) -> None: ...

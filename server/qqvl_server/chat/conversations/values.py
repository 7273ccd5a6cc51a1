"""A talk with the model in the browser, as frozen values. No HTTP, no database, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal

from qqvl_server.generation.port import Sampling, Thinking, Tool, ToolCall, ToolChoice, Usage
from qqvl_server.media.image import ImageRef

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Status(StrEnum):
    """How far an answer has come. INTERRUPTED: the server ended while it was made."""

    DONE = "done"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call of the model's gave, as its user tells it."""

    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation's tree. ``first_token_s`` and ``seconds`` are from the question's arrival.

    ``tool_results`` come with a user's message, for calls of the parent's.
    ``error`` is told to whoever reads it, where the answer broke off.
    """

    id: str
    parent: str | None
    role: Literal["user", "assistant"]
    text: str
    created_at: float
    images: tuple[ImageRef, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    status: Status = Status.DONE
    finish_reason: str | None = None
    error: str | None = None
    model: str = ""
    usage: Usage | None = None
    first_token_s: float | None = None
    seconds: float | None = None
    tool_results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """``sampling`` and ``tools``, with the choice among them, are as JSON has them, looked over when they came.
    ``titled``: the title was given, not made.

    ``head`` is the message shown last.
    """

    id: str
    owner: str
    title: str
    titled: bool
    system_prompt: str
    head: str | None
    created_at: float
    updated_at: float
    sampling: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    tools: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a conversation is to be answered, as the voice has it."""

    sampling: Sampling
    thinking: Thinking = field(default_factory=Thinking)
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)


@dataclass(frozen=True, slots=True)
class Listed:
    """A conversation in the list: the beginning of its last words, and how many messages it has."""

    conversation: Conversation
    preview: str
    messages: int


def thread(messages: Sequence[Said], last: str | None) -> tuple[Said, ...]:
    """From the first to ``last``, through the parents."""
    known = {message.id: message for message in messages}
    found: list[Said] = []
    while last is not None and last in known:
        found.append(known.pop(last))
        last = found[-1].parent
    return tuple(reversed(found))


def leaf(messages: Sequence[Said], start: str) -> str:
    """The newest message below ``start``."""
    children: dict[str | None, str] = {message.parent: message.id for message in messages}
    while start in children:
        start = children[start]
    return start

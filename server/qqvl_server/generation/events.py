"""What a voice tells of a reply as it grows: thoughts, words, calls, its end. Values only, handed on by ``port``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """``cached_tokens`` are those of the prompt whose keys and values were at hand already.

    ``reasoning_tokens`` are those of the completion that were thought, not said.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability before temperature.

    ``top`` are the likeliest tokens at its place, best first. ``data`` is the token's own bytes, which need not be
    whole characters. ``token`` is -1 where the voice is not told the id.
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
class Reasoning:
    """The next piece of a thought, without its marks. ``text`` may be empty where only ``tokens`` are told.

    ``retracts``: all of this reply's text so far was thought as well, whose beginning nobody wrote.
    """

    text: str
    choice: int = 0
    tokens: tuple[TokenLogprob, ...] = ()
    retracts: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """``index`` counts the calls of one reply from 0; ``id`` is of the voice's making."""

    index: int
    id: str
    name: str
    choice: int = 0
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """The next piece of a call's arguments; its pieces together are the arguments' JSON."""

    index: int
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


SpeechEvent = TextDelta | Reasoning | ToolCallStarted | ToolCallArguments
TextEvent = SpeechEvent | Finished

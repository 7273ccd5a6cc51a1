"""Whether the bot speaks, and why: made once, then read by the door, the store and the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why the bot spoke or not, as the doors tell it."""

    ADDRESSED = "addressed"
    NAME = "name"
    REPLY = "reply"
    PRIVATE = "private"
    SMART = "smart"
    ALWAYS = "always"
    COMMAND = "command"
    MERGED = "merged"
    COOLDOWN = "cooldown"
    QUIET = "quiet"
    QUOTA = "quota"
    LISTED = "listed"
    STALE = "stale"
    BOT = "bot"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Decision:
    """``score`` is the gate's log-odds that speaking is fitting, where a model was asked; ``cost_ms`` what the decision
    took, without the pause that was waited for."""

    speak: bool
    reason: Reason
    score: float | None = None
    cost_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Activity:
    """How much the bot has said in a chat that nobody had asked for: when last, and how often of late.

    ``unanswered`` counts how often in a row it joined a talk without anybody turning to it since.
    """

    last: float | None = None
    in_hour: int = 0
    in_day: int = 0
    unanswered: int = 0


NO_ACTIVITY: Final = Activity()


@dataclass(frozen=True, slots=True)
class Effort:
    """What an answer took: lines of the chat and tokens that the model was shown, how many of those it had read
    before, how long it was from the turn's beginning to its last word, and which model it was."""

    window_lines: int
    prompt_tokens: int
    cached_tokens: int
    seconds: float
    model: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A decision to speak as it was kept; ``at`` is in seconds since the epoch."""

    reason: str
    score: float | None
    cost_ms: float
    at: float
    effort: Effort | None


@dataclass(frozen=True, slots=True)
class Noted:
    """A decision as it was kept, to speak or not, on the line ``seq``; ``reply_seq`` is the line that answers it."""

    id: int
    seq: int
    message_id: str | None
    speak: bool
    told: Told
    reply_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What somebody had of the bot in a day: messages answered, and seconds of the model."""

    messages: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Charge:
    """To be added to the day of a ``user`` or a ``group``."""

    kind: str
    id: str
    usage: Usage

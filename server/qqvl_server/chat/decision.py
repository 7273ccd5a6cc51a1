"""Whether the bot speaks, and why: made once, then read by the door, the store and the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    """``score`` is the log-odds of speaking where a model was asked, ``cost_ms`` what the decision took."""

    speak: bool
    reason: Reason
    score: float | None = None
    cost_ms: float = 0.0

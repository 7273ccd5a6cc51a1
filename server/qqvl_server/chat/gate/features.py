"""What a talk looks like when somebody might join it: told from its lines alone, so that it means the same in the
service, in labelled scenes and in an old database. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from qqvl_server.chat.message import Quote, StoredMessage, Text

LOOK_BACK: Final = 30
"""Lines before a decision, its own included, that matter."""
LOG_ODDS: Final = "log_odds"
ACTIVITY: Final = (
    "silence", "lines_since", "speakers", "own_share", "pause", "question", "mentions", "quotes", "length", "named"
)  # fmt: skip
NAMES: Final = (LOG_ODDS, *ACTIVITY)
"""The model's log-odds, and what ``activity`` tells, in the order of a gate's weights."""

_HOUR_S: Final = 3600
_PAUSE_S: Final = 600
_LATEST: Final = 10
_LONG: Final = 200
_QUESTION = re.compile(r"[?？]|[吗呢么嘛](?:[\s。.~～!！]|$)")
_MENTION = re.compile(r"@\S")


def activity(history: Sequence[StoredMessage], names: Sequence[str]) -> dict[str, float]:
    """Each between 0 and 1, for the last of a group's lines; ``names`` are the bot's.

    ``silence`` and ``lines_since`` are 1 where the bot has not spoken of late; ``own_share`` is the last speaker's of
    the latest lines.
    """
    history = history[-LOOK_BACK:]
    last = history[-1]
    text = "".join(part.text for part in last.parts if isinstance(part, Text))
    ours = [place for place, line in enumerate(history) if line.role == "assistant"]
    since = len(history) - 1 - ours[-1] if ours else LOOK_BACK
    silent_s = last.created_at - history[ours[-1]].created_at if ours else _HOUR_S
    before_s = last.created_at - history[-2].created_at if len(history) > 1 else _PAUSE_S
    latest = [line.speaker.id for line in history[-_LATEST:] if line.role == "user"]
    folded = text.casefold()
    return {
        "silence": _share(silent_s, _HOUR_S),
        "lines_since": _share(since, LOOK_BACK),
        "speakers": _share(len(set(latest)), _LATEST),
        "own_share": latest.count(last.speaker.id) / len(latest),
        "pause": _share(before_s, _PAUSE_S),
        "question": float(_QUESTION.search(text) is not None),
        "mentions": float(_MENTION.search(text) is not None),
        "quotes": float(any(isinstance(part, Quote) for part in last.parts)),
        "length": _share(len(text), _LONG),
        "named": float(any(name.casefold() in folded for name in names if name.strip())),
    }


def _share(value: float, most: float) -> float:
    """On a scale of logarithms: from a second to two is more than from a minute to two."""
    return math.log1p(min(max(value, 0.0), most)) / math.log1p(most)

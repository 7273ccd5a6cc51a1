"""What the model is asked before the bot joins a talk that nobody called it into.

The question stands behind the chat as listening reads it into the cache, as one more message, so that only new lines
and the question itself are computed. It bears no header, which every line of a group does: no member can write it.
Calibrated weights and the demo's training hold for these very words; whoever changes them calibrates and trains anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qqvl_server.generation.port import ChatMessage, TextPart

QUESTION: Final = "（没有人叫你。现在要插话吗？只答一个字：说，或者不。）"
SPEAK: Final = "说"
STAY_SILENT: Final = "不"
CANDIDATES: Final = (SPEAK, STAY_SILENT)
"""Beginnings of the model's answer, one token each with Qwen's tokenizer and the demo's."""


def asked(talk: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The prompt of the decision: a chat as the model is shown it, and the question."""
    return (*talk, ChatMessage("user", (TextPart(QUESTION),)))


def log_odds(scores: Sequence[float]) -> float:
    """Natural log-odds of speaking against staying silent, of what ``Voice.score`` gives for ``CANDIDATES``."""
    speak, silent = scores
    return speak - silent

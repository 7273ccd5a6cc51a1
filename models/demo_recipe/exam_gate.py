"""The exam of the question whether to join a talk: labelled scenes that training never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .episode import Message, Speaker
from .gate_turns import QUESTION
from .words import DEFAULT_SYSTEM

SCENES = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "gate_scenes").glob("test*.jsonl"))


def asked(lines: list[dict[str, Any]]) -> list[Message]:
    """The prompt of the decision after the last of a scene's lines, as the server renders it."""
    messages: list[Message] = [{"role": "system", "content": DEFAULT_SYSTEM}]
    for line in lines:
        if line.get("ours"):
            messages.append({"role": "assistant", "content": line["text"]})
        else:
            messages.append(
                {"role": "user", "content": Speaker(line["speaker"], line["user_id"]).header() + line["text"]}
            )
    return [*messages, {"role": "user", "content": QUESTION}]


def prompts() -> Iterator[tuple[list[Message], bool]]:
    """Every labelled line's prompt and label."""
    lines = [json.loads(row) for path in SCENES for row in path.read_text(encoding="utf-8").splitlines()]
    for place, line in enumerate(lines):
        if line.get("speak") is not None:
            yield asked([other for other in lines[: place + 1] if other["scene"] == line["scene"]]), line["speak"]


def area_under_curve(scores: list[float], labels: list[bool]) -> float:
    """Share of pairs of a line to speak after and another, in which the first scores higher; ties count half."""
    wanted = [score for score, label in zip(scores, labels, strict=True) if label]
    others = [score for score, label in zip(scores, labels, strict=True) if not label]
    return sum((a > b) + 0.5 * (a == b) for a in wanted for b in others) / (len(wanted) * len(others))

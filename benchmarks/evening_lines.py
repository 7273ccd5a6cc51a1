"""The invented evening (tests/client/evening.py) in the time that people take: who says what when, in many groups."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENING = Path(__file__).resolve().parents[1] / "tests" / "client"


@dataclass(frozen=True)
class People:
    """How groups talk, and what their words weigh in tokens."""

    gap_s: float = 20
    burst_s: float = 0.3
    line_tokens: int = 24
    picture_tokens: int = 280
    answer_tokens: int = 48
    system_tokens: int = 90
    window: int = 16_384


@dataclass(frozen=True, order=True)
class Line:
    """Somebody says something, at a second."""

    at: float
    group: int
    tokens: int
    is_called: bool


def lines(groups: int, seconds: float, people: People, seed: int = 15) -> list[Line]:
    """What is said in all groups, in order of time."""
    if str(EVENING) not in sys.path:
        sys.path.append(str(EVENING))
    from evening import evening

    found: list[Line] = []
    for first in range(0, groups, 4):
        scripts = evening(["p", "p", "p", "p"], scenes=12, seed=seed + first)
        for group, script in enumerate(scripts[: groups - first], first):
            found += _spread(group, script.steps, seconds, people, random.Random(seed * 1_000_003 + group))
    return sorted(found)


def _spread(group: int, steps: list[Any], seconds: float, people: People, dice: random.Random) -> Iterator[Line]:
    # Somewhere within the evening, so that not all groups begin it at once.
    at, start = -dice.expovariate(1 / people.gap_s), dice.randrange(len(steps))
    for step in itertools.islice(itertools.cycle(steps), start, None):
        at += dice.expovariate(1 / (people.gap_s if step.pause_s else people.burst_s))
        if at >= seconds:
            return
        if step.recalls or at < 0:
            continue
        shown = any(segment["type"] == "image" for segment in step.event["message"])
        tokens = people.line_tokens + shown * people.picture_tokens
        yield Line(at, group, tokens, step.expected == "answered")

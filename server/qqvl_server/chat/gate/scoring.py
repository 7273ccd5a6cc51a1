"""What the model and the features say of labelled lines: the table that calibration and the benchmark work on."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from qqvl_server.chat.gate import features
from qqvl_server.chat.gate.question import CANDIDATES, log_odds
from qqvl_server.chat.gate.scenes import Scene, rendered
from qqvl_server.generation.port import GenerationRequest, Sampling, Thinking, Urgency, Voice

_LATE_S: Final = 600
_TOGETHER: Final = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled line: ``values`` has ``features.NAMES``."""

    scene: str
    place: int
    speak: bool
    values: dict[str, float]


async def table(
    voice: Voice,
    scenes: Sequence[Scene],
    names: Sequence[str],
    system_prompt: str,
    done: Callable[[], object] = lambda: None,
) -> list[Row]:
    """The labelled lines of all scenes, in order; ``done`` is called after each.

    Raises as ``Voice.score``.
    """
    places = asyncio.Semaphore(_TOGETHER)

    async def of_scene(scene: Scene) -> list[Row]:
        async with places:
            rows = []
            for place in scene.labelled:
                rows.append(await _row(voice, scene, place, names, system_prompt))
                done()
            return rows

    return [row for rows in await asyncio.gather(*map(of_scene, scenes)) for row in rows]


async def _row(voice: Voice, scene: Scene, place: int, names: Sequence[str], system_prompt: str) -> Row:
    history = scene.history(place)
    request = GenerationRequest(
        f"gate-{uuid.uuid4().hex}",
        rendered(history, system_prompt),
        Sampling(1),
        time.monotonic() + _LATE_S,
        owner=f"scene:{scene.name}",
        urgency=Urgency.ACTIVE_SPEECH,
        thinking=Thinking(enabled=False),
    )
    told = log_odds(await voice.score(request, CANDIDATES))
    values = {features.LOG_ODDS: told, **features.activity(history, names)}
    return Row(scene.name, place, bool(scene.lines[place].speak), values)

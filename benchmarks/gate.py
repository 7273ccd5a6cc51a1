"""Does the bot know when to join a talk that nobody called it into, and what does asking the model cost?

    python benchmarks/gate.py                            # the demo, on benchmarks/gate_scenes
    python benchmarks/gate.py --model DIR --device cuda  # another checkpoint

The scenes of split ``train`` calibrate, those of ``test`` judge. Beside the gate: chance, a few rules written by hand,
and the same regression without the model's word. Times are those of the service's own decision on a real store, against
reading the same new lines and question as a prompt, whose history both have in the cache from the lines before.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "server"))

from qqvl_server.openmp import bound_spinning  # noqa: E402

bound_spinning()

import numpy as np  # noqa: E402
from figures import median, report  # noqa: E402

from qqvl_server import app, voices  # noqa: E402
from qqvl_server.chat.gate import features, fitting, scenes  # noqa: E402
from qqvl_server.chat.gate.scenes import Line, Scene  # noqa: E402
from qqvl_server.chat.gate.scoring import Row, table  # noqa: E402
from qqvl_server.chat.gate.weights import Gate  # noqa: E402
from qqvl_server.chat.joining import Asker  # noqa: E402
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, StoredMessage  # noqa: E402
from qqvl_server.chat.personas import Personas  # noqa: E402
from qqvl_server.chat.preferences import Preferences  # noqa: E402
from qqvl_server.chat.store import Draft, Outcome, Store, sqlite_url  # noqa: E402
from qqvl_server.chat.turn import BOT  # noqa: E402
from qqvl_server.chat.window import Window  # noqa: E402
from qqvl_server.generation.port import GenerationRequest, Sampling, Urgency, Voice  # noqa: E402
from qqvl_server.observe.metrics import Metrics  # noqa: E402
from qqvl_server.settings import Settings  # noqa: E402
from qqvl_server.weights.locate import Checkpoint, locate  # noqa: E402

RATE: Final = 0.05
_NAMES: Final = (scenes.BOT_NAME,)


def by_hand(values: dict[str, float]) -> float:
    """What a rule would say: a question to nobody in particular, or our name; the longer we were silent, the rather."""
    to_somebody = values["mentions"] + values["quotes"]
    return 2 * values["question"] + 3 * values["named"] - 2 * to_somebody + 0.5 * values["silence"] + values["pause"]


def judged(rows: Sequence[Row], gate: Gate, trained: Sequence[Row]) -> list[dict[str, Any]]:
    """AUC and precision on unseen scenes, of the gate and of what there is without it."""
    labels = np.array([row.speak for row in rows], float)
    activity_rows, activity_labels = _activity(trained), np.array([row.speak for row in trained], float)
    told: dict[str, Any] = {
        "chance": np.random.default_rng(0).random(len(rows)),
        "rules by hand": [by_hand(row.values) for row in rows],
        "activity alone": fitting.Fit(activity_rows, activity_labels).odds(_activity(rows)),
        "log-odds alone": [row.values[features.LOG_ODDS] for row in rows],
        "gate": [gate.odds(row.values) for row in rows],
    }
    return [
        {
            "who": name,
            "auc": fitting.auc(odds, labels),
            "precision_at_5%": fitting.precision_at(odds, labels, RATE),
            "precision_at_10%": fitting.precision_at(odds, labels, 2 * RATE),
        }
        for name, odds in told.items()
    ]  # fmt: skip


def _activity(rows: Sequence[Row]) -> Any:
    return np.array([[row.values[name] for name in features.ACTIVITY] for row in rows], float)


class Costs:
    """What the decisions take, in milliseconds, against reading their new lines and question."""

    def __init__(self, voice: Voice, store: Store, gate: Gate, settings: Settings) -> None:
        preferences = Preferences(store.books, Personas(), settings.chat, has_gate=True)
        self._voice = voice
        self._store = store
        self._window = Window(store, _NoPictures(), preferences, settings.generation)
        self._asker = Asker(gate, lambda: voice, self._window, store)
        self.ready: list[float] = []
        self.decisions: list[float] = []
        self.prefills: list[float] = []

    async def of_scene(self, scene: Scene) -> None:
        chat = ChatKey(ChatKind.GROUP, scene.name)
        for place, line in enumerate(scene.lines):
            last = await self._kept(chat, line)
            if last is None:
                continue
            # Whoever reads a chat first does not warm the other's cache: each has one of its own.
            for ask in (self._decide, self._read) if place % 2 else (self._read, self._decide):
                seconds = await ask(chat, last, scene, place)
                if line.speak is not None and place > 0:
                    (self.decisions if ask == self._decide else self.prefills).append(seconds * 1000)

    async def _kept(self, chat: ChatKey, line: Line) -> StoredMessage | None:
        """None for a line of ours."""
        stored = line.stored
        if line.ours:
            await self._store.add_answers(chat, [Outcome(None, Answer(line.text, True), covered=True)], BOT)
            return None
        return await self._store.add_message(Draft(chat, "", stored.speaker, stored.parts, None))

    async def _decide(self, chat: ChatKey, last: StoredMessage, _: Scene, __: int) -> float:
        question = await self._asker.question(chat, last, _NAMES, time.monotonic() + 60)
        self.ready.append(question.took_s * 1000)
        started = time.perf_counter()
        await self._asker.verdict(question)
        return time.perf_counter() - started

    async def _read(self, _: ChatKey, __: StoredMessage, scene: Scene, place: int) -> float:
        messages = scenes.rendered(scene.history(place))
        request = GenerationRequest(
            "read", messages, Sampling(1, temperature=0, ignore_eos=True), time.monotonic() + 60,
            owner=f"read:{scene.name}", urgency=Urgency.ACTIVE_SPEECH,
        )  # fmt: skip
        started = time.perf_counter()
        async with aclosing(self._voice.generate(request)) as events:
            async for _event in events:
                break
        return time.perf_counter() - started


class _NoPictures:
    def holds(self, _ref: object) -> bool:
        return False


async def measured(
    settings: Settings, checkpoint: Checkpoint, found: Sequence[Scene], timed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    metrics = Metrics()
    training = [scene for scene in found if scene.split == "train"]
    test = [scene for scene in found if scene.split == "test"]
    with tempfile.TemporaryDirectory() as folder:
        library = app.image_library(settings, Path(folder))
        voice = voices.load_voice(settings, checkpoint, library, metrics)
        seen = await table(voice, training, _NAMES, settings.chat.system_prompt)
        unseen = await table(voice, test, _NAMES, settings.chat.system_prompt)
        generated = metrics.registry.get_sample_value("qqvl_generation_tokens_total")
        named = {"fingerprint": "", "model": checkpoint.name}
        gate = fitting.fitted([r.values for r in seen], [r.speak for r in seen], [r.scene for r in seen], RATE, **named)
        async with Store.open(sqlite_url(Path(folder))) as store:
            costs = Costs(voice, store, gate, settings)
            await costs.of_scene(test[0])
            costs.ready, costs.decisions, costs.prefills = [], [], []
            for scene in test[1 : 1 + timed]:
                await costs.of_scene(scene)
        await voice.aclose()
        library.close()
    decision, prefill = median(costs.decisions), median(costs.prefills)
    more = {
        "model": checkpoint.name,
        "scenes": len(found),
        "lines": len(seen) + len(unseen),
        "test_lines": len(unseen),
        "test_to_speak_after": sum(row.speak for row in unseen),
        "cross_validated_auc": gate.auc,
        "generated_tokens": generated,
        "made_ready_in_the_pause_ms": median(costs.ready),
        "decision_ms": decision,
        "prefill_ms": prefill,
        "ratio": decision / prefill,
        "ratio_of_sums": sum(costs.decisions) / sum(costs.prefills),
        "timed": len(costs.decisions),
    }
    return judged(unseen, gate, seen), more


def main() -> None:
    parser = argparse.ArgumentParser(description="没人叫的时候该不该插话：判断得准不准，多花多少时间")
    parser.add_argument("--model", default="qqvl-demo")
    parser.add_argument("--scenes", type=Path, default=ROOT / "benchmarks" / "gate_scenes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--timed", type=int, default=8, help="场景数，量时间用")
    given = parser.parse_args()
    found = scenes.read(sorted(given.scenes.glob("*.jsonl")))
    settings = Settings.model_validate({"weights": {"device": given.device, "dtype": given.dtype}})
    rows, more = asyncio.run(measured(settings, locate(given.model, ROOT), found, given.timed))
    report("gate", rows, **more)
    for name, value in more.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()

"""``calibrate-gate``: labelled lines become the gate of one checkpoint. It loads the model, as ``app`` does."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from qqvl_server import app, voices
from qqvl_server.chat.gate import fitting, scenes, weights
from qqvl_server.chat.gate.scenes import Scene
from qqvl_server.chat.gate.scoring import Row, table
from qqvl_server.errors import ConfigError
from qqvl_server.generation.port import Voice
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import Settings
from qqvl_server.weights.fingerprint import fingerprint_of
from qqvl_server.weights.locate import Checkpoint

LEAST_LINES: Final = 100
LEAST_EACH: Final = 10


def calibrate(
    settings: Settings, checkpoint: Checkpoint, data_dir: Path, files: Sequence[Path], rate: float, into: Path | None
) -> str:
    """Write the gate; returns what to tell of it. ``rate`` is the share of lines to speak after.

    Raises:
        ConfigError: too few lines, all of one kind, or a file that cannot be read.
        WeightsError, GenerationFailed: as loading and asking the model.
    """
    found = scenes.read(files)
    training = [scene for scene in found if scene.split == "train"]
    _check(training)
    name = fingerprint_of(checkpoint)
    rows = asyncio.run(_scored(settings, checkpoint, data_dir, found))
    learnt = {scene.name for scene in training}
    seen, unseen = [row for row in rows if row.scene in learnt], [row for row in rows if row.scene not in learnt]
    gate = fitting.fitted(
        [row.values for row in seen], [row.speak for row in seen], [row.scene for row in seen],
        rate, fingerprint=name, model=checkpoint.name,
    )  # fmt: skip
    path = into or weights.path_of(data_dir, name)
    try:
        weights.save(gate, path)
    except OSError as error:
        raise ConfigError(f"写不了 {path}，请检查文件夹的权限和磁盘") from error
    told = [
        f"{gate.lines} 行、{gate.speaks} 行该插话，交叉验证的 AUC {gate.auc:.3f}（0.5 是瞎猜）",
        *_of_test(gate, unseen),
        f"写好了：{path}，重启服务后 group_reply: smart 就用它",
    ]
    if gate.auc < 0.7:
        told.append("这个模型分不大清什么时候该插话：多标一些、标得一致一些，或先别用 smart")
    return "\n".join(told)


def _check(training: Sequence[Scene]) -> None:
    labels = [bool(scene.lines[place].speak) for scene in training for place in scene.labelled]
    if len(labels) < LEAST_LINES:
        raise ConfigError(f"标好的只有 {len(labels)} 行，最少要 {LEAST_LINES} 行；用 label-lines 接着标")
    least, word = min((sum(labels), "该插话的"), (len(labels) - sum(labels), "不该插话的"))
    if least < LEAST_EACH:
        raise ConfigError(f"{word}只标了 {least} 行，最少要 {LEAST_EACH} 行；用 label-lines 接着标")
    if len(training) < 2:
        raise ConfigError("标好的都在一个场景里，看不出换个场合准不准；最少要两个场景")


async def _scored(settings: Settings, checkpoint: Checkpoint, data_dir: Path, found: Sequence[Scene]) -> list[Row]:
    library = app.image_library(settings, data_dir)
    load: Callable[..., Voice] = voices.load_voice
    if checkpoint.is_elsewhere:
        # Nobody's talk is told from another's here.
        load = functools.partial(voices.upstream_voice, secret=secrets.token_hex())
    voice = await asyncio.to_thread(load, settings, checkpoint, library, Metrics())
    try:
        with tqdm(total=sum(len(scene.labelled) for scene in found), unit="行", desc="问模型") as progress:
            names = (scenes.BOT_NAME, *settings.chat.bot_names)
            return await table(voice, found, names, settings.chat.system_prompt, progress.update)
    finally:
        await voice.aclose()
        library.close()


def _of_test(gate: weights.Gate, rows: Sequence[Row]) -> list[str]:
    labels = [float(row.speak) for row in rows]
    if not 0 < sum(labels) < len(labels):
        return []
    odds = [gate.odds(row.values) for row in rows]
    return [f"没参加校准的 {len(rows)} 行（split 是 test）：AUC {fitting.auc(odds, labels):.3f}"]

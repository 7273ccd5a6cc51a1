"""What calibration makes of labelled lines, and which gate is found for which checkpoint."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qqvl_server.chat.gate import features, fitting, scenes, weights
from qqvl_server.chat.gate.weights import Gate
from qqvl_server.errors import ConfigError
from qqvl_server.weights.fingerprint import fingerprint


def line(**more: Any) -> dict[str, Any]:
    return {"scene": "s", "speaker": "小王", "user_id": "1", "text": "早", "at": 0, **more}


def file_of(folder: Path, *rows: Any) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


WRONG: list[tuple[tuple[Any, ...], str]] = [
    (("not json",), "第 1 行不对：不是 JSON 对象"),
    (("[]",), "第 1 行不对"),
    ((line(), line(speek=True)), "第 2 行不对：speek"),
    ((line(at="soon"),), "第 1 行不对：at"),
    ((line(text=""),), "第 1 行不对：text"),
    (({"scene": "s", "text": "早", "at": 0},), "user_id"),
    ((line(ours=True, speak=True),), "ours"),
    ((line(), line(split="test")), "train 和 test"),
    ((line(at=5), line(at=4)), "不能往回走"),
    ((line(), line(scene="t"), line()), "连着写"),
]


@pytest.mark.parametrize(("rows", "told"), WRONG)
def test_what_is_wrong_with_a_file_of_lines(tmp_path: Path, rows: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        scenes.read([file_of(tmp_path, *rows)])


def test_a_missing_file_of_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="读不了"):
        scenes.read([tmp_path / "none.jsonl"])


def test_activity_is_told_from_the_lines_alone(tmp_path: Path) -> None:
    rows = [
        line(text="谁会修打印机？", at=0),
        {"scene": "s", "text": "我会", "ours": True, "at": 1},
        line(text="好的", speaker="小李", user_id="2", at=11),
        line(text="@小李 小Q真行吗", at=21, quote={"speaker": "小李", "text": "好的"}),
    ]
    (scene,) = scenes.read([file_of(tmp_path, *rows)])
    first, *_, last = (features.activity(scene.history(place), ("小Q",)) for place in (0, 2, 3))
    assert (first["silence"], first["lines_since"], first["question"], first["pause"]) == (1, 1, 1, 1)
    assert 0 < last["silence"] < 1
    assert 0 < last["lines_since"] < 1
    assert (last["question"], last["mentions"], last["quotes"], last["named"]) == (1, 1, 1, 1)
    assert last["own_share"] == pytest.approx(2 / 3)
    assert all(0 <= value <= 1 for values in (first, last) for value in values.values())


def learnable(lines: int) -> tuple[list[dict[str, float]], list[bool], list[str]]:
    """The model's word tells most of it; the rest is noise."""
    rng = random.Random(5)
    table, labels = [], []
    for _ in range(lines):
        speak = rng.random() < 0.2
        table.append({name: rng.random() for name in features.NAMES})
        table[-1][features.LOG_ODDS] = rng.gauss(-5 + 3 * speak, 1)
        labels.append(speak)
    return table, labels, [f"s{n // 12}" for n in range(lines)]


def test_a_gate_learns_what_there_is_to_learn_and_speaks_as_seldom_as_wished() -> None:
    table, labels, names = learnable(600)
    gate = fitting.fitted(table, labels, names, 0.05, fingerprint="f", model="m")
    assert gate.auc > 0.95
    assert (gate.lines, gate.speaks) == (600, sum(labels))
    odds = [gate.odds(values) for values in table]
    assert 0.02 < sum(one >= gate.threshold for one in odds) / len(odds) < 0.08
    assert fitting.precision_at(odds, labels, 0.05) > 0.9
    assert abs(gate.weights["pause"].weight) < 0.2 < gate.weights[features.LOG_ODDS].weight
    shuffled = random.Random(1).sample(labels, len(labels))
    assert 0.4 < fitting.fitted(table, shuffled, names, 0.05, fingerprint="f", model="m").auc < 0.6


def test_areas_and_precision_by_hand() -> None:
    assert fitting.auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert fitting.auc([4, 3, 2, 1], [0, 0, 1, 1]) == 0
    assert fitting.auc([1, 1, 1, 1], [0, 0, 1, 1]) == 0.5
    assert fitting.auc([1, 3, 2, 4], [0, 0, 1, 1]) == 0.75
    assert fitting.precision_at([4, 3, 2, 1], [1, 0, 1, 0], 0.25) == 1
    assert fitting.precision_at([4, 3, 2, 1], [1, 0, 1, 0], 0.5) == 0.5
    assert fitting.precision_at(np.zeros(4), [1, 0, 0, 0], 0.25) == 0.25


def gate_for(name: str, **more: Any) -> Gate:
    table, labels, names = learnable(120)
    return fitting.fitted(table, labels, names, 0.1, fingerprint=name, model="m").model_copy(update=more)


def test_ones_own_gate_goes_before_the_checkpoints_and_none_is_taken_for_another(tmp_path: Path, demo: Path) -> None:
    folder, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(demo, folder)
    (folder / weights.BESIDE).unlink(missing_ok=True)
    name = fingerprint(folder)
    assert weights.load(data, folder, name) is None
    beside = gate_for(name, threshold=1.0)
    weights.save(beside, folder / weights.BESIDE)
    assert weights.load(data, folder, name) == beside
    own = gate_for(name, threshold=2.0)
    weights.save(own, weights.path_of(data, name))
    assert weights.load(data, folder, name) == own
    for broken in ("{", "[]", gate_for("another").model_dump_json(), gate_for(name, question="?").model_dump_json()):
        weights.path_of(data, name).write_text(broken, encoding="utf-8")
        assert weights.load(data, folder, name) == beside


def test_the_demo_ships_with_its_gate(tmp_path: Path, demo: Path) -> None:
    """Whoever trains it anew calibrates it anew: qqvl calibrate-gate … --into models/qqvl-demo/gate.json."""
    gate = weights.load(tmp_path, demo, fingerprint(demo))
    assert gate is not None
    assert gate.lines >= 400
    assert gate.auc >= 0.85


def test_a_fingerprint_is_the_weights_and_what_reads_them(tmp_path: Path, demo: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    assert fingerprint(folder) == fingerprint(demo)
    (folder / weights.BESIDE).write_text("{}", encoding="utf-8")
    assert fingerprint(folder) == fingerprint(demo)
    seen = {fingerprint(demo)}
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    seen.add(fingerprint(folder))
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    seen.add(fingerprint(folder))
    assert len(seen) == 3

"""What calibration found for one checkpoint: how its log-odds and a talk's activity become a decision. A JSON file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from qqvl_server.chat.gate import features
from qqvl_server.chat.gate.question import CANDIDATES, QUESTION
from qqvl_server.observe.logs import logger

BESIDE: Final = "gate.json"
"""What it is called in the checkpoint's own folder."""


def question_digest() -> str:
    """Of the very words that the model is asked: log-odds of other words mean something else."""
    return hashlib.blake2b("\0".join((QUESTION, *CANDIDATES)).encode(), digest_size=8).hexdigest()


class Weight(BaseModel):
    """Of one feature: it counts ``weight`` for each ``scale`` above ``mean``."""

    model_config = ConfigDict(frozen=True)

    mean: FiniteFloat
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight: FiniteFloat


class Gate(BaseModel):
    """``threshold`` is the natural log-odds at which the bot speaks; what follows it tells how it was made.

    ``auc`` is by cross-validation over scenes, ``rate`` the share of lines that the threshold lets through.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    question: str
    weights: dict[str, Weight]
    bias: FiniteFloat
    threshold: FiniteFloat
    model: str = ""
    lines: int = 0
    speaks: int = 0
    auc: float = 0.0
    rate: float = 0.0

    def odds(self, values: Mapping[str, float]) -> float:
        """Natural log-odds that speaking is fitting."""
        told = ((weight, values[name]) for name, weight in self.weights.items())
        return self.bias + sum(weight.weight * (value - weight.mean) / weight.scale for weight, value in told)

    def is_for(self, fingerprint: str) -> bool:
        """Whether it holds for this checkpoint and this version's question and features."""
        return (
            self.fingerprint == fingerprint
            and self.question == question_digest()
            and self.weights.keys() == set(features.NAMES)
        )


def path_of(data_dir: Path, fingerprint: str) -> Path:
    """Where a person's own calibration is kept."""
    return data_dir / "gates" / f"{fingerprint}.json"


def load(data_dir: Path, checkpoint: Path, fingerprint: str) -> Gate | None:
    """A person's own calibration, or the one that came with the checkpoint. Blocking."""
    for path in (path_of(data_dir, fingerprint), checkpoint / BESIDE):
        try:
            gate = Gate.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValidationError):
            logger().warning("插话的判断文件读不了，当作没有；重新校准就好", file=str(path))
            continue
        if gate.is_for(fingerprint):
            return gate
        logger().warning("插话的判断文件是给别的模型或版本的，不用它；重新校准就好", file=str(path))
    return None


def save(gate: Gate, path: Path) -> None:
    """Whole or not at all. Blocking."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".tmp")
    half.write_text(gate.model_dump_json(indent=1) + "\n", encoding="utf-8")
    half.replace(path)

"""What a check looks at and what it says: one finding, with the field to change and the value to give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qqvl_server.settings import Settings


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """``field`` is a setting by its key (``server.port``) or a place to look, ``value`` what belongs there."""

    state: State
    message: str
    field: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """What answers at our port: ``word`` is the one of ``/health``; ``base`` its address."""

    base: str
    word: str
    device: str


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a check may look at. ``running`` is None where no qqvl answers at the port of the settings."""

    settings: Settings
    sources: Mapping[str, str]
    root: Path
    data_dir: Path
    running: Running | None

    def where(self, key: str) -> str:
        """``key`` with the flag, variable or file that its value comes from, where it is not the default."""
        source = self.sources.get(key, "默认")
        return key if source == "默认" else f"{key}（现在由 {source} 给出）"


def ok(message: str) -> Finding:
    return Finding(State.OK, message)


def skipped(message: str) -> Finding:
    return Finding(State.SKIPPED, message)


def failed(message: str, field: str, value: str) -> Finding:
    return Finding(State.FAILED, message, field, value)


def warning(message: str, field: str, value: str) -> Finding:
    return Finding(State.WARNING, message, field, value)

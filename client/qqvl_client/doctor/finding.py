"""What a check says: one finding, with the field to change and the value to give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """`field` is a setting (`client.proxy`) or a place to look, `value` what belongs there."""

    check: str
    state: State
    message: str
    field: str = ""
    value: str = ""

"""What was changed in the browser stands over the settings file and below environment and flags. Knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from qqvl_server import config
from qqvl_server.config import Knob, Resolved
from qqvl_server.errors import InvalidRequest
from qqvl_server.setting_types import Room
from qqvl_server.settings import Settings

PAGE: Final = "page"
"""The source of such a value, as ``show-config`` tells it."""
SECTIONS: Final = ("chat", "observe")
"""Sections that hold from the next message on; the others are read once."""


def may_change(knob: Knob, source: str) -> bool:
    """Whether the page has a say: not where a flag or a variable has."""
    return knob.section in SECTIONS and not knob.in_file_only and not source.startswith("--") and source != knob.env


def checked(knob: Knob, value: Any) -> Any:
    """The value as the settings have it.

    Raises:
        InvalidRequest: it does not fit; the reason as the settings file would be told.
    """
    room = Settings.model_fields[knob.section].annotation
    assert isinstance(room, type)
    assert issubclass(room, Room)
    try:
        return getattr(room.model_validate({knob.name: value}), knob.name)
    except (ValidationError, TypeError):
        raise InvalidRequest(f"{knob.key} 的值不对：{knob.info.description}", param=knob.key) from None


def over(resolved: Resolved, kept: Mapping[str, Any]) -> Resolved:
    """``resolved`` with what is ``kept`` by ``section.name``; what does not fit, as of another version, is left out."""
    settings, sources = resolved.settings, dict(resolved.sources)
    for knob in config.knobs():
        if knob.key not in kept or not may_change(knob, sources[knob.key]):
            continue
        try:
            value = checked(knob, kept[knob.key])
        except InvalidRequest:
            continue
        room = getattr(settings, knob.section).model_copy(update={knob.name: value})
        settings = settings.model_copy(update={knob.section: room})
        sources[knob.key] = PAGE
    return Resolved(settings, sources, resolved.advice)

"""Who the bot is in a chat: files ``<data_dir>/personas/*.md``, read again when they change. Knows YAML; no database.

A file is front matter (YAML between two lines ``---``: ``name``, ``mode``, ``sampling``, ``time``) and, behind it, the
prompt. One that cannot be read is told in the log, and its last good version goes on.
"""

from __future__ import annotations

import asyncio
import re
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from qqvl_server.observe.logs import logger
from qqvl_server.setting_types import Room, off

_MAX_BYTES: Final = 256_000
_FRONT = re.compile(r"\A﻿?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?(.*)\Z", re.DOTALL | re.MULTILINE)


class PersonaSampling(Room):
    """None is as everywhere."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=100000)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    max_new_tokens: int | None = Field(None, ge=1, le=131072)


class Persona(Room):
    """``mode`` is as ``group_reply``, where the chat has none of its own. ``time``: the model is told what time it is,
    in the last turn only."""

    name: Annotated[str, BeforeValidator(lambda value: str(value).strip())] = Field(min_length=1, max_length=64)
    prompt: str = ""
    mode: Annotated[Literal["auto", "addressed", "smart", "all", "off"] | None, BeforeValidator(off)] = None
    sampling: PersonaSampling = PersonaSampling()
    time: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    stamp: tuple[int, int]
    persona: Persona | None


class Personas:
    """``folder`` need not be there; it is looked at once in ``look_s`` seconds at most. ``version`` grows when anything
    has changed."""

    def __init__(self, folder: Path | None = None, look_s: float = 1.0) -> None:
        self._folder = folder
        self._look_s = look_s
        self._files: dict[str, _File] = {}
        self._looked = -look_s
        self.version = 0
        self._look()

    @property
    def all(self) -> tuple[Persona, ...]:
        return tuple(file.persona for _, file in sorted(self._files.items()) if file.persona is not None)

    def named(self, name: str) -> Persona | None:
        """By its name, or its file's; case and width do not matter."""
        wanted = _plain(name)
        by_name = (persona for persona in self.all if _plain(persona.name) == wanted)
        by_file = (file.persona for stem, file in self._files.items() if file.persona and _plain(stem) == wanted)
        return next(by_name, None) or next(by_file, None)

    def changed(self) -> None:
        """A file was written by us: the next look need not wait."""
        self._looked = -self._look_s

    async def refresh(self) -> None:
        """Look for changes, off the event loop."""
        if self._folder is not None and time.monotonic() - self._looked >= self._look_s:
            self._looked = time.monotonic()
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        """Blocking."""
        found: dict[str, _File] = {}
        for path in sorted(self._folder.glob("*.md")) if self._folder is not None else ():
            known = self._files.get(path.stem)
            stamp = (0, 0)
            try:
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_size)
                if known is not None and known.stamp == stamp:
                    found[path.stem] = known
                    continue
                persona = read(path)
            except (OSError, ValueError) as error:
                logger().warning("人设文件读不了，照旧用上一次的", file=path.name, reason=reason(error))
                found[path.stem] = _File(stamp, known.persona if known is not None else None)
                continue
            found[path.stem] = _File(stamp, persona)
        if found != self._files:
            self._files = found
            self.version += 1


def read(path: Path) -> Persona:
    """Raises:
    ValueError: it is no persona; what is wrong.
    OSError
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("文件太大")
    text = path.read_text(encoding="utf-8-sig")
    match = _FRONT.match(text)
    fields: Any = {}
    if match is not None:
        try:
            fields = yaml.safe_load(match[1])
        except yaml.YAMLError:
            raise ValueError("两行 --- 之间不是合法的 YAML") from None
        text = match[2]
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise ValueError("两行 --- 之间应是“名字: 值”")
    body = {"prompt": text.strip()} if text.strip() else {}
    return Persona.model_validate({"name": path.stem, **fields, **body})


def reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{'.'.join(str(step) for step in first['loc'])} 的名字或值不对"
    if isinstance(error, UnicodeDecodeError):
        return "编码不是 UTF-8"
    return error.strerror or "读不了" if isinstance(error, OSError) else str(error)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()

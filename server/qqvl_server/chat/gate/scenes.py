"""Labelled lines of talk: a JSONL file of them, and each as the running service would show it to the model.

One line of the file is one line of talk. Those of one scene stand together, in order::

    {"scene": "s01", "split": "train", "speaker": "小王", "user_id": "1001", "text": "有人会修打印机吗", "at": 12.5,
     "speak": true}

``at`` is in seconds since the scene began. ``speak`` says whether the bot should join right after the line, if nothing
else came for a moment; ``null``, or absent, where nobody is to be asked: lines in the middle of a burst, those that
call the bot (it answers anyway), and the bot's own, which have ``"ours": true`` and need neither speaker nor user_id.
``split`` is ``train`` (the default) or ``test``. ``quote`` is the line that this one answers, as QQ shows it:
``{"speaker": "小李", "text": "…"}``, with ``"ours": true`` in place of the speaker for a line of the bot's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qqvl_server.chat import prompt
from qqvl_server.chat.gate.question import asked
from qqvl_server.chat.message import ChatKind, Quote, Speaker, StoredMessage, Text
from qqvl_server.errors import ConfigError
from qqvl_server.generation.port import ChatMessage
from qqvl_server.media.image import ImageRef
from qqvl_server.settings import DEFAULT_SYSTEM_PROMPT

BOT_NAME: Final = "小Q"
"""What the bot is called in scenes that are written for it."""
_BOT: Final = Speaker("bot", BOT_NAME)


class QuotedLine(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    speaker: str = ""
    ours: bool = False


class Line(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: Annotated[str, Field(min_length=1)]
    text: Annotated[str, Field(min_length=1)]
    at: Annotated[float, Field(ge=0)]
    split: Literal["train", "test"] = "train"
    speaker: str = ""
    user_id: str = ""
    speak: bool | None = None
    ours: bool = False
    quote: QuotedLine | None = None

    @property
    def stored(self) -> StoredMessage:
        """As the database would have it."""
        parts = (
            [] if self.quote is None else [Quote(BOT_NAME if self.quote.ours else self.quote.speaker, self.quote.text)]
        )
        who = _BOT if self.ours else Speaker(self.user_id, self.speaker)
        return StoredMessage(0, "assistant" if self.ours else "user", who, (*parts, Text(self.text)), None, self.at)


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    split: str
    lines: tuple[Line, ...]

    @property
    def labelled(self) -> list[int]:
        """Places of the lines that have a label."""
        return [place for place, line in enumerate(self.lines) if line.speak is not None]

    def history(self, place: int) -> tuple[StoredMessage, ...]:
        """The lines up to and including the one at ``place``."""
        return tuple(line.stored for line in self.lines[: place + 1])


def read(paths: Iterable[Path]) -> list[Scene]:
    """Raises ConfigError: which line of which file cannot be read, and what is wrong with it."""
    lines = [line for path in paths for line in _lines(path)]
    scenes = [Scene(name, found[0].split, found) for name, found in _by_scene(lines)]
    twice = len(scenes) - len({scene.name for scene in scenes})
    if twice:
        raise ConfigError("同一个 scene 的行要连着写，也不能有两个场景同名")
    for scene in scenes:
        if any(line.split != scene.split for line in scene.lines):
            raise ConfigError(f"场景 {scene.name} 的行不能分在 train 和 test 两边")
        if any(before.at > after.at for before, after in zip(scene.lines, scene.lines[1:], strict=False)):
            raise ConfigError(f"场景 {scene.name} 的 at 不能往回走")
    return scenes


def rendered(history: Sequence[StoredMessage], system_prompt: str = DEFAULT_SYSTEM_PROMPT) -> tuple[ChatMessage, ...]:
    """The prompt of the decision after the last of a group's lines; scenes show no pictures."""
    numbers = prompt.numbering(history)
    lines = [prompt.render(m, ChatKind.GROUP, _in_words, number) for m, number in zip(history, numbers, strict=True)]
    return asked((*prompt.system_message(system_prompt), *lines))


def _in_words(_: ImageRef) -> str:
    return prompt.LEFT_OUT


def _by_scene(lines: Sequence[Line]) -> Iterator[tuple[str, tuple[Line, ...]]]:
    for name, found in groupby(lines, lambda line: line.scene):
        yield name, tuple(found)


def _lines(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"读不了 {path}：要是 UTF-8 的 JSONL 文件，一行一句") from error
    for number, row in enumerate(text.splitlines(), 1):
        if row.strip():
            yield _line(path, number, row)


def _line(path: Path, number: int, row: str) -> Line:
    try:
        line = Line.model_validate(json.loads(row))
    except (ValueError, ValidationError, RecursionError) as error:
        raise ConfigError(f"{path} 第 {number} 行不对：{_wrong(error)}") from error
    if line.ours and line.speak is not None:
        raise ConfigError(f"{path} 第 {number} 行不对：机器人自己的话（ours）没有 speak")
    if not line.ours and not line.user_id.strip():
        raise ConfigError(f"{path} 第 {number} 行不对：要写 user_id，机器人自己的话写 ours: true")
    return line


def _wrong(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        return f"{name} 缺了、不认识或类型不对" if name else "不是 JSON 对象"
    return "不是 JSON 对象"

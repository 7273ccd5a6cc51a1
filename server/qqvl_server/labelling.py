"""``label-lines``: asks a person about lines of his own groups, on the terminal, and keeps each answer at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from qqvl_server.chat import samples
from qqvl_server.chat.database import Database
from qqvl_server.chat.gate import scenes
from qqvl_server.chat.gate.scenes import Line, Scene
from qqvl_server.errors import ConfigError

_SHOWN: Final = 12
_HOW: Final = "y 该插话，n 不该，s 说不准（跳过），q 先到这里"
_WORDS: Final = {"y": True, "n": False, "s": None}


def label(url: str, file: Path, group: str | None, count: int) -> str:
    """Ask about ``count`` lines, of one group or all; returns what to tell at the end. Goes on where it was left.

    Raises:
        ConfigError: the file cannot be read or written.
        StorageFailed
    """
    known = {scene.name for scene in _read(file)}
    is_all = asyncio.run(_label(url, file, group, count, known))
    labels = [line.speak for scene in _read(file) for line in scene.lines]
    left = "；没有别的可标了" if is_all else ""
    return f"{file} 里标了 {labels.count(True)} 行该插话、{labels.count(False)} 行不该{left}"


def _read(file: Path) -> list[Scene]:
    return scenes.read([file]) if file.exists() else []


async def _label(url: str, file: Path, group: str | None, count: int, known: Collection[str]) -> bool:
    """Whether there is nothing left to ask about."""
    async with Database.open(url, lambda: True) as database:
        fresh = [place for place in await samples.places(database, group) if samples.name_of(place) not in known]
        for number, place in enumerate(fresh[:count], 1):
            answer = await _asked(database, place, number, min(count, len(fresh)))
            if answer is None:
                return False
            _append(file, answer)
        return len(fresh) <= count


async def _asked(database: Database, place: samples.Place, number: int, most: int) -> Sequence[Line] | None:
    """The excerpt with its label; None when it is enough for now."""
    lines = await samples.excerpt(database, place)
    if not lines:
        return ()
    print(f"\n—— {number}/{most}，群 {place[0]} ——")
    for line in lines[-_SHOWN:]:
        quoted = f"（引用 {line.quote.speaker}：{line.quote.text}）" if line.quote is not None else ""
        print(f"{'机器人' if line.ours else line.speaker}：{quoted}{line.text}")
    word = await asyncio.to_thread(_word, input)
    if word == "q":
        return None
    return (*lines[:-1], lines[-1].model_copy(update={"speak": _WORDS[word]}))


def _word(read: Callable[[str], str]) -> str:
    """Blocking. The end of what can be read is an end."""
    while True:
        try:
            word = read(f"这句之后机器人该插话吗？{_HOW}：").strip().lower()[:1]
        except EOFError:
            return "q"
        if word == "q" or word in _WORDS:
            return word


def _append(file: Path, lines: Sequence[Line]) -> None:
    text = "".join(line.model_dump_json(exclude_defaults=True) + "\n" for line in lines)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise ConfigError(f"写不了 {file}，请检查文件夹的权限和磁盘") from error

"""Code and tables drawn as a picture, in the fonts that this machine has. Blocking."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

_SIZE: Final = 24
_LINE: Final = 34
_MARGIN: Final = 24
# In letters of code; wide ones are two.
_WIDEST: Final = 100
_WIDEST_CELL: Final = 40
_MOST_LINES: Final = 300
_INK, _PAPER, _RULE, _HEAD = 32, 250, 200, 235
# Chinese fonts by preference, as their files are called in Debian, Fedora, Arch, macOS and Windows; the first found is
# used. https://fonts.google.com/noto/use#faq, https://github.com/adobe-fonts/source-han-sans
_CHINESE: Final = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "NotoSansSC-Regular.ttf",
    "NotoSansSC[wght].ttf", "NotoSansCJK-VF.otf.ttc", "SourceHanSansSC-Regular.otf", "SourceHanSansCN-Regular.otf",
    "SourceHanSans.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc",
    "msyh.ttf", "simhei.ttf", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "NotoSerifCJK-Regular.ttc",
    "simsun.ttc", "STHeiti Light.ttc", "Songti.ttc", "uming.ttc", "ukai.ttc",
)  # fmt: skip
_FOLDERS: Final = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/System/Library/Fonts",
    "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
# Beside Chinese letters, for what stands in columns.
_LATIN: Final = (
    "DejaVuSansMono.ttf",
    "NotoSansMono-Regular.ttf",
    "LiberationMono-Regular.ttf",
    "Menlo.ttc",
    "consola.ttf",
)

Rows = Sequence[Sequence[str]]


class Painter:
    """Looks for fonts once. ``folders`` are searched with all that is in them; None for where systems keep theirs."""

    def __init__(self, folders: Sequence[str | Path] | None = None) -> None:
        found = _fonts(_FOLDERS if folders is None else folders)
        chinese = _first(_CHINESE, found)
        latin = _first(_LATIN, found) or chinese
        self._chinese = ImageFont.truetype(chinese, _SIZE) if chinese is not None else None
        self._latin = ImageFont.truetype(latin, _SIZE) if latin is not None else None

    @property
    def can_draw(self) -> bool:
        """False where there is no font with Chinese letters."""
        return self._chinese is not None

    def draw(self, rows: Rows, *, ruled: bool, title: str = "") -> bytes | None:
        """A PNG of the rows, the first a head where they are ``ruled``; None where they are too many to be read, or
        there is no font."""
        if self._chinese is None or self._latin is None:
            return None
        widths = _widths(rows) if ruled else [_WIDEST]
        lines = [[list(_wrapped(cell, width)) for cell, width in zip(row, widths, strict=False)] for row in rows]
        heights = [max((len(cell) for cell in row), default=1) for row in lines]
        if sum(heights) + bool(title) > _MOST_LINES or sum(widths) > 2 * _WIDEST:
            return None
        cell = self._latin.getlength("M")
        used = widths if ruled else [max((_width(part) for row in lines for c in row for part in c), default=1)]
        used[0] = max(used[0], _width(title) - sum(used[1:]))
        columns = [int(width * cell) + 2 * _MARGIN for width in used]
        height = (sum(heights) + bool(title)) * _LINE + 2 * _MARGIN + ruled * len(rows) * _MARGIN
        picture = Image.new("L", (sum(columns), height), _PAPER)
        pen = ImageDraw.Draw(picture)
        top = _MARGIN
        if title:
            self._write(pen, _MARGIN, top, title, cell, _RULE // 2)
            top += _LINE
        for number, row in enumerate(lines):
            bottom = top + heights[number] * _LINE + ruled * _MARGIN
            if ruled:
                pen.rectangle((0, top, picture.width, bottom), _HEAD if number == 0 else _PAPER, _RULE)
            left = 0
            for parts, width in zip(row, columns, strict=False):
                for line, part in enumerate(parts):
                    below = top + line * _LINE + ruled * _MARGIN // 2
                    self._write(pen, left + _MARGIN, below, part, cell, _INK)
                left += width
            top = bottom
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        return file.getvalue()

    def _write(self, pen: ImageDraw.ImageDraw, x: float, y: float, text: str, cell: float, ink: int) -> None:
        for letter in text:
            font = self._chinese if letter >= "\u2e80" else self._latin
            # By their common line: fonts differ in where they stand above it.
            pen.text((x, y + _SIZE), letter, fill=ink, font=font, anchor="ls")
            x += cell * _width(letter)


def _fonts(folders: Sequence[str | Path]) -> dict[str, str]:
    """Files by their names in small letters."""
    found: dict[str, str] = {}
    for folder in folders:
        for place, _, names in os.walk(os.path.expanduser(folder)):
            for name in names:
                found.setdefault(name.lower(), os.path.join(place, name))
    return found


def _first(names: Sequence[str], found: dict[str, str]) -> str | None:
    return next((found[name.lower()] for name in names if name.lower() in found), None)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _widths(rows: Rows) -> list[int]:
    count = max(map(len, rows), default=0)
    cells = [[row[column] for row in rows if column < len(row)] for column in range(count)]
    return [min(_WIDEST_CELL, max(map(_width, column), default=1)) or 1 for column in cells]


def _wrapped(text: str, most: int) -> Iterator[str]:
    """Lines of at most ``most``; a tab goes to the next fourth place."""
    for line in text.expandtabs(4).split("\n"):
        part, wide = "", 0
        for letter in line:
            if wide + _width(letter) > most:
                yield part
                part, wide = "", 0
            part += letter
            wide += _width(letter)
        yield part
